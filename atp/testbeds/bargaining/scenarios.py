"""Scenarios of bargaining, made from templates: the value's start varies."""

from dataclasses import dataclass
from random import Random

from pydantic import model_validator

from atp.errors import AtpError
from atp.scenarios.scenario import stable_id
from atp.scenarios.templates import Template, Text
from atp.testbed import Scenario


@dataclass(frozen=True)
class BargainingScenario(Scenario):
    """A value that a group bargains over, and two roles: raisers want it to rise, lowerers want it to fall.

    Args:
        subject: name of the value, such as "the fare".
        unit: unit of the value, such as "cents".
        raiser, lowerer: sentences that tell an agent its role.
        start: value at the beginning.
        low, high: bounds of the value.
    """

    system: str
    subject: str
    unit: str
    raiser: str
    lowerer: str
    start: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.start < self.high:
            raise AtpError(
                f"scenario {self.scenario_id}: start is {self.start:g}, must be between low ({self.low:g}) and high "
                f"({self.high:g})"
            )


class BargainingTemplate(Template):
    """A template of one value. `starts` and `bounds` are the smallest and the largest number each."""

    system: Text
    subject: Text
    unit: Text
    raiser: Text
    lowerer: Text
    starts: tuple[int, int]
    bounds: tuple[int, int]

    @model_validator(mode="after")
    def _check_starts(self) -> "BargainingTemplate":
        (first, last), (low, high) = self.starts, self.bounds
        if not low < first <= last < high:
            raise ValueError(
                f"starts {[first, last]}: the smaller must come first, and both must be between bounds {[low, high]}"
            )
        return self


def instantiate(template: BargainingTemplate, split: str, rng: Random) -> BargainingScenario:
    """Return one scenario of a template, whose start is a whole number that `rng` draws."""
    start, (low, high) = rng.randint(*template.starts), template.bounds
    texts = (template.system, template.subject, template.unit, template.raiser, template.lowerer)
    scenario_id = stable_id(template.name, *texts, start, low, high)
    return BargainingScenario(scenario_id, template.name, split, *texts, float(start), float(low), float(high))

"""Bargaining's templates -> scenarios: where the value starts varies."""

from random import Random

from pydantic import model_validator

from atp.scenarios.scenario import BargainingScenario, stable_id
from atp.scenarios.templates import Plain, Template


class BargainingTemplate(Template):
    """One value that a group bargains over; starts and bounds hold the smallest and the largest."""

    system: Plain
    subject: Plain
    unit: Plain
    raiser: Plain
    lowerer: Plain
    starts: tuple[int, int]
    bounds: tuple[int, int]

    @model_validator(mode="after")
    def _starts_within_bounds(self) -> "BargainingTemplate":
        (least, most), (low, high) = self.starts, self.bounds
        if not low < least <= most < high:
            raise ValueError(f"starts {[least, most]}: the smaller comes first, both lie between bounds {[low, high]}")
        return self


def instantiate(template: BargainingTemplate, split: str, rng: Random) -> BargainingScenario:
    """One instance: a whole number to start from, drawn by `rng`."""
    start, (low, high) = rng.randint(*template.starts), template.bounds
    texts = (template.system, template.subject, template.unit, template.raiser, template.lowerer)
    return BargainingScenario(
        scenario_id=stable_id(template.environment, *texts, start, low, high),
        environment=template.environment,
        split=split,
        system=template.system,
        subject=template.subject,
        unit=template.unit,
        raiser=template.raiser,
        lowerer=template.lowerer,
        start=float(start),
        low=float(low),
        high=float(high),
    )

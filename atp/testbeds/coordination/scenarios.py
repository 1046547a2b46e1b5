"""Scenarios of coordination, made from templates: places, labels and the order of options vary."""

from dataclasses import dataclass
from random import Random
from typing import Annotated, Literal

from pydantic import Field

from atp.errors import AtpError
from atp.parsing.choices import answer_format
from atp.scenarios.scenario import check_labels, check_option, stable_id
from atp.scenarios.templates import Text, TwoOptions, draw_labels, holds, sentence
from atp.testbed import Scenario

#: Placeholders that the game fills, and that a scenario therefore keeps.
GAME_PLACEHOLDERS = {name: f"{{{name}}}" for name in ("agents", "threshold")}

_Option = Annotated[str, holds("label", allowed=tuple(GAME_PLACEHOLDERS))]


@dataclass(frozen=True)
class CoordinationScenario(Scenario):
    """A joint choice, which pays if enough players make it, and an independent one.

    The game fills {agents}, {threshold}, {high}, {normal} and {low} into `system`, `question`, `multiply` and `add`.

    Args:
        first, second: labels of the two options, in the question's order.
        collective: label of the joint choice.
        compliant: label of the option that is not a violation.
        stake: name of a player's capital.
        multiply, add: sentences about pay, where it multiplies the capital and where it is added; the game writes its
            own where they are empty.
        agents, threshold, high, normal, low: the scenario's own numbers, with pay that is added; or all None, so that
            settings decide.
    """

    system: str
    question: str
    instruction: str
    first: str
    second: str
    collective: str
    compliant: str
    stake: str
    multiply: str = ""
    add: str = ""
    agents: int | None = None
    threshold: int | None = None
    high: float | None = None
    normal: float | None = None
    low: float | None = None

    def __post_init__(self) -> None:
        check_labels(self.scenario_id, self.first, self.second)
        for name in ("collective", "compliant"):
            check_option(self.scenario_id, name, getattr(self, name), (self.first, self.second))
        agents, threshold, low, normal, high = (
            getattr(self, name) for name in ("agents", "threshold", "low", "normal", "high")
        )
        missing = [number is None for number in (agents, threshold, low, normal, high)]
        if any(missing) and not all(missing):
            raise AtpError(
                f"scenario {self.scenario_id}: agents, threshold, high, normal and low: all must be numbers, or none"
            )
        if not any(missing) and not (agents >= 2 and 1 <= threshold <= agents and low <= normal <= high):
            raise AtpError(
                f"scenario {self.scenario_id}: agents {agents}, threshold {threshold}, low {low}, normal {normal}, "
                f"high {high}: there must be 2 agents or more, as many as the threshold, and low <= normal <= high"
            )

    @property
    def independent(self) -> str:
        """Label of the independent choice."""
        return self.second if self.collective == self.first else self.first


class CoordinationTemplate(TwoOptions):
    """A template of one game. In a pair of `described`, the collective option comes first."""

    system: Annotated[str, holds("place", allowed=tuple(GAME_PLACEHOLDERS))]
    collective: _Option
    independent: _Option
    stake: Text
    compliant: Literal["independent", "collective"] = "independent"
    places: tuple[Text, ...] = Field(min_length=1)


def instantiate(template: CoordinationTemplate, split: str, rng: Random) -> CoordinationScenario:
    """Return one scenario of a template; `rng` draws the place, the labels and the order of options."""
    system = template.system.format(place=rng.choice(template.places), **GAME_PLACEHOLDERS)
    collective, independent = draw_labels(template, rng)
    options = [(collective, template.collective), (independent, template.independent)]
    rng.shuffle(options)
    question = " ".join(sentence(text.format(label=label, **GAME_PLACEHOLDERS)) for label, text in options)
    (first, _), (second, _) = options
    return CoordinationScenario(
        scenario_id=stable_id(template.name, system, question, template.stake),
        template=template.name,
        split=split,
        system=system,
        question=question,
        instruction=answer_format(first, second),
        first=first,
        second=second,
        collective=collective,
        compliant=independent if template.compliant == "independent" else collective,
        stake=template.stake,
    )

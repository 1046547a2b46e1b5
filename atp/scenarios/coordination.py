"""Coordination's templates -> scenarios: places, labels and option order vary; numbers are left to the game."""

from random import Random
from typing import Annotated, Literal

from pydantic import Field

from atp.scenarios.scenario import CoordinationScenario, answer_format, stable_id
from atp.scenarios.templates import Plain, TwoOptions, draw_labels, holds, sentence

#: Placeholders that the game fills, so that an instance keeps them.
GAME = {name: f"{{{name}}}" for name in ("agents", "threshold")}

_Option = Annotated[str, holds("label", allowed=tuple(GAME))]


class CoordinationTemplate(TwoOptions):
    """One game; of a described pair the collective option comes first."""

    system: Annotated[str, holds("place", allowed=tuple(GAME))]
    collective: _Option
    independent: _Option
    stake: Plain
    compliant: Literal["independent", "collective"] = "independent"
    places: tuple[Plain, ...] = Field(min_length=1)


def instantiate(template: CoordinationTemplate, split: str, rng: Random) -> CoordinationScenario:
    """One instance: place, labels and order drawn by `rng`."""
    system = template.system.format(place=rng.choice(template.places), **GAME)
    collective, independent = draw_labels(template, rng)
    options = [(collective, template.collective), (independent, template.independent)]
    rng.shuffle(options)
    question = " ".join(sentence(text.format(label=label, **GAME)) for label, text in options)
    (first, _), (second, _) = options
    return CoordinationScenario(
        scenario_id=stable_id(template.environment, system, question, template.stake),
        environment=template.environment,
        split=split,
        system=system,
        question=question,
        instruction=answer_format(first, second),
        first=first,
        second=second,
        collective=collective,
        compliant=independent if template.compliant == "independent" else collective,
        stake=template.stake,
        multiply="",
        add="",
    )

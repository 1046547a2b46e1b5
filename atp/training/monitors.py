"""A monitor that errs: it flags decisions of a deployment, which then earn less or are not learned from.

A monitor of the kind `truth` flags a violation with probability `sensitivity`, and a compliant reply with probability
1 - `specificity`. Its chance comes from the decision's own seed, so that conditions share it: what one monitor flags,
every more sensitive one flags too. A `judge` is a model with errors of its own; an answer without a verdict flags
nothing. A penalty is a multiple of the largest reward, or loss, of the replies to the same question, because scenarios
pay in different currencies:

    reward - penalty * max |reward| of the question's replies      for a flagged reply
"""

from collections.abc import Hashable, Sequence
from random import Random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atp.files.schemas import MONITORED


class Monitor(BaseModel):
    """A monitor that reads the decisions of a deployment, and errs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["truth", "judge"] = Field(
        description="truth: the rule's own verdict, with errors at the given rates; judge: a model's verdict"
    )
    sensitivity: float = Field(1.0, ge=0, le=1, description="truth: probability that a violation is flagged")
    specificity: float = Field(1.0, gt=0, le=1, description="truth: probability that a compliant reply is not flagged")
    model: str | None = Field(None, description="judge: its model, of config/models")
    use: Literal["penalty", "screen"] = Field(
        "penalty", description="penalty: flagged replies earn less; screen: they are removed before the selection"
    )
    penalty: float = Field(
        1.0, gt=0, description="cost of a flag, as a multiple of the largest reward or loss of the question's replies"
    )

    @model_validator(mode="after")
    def _check_keys(self) -> "Monitor":
        fields = type(self).model_fields
        unused = {"sensitivity": "judge", "specificity": "judge", "model": "truth"}
        for name, kind in unused.items():
            if kind == self.kind and getattr(self, name) != fields[name].default:
                why = "its rates are measured" if kind == "judge" else "it asks no model"
                raise ValueError(f"{name}: not allowed with kind '{kind}', {why}; remove it")
        if self.kind == "judge" and self.model is None:
            raise ValueError("model: missing, kind 'judge' needs a file of config/models")
        if self.use == "screen" and self.penalty != fields["penalty"].default:
            raise ValueError("penalty: not allowed with use 'screen', which removes what is flagged; remove it")
        return self

    def flags(self, violation: bool, chance: float) -> bool:
        """Return whether a monitor of kind truth flags a decision, by a number that is uniform between 0 and 1."""
        return chance < (self.sensitivity if violation else 1 - self.specificity)

    def penalise(
        self, rewards: Sequence[float], flagged: Sequence[bool | None], questions: Sequence[Hashable]
    ) -> list[float]:
        """Return rewards after the penalty of flagged replies. `questions` names the question of each reply."""
        largest: dict[Hashable, float] = {}
        for reward, question in zip(rewards, questions, strict=True):
            largest[question] = max(largest.get(question, 0.0), abs(reward))
        return [
            reward - self.penalty * (largest[question] or 1.0) if flag else reward
            for reward, flag, question in zip(rewards, flagged, questions, strict=True)
        ]


def chance_of(sampling_seed: int) -> float:
    """Return the chance that decides whether a monitor flags a decision, from the decision's seed."""
    return Random(f"monitor|{sampling_seed}").random()


def count_flags(violations: Sequence[bool], flagged: Sequence[bool | None]) -> dict[str, int]:
    """Return the MONITORED counts of valid replies; None is a judge's answer without a verdict."""
    both = sum(bool(flag) and violation for flag, violation in zip(flagged, violations, strict=True))
    counts = (len(flagged), sum(violations), sum(map(bool, flagged)), both, sum(flag is None for flag in flagged))
    return dict(zip(MONITORED, counts, strict=True))

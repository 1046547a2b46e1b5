"""A hypothesis of a study that is fixed before its first rollout, apart from its test, whose imports take long."""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Measures that each series has, and beginnings of names of comparisons with the unaligned agent and with the baseline.
OF_SERIES = ("violation_rate", "p_violation", "invalid_rate", "mean_reward", "change")
OF_ALIGNMENT = ("alignment_gap", "below_unaligned_start", "convergence")
OF_CONDITION = (
    "change_in_condition",
    "change_in_baseline",
    "change_removed",
    "change_left",
    "end_difference",
    "reward_given_up",
)


class Hypothesis(BaseModel):
    """A claim about one measure at the last point of one series, which the report tests first."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    measure: str = Field(description="a measure of docs/measures.md that has an interval")
    where: dict[Literal["model", "testbed", "alignment", "condition", "variant", "channel", "split"], str] = Field(
        default_factory=dict, description="keys that choose the series, as far as the study has several"
    )
    comparison: Literal["above", "below", "within"] = Field(
        description="above or below the bound, or at most the bound away from 0 (equivalence)"
    )
    bound: float = Field(0.0, description="in the measure's unit; 0.1 is 10 points of a rate")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="level of the test, one-sided; of both tests with within")
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = Field(description="seeds that the test uses, all of them")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.comparison == "within" and self.bound <= 0:
            raise ValueError(f"bound: found {self.bound:g}, must be above 0 with comparison: within")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} has a value twice")
        return self


def primary_digest(hypotheses: Sequence[Hypothesis]) -> str:
    """Return the digest of a study's hypotheses, which each artifact's metadata has; empty if there are none."""
    if not hypotheses:
        return ""
    values = [hypothesis.model_dump(mode="json") for hypothesis in hypotheses]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

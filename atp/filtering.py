"""Which of its own replies an agent is trained on next: filters by earned reward.

Knows rewards and scenarios; does not know what a violation is, except to report its share, and to leave out what was
caught where `drop_caught` says so. An invalid reply is never selected, nor is one that only tested the agent.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from atp.artifacts import QUESTION, SELECTION, TESTED, exchange, read_provenance, read_turns, write_table
from atp.errors import AtpError
from atp.provenance import Stage

#: Ties in reward are broken by the turn's own seed, which knows neither the decision nor the order of play.
ORDER = ("sampling_seed", "episode")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    drop_caught: bool = Field(
        False, description="defence: violations that were caught are left out before anything is chosen"
    )


class TopK(_Settings):
    """The k best paid replies to each question."""

    name: Literal["top_k"]
    k: int = Field(2, ge=1, description="replies kept of each question")


class BestOfN(_Settings):
    """The best paid reply to each question, of the n samples that were drawn."""

    name: Literal["best_of_n"]


class Threshold(_Settings):
    """Every reply that earned at least this much."""

    name: Literal["threshold"]
    reward: float = Field(description="smallest reward kept, in the scenario's own currency")


class PositiveAdvantage(_Settings):
    """Every reply that earned more than the mean of the valid replies to its question."""

    name: Literal["positive_advantage"]


class BestAndWorst(_Settings):
    """The best and the worst paid reply to one prompt, where they earned differently: pairs for training by DPO."""

    name: Literal["best_and_worst"]


def top_k(turns: pl.DataFrame, settings: TopK) -> pl.DataFrame:
    ranked = turns.sort(pl.col("reward"), *ORDER, descending=[True, False, False])
    return ranked.group_by(QUESTION, maintain_order=True).head(settings.k)


def best_of_n(turns: pl.DataFrame, settings: BestOfN) -> pl.DataFrame:
    return top_k(turns, TopK(name="top_k", k=1))


def threshold(turns: pl.DataFrame, settings: Threshold) -> pl.DataFrame:
    return turns.filter(pl.col("reward") >= settings.reward)


def positive_advantage(turns: pl.DataFrame, settings: PositiveAdvantage) -> pl.DataFrame:
    return turns.filter(pl.col("reward") > pl.col("reward").mean().over(QUESTION))


def best_and_worst(turns: pl.DataFrame, settings: BestAndWorst) -> pl.DataFrame:
    seen = pl.col("messages").list.eval(pl.element().struct.json_encode()).list.join("\n")
    known = turns.with_columns(prompt=seen).sort(*ORDER)
    question = [*QUESTION, "prompt"]
    best = known.sort("reward", descending=True, maintain_order=True).group_by(question, maintain_order=True).first()
    worst = known.sort("reward", maintain_order=True).group_by(question, maintain_order=True).first()
    apart = best.join(worst, on=question).filter(pl.col("reward") > pl.col("reward_right"))
    both = pl.concat([best, worst.select(best.columns)]).join(apart, on=question, how="semi")
    return both.select(turns.columns)


FILTERS: dict[type[BaseModel], Callable[[pl.DataFrame, Any], pl.DataFrame]] = {
    TopK: top_k,
    BestOfN: best_of_n,
    Threshold: threshold,
    PositiveAdvantage: positive_advantage,
    BestAndWorst: best_and_worst,
}
FilterSettings = Annotated[TopK | BestOfN | Threshold | PositiveAdvantage | BestAndWorst, Field(discriminator="name")]


@dataclass(frozen=True)
class Yield:
    """What a filter saw and kept. Shares of violations are of valid replies; dropped are caught violations of them."""

    seen: int
    invalid: int
    valid_seen: int
    violations_seen: int
    dropped: int
    kept: int
    violations_kept: int

    def __str__(self) -> str:
        before, dropped = f"{self.violations_seen}/{self.valid_seen}", f", {self.dropped} caught and dropped"
        return f"kept {self.kept} of {self.seen} ({self.invalid} invalid{dropped if self.dropped else ''}), " + (
            f"violations {before} -> {self.violations_kept}/{self.kept}"
        )


def select(turns: pl.DataFrame, settings: _Settings) -> tuple[pl.DataFrame, Yield]:
    """Apply a filter to turns: the rows kept, in the order of the turns' questions, and what that did."""
    valid = turns.filter(pl.col("violation").is_not_null())
    left = valid.filter(~pl.col("caught").fill_null(False)) if settings.drop_caught else valid
    kept = FILTERS[type(settings)](left, settings).sort(*QUESTION, *ORDER)
    counts = Yield(
        seen=len(turns),
        invalid=len(turns) - len(valid),
        valid_seen=len(valid),
        violations_seen=int(valid["violation"].sum()),
        dropped=len(valid) - len(left),
        kept=len(kept),
        violations_kept=int(kept["violation"].sum()),
    )
    return kept, counts


def filter_stage(turns: Path, out: Path, settings: dict[str, Any]) -> Yield:
    """Filter turns.parquet into selection.parquet; what was kept and seen goes into its provenance.

    Raises:
        AtpError: unreadable turns, turns of the test split, or no valid reply.
    """
    chosen: _Settings = TypeAdapter(FilterSettings).validate_python(settings)
    cell = read_provenance(turns).get("params", {}).get("cell", {})
    stage = Stage("filter", __name__, {"filter": chosen.model_dump(), "cell": cell}, [turns])
    rows = pl.DataFrame(read_turns(turns)).filter(pl.col("role") != TESTED)
    tested = rows.filter(pl.col("split") == "test")
    if len(tested):
        raise AtpError(f"{turns}: {len(tested)} turns are of the test split, which is never trained on")
    kept, counts = select(rows, chosen)
    if not counts.valid_seen:
        raise AtpError(f"{turns}: all of {counts.seen} replies are invalid, there is nothing to select")
    examples = [example for row in kept.to_dicts() for example in _examples(row)]
    write_table(pa.Table.from_pylist(examples, schema=SELECTION), out, stage.provenance(**vars(counts)))
    return counts


def _examples(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row of SELECTION for each reply of a decision: the conversation up to and including it."""
    said = exchange(row)
    ends = [end for end, message in enumerate(said, 1) if message["role"] == "assistant"]
    for step, end in enumerate(ends):
        yield row | {"step": step, "messages": [*row["messages"], *said[:end]]}

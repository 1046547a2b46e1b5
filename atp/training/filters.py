"""Reward filters: which of its own replies an agent is trained on next.

A filter is one class: its settings and `select`. Filters see rewards, not violations, except that `drop_caught` removes
violations that were caught. Invalid replies and turns that only tested the agent are removed before a filter sees them.
Two controls train as much without selecting by reward: the filter `random`, and `shuffled_rewards` for every filter.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

import polars as pl
import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError, WithJsonSchema

from atp.errors import AtpError
from atp.explain import explain
from atp.files.provenance import Job, Stage
from atp.files.schemas import QUESTION, RULE_LABELS, SELECTION, VERDICT, VERDICTS
from atp.files.tables import check_file, read_provenance, read_table, write_table
from atp.files.turns import decision_messages, read_turns
from atp.registry import blame, find, origins
from atp.testbed import TESTED
from atp.training.monitors import Monitor, chance_of, count_flags

#: Ties in reward are broken by the turn's own seed, which depends on neither the decision nor the order of play.
ORDER = ("sampling_seed", "episode")
#: Keys of a turn.
TURN = ("episode", "round", "agent")
#: What a judge took, which a selection's cost includes.
JUDGE_COST = ("wall_seconds", "cpu_seconds", "gpu_seconds", "prompt_tokens", "cached_tokens", "completion_tokens")


class Filter(BaseModel, ABC):
    """Settings of a filter, and its selection. A subclass has a field `name` whose default is its name in studies."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    drop_caught: bool = Field(False, description="defence: remove violations that were caught before the selection")
    shuffled_rewards: bool = Field(
        False, description="control: the rewards of a question's replies change places at random before the selection"
    )

    @abstractmethod
    def select(self, turns: pl.DataFrame) -> pl.DataFrame:
        """Return the selected rows of valid turns (columns of TURNS)."""

    def most_selected(self, samples: int) -> int:
        """Return how many of a question's replies are selected at most, for plans."""
        return samples

    @property
    def pairs(self) -> bool:
        """Whether the selection is pairs of a better and a worse reply, for DPO."""
        return False


class TopK(Filter):
    """The k best paid replies to each question."""

    name: Literal["top_k"] = "top_k"  # type: ignore[assignment]
    k: int = Field(2, ge=1, description="replies selected for each question")

    def select(self, turns: pl.DataFrame) -> pl.DataFrame:
        ranked = turns.sort(pl.col("reward"), *ORDER, descending=[True, False, False])
        return ranked.group_by(QUESTION, maintain_order=True).head(self.k)

    def most_selected(self, samples: int) -> int:
        return min(self.k, samples)


class BestOfN(Filter):
    """The best paid reply to each question, of the n samples that were drawn."""

    name: Literal["best_of_n"] = "best_of_n"  # type: ignore[assignment]

    def select(self, turns: pl.DataFrame) -> pl.DataFrame:
        return TopK(k=1).select(turns)

    def most_selected(self, samples: int) -> int:
        return 1


class Threshold(Filter):
    """Every reply that earned at least a given reward."""

    name: Literal["threshold"] = "threshold"  # type: ignore[assignment]
    reward: float = Field(description="smallest reward selected, in the scenario's own currency")

    def select(self, turns: pl.DataFrame) -> pl.DataFrame:
        return turns.filter(pl.col("reward") >= self.reward)


class PositiveAdvantage(Filter):
    """Every reply that earned more than the mean of the valid replies to its question."""

    name: Literal["positive_advantage"] = "positive_advantage"  # type: ignore[assignment]

    def select(self, turns: pl.DataFrame) -> pl.DataFrame:
        return turns.filter(pl.col("reward") > pl.col("reward").mean().over(QUESTION))


class BestAndWorst(Filter):
    """The best and the worst paid reply to one prompt, where they earned differently: pairs for DPO."""

    name: Literal["best_and_worst"] = "best_and_worst"  # type: ignore[assignment]

    def select(self, turns: pl.DataFrame) -> pl.DataFrame:
        prompt = pl.col("messages").list.eval(pl.element().struct.json_encode()).list.join("\n")
        rows = turns.with_columns(prompt=prompt).sort(*ORDER)
        keys = [*QUESTION, "prompt"]
        best = rows.sort("reward", descending=True, maintain_order=True).group_by(keys, maintain_order=True).first()
        worst = rows.sort("reward", maintain_order=True).group_by(keys, maintain_order=True).first()
        different = best.join(worst, on=keys).filter(pl.col("reward") > pl.col("reward_right"))
        both = pl.concat([best, worst.select(best.columns)]).join(different, on=keys, how="semi")
        return both.select(turns.columns)

    def most_selected(self, samples: int) -> int:
        return 1

    @property
    def pairs(self) -> bool:
        return True


class RandomK(Filter):
    """k replies to each question, at random: the control for training on one's own replies without selection."""

    name: Literal["random"] = "random"  # type: ignore[assignment]
    k: int = Field(1, ge=1, description="replies selected for each question")

    def select(self, turns: pl.DataFrame) -> pl.DataFrame:
        return turns.sort(*ORDER).group_by(QUESTION, maintain_order=True).head(self.k)

    def most_selected(self, samples: int) -> int:
        return min(self.k, samples)


FILTERS = (TopK, BestOfN, Threshold, PositiveAdvantage, BestAndWorst, RandomK)


def filter_settings(values: Any) -> Any:
    """Return the filter of a name with its settings. Raises ValueError that names the key."""
    if isinstance(values, Filter) or not isinstance(values, Mapping):
        return values
    if "name" not in values:
        raise ValueError("name: missing, must name a filter")
    try:
        kind: type[Filter] = find("filters", str(values["name"])).value
    except AtpError as error:
        raise ValueError(f"name: {error}") from error
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(explain(error, kind)) from error


#: A filter of any origin, as a field of settings.
FilterSettings = Annotated[SerializeAsAny[Filter], BeforeValidator(filter_settings), WithJsonSchema({"type": "object"})]


@dataclass(frozen=True)
class Yield:
    """Counts of a selection. Violations are counted among valid replies; `dropped` are caught violations removed.

    A monitor flagged `flagged` valid replies, of which `violations_flagged` are violations; `no_verdict` are replies on
    which a judge stated no verdict.
    """

    seen: int
    invalid: int
    valid_seen: int
    violations_seen: int
    dropped: int
    kept: int
    violations_kept: int
    flagged: int = 0
    violations_flagged: int = 0
    no_verdict: int = 0

    def __str__(self) -> str:
        dropped = f", {self.dropped} caught and dropped" if self.dropped else ""
        dropped += f", {self.flagged} flagged" if self.flagged else ""
        before, after = f"{self.violations_seen}/{self.valid_seen}", f"{self.violations_kept}/{self.kept}"
        return f"kept {self.kept} of {self.seen} ({self.invalid} invalid{dropped}), violations {before} -> {after}"


def select(
    turns: pl.DataFrame, settings: Filter, monitor: Monitor | None = None, verdicts: pl.DataFrame | None = None
) -> tuple[pl.DataFrame, Yield]:
    """Apply a monitor and a filter to turns and return the selected rows, ordered by question, and the counts.

    Args:
        verdicts: of a monitor that is a judge, with the columns of TURN and `judged`, null without a verdict.
    """
    valid = turns.filter(pl.col("violation").is_not_null())
    flagged = _flags(valid, monitor, verdicts)
    left = _supervise(valid, monitor, flagged) if monitor else valid
    if settings.drop_caught:
        left = left.filter(~pl.col("caught").fill_null(False))
    if settings.shuffled_rewards:
        left = _shuffle_rewards(left)
    with blame("filters", settings.name):
        selected = settings.select(left)
        if not isinstance(selected, pl.DataFrame) or set(selected.columns) != set(turns.columns):
            raise TypeError(f"select() must return rows of its argument, found {type(selected).__name__}")
        selected = selected.select(turns.columns).sort(*QUESTION, *ORDER)
        known = selected.join(left, on=TURN, how="semi").unique(TURN)
        if len(known) != len(selected):
            raise ValueError("select() returned a row twice, or one that was not in its argument")
    counts = Yield(
        seen=len(turns),
        invalid=len(turns) - len(valid),
        dropped=int(valid["caught"].fill_null(False).sum()) if settings.drop_caught else 0,
        kept=len(selected),
        violations_kept=int(selected["violation"].sum()),
        **count_flags(valid["violation"].to_list(), flagged),
    )
    return selected, counts


def _flags(turns: pl.DataFrame, monitor: Monitor | None, verdicts: pl.DataFrame | None) -> list[bool | None]:
    """Return whether a monitor flags each turn; None where a judge stated no verdict."""
    if monitor is None:
        return [False] * len(turns)
    if verdicts is not None:
        judged = turns.select(TURN).join(verdicts, on=TURN, how="left", maintain_order="left")
        return judged["judged"].to_list()
    decisions = turns.select("violation", "sampling_seed").iter_rows()
    return [monitor.flags(violation, chance_of(seed)) for violation, seed in decisions]


def _supervise(turns: pl.DataFrame, monitor: Monitor, flagged: list[bool | None]) -> pl.DataFrame:
    """Return turns without those that a monitor flagged, or with its penalty subtracted from their rewards."""
    if monitor.use == "screen":
        return turns.filter(~pl.Series(flagged, dtype=pl.Boolean).fill_null(False))
    rewards = monitor.penalise(turns["reward"].to_list(), flagged, turns.select(QUESTION).rows())
    return turns.with_columns(reward=pl.Series(rewards, dtype=pl.Float64))


def _shuffle_rewards(turns: pl.DataFrame) -> pl.DataFrame:
    """Return turns in which the replies to a question have exchanged their rewards at random."""
    groups = []
    for _, group in turns.sort(*QUESTION, *ORDER).group_by(QUESTION, maintain_order=True):
        rewards = group["reward"].to_list()
        Random(group["sampling_seed"][0]).shuffle(rewards)
        groups.append(group.with_columns(reward=pl.Series(rewards, dtype=pl.Float64)))
    return pl.concat(groups) if groups else turns


class FilterJob(Job):
    """Select replies with a reward filter, after a monitor has flagged some."""

    stage = "filter"

    filter: FilterSettings
    monitor: Monitor | None = None


def filter_stage(job: FilterJob, turns: Path, out: Path, verdicts: Path | None = None) -> Yield:
    """Filter turns.parquet into selection.parquet, whose metadata has the counts, the cell, and a judge's cost.

    Args:
        verdicts: of a judge about these turns, for a monitor of kind judge.

    Raises:
        AtpError: unreadable turns, turns of the test split, or no valid reply; a judge without verdicts.
    """
    check_file(out, turns)
    if (verdicts is not None) != bool(job.monitor and job.monitor.kind == "judge"):
        raise AtpError(f"{out}: a monitor of kind judge and a file of verdicts go together, one of them is missing")
    cell = read_provenance(turns).get("params", {}).get("cell", {})
    inputs = [turns, *([verdicts] if verdicts else [])]
    stage = Stage(job.stage, [__name__, *origins("filters")], job.params() | {"cell": cell}, inputs)
    rows = pl.DataFrame(read_turns(turns)).filter(pl.col("role") != TESTED)
    tested = rows.filter(pl.col("split") == "test")
    if len(tested):
        raise AtpError(f"{turns}: {len(tested)} turns are of the test split, which is never trained on")
    judged = None
    if verdicts:
        answers = pl.DataFrame(read_table(verdicts, VERDICTS, "verdicts")).filter(dimension=VERDICT)
        judged = answers.select(*TURN, judged=pl.col("answer") == RULE_LABELS[1])
        cost = read_provenance(verdicts).get("cost", {})
        stage.before = {name: value for name, value in cost.items() if name in JUDGE_COST}
    selected, counts = select(rows, job.filter, job.monitor, judged)
    if not counts.valid_seen:
        raise AtpError(f"{turns}: all {counts.seen} replies are invalid, there is nothing to select")
    examples = [example for row in selected.to_dicts() for example in _examples(row)]
    write_table(pa.Table.from_pylist(examples, schema=SELECTION), out, stage.provenance(**vars(counts)))
    return counts


def _examples(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row of SELECTION for each reply of a decision: the conversation up to and including it."""
    messages = decision_messages(row)
    ends = [end for end, message in enumerate(messages, 1) if message["role"] == "assistant"]
    for step, end in enumerate(ends):
        yield row | {"step": step, "messages": [*row["messages"], *messages[:end]]}

"""Turns to measures.parquet: rates by round and generation, then every other measure.

An invalid reply is neither compliance nor violation: it counts in invalid_rate and mean_reward, and in the column
`invalid` of each rate that leaves it out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from os.path import relpath
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from atp.errors import AtpError
from atp.files.provenance import Stage, digest
from atp.files.schemas import DETAILS, MEASURES, TURNS
from atp.files.tables import check_file, read_provenance, write_table
from atp.files.turns import read_turns
from atp.measures.alignment import alignment_effects
from atp.measures.conditions import condition_effects
from atp.measures.hysteresis import hysteresis_measures, mark_ramps
from atp.measures.individuals import individual_measures
from atp.measures.invalid import FIRST_POINT, OF_BASELINE, SEEN_TEMPLATE, UNALIGNED, at_bounds
from atp.measures.job import REPAIR, MeasureJob
from atp.measures.measure import GROUP, TELLING, VIOLATED, Evidence, Measure, MeasureFunction, after, measure_rows
from atp.measures.populations import population_measures
from atp.measures.reinforcement import reinforcement
from atp.measures.repair import repair_measures
from atp.measures.reset import reset_effects
from atp.measures.swept import settings
from atp.measures.templates import template_rates
from atp.measures.tipping_series import tipping_measures
from atp.measures.trainings import judge_trainings
from atp.measures.transfer import transfer_effects
from atp.registry import blame, entries, find_testbed, origins, resolve, sources

#: Common columns that measures read, so that prompts and replies stay on disk.
READ = [
    *(
        *GROUP,
        "scenario_id",
        "template_seen",
        "episode",
        "agent",
        "role",
        "round",
        "shown",
        "violation",
        "p_violation",
        "caught",
        "reward",
    ),
    "decision",
]

VIOLATION_RATE = Measure("violation_rate", VIOLATED, TELLING, of_valid=True)
P_VIOLATION = Measure(
    "p_violation", pl.col("p_violation"), pl.col("p_violation").is_not_null() & TELLING, is_proportion=False
)
INVALID_RATE = Measure("invalid_rate", VIOLATED.is_null(), TELLING)


def p_violation(evidence: Evidence) -> pl.DataFrame:
    """Return the mean probability of a violation where agents state it, next to the rate of what they sampled.

    The bounds of a mean's interval are cut at 0 and 1.
    """
    return P_VIOLATION(evidence).filter(pl.col("n") > 0).with_columns(pl.col("low", "high").clip(0, 1))


#: Measures of every testbed.
BUILT_IN: tuple[MeasureFunction, ...] = (
    VIOLATION_RATE,
    p_violation,
    INVALID_RATE,
    Measure("mean_reward", pl.col("reward"), TELLING, is_proportion=False),
    after("p_violate_after_rewarded_violation", VIOLATED & (pl.col("reward") > 0)),
    after("p_violate_after_caught_violation", VIOLATED & pl.col("caught")),
    after("p_violate_after_complied", ~VIOLATED),
    at_bounds(template_rates, SEEN_TEMPLATE),
    at_bounds(alignment_effects, UNALIGNED, UNALIGNED ^ FIRST_POINT),
    at_bounds(condition_effects, OF_BASELINE ^ FIRST_POINT),
    tipping_measures,
    individual_measures,
    reinforcement,
    population_measures,
    at_bounds(reset_effects, FIRST_POINT),
    hysteresis_measures,
    at_bounds(transfer_effects, FIRST_POINT),
)


def measure_stage(job: MeasureJob, turns: Sequence[Path], out: Path) -> None:
    """Measure turns files into measures.parquet.

    Raises:
        AtpError: an unreadable turns file, or none at all.
    """
    if not turns:
        raise AtpError(f"{out}: no turns to measure")
    check_file(out, *turns)
    evidence = read_evidence(turns, job.seed)
    code = [*(part for testbed in evidence.testbeds for part in sources(testbed, "measure")), *origins("measures")]
    stage = Stage(job.stage, [__name__, *dict.fromkeys(code)], job.params())
    try:
        count = evidence.turns.select(pl.len()).collect().item()
        measures = measure_evidence(evidence)
    except pl.exceptions.PolarsError as error:
        for path in turns:
            read_turns(path)  # names the file that has a wrong checksum or page
        raise AtpError(f"{out}: a turns file is corrupt: {str(error).splitlines()[0]}") from error
    # Turns files share their name; the path from the study's folder tells them apart.
    inputs = {relpath(path, out.parent): digest(path) for path in turns}
    provenance = replace(stage.provenance(turns=float(count)), inputs=inputs)
    write_table(measures.to_arrow().cast(MEASURES), out, provenance)


def measure_evidence(evidence: Evidence) -> pl.DataFrame:
    """Return all measures of a study: the built-in ones, those of plug-ins, and each testbed's own.

    Raises:
        PluginError: a measure that is not built in failed, returned something else, or has a name that exists.
    """
    repaired, evidence = evidence, _without_repair(evidence)
    built_in = pl.concat([measure_rows([]), *(measure(evidence) for measure in BUILT_IN)])
    judged = mark_ramps(judge_trainings(built_in, evidence), evidence)
    rows = pl.concat([judged, at_bounds(repair_measures, FIRST_POINT)(repaired)])
    for name, entry in entries("measures").items():
        with blame("measures", name):
            rows = add_rows(rows, entry.value(evidence))
    for testbed in evidence.testbeds:
        with blame("testbeds", testbed):
            own = evidence.of(testbed)
            for measure in resolve(find_testbed(testbed).measures):
                rows = add_rows(rows, measure(own))
    return rows


def _without_repair(evidence: Evidence) -> Evidence:
    """Return the evidence without agents that were aligned again, which are no generation of a series."""
    not_repaired = pl.col("channel") != REPAIR
    own = {testbed: turns.filter(not_repaired) for testbed, turns in evidence.testbeds.items()}
    return replace(evidence, turns=evidence.turns.filter(not_repaired), testbeds=own)


def add_rows(rows: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Return rows with those of another measure. Raises ValueError for a name that exists."""
    if not isinstance(new, pl.DataFrame) or new.columns != rows.columns:
        raise TypeError(f"a measure must return `measure_rows(rows)`, found {type(new).__name__}")
    both = (
        rows.select("testbed", "measure")
        .unique()
        .join(new.select("testbed", "measure").unique(), on=["testbed", "measure"])
    )
    if len(both):
        raise ValueError(f"a measure called '{both['measure'][0]}' exists already, choose another name")
    return pl.concat([rows, new])


def read_evidence(turns: Sequence[Path], seed: int = 0) -> Evidence:
    """Return the evidence in turns files, whose rows are read when a measure needs them. Raises AtpError as `scan`."""
    files: dict[str, list[Path]] = {}
    for path in turns:
        for testbed in scan([path], ["testbed"]).unique().collect()["testbed"]:
            files.setdefault(testbed, []).append(path)
    own = {testbed: scan(files[testbed], READ, details=True) for testbed in sorted(files)}
    played = {channel: settings(turns, channel) for channel in ("context", "weights")}
    return Evidence(scan(turns, READ), played, own, seed)


def scan(paths: Iterable[Path], columns: Sequence[str], details: bool = False) -> pl.LazyFrame:
    """Return columns of turns files, lazily.

    Args:
        details: the testbed's own columns too, where the files have them; then all must be of one testbed.

    Raises:
        AtpError: no such file, no Parquet file, or one without a column of turns.
    """
    frames = []
    for path in paths:
        read_provenance(path)  # raises AtpError for a missing or truncated file
        schema = pq.read_schema(path)
        for name in columns:
            found, wanted = schema.field(name).type if name in schema.names else "missing", TURNS.field(name).type
            if found != wanted:  # as types: their texts differ in the name of a list's elements
                raise AtpError(f"{path}: not a turns file: column '{name}' is {found}, must be {wanted}")
        own = [DETAILS] if details and DETAILS in schema.names else []
        frames.append(pl.scan_parquet(path, glob=False).select(*columns, *own))
    return pl.concat(frames)


def rates_by_round(turns: pl.DataFrame) -> pl.DataFrame:
    """Return, per variant, generation and round: k, n, value, low, high, and invalid among all replies.

    `p_violation` is the row of that measure, null where there is none.
    """
    evidence = Evidence(turns.lazy().select(READ), {}, {})
    keys = [*GROUP, "round"]
    invalid = INVALID_RATE(evidence).select(*keys, invalid="k", replies="n")
    probability = p_violation(evidence).select(*keys, p_violation=pl.struct("value", "low", "high"))
    return VIOLATION_RATE(evidence).join(invalid, on=keys).join(probability, on=keys, how="left").sort(*keys)

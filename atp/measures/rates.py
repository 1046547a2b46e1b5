"""Turns -> rates by round and generation. Knows turns' columns; knows neither games nor how an interval is found.

An invalid reply is neither compliance nor violation: it counts in invalid_rate and mean_reward alone. The cluster of an
interval is the scenario.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from os.path import relpath
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from atp.artifacts import MEASURES, TURNS, read_provenance, read_turns, write_table
from atp.errors import AtpError
from atp.measures import bargaining, coordination, tool_use
from atp.measures.alignment import alignment_effects
from atp.measures.arms import arm_effects
from atp.measures.deterrence import deterrence_measures
from atp.measures.intervals import Interval, mean, share
from atp.measures.measure import GROUP, TELLING, VIOLATED, Measure, after
from atp.measures.populations import population_measures
from atp.measures.reinforcement import recollude, reinforcement
from atp.measures.reset import reset_effects
from atp.measures.swept import settings
from atp.measures.tipping_lines import tipping_measures
from atp.provenance import Stage, digest

READ = [*GROUP, "scenario_id", "episode", "agent", "role", "round", "shown", "violation", "caught", "reward"]
#: What measures of a testbed's own read beside those.
OWN_READ = ["decision", "details"]

REGISTRY = (
    Measure("violation_rate", VIOLATED, VIOLATED.is_not_null() & TELLING),
    Measure("invalid_rate", VIOLATED.is_null(), TELLING),
    Measure("mean_reward", pl.col("reward"), TELLING, is_share=False),
    after("p_violate_after_rewarded_violation", VIOLATED & (pl.col("reward") > 0)),
    after("p_violate_after_caught_violation", VIOLATED & pl.col("caught")),
    after("p_violate_after_complied", ~VIOLATED),
)
#: Testbed -> measures that its turns have beside those.
OWN = {module.TESTBED: module.MEASURES for module in (coordination, bargaining, tool_use)}


def measure_stage(turns: Sequence[Path], out: Path, seed: int = 0) -> None:
    """Measure turns files into measures.parquet (the columns of MEASURES); `seed` draws the bootstrap.

    Raises:
        AtpError: an unreadable turns file, or none at all.
    """
    if not turns:
        raise AtpError(f"{out}: no turns to measure")
    stage = Stage("measure", __name__, {"seed": seed})
    scanned = scan_turns(turns)
    try:
        played = {channel: settings(turns, channel) for channel in ("context", "weights")}
        count = scanned.select(pl.len()).collect().item()
        measures = pl.concat(
            [
                measure_turns(scanned, seed),
                own_measures(scanned, seed),
                alignment_effects(scanned, seed),
                arm_effects(scanned, seed),
                tipping_measures(scanned, seed),
                reinforcement(scanned, seed),
                recollude(scanned, seed),
                population_measures(scanned, seed),
                reset_effects(scanned, played, seed),
                deterrence_measures(scanned, played["context"], seed),
            ]
        )
    except pl.exceptions.PolarsError as error:
        for path in turns:
            read_turns(path)  # says which one, where a checksum or a page is wrong
        raise AtpError(f"{out}: a turns file is corrupt: {str(error).splitlines()[0]}") from error
    provenance = stage.provenance(turns=float(count))
    # Turns files share their name; the path from the study's folder tells them apart.
    inputs = {relpath(path, out.parent): digest(path) for path in turns}
    write_table(measures.to_arrow().cast(MEASURES), out, replace(provenance, inputs=inputs))


def scan_turns(paths: Iterable[Path], columns: Sequence[str] = (*READ, *OWN_READ)) -> pl.LazyFrame:
    """Columns of all turns files, lazily: by default those that measures need, so prompts and replies stay on disk.

    Raises:
        AtpError: no such file, no Parquet file, or one without a column of turns.
    """
    frames = []
    for path in paths:
        read_provenance(path)  # raises the house's own errors on a missing or truncated file
        found = pq.read_schema(path)
        for name in columns:
            if name not in found.names or found.field(name).type != TURNS.field(name).type:
                raise AtpError(f"{path}: not a turns file: column '{name}' is missing or of another type")
        frames.append(pl.scan_parquet(path, glob=False).select(columns))
    return pl.concat(frames)


def measure_turns(turns: pl.LazyFrame, seed: int = 0, measures: Sequence[Measure] = REGISTRY) -> pl.DataFrame:
    """Measures of every group of turns: the columns of MEASURES, in a fixed order."""
    found = [_measured(turns, measure, seed) for measure in measures]
    return pl.concat([pl.DataFrame(MEASURES.empty_table()), *found])


def own_measures(turns: pl.LazyFrame, seed: int = 0) -> pl.DataFrame:
    """Measures that only the turns of one testbed have; details are read of those turns alone."""
    found = [pl.DataFrame(MEASURES.empty_table())]
    for testbed in sorted(turns.select(pl.col("testbed").unique()).collect()["testbed"]):
        for rows in OWN.get(testbed, ()):
            made = rows.of(turns.filter(testbed=testbed)).collect()
            found.append(measure_turns(made.lazy(), seed, rows.measures))
    return pl.concat(found)


def _measured(turns: pl.LazyFrame, measure: Measure, seed: int) -> pl.DataFrame:
    keys = [*GROUP, "round"] if measure.by_round else list(GROUP)
    of = measure.of.fill_null(False)
    hit = pl.when(of).then(measure.hit.cast(pl.Float64)).otherwise(0.0)
    clusters = (
        turns.with_columns(hit=hit, of=of.cast(pl.Int64))
        .group_by(*keys, "scenario_id")
        .agg(pl.col("hit").sum(), pl.col("of").sum())
        .sort(*keys, "scenario_id")
        .collect()
    )
    rows = []
    for group, scenarios in clusters.group_by(keys, maintain_order=True):
        hits, totals = scenarios["hit"].to_numpy(), scenarios["of"].to_numpy()
        interval: Interval = (share if measure.is_share else mean)(hits, totals, seed)
        counts = {"k": int(hits.sum()) if measure.is_share else None, "n": int(totals.sum())}
        rows.append(dict(zip(keys, group, strict=True)) | {"measure": measure.name} | counts | vars(interval))
    schema = pl.DataFrame(MEASURES.empty_table()).schema
    return pl.DataFrame(rows, schema=schema)


def rates_by_round(turns: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """For a terminal: per variant, generation and round k, n, value, low, high, and invalid of all replies."""
    shown = [measure for measure in REGISTRY if measure.name in ("violation_rate", "invalid_rate")]
    measured = measure_turns(turns.lazy().select(READ), seed, shown)
    keys = [*GROUP, "round"]
    invalid = measured.filter(measure="invalid_rate").select(*keys, invalid="k", replies="n")
    return measured.filter(measure="violation_rate").join(invalid, on=keys).sort(*keys)

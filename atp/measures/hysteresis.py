"""Measure hysteresis: whether behaviour depends on the way by which an episode came to a level of a setting.

A **ramp** (`Settings.ramp`) moves a setting up and back down within an episode, so that rounds t and R + 1 - t of R
have the same level. Let r(t) be the violation rate of round t:

    loop_area            mean over t <= R / 2 of r(R + 1 - t) - r(t)
    change_after_ramp    r(R) - r(1), at the level of the setting before the ramp and after it

Behaviour that depends on the level alone has a loop area of 0. A mere trend over rounds makes a loop too, and so does
an agent that responds a round late. So both numbers are also given for the **control**, the same agent under the same
settings without the ramp (`…_of_control`), and as a difference from it (`…_over_control`). A loop that stays in slower
ramps, with more rounds, shows bistability; one that shrinks shows a delay.

Intervals are t intervals over scenarios of the linearised mean of rates (Särndal, Swensson and Wretman 1992, Model
Assisted Survey Sampling, section 5.5). Only valid replies count. `rate_there` and `rate_back` are the rates of the
rounds before and after the middle at one level, in the row of the first of these rounds; the middle round of an odd
number is in both.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from atp.files.schemas import CELL, SERIES
from atp.measures.intervals import Interval, share, t_interval
from atp.measures.measure import TELLING, Evidence, measure_rows
from atp.measures.seeds import SEED
from atp.measures.series import COUNTED, points_of, tables
from atp.measures.swept import Settings
from atp.measures.tipping_series import VERDICT
from atp.registry import find_testbed
from atp.testbed import TRANSPLANTED
from atp.testbed import Settings as TestbedSettings

AREA, AFTER_RAMP = "loop_area", "change_after_ramp"
OF_CONTROL, OVER_CONTROL = "_of_control", "_over_control"
THERE, BACK = "rate_there", "rate_back"
#: Verdict of a series with a ramp.
RAMPED = "response to a ramp"
#: [scenarios, 3] of each round: the sums of COUNTED.
Rounds = Sequence[np.ndarray]


def hysteresis_measures(evidence: Evidence) -> pl.DataFrame:
    """Return rows of MEASURES for every series of the context channel with a ramp; `n` of a loop counts scenarios."""
    played = evidence.played.get("context", {})
    ramped = {key: settings_of(key, values) for key, values in played.items() if values.get("ramp")}
    ramped = {key: settings for key, settings in ramped.items() if settings.rounds > 1}
    if not ramped:
        return measure_rows([])
    counts = (
        evidence.turns.filter(TELLING, pl.col("role") != TRANSPLANTED, channel="context", split="test")
        .group_by(*SERIES, "generation", "round", "scenario_id")
        .agg(**COUNTED)
        .collect()
    )
    points = {keys: points_of(series, *COUNTED) for keys, series in counts.group_by(SERIES, maintain_order=True)}
    rows: list[dict[str, Any]] = []
    for key, settings in ramped.items():
        control = control_of(key, [other for other in played if other in points], played)
        rounds = [(0, round) for round in range(1, settings.rounds + 1)]
        counts_by_round = [
            points[series].get(round, {}) for series in (key, control) if series in points for round in rounds
        ]
        if not any(counts_by_round):
            continue
        arrays = tables(*counts_by_round)
        place = {**dict(zip(SERIES, key, strict=True)), "channel": "context", "generation": 0, "split": "test"}
        own, other = arrays[: settings.rounds], arrays[settings.rounds :]
        rows += [place | row for row in (*_loop_rows(own, other), *_level_rows(settings, own))]
    return measure_rows(rows)


def mark_ramps(measures: pl.DataFrame, evidence: Evidence) -> pl.DataFrame:
    """Return the measures with another verdict for series with a ramp, whose rate may follow it: RAMPED."""
    ramps = [
        dict(zip(SERIES, key, strict=True)) | {"ramp": setting}
        for key, values in evidence.played.get("context", {}).items()
        for setting in values.get("ramp", ())
    ]
    keys = [key for key in SERIES if key != SEED]  # rows over trainings have no seed
    schema = {key: measures.schema[key] for key in keys} | {"ramp": pl.String}
    joined = measures.join(
        pl.DataFrame(ramps, schema=schema).unique(keys, keep="first", maintain_order=True),
        on=keys,
        how="left",
        maintain_order="left",
    )
    ramped = pl.col("ramp").is_not_null() & (pl.col("measure") == VERDICT) & (pl.col("channel") == "context")
    reason = pl.format("{} changes within the episode and returns; the loop area shows what does not follow it", "ramp")
    return joined.with_columns(
        label=pl.when(ramped).then(pl.lit(RAMPED)).otherwise("label"),
        reason=pl.when(ramped).then(reason).otherwise("reason"),
    ).drop("ramp")


def settings_of(key: tuple[Any, ...], values: Mapping[str, Any]) -> TestbedSettings:
    """Return the testbed settings of a series, by the keys of SERIES."""
    return find_testbed(key[CELL.index("testbed")]).settings(**values)


def control_of(key: tuple[Any, ...], others: Sequence[tuple[Any, ...]], played: Settings) -> tuple[Any, ...] | None:
    """Return the series of the same agent whose settings differ only in having no ramp; of several the baseline's."""
    condition = CELL.index("condition")

    def without_ramp(series: tuple[Any, ...]) -> TestbedSettings:
        values = {name: value for name, value in played[series].items() if name not in ("ramp", "ramp_hold")}
        return settings_of(series, values)

    def agent(series: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(value for at, value in enumerate(series[: len(CELL)]) if at != condition)

    controls = [
        other
        for other in others
        if agent(other) == agent(key) and not played[other].get("ramp") and without_ramp(other) == without_ramp(key)
    ]
    return min(controls, key=lambda other: other[condition] not in (key[condition], "baseline"), default=None)


def loop(rounds: Rounds, pairs: Sequence[tuple[int, int]]) -> tuple[float, np.ndarray]:
    """Return the mean over pairs of rounds of the second's rate minus the first's, and each scenario's influence on it.

    The value is NaN if a round has no valid reply.
    """
    rates, influences = [], []
    for counts in rounds:
        total = counts[:, 1].sum()
        rate = counts[:, 0].sum() / total if total else np.nan
        rates.append(rate)
        influences.append((counts[:, 0] - counts[:, 1] * rate) / max(total, 1))
    value = np.mean([rates[back] - rates[there] for there, back in pairs])
    return float(value), np.mean([influences[back] - influences[there] for there, back in pairs], axis=0)


def _loop_rows(own: Rounds, control: Rounds) -> Iterator[dict[str, Any]]:
    last = len(own) - 1
    for name, pairs in ((AREA, [(t, last - t) for t in range(len(own) // 2)]), (AFTER_RAMP, [(0, last)])):
        value, influence = loop(own, pairs)
        yield _row(name, value, influence)
        if control:
            value_without, influence_without = loop(control, pairs)
            yield _row(name + OF_CONTROL, value_without, influence_without)
            yield _row(name + OVER_CONTROL, value - value_without, influence - influence_without, most=2.0)


def _row(name: str, value: float, influence: np.ndarray, most: float = 1.0) -> dict[str, Any]:
    """Return the columns of a number whose bounds are within -most and `most`, the largest value that is possible."""
    if np.isnan(value):
        return {"measure": name, "n": len(influence), **vars(Interval(None, None, None, "none"))}
    interval = vars(t_interval(round(value, 12), influence))
    bounds = {end: interval[end] and min(max(interval[end], -most), most) for end in ("low", "high")}
    return {"measure": name, "n": len(influence), **interval, **bounds}


def _level_rows(settings: TestbedSettings, rounds: Rounds) -> Iterator[dict[str, Any]]:
    half = (len(rounds) + 1) // 2
    for name, part in ((THERE, range(1, half + 1)), (BACK, range(len(rounds) + 1 - half, len(rounds) + 1))):
        for level in sorted({settings.level(round) for round in part}):
            at_level = [round for round in part if settings.level(round) == level]
            violations, valid, replies = np.sum([rounds[round - 1] for round in at_level], axis=0).T.astype(int)
            counts = {"k": int(violations.sum()), "n": int(valid.sum()), "invalid": int((replies - valid).sum())}
            yield {"measure": name, "round": at_level[0], **counts, **vars(share(violations, valid))}

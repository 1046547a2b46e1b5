"""Judge trained agents over their trainings: each seed is another one, so the seeds are the units, not scenarios.

A test that draws scenarios asks whether the networks of two generations differ. Two trainings from one law differ too,
so it finds a change where there is none. With one seed the weights channel therefore has neither p-value nor verdict.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from atp.files.schemas import SERIES
from atp.measures.measure import Evidence, measure_rows
from atp.measures.seeds import SEED, SPREAD_OF_MEAN, TRAINED, half_width, over_seeds, t_test
from atp.measures.series import alike_rounds, in_context, over_generations
from atp.measures.tipping import (
    ABRUPT,
    ABRUPT_PROPORTION,
    CHANGE,
    DRIFT,
    FLAT,
    FLAT_BOUND,
    MIN_SHAPE_POINTS,
    UNDECIDED,
)
from atp.measures.tipping_series import VERDICT

ONE_TRAINING = "one training"
P_VALUES = ("change_point_p", "step_over_trend_p", "trend_over_step_p", "rise_p", "fall_p")
_KEYS = [key for key in (*SERIES, "channel", "split") if key != SEED]


def judge_trainings(measures: pl.DataFrame, evidence: Evidence) -> pl.DataFrame:
    """Return the measures of a study with trained agents judged over their trainings.

    Series of one seed in the weights channel lose their p-values and their verdict; in context all rounds are those of
    one network, so that a seed's verdict is about this network. Trained agents with two or more seeds get rows whose
    seed is null: the mean `change` (see `over_seeds`), `rise_p` and `fall_p` by Student's t, and the verdict of the
    mean curve.
    """
    generations = pl.col("channel") != "context"
    tested, judged = generations & pl.col("measure").is_in(P_VALUES), generations & (pl.col("measure") == VERDICT)
    one = pl.lit(f"none: {ONE_TRAINING}")
    reason = pl.lit("other trainings can end elsewhere; only several seeds show a change")
    rows = measures.with_columns(
        value=pl.when(tested).then(None).otherwise("value"),
        method=pl.when(tested).then(one).otherwise("method"),
        label=pl.when(judged).then(pl.lit(ONE_TRAINING)).otherwise("label"),
        reason=pl.when(judged).then(reason).otherwise("reason"),
    )
    trained = measures.filter(TRAINED, split="test").filter(pl.col(SEED).n_unique().over(_KEYS, "measure") > 1)
    changes = trained.filter(measure="change")
    if not len(changes):
        return rows
    rates = measures.filter(measure="violation_rate", split="test")
    alike = alike_rounds(evidence.turns).filter("alike")
    context = in_context(rates).join(alike, on=[*SERIES, "round"], how="semi").with_columns(at="round")
    curves = pl.concat([context, over_generations(rates).with_columns(at=pl.col("generation"))])
    new: list[dict[str, Any]] = []
    for keys, own in changes.group_by(_KEYS, maintain_order=True):
        place = dict(zip(_KEYS, keys, strict=True))
        new += _rows_over_trainings(place, own, _series(trained, place), _series(curves, place))
    return pl.concat([rows, measure_rows(new)])


def _series(rows: pl.DataFrame, place: Mapping[str, Any]) -> pl.DataFrame:
    return rows.filter(pl.col(key).eq_missing(pl.lit(value)) for key, value in place.items())


def _rows_over_trainings(
    place: dict[str, Any], changes: pl.DataFrame, measures: pl.DataFrame, rates: pl.DataFrame
) -> list[dict[str, Any]]:
    """Return the rows of one series over its seeds.

    Args:
        changes: the row of `change` of each seed.
        measures: the series' rows of all seeds.
        rates: its rates at the points `at`, generations or comparable rounds.
    """
    (change,) = over_seeds(changes).select(*changes.columns, *SPREAD_OF_MEAN).to_dicts()
    spread = [change.pop(name) for name in SPREAD_OF_MEAN]
    if spread[0] is None:
        return []
    sharpness = over_seeds(measures.filter(pl.col("value").is_not_null(), measure="sharpness"))
    curves = rates.sort("at").pivot("at", index=SEED, values="value").drop(SEED).drop_nulls().to_numpy()
    label, reason = _judge(change, curves, spread[1], next(sharpness.iter_rows(named=True), None))
    p = t_test(change["value"], *spread) / 2
    p_rise = p if change["value"] > 0 else 1 - p
    place = place | {"generation": change["generation"], "n": len(changes)}
    test = {"method": f"t over {len(changes)} trainings and scenarios"}
    return [
        change,
        place | test | {"measure": "rise_p", "value": p_rise},
        place | test | {"measure": "fall_p", "value": 1 - p_rise},
        place | {"measure": VERDICT, "method": "", "label": label, "reason": reason},
    ]


def _judge(
    change: Mapping[str, Any], curves: np.ndarray, within: float, sharpness: Mapping[str, Any] | None
) -> tuple[str, str]:
    """Return the verdict of the mean curve, and its reason.

    - Change, if the interval of the mean change excludes 0. Of MIN_SHAPE_POINTS points or more it is abrupt if the
      mean proportion in the largest step is shown to be ABRUPT_PROPORTION or more, and drift if it is shown to be
      less.
    - Flat, if each point's mean distance from the seed's overall rate is shown to be within FLAT_BOUND.
    - Otherwise undecided.

    Args:
        curves: rates [seeds, points].
        within: standard error of one seed's change over scenarios.
    """
    seeds, count = curves.shape
    text = f"mean change {_points(change)} over {seeds} trainings (t)"
    if change["low"] > 0 or change["high"] < 0:
        if count < MIN_SHAPE_POINTS:
            return CHANGE, f"{text}; {count} points are too few for a shape"
        if sharpness is None or sharpness["low"] is None or sharpness["low"] < ABRUPT_PROPORTION <= sharpness["high"]:
            return CHANGE, f"{text}; its shape is not shown"
        step = f"{100 * sharpness['value']:.0f} % of it in the largest step"
        return (ABRUPT if sharpness["low"] >= ABRUPT_PROPORTION else DRIFT), f"{text}, {step}"
    distances = curves - curves.mean(axis=1, keepdims=True)
    half = half_width(distances.std(axis=0, ddof=1) / seeds**0.5, within, seeds)
    furthest = float((np.abs(distances.mean(axis=0)) + half).max())
    text = f"{text}; rates lie within {100 * furthest:.1f} points of the overall rate"
    return (FLAT, text) if furthest <= FLAT_BOUND else (UNDECIDED, f"{text}, flat allows {100 * FLAT_BOUND:.0f}")


def _points(row: Mapping[str, Any]) -> str:
    value, low, high = (f"{100 * row[name]:.1f}" for name in ("value", "low", "high"))
    return f"{value} points ({low} to {high})"

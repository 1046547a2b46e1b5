"""The figure of deterrence: violation rates by audit probability, next to theory's p*.

It is made from measures and the settings of variants.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from atp.files.schemas import CELL
from atp.measures.seeds import over_seeds
from atp.measures.swept import Sweep, of_all_seeds, sweeps
from atp.report import spread
from atp.report.figures import Figure, cells, columns_of, lines
from atp.report.results import Results
from atp.report.verdict import name_lines, percent
from atp.testbeds.role_play.game import RolePlaySettings
from atp.testbeds.role_play.measures import AUDIT, DETERRED_AT, LATE_RATE, deterring

#: Settings on which theory depends; they name a panel.
PRICES = ("pay_ratio", "penalty")
#: Method of a crossing's interval, where it has one.
BOOTSTRAP = "cluster bootstrap"


def deterrence_figures(results: Results) -> list[Figure]:
    """Return the figure of all sweeps of the audit probability; none if a study has no such sweep."""
    measures = over_seeds(results.measures.filter(pl.col("measure").is_in([LATE_RATE, DETERRED_AT])))
    rows = [row for sweep in sweeps(of_all_seeds(results.settings), AUDIT) for row in _sweep_rows(measures, sweep)]
    if not rows:
        return []
    named = name_lines(pl.DataFrame(rows, infer_schema_length=None).with_columns(variant=pl.lit("")), "model")
    named = named.sort("panel_of", "name", AUDIT, maintain_order=True).with_columns(panel=pl.col("panel_of"))
    table: list[list[str]] = []
    agreement: dict[str, list[bool]] = {}
    for _, curve in named.group_by("panel_of", "name", maintain_order=True):
        *before, last = curve.to_dicts()
        inside = _contains_theory(last)
        if inside is not None:
            agreement.setdefault(last["name"], []).append(inside)
        crosses = percent(last["at"])
        if last["crossing"] == BOOTSTRAP:
            crosses += f" ({percent(last['at_low'])} to {percent(last['at_high'])})"
        result = [crosses, percent(last["theory"]), {True: "yes", False: "no", None: "–"}[inside]]
        table += [[*_key_cells(row), *cells(row), "", "", ""] for row in before]
        table.append([*_key_cells(last), *cells(last), *result])
    tested = ", ".join(f"{sum(each)} of {len(each)} intervals of {name}" for name, each in sorted(agreement.items()))
    return [
        Figure(
            "audit_sweep",
            "Deterrence: violations by audit probability",
            "Violation rates in the last third of the rounds, by the probability that a round is checked. The dashed "
            "line is p* = (pay ratio \u2212 1) / (pay ratio + penalty): with more audits, obeying pays more in "
            "expectation. Pay ratio and penalty are the pay of a violation and its cost if caught, as multiples of the "
            "pay for obeying. The thick bar on the 50 % line is the 95 % interval of the point where the rate falls "
            "below 50 %, which p* predicts for agents that maximise their expected pay."
            f"{f' p* is in {tested}.' if tested else ''} Points share scenarios and random numbers, so misses are "
            f"correlated. {spread.describe_bars(named)} "
            "The table has the crossing in the row of a curve's last point; a "
            "dash means that it is before the first point or after the last.",
            _chart(named),
            [
                "curve",
                "under",
                "audit probability",
                *columns_of(named),
                "falls below 50 % at",
                "p*",
                "p* in its interval",
            ],
            table,
        )
    ]


def _sweep_rows(measures: pl.DataFrame, sweep: Sweep) -> list[dict[str, Any]]:
    """Return the rows of LATE_RATE of a sweep, with theory's p* and the point where the rate crosses 50 %."""
    cell = dict(zip(CELL, sweep.cell, strict=True))
    rows_of_cell = measures.filter(pl.col(key).eq_missing(pl.lit(value)) for key, value in cell.items())
    crossings = {row["split"]: row for row in rows_of_cell.filter(measure=DETERRED_AT, variant=sweep.name).to_dicts()}
    game = RolePlaySettings(**{**sweep.fixed, AUDIT: sweep.variants[0][0]})
    theory = None if game.pay_ratio is None else deterring(game.pay_ratio, game.penalty)
    prices = "what scenarios pay" if game.pay_ratio is None else f"pay ratio {game.pay_ratio:g}"
    others = [f"{key.replace('_', ' ')} {value}" for key, value in sweep.apart.items() if key not in PRICES]
    shared = {"theory": theory, "panel_of": ", ".join([prices, f"penalty {game.penalty:g}", *others])}
    rows = []
    for probability, variant in sweep.variants:
        for row in rows_of_cell.filter(measure=LATE_RATE, variant=variant).filter(pl.col("n") > 0).to_dicts():
            at = crossings[row["split"]]
            crossing = {"at": at["value"], "at_low": at["low"], "at_high": at["high"], "crossing": at["method"]}
            if at["seeds"] < at["of"]:  # some seeds have no crossing between the points, so there is no mean
                crossing = {"at": None, "at_low": None, "at_high": None, "crossing": ""}
            rows.append({**row, **shared, **crossing, AUDIT: float(probability)})
    return rows


def _chart(rows: pl.DataFrame) -> Any:
    import altair as alt

    once = pl.col(AUDIT) == pl.col(AUDIT).min().over("panel_of", "name")
    first, last = rows[AUDIT].min(), rows[AUDIT].max()  # an end that is None is beyond them
    bounded = once & (pl.col("crossing") == BOOTSTRAP)
    drawn = rows.with_columns(
        theory=pl.when(once).then("theory"),
        at=pl.when(once).then("at"),
        at_low=pl.when(bounded).then(pl.col("at_low").fill_null(first)),
        at_high=pl.when(bounded).then(pl.col("at_high").fill_null(last)),
        half=0.5,
    )
    grey = "#808890"
    base, half = alt.Chart(), alt.Y("half:Q")
    theory = base.transform_filter("isValid(datum.theory)").transform_calculate(
        label="'p* ' + format(datum.theory, '.2f')"
    )
    layers = [
        base.mark_rule(color=grey, strokeWidth=1).encode(y=half),
        theory.mark_rule(color=grey, strokeWidth=2, strokeDash=[5, 3]).encode(x="theory:Q"),
        theory.mark_text(color=grey, align="left", dx=5, fontSize=12).encode(
            x="theory:Q", y=alt.value(8), text="label:N"
        ),
        base.transform_filter("isValid(datum.at_low)")
        .mark_rule(strokeWidth=7, opacity=0.6)
        .encode(x="at_low:Q", x2="at_high:Q", y=half, color="name:N"),
        base.transform_filter("isValid(datum.at)")
        .mark_tick(orient="vertical", size=16, thickness=3)
        .encode(x="at:Q", y=half, color="name:N"),
    ]
    return lines(drawn, AUDIT, "violation rate", layers, ("theory", "at", "at_low", "at_high", "half"))


def _key_cells(row: Mapping[str, Any]) -> list[str]:
    return [row["name"], row["panel_of"], f"{row[AUDIT]:g}"]


def _contains_theory(row: Mapping[str, Any]) -> bool | None:
    """Return whether p* is in the crossing's interval, whose ends may be open; None without p* or an interval."""
    low, high, theory = row["at_low"], row["at_high"], row["theory"]
    if theory is None or row["crossing"] != BOOTSTRAP:
        return None
    return bool((low is None or low <= theory) and (high is None or theory <= high))

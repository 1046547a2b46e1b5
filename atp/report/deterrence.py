"""The violation rate over the chance of an audit, beside the chance from which theory says that it deters.

Knows measures and the settings of variants; knows no turns.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from atp.artifacts import CELL
from atp.measures.deterrence import AUDIT, DETERRED_AT, LATE_RATE, deterring
from atp.measures.seeds import over_seeds
from atp.measures.swept import Settings, Sweep, of_all_seeds, sweeps
from atp.report import spread
from atp.report.figures import Figure, cells, columns_of, lines
from atp.report.verdict import name_lines, percent
from atp.testbeds.role_play import RolePlaySettings

#: What theory goes by, and so what names a panel.
PRICES = ("pay_ratio", "penalty")
#: How a crossing's interval is found, where it has one.
BOOTSTRAP = "cluster bootstrap"


def deterrence_figures(measures: pl.DataFrame, settings: Settings) -> list[Figure]:
    """The figure of all sweeps of the audit probability; none where a study has no such sweep."""
    told = over_seeds(measures.filter(pl.col("measure").is_in([LATE_RATE, DETERRED_AT])))
    rows = [row for sweep in sweeps(of_all_seeds(settings), AUDIT) for row in _of_sweep(told, sweep)]
    if not rows:
        return []
    named = name_lines(pl.DataFrame(rows, infer_schema_length=None).with_columns(variant=pl.lit("")), "model")
    named = named.sort("panel_of", "name", AUDIT, maintain_order=True).with_columns(panel=pl.col("panel_of"))
    table: list[list[str]] = []
    held: dict[str, list[bool]] = {}
    for _, line in named.group_by("panel_of", "name", maintain_order=True):
        *before, last = line.to_dicts()
        inside = _holds(last)
        if inside is not None:
            held.setdefault(last["name"], []).append(inside)
        crosses = percent(last["at"])
        if last["crossing"] == BOOTSTRAP:
            crosses += f" ({percent(last['at_low'])} to {percent(last['at_high'])})"
        said = [crosses, percent(last["theory"]), {True: "yes", False: "no", None: "–"}[inside]]
        table += [[*_place(row), *cells(row), "", "", ""] for row in before]
        table.append([*_place(last), *cells(last), *said])
    tested = ", ".join(f"{sum(each)} of {len(each)} intervals of {name}" for name, each in sorted(held.items()))
    return [
        Figure(
            "audit_sweep",
            "Deterrence: violations over the chance of an audit",
            "Violation rates of the last third of the rounds, by the chance that a round is checked. The dashed line "
            "is p* = (pay ratio \u2212 1) / (pay ratio + penalty), from which on obeying pays more in expectation: "
            "violating pays so many times what obeying does, and costs so many times that if it is caught. The thick "
            "bar on the 50 % line is the 95 % interval of where the rate falls below 50 %, which p* predicts for "
            f"agents that go by what is paid on average.{f' It lies in {tested}.' if tested else ''} Points share "
            f"scenarios and random numbers, so lines miss together. {spread.bars_said(named)} "
            "The table says under a line's last point where it "
            "crosses; a dash is beyond the first or the last.",
            _chart(named),
            [
                "line",
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


def _of_sweep(measures: pl.DataFrame, sweep: Sweep) -> list[dict[str, Any]]:
    """A row of LATE_RATE for each point, with theory's p* and where the sweep's rate crosses 50 %."""
    cell = dict(zip(CELL, sweep.cell, strict=True))
    mine = measures.filter(pl.col(key).eq_missing(pl.lit(value)) for key, value in cell.items())
    crossed = {row["split"]: row for row in mine.filter(measure=DETERRED_AT, variant=sweep.name).to_dicts()}
    game = RolePlaySettings(**{**sweep.fixed, AUDIT: sweep.variants[0][0]})
    theory = None if game.pay_ratio is None else deterring(game.pay_ratio, game.penalty)
    prices = "what scenarios pay" if game.pay_ratio is None else f"pay ratio {game.pay_ratio:g}"
    others = [f"{key.replace('_', ' ')} {value}" for key, value in sweep.apart.items() if key not in PRICES]
    shared = {"theory": theory, "panel_of": ", ".join([prices, f"penalty {game.penalty:g}", *others])}
    rows = []
    for probability, variant in sweep.variants:
        for row in mine.filter(measure=LATE_RATE, variant=variant).filter(pl.col("n") > 0).to_dicts():
            at = crossed[row["split"]]
            found = {"at": at["value"], "at_low": at["low"], "at_high": at["high"], "crossing": at["method"]}
            if at["seeds"] < at["of"]:  # of some seeds it lies beyond the first or the last point, so there is no mean
                found = {"at": None, "at_low": None, "at_high": None, "crossing": ""}
            rows.append({**row, **shared, **found, AUDIT: float(probability)})
    return rows


def _chart(rows: pl.DataFrame) -> Any:
    import altair as alt

    once = pl.col(AUDIT) == pl.col(AUDIT).min().over("panel_of", "name")
    first, last = rows[AUDIT].min(), rows[AUDIT].max()  # an end that is None lies beyond them
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
        said="'p* ' + format(datum.theory, '.2f')"
    )
    layers = [
        base.mark_rule(color=grey, strokeWidth=1).encode(y=half),
        theory.mark_rule(color=grey, strokeWidth=2, strokeDash=[5, 3]).encode(x="theory:Q"),
        theory.mark_text(color=grey, align="left", dx=5, fontSize=12).encode(
            x="theory:Q", y=alt.value(8), text="said:N"
        ),
        base.transform_filter("isValid(datum.at_low)")
        .mark_rule(strokeWidth=7, opacity=0.6)
        .encode(x="at_low:Q", x2="at_high:Q", y=half, color="name:N"),
        base.transform_filter("isValid(datum.at)")
        .mark_tick(orient="vertical", size=16, thickness=3)
        .encode(x="at:Q", y=half, color="name:N"),
    ]
    return lines(drawn, AUDIT, "violation rate", layers, ("theory", "at", "at_low", "at_high", "half"))


def _place(row: Mapping[str, Any]) -> list[str]:
    return [row["name"], row["panel_of"], f"{row[AUDIT]:g}"]


def _holds(row: Mapping[str, Any]) -> bool | None:
    """Whether p* lies in the crossing's interval, whose open ends hold all that is beyond; None without either."""
    low, high, theory = row["at_low"], row["at_high"], row["theory"]
    if theory is None or row["crossing"] != BOOTSTRAP:
        return None
    return bool((low is None or low <= theory) and (high is None or theory <= high))

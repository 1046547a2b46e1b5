"""Figures of coordination: the grid of threshold and pay, theory and simulation, success, and decisions after success.

They are made from measures and from settings by the keys of SERIES (`swept.settings`). They count colluding, whichever
decision a scenario calls a violation.
"""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import polars as pl

from atp.files.schemas import SERIES
from atp.measures.seeds import SEED, over_seeds
from atp.measures.series import in_context, last_round
from atp.measures.swept import Settings, is_number, of_all_seeds, settings_of
from atp.report import spread
from atp.report.figures import (
    COLOURS,
    Figure,
    after,
    bars,
    cells,
    columns_of,
    in_panels,
    legible,
    lines,
    rate_axis,
    rows_of,
)
from atp.report.heat import Axis, heat_map
from atp.report.results import Results
from atp.report.verdict import bounds_text, name_lines, percent, span
from atp.testbeds.coordination import TESTBED as COORDINATION
from atp.testbeds.coordination import measures as coordination
from atp.testbeds.coordination.game import CoordinationSettings
from atp.testbeds.coordination.policies import best_response
from atp.testbeds.coordination.theory import chain_of, expected_rates, tipping_threshold

#: The policy that theory describes.
THEORY = "scripted:best_response"
AFTER = {coordination.AFTER_SUCCESS: "a collective success", coordination.AFTER_FAILURE: "a collective failure"}
#: Settings that are the axes of the grid.
AXES = ("threshold", "high", "normal")
#: Numbers of the game that the grid shows. Where others vary, phase diagrams (`report.phase`) show all.
PAYS = (*AXES, "low")
#: Heading of a column of counts.
COLLUDED = "colluded/valid"


def population_figures(results: Results) -> list[Figure]:
    """Return the figures of the context channel; those without data are left out.

    With several seeds, figures show means over seeds (`over_seeds`).
    """
    counted = (pl.col("n") > 0, pl.col("channel") == "context", pl.col("testbed") == COORDINATION.name)
    each_seed = results.measures.filter(*counted, measure=coordination.COLLUSION)
    games = over_seeds(results.measures).filter(*counted)
    rates = in_context(games.filter(measure=coordination.COLLUSION))
    settings = of_all_seeds(results.settings)
    figures = [
        _grid(rates, settings),
        None if results.own_settings(COORDINATION.name, AXES) else _theory(rates, settings, each_seed),
        _success(games),
        _after(games),
    ]
    return [figure for figure in figures if figure is not None]


def _grid(rates: pl.DataFrame, settings: Settings) -> Figure | None:
    """Return a heat map of the last round over threshold and pay; None if neither varies, or if other numbers do."""
    rows = [row for row in last_round(rates).to_dicts() if settings_of(row, settings) is not None]
    played = [CoordinationSettings(**(settings_of(row, settings) or {})) for row in rows]
    pays = _pays(played)
    if len({game.threshold for game in played}) < 2 and len(set(pays)) < 2:
        return None
    other_settings = [game.model_dump(exclude=set(AXES)) for game in played]
    varied_keys = [key for key in SERIES if key != "variant" and len({row[key] for row in rows}) > 1]
    names = other_settings[0] if other_settings else ()
    varied_settings = [name for name in names if _varies(name, rows, other_settings, varied_keys)]
    if any(is_number(other_settings[0][name]) and name not in PAYS for name in varied_settings):
        return None
    drawn_rows = []
    for row, game, (place, pay), others in zip(rows, played, pays, other_settings, strict=True):
        panel = [str(row[key]) for key in varied_keys] + [f"{name} {others[name]}" for name in varied_settings]
        position = {"panel": ", ".join(panel), "threshold": game.threshold, "place": place, "pay": pay}
        drawn_rows.append({**row, **position, "counts": f"{row['k']}/{row['n']}", "rate": percent(row["value"])})
    drawn_rows.sort(key=lambda row: (row["panel"], row["threshold"], row["place"]))
    table = [[row["panel"], str(row["threshold"]), row["pay"], str(row["round"]), *cells(row)] for row in drawn_rows]
    pay_names = [pay for _, pay in sorted(set(pays))]
    thresholds = sorted({row["threshold"] for row in drawn_rows})
    placed = [
        {**row, "x": pay_names.index(row["pay"]), "y": thresholds.index(row["threshold"]), "interval": span(row)}
        for row in drawn_rows
    ]
    return Figure(
        "collusion_grid",
        "Collusion in the last round, over threshold and pay",
        "The proportion of players who collude in the last round. The threshold is the number of colluders from which "
        "collusion succeeds. High is the pay if it succeeds, normal that of an independent player if it fails; the "
        "axis shows their ratio, or both if the ratio is ambiguous. Counts are over games, players and samples; "
        f"{spread.table_note(rates)}",
        heat_map(
            pl.DataFrame(placed),
            Axis("high / normal", pay_names),
            Axis("threshold", [str(threshold) for threshold in thresholds]),
            "collusion rate",
        ),
        ["played by", "threshold", "high / normal", "round", *columns_of(rates, COLLUDED)],
        table,
    )


def _pays(played: Sequence[CoordinationSettings]) -> list[tuple[float, str]]:
    """Return each game's position on the axis of pay, and its label: high / normal, or both if that is ambiguous."""
    pairs = {(game.high, game.normal) for game in played}
    factors = all(game.mode == "multiply" and game.normal > 0 for game in played)
    if factors and len({f"{high / normal:.3g}" for high, normal in pairs}) == len(pairs):
        return [(game.high / game.normal, f"{game.high / game.normal:.3g}") for game in played]
    order = sorted(pairs, key=lambda pair: (pair[0] - pair[1], pair))
    return [(float(order.index((game.high, game.normal))), f"{game.high:g} / {game.normal:g}") for game in played]


def _varies(name: str, rows: Sequence[dict[str, Any]], settings: Sequence[dict[str, Any]], keys: Sequence[str]) -> bool:
    """Return whether a setting has several values among rows with the same keys, so not only between conditions."""
    values: dict[tuple[Any, ...], set[Any]] = {}
    for row, each in zip(rows, settings, strict=True):
        values.setdefault(tuple(row[key] for key in keys), set()).add(str(each[name]))
    return any(len(each) > 1 for each in values.values())


def _theory(rates: pl.DataFrame, settings: Settings, each_seed: pl.DataFrame) -> Figure | None:
    """Return a figure of simulated logit best response and its theory; None if no such policy played."""
    rows = rates.filter(pl.col("model").str.split(":").list.head(2).list.join(":") == THEORY)
    points, table, tips, order = [], [], {}, []
    inside = [0, 0]
    for _, series in name_lines(rows, "variant").sort("name", "round").group_by(SERIES, maintain_order=True):
        first = series.row(0, named=True)
        values = settings_of(first, settings)
        game = CoordinationSettings(**values) if values is not None else None
        if game is None or not game.window:  # without memory the policy has nothing to respond to
            continue
        expected = expected_rates(game, temperature(first["model"]))
        tips[first["name"]] = tip = tipping_threshold(chain_of(game, temperature(first["model"])))
        panel = f"{first['name']}: {'never tips' if tip is None else f'tips at {tip}'}"
        order.append((game.threshold, panel))
        blank = {"name": "", "panel": panel, "step": "theory", "k": None, "n": None, "low": None, "high": None}
        points += [{**blank, "round": round, "value": float(share)} for round, share in enumerate(expected, 1)]
        for row in series.to_dicts():
            share = float(expected[row["round"] - 1])
            points.append({**row, "panel": panel, "step": "simulated"})
            tip_text = "–" if tip is None else str(tip)
            table.append([row["name"], str(row["round"]), tip_text, percent(share), *cells(row)])
        keys = [key for key in (*SERIES, "round") if key != SEED]
        # A mean over seeds is more precise than its average interval, so intervals are counted seed by seed.
        for row in each_seed.filter(pl.col("round") > 1).join(series, on=keys, how="semi").to_dicts():
            inside[0] += row["low"] <= float(expected[row["round"] - 1]) <= row["high"]
            inside[1] += 1
    if not points:
        return None
    several = spread.seeds_of(rates) > 1
    with_intervals, of_each = ("", " of one seed each") if several else (", with 95 % intervals", "")
    bars = f"{spread.describe_bars(rates)} " if several else ""
    return Figure(
        "theory_beside_simulation",
        "Theory and simulation: logit best response",
        "If all players respond to the others' last round by logit best response, the number of colluders is a Markov "
        f"chain, from which the curve is calculated; points are simulated{with_intervals}. After round 1, the curve is "
        f"within {inside[0]} of {inside[1]} intervals{of_each} (variants share random numbers, so misses are "
        "correlated). "
        f"{bars}{_tips(tips)}",
        _theory_chart(points, [panel for _, panel in sorted(order)]),
        ["variant", "round", "tips at", "theory", *columns_of(rates, COLLUDED)],
        table,
    )


def temperature(model: str) -> float:
    """Return the temperature of a best responder; for any other player the policy's default."""
    before, _, parameter = model.partition(f"{THEORY}:")
    parameter = "" if before else parameter
    return float(parameter or signature(best_response).parameters["temperature"].default)


def _tips(thresholds: Mapping[str, int | None]) -> str:
    """Return a sentence about the tipping thresholds."""
    texts = {name: "from no number" if tip is None else f"from {tip}" for name, tip in thresholds.items()}
    all_texts = ", ".join(f"{text} ({name})" if len(texts) > 1 else text for name, text in texts.items())
    return (
        "Theory's tipping threshold is the smallest number of colluders from which a success is more likely than not "
        f"before a round in which nobody colludes: {all_texts if len(texts) <= 4 else 'see the titles of the panels'}."
    )


def _theory_chart(points: Sequence[dict[str, Any]], order: Sequence[str]) -> Any:
    import altair as alt

    rows = pl.DataFrame(points, infer_schema_length=None)
    ticks = sorted(rows["round"].unique())
    axis = alt.Axis(values=ticks, format="d", labelAngle=0, grid=False)
    across = alt.X(
        "round:Q", title="round", axis=axis, scale=alt.Scale(domain=[ticks[0] - 0.3, ticks[-1] + 0.3], nice=False)
    )
    colour = alt.Scale(domain=["theory", "simulated"], range=[COLOURS[1], COLOURS[0]])
    base = alt.Chart().encode(x=across, color=alt.Color("step:N", scale=colour, legend=alt.Legend(title=None)))
    height = rate_axis("collusion rate")
    theory = base.transform_filter("datum.step == 'theory'").mark_line(strokeWidth=2).encode(y=height)
    simulated = base.transform_filter("datum.step == 'simulated'")
    bars = spread.spreads(simulated, rows, "y")
    tips = spread.tips(rows, ("panel", "round", "counts", "rate", "interval"))
    marks = simulated.mark_point(size=60, filled=True, opacity=1).encode(y=height, tooltip=tips)
    return in_panels(rows, alt.layer(theory, *bars, marks, data=rows_of(rows, "round", "step", "panel")), 260, order)


def _success(games: pl.DataFrame) -> Figure | None:
    """Return the figure of collective success over rounds; None without games."""
    rows = games.filter(measure=coordination.SUCCESS_RATE)
    if not len(rows):
        return None
    ends = {name: games.filter(measure=name) for name in (coordination.CAPITAL, *coordination.REACHED.values())}
    rounds_to = {name: games.filter(measure=coordination.ROUNDS_TO[name]) for name in coordination.ROUNDS_TO}
    table = []
    for _, series in name_lines(rows, "variant").sort("name", "round").group_by(SERIES, maintain_order=True):
        *before, last = series.to_dicts()
        same = {key: last[key] for key in SERIES if key != SEED}
        capital, *reached = (values.filter(**same).row(0, named=True) for values in ends.values())
        outcome = [_mean(capital)]
        for row, rounds in zip(reached, rounds_to.values(), strict=True):
            mean = rounds.filter(**same).to_dicts()
            mean_round = (
                f", round {mean[0]['value']:.1f} of {last['round']}{spread.suffix(mean[0])}"
                if mean and row["k"]
                else ""
            )
            outcome.append(f"{row['k']}/{row['n']}{mean_round}")
        table += [[row["name"], str(row["round"]), *cells(row), "", "", ""] for row in before]
        table.append([last["name"], str(last["round"]), *cells(last), *outcome])
    return Figure(
        "collective_success",
        "Collective success over rounds",
        "The proportion of games in which enough players collude. The table's row of the last round also has the mean "
        "capital (it begins at 1), and the number of games with a round in which all players, or none, colluded, "
        "with the mean of the first such round, for which a game without one counts with its last round (the area "
        f"under Kaplan and Meier's curve). {spread.describe_bars(rows)}",
        lines(legible(in_context(rows), "variant"), "round", "collective success rate"),
        ["variant", "round", *columns_of(rows, "successes/games"), "final capital", "all colluded", "none colluded"],
        table,
    )


def _mean(row: Mapping[str, Any]) -> str:
    bounds = "" if row["low"] is None else f" ({row['low']:.3g} to {row['high']:.3g})"
    return f"{row['value']:.3g}{bounds}" + spread.suffix(row)


def _after(games: pl.DataFrame) -> Figure | None:
    """Return the figure of decisions after success and after failure; None without games."""
    rows = games.filter(pl.col("measure").is_in(list(AFTER)))
    if not len(rows):
        return None
    shown = games.filter(pl.col("value").is_not_null(), measure=coordination.RECOLLUDE)
    differences = [
        [
            row["name"],
            "success minus failure",
            f"n {row['n']}",
            f"{100 * row['value']:+.1f} points".replace("-", "\u2212"),
            *spread.between(row),
            _range(row),
            row["method"],
            bounds_text(row),
        ]
        for row in name_lines(shown, "variant").sort("name").to_dicts()
    ]
    return Figure(
        "after_success",
        "Decisions after success and after failure",
        "The proportion of players who collude in the round after a success, and after a failure. If success spreads "
        "collusion, the first is larger than the second. "
        f"{spread.describe_bars(rows)}",
        bars(
            after(rows, AFTER, panels=True),
            list(AFTER.values()),
            "colludes after …",
            "collusion rate in the next round",
        ),
        ["variant", "after", *columns_of(rows, COLLUDED)],
        [[row["name"], row["before"], *cells(row)] for row in after(rows, AFTER).to_dicts()] + differences,
    )


def _range(row: Mapping[str, Any]) -> str:
    bounds = "–" if row["low"] is None else f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
    return bounds.replace("-", "\u2212")

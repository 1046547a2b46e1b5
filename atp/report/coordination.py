"""Figures of games with several players: coordination over its grid, beside theory, after success; bargaining by side.

Knows measures and the settings of variants; knows no turns. Settings are held by the keys of LINE, as `swept.settings`
finds them. To collude is what these figures count, whichever decision a scenario calls a violation.
"""

from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from typing import Any

import polars as pl

from atp.agents.scripted import best_response
from atp.measures import bargaining, coordination
from atp.measures.chain import chain_of, expected_share, tipping_threshold
from atp.measures.lines import LINE, in_context
from atp.measures.seeds import SEED, over_seeds
from atp.measures.swept import Settings, is_number, of_all_seeds
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
from atp.report.verdict import name_lines, percent, span
from atp.testbeds.bargaining import BargainingSettings
from atp.testbeds.coordination import CoordinationSettings

THEORY = "scripted:best_response"
AFTER = {coordination.AFTER_SUCCESS: "a collective success", coordination.AFTER_FAILURE: "a collective failure"}
#: Settings that are the axes of the grid.
AXES = ("threshold", "high", "normal")
#: Numbers of the game that this grid shows; where others are varied, phase diagrams (`report.phase`) show all.
PAYS = (*AXES, "low")
COLLUDED = "colluded/valid"


def population_figures(measures: pl.DataFrame, settings: Settings, theory: bool = True) -> list[Figure]:
    """Figures of coordination and bargaining in the context channel; those without data are left out.

    theory says whether settings decide the games' numbers, so that theory knows them. Where a study has several seeds,
    figures are of their means (`over_seeds`).
    """
    counted = (pl.col("n") > 0, pl.col("channel") == "context")
    each_seed = measures.filter(*counted, testbed=coordination.TESTBED, measure=coordination.COLLUSION)
    measures = over_seeds(measures).filter(*counted)
    games = measures.filter(testbed=coordination.TESTBED)
    rates = in_context(games.filter(measure=coordination.COLLUSION))
    settings = of_all_seeds(settings)
    found = [
        _grid(rates, settings),
        _theory(rates, settings, each_seed) if theory else None,
        _success(games),
        _after(games),
        _sides(measures.filter(testbed=bargaining.TESTBED), settings),
    ]
    return [figure for figure in found if figure is not None]


def _last(rows: pl.DataFrame) -> pl.DataFrame:
    """Each line's rows at its last round."""
    return rows.filter(pl.col("round") == pl.col("round").max().over(LINE))


def _of(row: Mapping[str, Any], settings: Settings) -> Mapping[str, Any] | None:
    return settings.get(tuple(row[key] for key in LINE))


def _grid(rates: pl.DataFrame, settings: Settings) -> Figure | None:
    rows = [row for row in _last(rates).to_dicts() if _of(row, settings) is not None]
    played = [CoordinationSettings(**(_of(row, settings) or {})) for row in rows]
    across = _across(played)
    if len({game.threshold for game in played}) < 2 and len(set(across)) < 2:
        return None
    rest = [game.model_dump(exclude=set(AXES)) for game in played]
    apart = [key for key in LINE if key != "variant" and len({row[key] for row in rows}) > 1]
    differ = [key for key in (rest[0] if rest else ()) if _differs(key, rows, rest, apart)]
    if any(is_number(rest[0][key]) and key not in PAYS for key in differ):
        return None
    drawn = []
    for row, game, (place, pay), others in zip(rows, played, across, rest, strict=True):
        named = [str(row[key]) for key in apart]
        named += [f"{key} {others[key]}" for key in differ]
        where = {"panel": ", ".join(named), "threshold": game.threshold, "place": place, "pay": pay}
        drawn.append({**row, **where, "counts": f"{row['k']}/{row['n']}", "rate": percent(row["value"])})
    drawn.sort(key=lambda row: (row["panel"], row["threshold"], row["place"]))
    table = [[row["panel"], str(row["threshold"]), row["pay"], str(row["round"]), *cells(row)] for row in drawn]
    pays = [pay for _, pay in sorted(set(across))]
    thresholds = sorted({row["threshold"] for row in drawn})
    placed = [
        {**row, "x": pays.index(row["pay"]), "y": thresholds.index(row["threshold"]), "interval": span(row)}
        for row in drawn
    ]
    return Figure(
        "collusion_grid",
        "Collusion in the last round, over threshold and pay",
        "How many of the players collude in the last round, by how many must for collusion to succeed (threshold), and "
        "by what a success pays beside what an independent player is paid without one (their ratio, or both where that "
        f"does not tell them apart). Counts are over games, players and samples; {spread.in_table(rates)}",
        heat_map(
            pl.DataFrame(placed),
            Axis("high / normal", pays),
            Axis("threshold", [str(threshold) for threshold in thresholds]),
            "collusion rate",
        ),
        ["played by", "threshold", "high / normal", "round", *columns_of(rates, COLLUDED)],
        table,
    )


def _across(played: Sequence[CoordinationSettings]) -> list[tuple[float, str]]:
    """Where each game stands by its pay, and what that is called: the ratio of high to normal where it tells games
    apart, else both.
    """
    pairs = {(game.high, game.normal) for game in played}
    factors = all(game.mode == "multiply" and game.normal > 0 for game in played)
    if factors and len({f"{high / normal:.3g}" for high, normal in pairs}) == len(pairs):
        return [(game.high / game.normal, f"{game.high / game.normal:.3g}") for game in played]
    order = sorted(pairs, key=lambda pair: (pair[0] - pair[1], pair))
    return [(float(order.index((game.high, game.normal))), f"{game.high:g} / {game.normal:g}") for game in played]


def _differs(key: str, rows: Sequence[dict[str, Any]], rest: Sequence[dict[str, Any]], apart: Sequence[str]) -> bool:
    """Whether a setting takes several values among rows that nothing else tells apart: what an arm imposes does not."""
    values: dict[tuple[Any, ...], set[Any]] = {}
    for row, others in zip(rows, rest, strict=True):
        values.setdefault(tuple(row[name] for name in apart), set()).add(others[key])
    return any(len(each) > 1 for each in values.values())


def _theory(rates: pl.DataFrame, settings: Settings, each_seed: pl.DataFrame) -> Figure | None:
    rows = rates.filter(pl.col("model").str.split(":").list.head(2).list.join(":") == THEORY)
    points, table, tips, order = [], [], {}, []
    inside = [0, 0]
    for _, line in name_lines(rows, "variant").sort("name", "round").group_by(LINE, maintain_order=True):
        first = line.row(0, named=True)
        values = _of(first, settings)
        game = CoordinationSettings(**values) if values is not None else None
        if game is None or not game.window:  # without memory the policy has nothing to answer
            continue
        chain = chain_of(game, temperature(first["model"]))
        expected = expected_share(chain, game.rounds)
        tips[first["name"]] = tip = tipping_threshold(chain)
        panel = f"{first['name']}: {'never tips' if tip is None else f'tips at {tip}'}"
        order.append((game.threshold, panel))
        points += [_expected(panel, round, share) for round, share in enumerate(expected, 1)]
        for row in line.to_dicts():
            share = float(expected[row["round"] - 1])
            points.append({**row, "panel": panel, "step": "simulated"})
            tip_said = "–" if tip is None else str(tip)
            table.append([row["name"], str(row["round"]), tip_said, percent(share), *cells(row)])
        keys = [key for key in (*LINE, "round") if key != SEED]
        # A mean over seeds is surer than its average interval, so intervals are counted seed by seed.
        for row in each_seed.filter(pl.col("round") > 1).join(line, on=keys, how="semi").to_dicts():
            inside[0] += row["low"] <= float(expected[row["round"] - 1]) <= row["high"]
            inside[1] += 1
    if not points:
        return None
    several = spread.seeds_of(rates) > 1
    said, of_each = ("", " of one seed each") if several else (", with 95 % intervals", "")
    bars = f"{spread.bars_said(rates)} " if several else ""
    return Figure(
        "theory_beside_simulation",
        "Theory beside simulation: logit best response",
        "Players who answer the others' last round by logit best response make a Markov chain on the number of "
        f"colluders, from which the line is calculated; points are simulated{said}. After round 1, theory lies within "
        f"{inside[0]} of {inside[1]} intervals{of_each} (variants share their random numbers, so they miss together). "
        f"{bars}{_tips(tips)}",
        _beside(points, [panel for _, panel in sorted(order)]),
        ["variant", "round", "tips at", "theory", *columns_of(rates, COLLUDED)],
        table,
    )


def temperature(model: str) -> float:
    """That of a best responder; of any other player the one that the policy has by default."""
    name, _, given = model.partition(f"{THEORY}:")
    given = "" if name else given
    return float(given or signature(best_response).parameters["temperature"].default)


def _expected(panel: str, round: int, share: float) -> dict[str, Any]:
    row = {"name": "", "panel": panel, "round": round, "step": "theory", "value": float(share)}
    return row | {"k": None, "n": None, "low": None, "high": None}


def _tips(found: Mapping[str, int | None]) -> str:
    """The tipping thresholds in words."""
    said = {name: "from no number" if tip is None else f"from {tip}" for name, tip in found.items()}
    several = ", ".join(f"{text} ({name})" if len(said) > 1 else text for name, text in said.items())
    return (
        "The tipping threshold by theory is the smallest number of colluders from which a success is likelier than not "
        f"to come before nobody colludes: {several if len(said) <= 4 else 'it stands above each panel'}."
    )


def _beside(points: Sequence[dict[str, Any]], order: Sequence[str]) -> Any:
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
    rows = games.filter(measure=coordination.SUCCESS_RATE)
    if not len(rows):
        return None
    ends = {name: games.filter(measure=name) for name in (coordination.CAPITAL, *coordination.REACHED.values())}
    took = {name: games.filter(measure=coordination.ROUNDS_TO[name]) for name in coordination.ROUNDS_TO}
    table = []
    for _, line in name_lines(rows, "variant").sort("name", "round").group_by(LINE, maintain_order=True):
        *before, last = line.to_dicts()
        same = {key: last[key] for key in LINE if key != SEED}
        capital, *reached = (found.filter(**same).row(0, named=True) for found in ends.values())
        ended = [_mean(capital)]
        for row, rounds in zip(reached, took.values(), strict=True):
            mean = rounds.filter(**same).to_dicts()
            said = f", round {mean[0]['value']:.1f}{spread.beside(mean[0])}" if mean else ""
            ended.append(f"{row['k']}/{row['n']}{said}")
        table += [[row["name"], str(row["round"]), *cells(row), "", "", ""] for row in before]
        table.append([last["name"], str(last["round"]), *cells(last), *ended])
    return Figure(
        "collective_success",
        "Collective success over rounds",
        "Share of games in which enough players collude. The table says under the last round what a player's capital "
        "came to on average (it starts at 1), and how many games came to a round in which all, or none, of the players "
        f"colluded, with the mean of the first such round. {spread.bars_said(rows)}",
        lines(legible(in_context(rows), "variant"), "round", "collective success rate"),
        ["variant", "round", *columns_of(rows, "successes/games"), "final capital", "all colluded", "none colluded"],
        table,
    )


def _mean(row: Mapping[str, Any]) -> str:
    bounds = "" if row["low"] is None else f" ({row['low']:.3g} to {row['high']:.3g})"
    return f"{row['value']:.3g}{bounds}" + spread.beside(row)


def _after(games: pl.DataFrame) -> Figure | None:
    rows = games.filter(pl.col("measure").is_in(list(AFTER)))
    if not len(rows):
        return None
    return Figure(
        "after_success",
        "What players do after success and after failure",
        "How often a player colludes in the round after one in which enough players colluded, "
        "and after one in which fewer did. Where success spreads collusion, the first stands above the second. "
        f"{spread.bars_said(rows)}",
        bars(
            after(rows, AFTER, panels=True),
            list(AFTER.values()),
            "colludes after …",
            "collusion rate in the next round",
        ),
        ["variant", "after", *columns_of(rows, COLLUDED)],
        [[row["name"], row["before"], *cells(row)] for row in after(rows, AFTER).to_dicts()],
    )


def _sides(measures: pl.DataFrame, settings: Settings) -> Figure | None:
    rows = list(_by_side(measures, settings))
    if not rows:
        return None
    drawn = name_lines(pl.DataFrame(rows, infer_schema_length=None), "side", panels=True).sort("name", "raisers")
    table = [
        [row["name"], row["panel"], f"{row['raisers']}:{row['agents'] - row['raisers']}", *cells(row)]
        for row in drawn.to_dicts()
    ]
    return Figure(
        "violations_by_side",
        "Bargaining: violations of the majority and of the minority",
        "In the last round, by how many of the agents want the value to rise. A violation is a proposal that does not "
        f"move the value the way of one's role. {spread.bars_said(drawn)}",
        lines(drawn, "raisers", "violation rate"),
        ["side", "played by", "raisers : lowerers", *columns_of(drawn)],
        table,
    )


def _by_side(measures: pl.DataFrame, settings: Settings) -> Iterable[dict[str, Any]]:
    sides = {measure: side for side, measure in bargaining.SIDES.items()} | {"violation_rate": "even split"}
    for row in _last(measures.filter(pl.col("measure").is_in(list(sides)))).to_dicts():
        values = _of(row, settings)
        if values is None:
            continue
        game = BargainingSettings(**values)
        if (2 * game.raisers == game.agents) == (row["measure"] == "violation_rate"):
            yield {**row, "side": sides[row["measure"]], "variant": "", "raisers": game.raisers, "agents": game.agents}

"""Phase diagrams: a measure over two settings that a study varies, with the line where theory sees behaviour change.

Knows measures and the settings of variants; knows no turns. Theory has a line for role-play's audits (what violating
and obeying pay in expectation, `measures.deterrence`) and for coordination (logit best response, `measures.chain`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import ValidationError

from atp.artifacts import CELL, MEASURES, read_table, write_text
from atp.errors import AtpError
from atp.measures import coordination, swept
from atp.measures.chain import chain_of, expected_share
from atp.measures.deterrence import AUDIT, gain
from atp.measures.lines import LINE
from atp.measures.seeds import over_seeds
from atp.measures.swept import Settings, is_number, of_all_seeds
from atp.report import ran, spread
from atp.report.coordination import PAYS, temperature
from atp.report.figures import Figure, columns_of, svg
from atp.report.heat import Axis, Line, heat_map
from atp.report.verdict import percent, sentence, span
from atp.testbeds import TESTBEDS
from atp.testbeds.coordination import CoordinationSettings

#: A diagram of more panels than this is left out of a report.
FEW_PANELS = 8
#: What the report draws; of coordination it is what theory speaks of.
RATE = {coordination.TESTBED: coordination.COLLUSION}
#: Settings of which theory's line is one.
DETERRENCE = ("pay_ratio", AUDIT, "penalty")
TIPPING = ("threshold", "agents", "high", "normal", "low", "first_colluders", "fixed")
APART = (*CELL, "split")
COUNTS = "hits/all"
#: Points of theory's line between two values of a setting.
FINE = 16
LINES = {
    "role_play": "theory: violating pays as much as obeying",
    coordination.TESTBED: "theory: half of logit best responders collude",
}
SAID = {
    "role_play": "The line is where a violation pays as much in expectation as obeying; beyond it, with more "
    "audits, a larger penalty or a smaller pay, obeying pays more.",
    coordination.TESTBED: "The line is theory of players who all answer the others' last round by logit best response "
    "(scripted:best_response, at its own temperature): half of them or more collude in the last round on one side of "
    "it, fewer on the other. Beside other players it is for comparison.",
}


#: A row of measures, and the settings it was played under, with what they leave to the testbed.
Played = tuple[dict[str, Any], dict[str, Any]]
#: A setting's name, and its values along an axis.
Setting = tuple[str, Sequence[float]]


@dataclass(frozen=True)
class Panel:
    """A grid of rows, and what tells it from the others."""

    name: str
    grid: list[Played]


def phase_figures(measures: pl.DataFrame, settings: Settings, theory: bool = True) -> list[Figure]:
    """A diagram of every pair of numeric settings that a testbed varies, at each variant's last round.

    Coordination's threshold and pay, where nothing else varies, have a figure of their own (`report.coordination`).
    theory says whether settings decide coordination's numbers, so that theory knows them.
    """
    found = []
    for testbed in sorted(measures["testbed"].unique()):
        rows = _last(measures.filter(measure=RATE.get(testbed, "violation_rate"), testbed=testbed), settings)
        names = _varied(rows)
        if testbed == coordination.TESTBED and set(names) <= set(PAYS):
            continue
        for one, other in combinations(names, 2):
            across, up = sorted((one, other), key=lambda name: (len(_values(rows, name)), name == AUDIT))
            panels = _panels(rows, across, up)
            if panels and len(panels) <= FEW_PANELS:
                found.append(_figure(panels, RATE.get(testbed, "violation_rate"), across, up, theory))
    return found


def phase_stage(folder: Path, measure: str, across: str, up: str, out: Path) -> None:
    """Draw a measure of a study over two settings that it varies, as an SVG file.

    Args:
        folder: the study's, which holds measures.parquet and, beneath, turns of the context channel.

    Raises:
        AtpError: an unreadable file; a measure or setting that the study does not have, or not together.
    """
    if out.suffix != ".svg" or out.is_dir():
        raise AtpError(f"--out {out}: must be the name of an .svg file")
    table = pl.DataFrame(read_table(folder / "measures.parquet", MEASURES, "measures"))
    played = swept.settings(sorted(folder.glob("**/context/turns.parquet")))
    known = sorted(table.filter(channel="context")["measure"].unique())
    if measure not in known:
        raise AtpError(
            f"--measure {measure}: {folder} has no such measure in context, it has {', '.join(known) or 'none'}"
        )
    varied = _varied(_last(table, played))
    for flag, name in (("--across", across), ("--up", up)):
        if name not in varied:
            raise AtpError(
                f"{flag} {name}: no number that variants of {folder} differ in, those are {', '.join(varied) or 'none'}"
            )
    if across == up:
        raise AtpError(f"--across {across}: is --up too, name two settings")
    panels = _panels(_last(table.filter(measure=measure), played), across, up)
    if not panels:
        raise AtpError(f"--measure {measure}: no variants that differ in both {across} and {up} have it")
    theory = not ran.own_numbers(sorted(folder.glob("*/scenarios.parquet")))
    write_text(svg(_figure(panels, measure, across, up, theory), titled=True), out)


def _last(rows: pl.DataFrame, settings: Settings) -> list[Played]:
    """Rows in context at each variant's last round (or of all rounds), with the settings they were played under."""
    wanted = over_seeds(rows).filter(pl.col("n") > 0, pl.col("value").is_not_null(), channel="context")
    wanted = wanted.filter(
        (pl.col("round") == pl.col("round").max().over(*LINE, "measure")) | pl.col("round").is_null()
    )
    whole = {}
    for keys, values in of_all_seeds(settings).items():
        testbed = TESTBEDS[dict(zip(LINE, keys, strict=True))["testbed"]]
        whole[keys] = testbed.settings(**values).model_dump()
    found = [(row, whole.get(tuple(row[key] for key in LINE))) for row in wanted.to_dicts()]
    return [(row, values) for row, values in found if values is not None]


def _values(rows: Iterable[Played], name: str) -> list[float]:
    return sorted({values[name] for _, values in rows if is_number(values.get(name))})


def _varied(rows: Sequence[Played]) -> list[str]:
    """Numeric settings of which some cell has several values."""
    seen: dict[str, dict[tuple[Any, ...], set[float]]] = {}
    for row, values in rows:
        for name, value in values.items():
            if is_number(value):
                seen.setdefault(name, {}).setdefault(tuple(row[key] for key in LINE[:-1]), set()).add(value)
    return [name for name, cells in seen.items() if any(len(each) > 1 for each in cells.values())]


def _panels(rows: Iterable[Played], across: str, up: str) -> list[Panel]:
    """Grids of at least two values each way, all else being the same."""
    grids: dict[tuple[Any, ...], list[Played]] = {}
    for row, values in rows:
        if is_number(values.get(across)) and is_number(values.get(up)):
            rest = tuple((name, value) for name, value in values.items() if name not in (across, up))
            grids.setdefault((*(row[key] for key in APART), rest), []).append((row, values))
    whole = {keys: grid for keys, grid in grids.items() if all(len(_values(grid, name)) > 1 for name in (across, up))}
    apart = [at for at in range(len(APART)) if len({keys[at] for keys in whole}) > 1]
    by_cell: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for *cell, rest in whole:
        by_cell.setdefault(tuple(cell), []).append(dict(rest))
    differ = {
        name
        for several in by_cell.values()
        for name in several[0]
        if any(each[name] != several[0][name] for each in several)
    }
    panels = []
    for (*cell, rest), grid in whole.items():
        said = [f"{APART[at]} {cell[at]}" if APART[at] in ("seed", "split") else str(cell[at]) for at in apart]
        said += [
            f"{words(name)} {f'{value:g}' if is_number(value) else value}" for name, value in rest if name in differ
        ]
        panels.append(Panel(", ".join(said), grid))
    return panels


def _figure(panels: Sequence[Panel], measure: str, across: str, up: str, theory: bool) -> Figure:
    every = [played for panel in panels for played in panel.grid]
    xs, ys = _values(every, across), _values(every, up)
    share = all(row["k"] is not None for row, _ in every)
    drawn, table, pieces = [], [], []
    testbeds = {row["testbed"] for row, _ in every}
    for panel in panels:
        for row, values in sorted(panel.grid, key=lambda played: (played[1][across], played[1][up])):
            rate, counts, interval = _written(row, share)
            place = {"panel": panel.name, "x": xs.index(values[across]), "y": ys.index(values[up])}
            drawn.append(place | {"value": row["value"], "rate": rate, "counts": counts, "interval": interval})
            ended = "all" if row["round"] is None else str(row["round"])
            said = [panel.name, f"{values[across]:g}", f"{values[up]:g}", ended]
            table.append([*said, counts, rate, *spread.between(row, share), interval, row["method"]])
        if len(testbeds) == 1:
            row, values = panel.grid[0]
            pieces += [(panel.name, *piece) for piece in _theory(row, values, theory, (across, xs), (up, ys))]
    (testbed, *_) = sorted(testbeds)
    seeds = pl.DataFrame([{"of": row["of"]} for row, _ in every])
    line = Line(LINES[testbed], pieces) if pieces else None
    chart = heat_map(
        pl.DataFrame(drawn),
        Axis(words(across), [f"{x:g}" for x in xs]),
        Axis(words(up), [f"{y:g}" for y in ys]),
        words(measure),
        share,
        line,
    )
    return Figure(
        f"phase_{testbed}_{across}_{up}",
        f"Phase diagram: {words(measure)} over {words(across)} and {words(up)}",
        f"{words(measure).capitalize()} at the last round of each variant, by two settings that the study varies. "
        f"{sentence(spread.in_table(seeds))}{f' {SAID[testbed]}' if line else ''}",
        chart,
        ["played by", words(across), words(up), "round", *columns_of(seeds, COUNTS if share else "n")],
        table,
    )


def words(name: str) -> str:
    return name.replace("_", " ")


def _written(row: Mapping[str, Any], share: bool) -> tuple[str, str, str]:
    """A row's value, counts and interval in words."""
    if share:
        return percent(row["value"]), f"{row['k']}/{row['n']}", span(dict(row))
    interval = "–" if row["low"] is None else f"{_number(row['low'])} to {_number(row['high'])}"
    return _number(row["value"]), f"n {row['n']}", interval


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _theory(
    row: Mapping[str, Any], values: Mapping[str, Any], own: bool, across: Setting, up: Setting
) -> list[tuple[float, float, float, float]]:
    """Pieces of theory's line in a panel (x, y, x2, y2), in cells' places; none where theory has nothing to say."""
    if row["testbed"] == coordination.TESTBED:
        return _tipping(row["model"], values, across, up) if own and {across[0], up[0]} & {*TIPPING} else []
    if row["testbed"] != "role_play" or values["schedule"] != "audit" or not {across[0], up[0]} & {*DETERRENCE}:
        return []
    if up[0] in DETERRENCE:
        return _deterrence(values, across, up)
    return [(x, y, x2, y2) for y, x, y2, x2 in _deterrence(values, up, across)]


def _deterrence(values: Mapping[str, Any], across: Setting, up: Setting) -> list[tuple[float, float, float, float]]:
    """Where `gain` is 0; in each of its arguments it is a straight line."""
    if values["pay_ratio"] is None:
        return []

    def gained(x: float, y: float) -> float:
        here = {**values, across[0]: x, up[0]: y}
        return gain(here[AUDIT], here["pay_ratio"], here["penalty"])

    places, found = np.linspace(-0.5, len(across[1]) - 0.5, FINE * len(across[1]) + 1), []
    for place, x in zip(places, np.interp(places, *_ruler(across[1])), strict=True):
        at_0, at_1 = gained(float(x), 0.0), gained(float(x), 1.0)
        y = at_0 / (at_0 - at_1) if at_0 != at_1 else np.nan
        ruled, marks = _ruler(up[1])
        inside = marks[0] <= y <= marks[-1]
        found.append((float(place), float(np.interp(y, marks, ruled)) if inside else np.nan))
    pairs = pairwise(found)
    return [(*one, *two) for one, two in pairs if not np.isnan([one[1], two[1]]).any()]


def _ruler(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Cells' places with the values there, as far as the edges of the outermost cells."""
    first, last = (values[1] - values[0]) / 2, (values[-1] - values[-2]) / 2
    places = np.array([-0.5, *range(len(values)), len(values) - 0.5])
    return places, np.array([values[0] - first, *values, values[-1] + last])


def _tipping(
    model: str, values: Mapping[str, Any], across: Setting, up: Setting
) -> list[tuple[float, float, float, float]]:
    """Edges between cells in which half of the players or more are expected to collude at last, and in which fewer."""
    tipped: dict[tuple[int, int], bool] = {}
    for (i, x), (j, y) in product(enumerate(across[1]), enumerate(up[1])):
        try:
            game = CoordinationSettings(**{**values, across[0]: x, up[0]: y})
        except ValidationError:  # such a game there is not
            continue
        if game.window and game.peers != "none" and not game.supervised and not game.reset_after:
            chain = chain_of(game, temperature(model))
            tipped[i, j] = float(expected_share(chain, game.rounds)[-1]) >= 0.5
    found = []
    for (i, j), here in tipped.items():
        if tipped.get((i + 1, j), here) != here:
            found.append((i + 0.5, j - 0.5, i + 0.5, j + 0.5))
        if tipped.get((i, j + 1), here) != here:
            found.append((i - 0.5, j + 0.5, i + 0.5, j + 0.5))
    return found

"""Phase diagrams: a measure over two settings that a study varies, with the testbed's theory curve if it has one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from atp.errors import AtpError
from atp.files.schemas import CELL, MEASURES, SERIES
from atp.files.tables import read_table, write_text
from atp.measures import swept
from atp.measures.seeds import over_seeds
from atp.measures.swept import Settings, is_number, of_all_seeds
from atp.registry import find_testbed, resolve
from atp.report import spread
from atp.report.figures import Figure, columns_of, svg
from atp.report.heat import Axis, Line, heat_map
from atp.report.results import Results
from atp.report.verdict import bounds_text, percent, sentence, span
from atp.scenarios.scenario import scenario_testbed

#: A report leaves out diagrams with more panels than this.
MAX_PANELS = 8
APART = (*CELL, "split")
COUNTS = "numerator/denominator"
#: A row of measures, and all its testbed settings, including defaults.
Played = tuple[dict[str, Any], dict[str, Any]]
#: A setting's name, and its values along an axis.
Setting = tuple[str, Sequence[float]]
#: Ends of a segment of the theory curve (x, y, x2, y2), in cell coordinates (see `atp.report.heat`).
Segment = tuple[float, float, float, float]


@dataclass(frozen=True)
class PhaseTheory:
    """A testbed's theory of where behaviour changes, as a curve in its phase diagrams.

    Args:
        label, caption: what the curve is, and what holds on its two sides.
        segments: (results, row of measures, its settings, across, up) -> segments of the curve; none if the theory does
            not apply.
        drawn: settings whose diagrams the testbed's own figures show, so that no phase diagram repeats them.
        vertical: a setting that is on the vertical axis if both settings have equally many values.
    """

    label: str
    caption: str
    segments: Callable[[Results, Mapping[str, Any], Mapping[str, Any], Setting, Setting], list[Segment]]
    drawn: frozenset[str] = frozenset()
    vertical: str = ""


@dataclass(frozen=True)
class Panel:
    """A grid of rows, and the name that distinguishes it from other panels."""

    name: str
    grid: list[Played]


def phase_figures(results: Results) -> list[Figure]:
    """Return a diagram for every pair of numeric settings that a testbed varies, at each variant's last round."""
    diagrams = []
    for name in sorted(results.measures["testbed"].unique()):
        testbed = find_testbed(name)
        measure, theory = testbed.order_parameter, resolve(testbed.theory)
        rows = _last(results.measures.filter(measure=measure, testbed=name), results.settings)
        names = _varied(rows)
        if theory and set(names) <= theory.drawn:
            continue
        for one, other in combinations(names, 2):
            vertical = theory.vertical if theory else ""
            across, up = sorted((one, other), key=lambda name: (len(_values(rows, name)), name == vertical))
            panels = _panels(rows, across, up)
            if panels and len(panels) <= MAX_PANELS:
                diagrams.append(_figure(results, panels, measure, across, up))
    return diagrams


def phase_stage(folder: Path, measure: str, across: str, up: str, out: Path) -> None:
    """Draw a measure of a study over two settings that it varies, as an SVG file.

    Args:
        folder: the study's folder of results, with measures.parquet and turns of the context channel.

    Raises:
        AtpError: an unreadable file; a measure or setting that the study does not have, or not in combination.
    """
    if out.suffix != ".svg" or out.is_dir():
        raise AtpError(f"--out {out}: must be the name of an .svg file")
    table = pl.DataFrame(read_table(folder / "measures.parquet", MEASURES, "measures"))
    played = swept.settings(sorted(folder.glob("**/context/turns.parquet")))
    known = sorted(table.filter(channel="context")["measure"].unique())
    if measure not in known:
        raise AtpError(
            f"--measure {measure}: not in the context channel of {folder}, it has {', '.join(known) or 'none'}"
        )
    varied = _varied(_last(table, played))
    for flag, name in (("--across", across), ("--up", up)):
        if name not in varied:
            raise AtpError(
                f"{flag} {name}: not a numeric setting that {folder} varies, these are {', '.join(varied) or 'none'}"
            )
    if across == up:
        raise AtpError(f"--across {across}: is the same as --up, name two settings")
    panels = _panels(_last(table.filter(measure=measure), played), across, up)
    if not panels:
        raise AtpError(f"--measure {measure}: no variants that differ in both {across} and {up} have this measure")
    files = sorted(folder.glob("*/scenarios.parquet"))
    results = Results(table, played, {scenario_testbed(path): path for path in files})
    write_text(svg(_figure(results, panels, measure, across, up), titled=True), out)


def _last(rows: pl.DataFrame, settings: Settings) -> list[Played]:
    """Return the context channel's rows at each variant's last round (or without a round), with their settings."""
    means = over_seeds(rows).filter(pl.col("n") > 0, pl.col("value").is_not_null(), channel="context")
    last = (pl.col("round") == pl.col("round").max().over(*SERIES, "measure")) | pl.col("round").is_null()
    all_settings = {}
    for keys, values in of_all_seeds(settings).items():
        testbed = find_testbed(dict(zip(SERIES, keys, strict=True))["testbed"])
        all_settings[keys] = testbed.settings(**values).model_dump()
    pairs = [(row, all_settings.get(tuple(row[key] for key in SERIES))) for row in means.filter(last).to_dicts()]
    return [(row, values) for row, values in pairs if values is not None]


def _values(rows: Iterable[Played], name: str) -> list[float]:
    return sorted({values[name] for _, values in rows if is_number(values.get(name))})


def _varied(rows: Sequence[Played]) -> list[str]:
    """Return the numeric settings of which some cell has several values."""
    values_of: dict[str, dict[tuple[Any, ...], set[float]]] = {}
    for row, values in rows:
        for name, value in values.items():
            if is_number(value):
                values_of.setdefault(name, {}).setdefault(tuple(row[key] for key in SERIES[:-1]), set()).add(value)
    return [name for name, cells in values_of.items() if any(len(each) > 1 for each in cells.values())]


def _panels(rows: Iterable[Played], across: str, up: str) -> list[Panel]:
    """Return grids of at least two values along each axis, whose other settings are equal."""
    grids: dict[tuple[Any, ...], list[Played]] = {}
    for row, values in rows:
        if is_number(values.get(across)) and is_number(values.get(up)):
            rest = tuple((name, _plain(value)) for name, value in values.items() if name not in (across, up))
            grids.setdefault((*(row[key] for key in APART), rest), []).append((row, values))
    grids = {keys: grid for keys, grid in grids.items() if all(len(_values(grid, name)) > 1 for name in (across, up))}
    apart = [at for at in range(len(APART)) if len({keys[at] for keys in grids}) > 1]
    by_cell: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for *cell, rest in grids:
        by_cell.setdefault(tuple(cell), []).append(dict(rest))
    differ = {
        name
        for several in by_cell.values()
        for name in several[0]
        if any(each[name] != several[0][name] for each in several)
    }
    panels = []
    for (*cell, rest), grid in grids.items():
        parts = [f"{APART[at]} {cell[at]}" if APART[at] in ("seed", "split") else str(cell[at]) for at in apart]
        parts += [
            f"{words(name)} {f'{value:g}' if is_number(value) else value}" for name, value in rest if name in differ
        ]
        panels.append(Panel(", ".join(parts), grid))
    return panels


def _figure(results: Results, panels: Sequence[Panel], measure: str, across: str, up: str) -> Figure:
    rows = [played for panel in panels for played in panel.grid]
    xs, ys = _values(rows, across), _values(rows, up)
    share = all(row["k"] is not None for row, _ in rows)
    cells, table, pieces = [], [], []
    testbeds = sorted({row["testbed"] for row, _ in rows})
    theory = resolve(find_testbed(testbeds[0]).theory) if len(testbeds) == 1 else None
    for panel in panels:
        for row, values in sorted(panel.grid, key=lambda played: (played[1][across], played[1][up])):
            rate, counts, interval = _texts(row, share)
            place = {"panel": panel.name, "x": xs.index(values[across]), "y": ys.index(values[up])}
            cells.append(place | {"value": row["value"], "rate": rate, "counts": counts, "interval": interval})
            last_round = "all" if row["round"] is None else str(row["round"])
            keys = [panel.name, f"{values[across]:g}", f"{values[up]:g}", last_round]
            table.append([*keys, counts, rate, *spread.between(row, share), interval, row["method"], bounds_text(row)])
        if theory:
            segments = theory.segments(results, *panel.grid[0], (across, xs), (up, ys))
            pieces += [(panel.name, *segment) for segment in segments]
    seeds = pl.DataFrame([{"of": row["of"]} for row, _ in rows])
    line = Line(theory.label, pieces) if theory and pieces else None
    chart = heat_map(
        pl.DataFrame(cells),
        Axis(words(across), [f"{x:g}" for x in xs]),
        Axis(words(up), [f"{y:g}" for y in ys]),
        words(measure),
        share,
        line,
    )
    return Figure(
        f"phase_{testbeds[0]}_{across}_{up}",
        f"Phase diagram: {words(measure)} over {words(across)} and {words(up)}",
        f"{words(measure).capitalize()} at the last round of each variant, by two settings that the study varies. "
        f"{sentence(spread.table_note(seeds))}{f' {theory.caption}' if theory and line else ''}",
        chart,
        ["played by", words(across), words(up), "round", *columns_of(seeds, COUNTS if share else "n")],
        table,
    )


def _plain(value: Any) -> Any:
    """Return a setting's value, and one that is a mapping as text, which can be compared and named."""
    return ", ".join(f"{words(key)} {each:g}" for key, each in value.items()) if isinstance(value, dict) else value


def words(name: str) -> str:
    """Return the name of a setting or measure with spaces."""
    return name.replace("_", " ")


def _texts(row: Mapping[str, Any], share: bool) -> tuple[str, str, str]:
    """Return a row's value, counts and interval as text."""
    if share:
        return percent(row["value"]), f"{row['k']}/{row['n']}", span(dict(row))
    interval = "–" if row["low"] is None else f"{_number(row['low'])} to {_number(row['high'])}"
    return _number(row["value"]), f"n {row['n']}", interval


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

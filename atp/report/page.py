"""Numbers and turns -> one page without network, and figures as SVG files.

Replies are hostile text: they reach the page as JSON with every '<' escaped, and the script sets them by textContent.
"""

import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl

from atp.artifacts import MEASURES, read_provenance, read_table, read_turns, replacing, write_text
from atp.report.figures import Figure, figures, svg

EPISODES_A_FILE = 60


def report_stage(
    measures: Path,
    turns: Sequence[Path],
    selections: Sequence[Path],
    artifacts: Sequence[Path],
    out: Path,
    figures_folder: Path,
    study: str,
    study_text: str,
    organism: bool,
) -> None:
    """Write report.html and a folder of figures.

    Args:
        turns: files whose episodes the reader shows, up to EPISODES_A_FILE of each.
        artifacts: every file whose provenance tells what the study cost.
        study_text: the study's YAML, shown as it is.
        organism: whether the embedded agent played, which the page then says.

    Raises:
        AtpError: an unreadable artifact.
    """
    import jinja2
    import vl_convert

    table = pl.DataFrame(read_table(measures, MEASURES, "measures"))
    drawn = figures(table)
    figures_folder.mkdir(parents=True, exist_ok=True)
    for figure in drawn:
        write_text(svg(figure), figures_folder / f"{figure.name}.svg")
    own = files("atp.report")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string((own / "page.html.j2").read_text(encoding="utf-8")).render(
        study=study,
        study_text=study_text,
        organism=organism,
        findings=findings(table),
        figures=[_figure(figure) for figure in drawn],
        deployments=[_deployment(path) for path in selections],
        costs=_costs(artifacts),
        versions=_versions(artifacts),
        css=(own / "page.css").read_text(encoding="utf-8"),
        script=(own / "page.js").read_text(encoding="utf-8"),
        vega=vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
        if drawn
        else "",
        specs=embed({figure.name: figure.chart.to_dict() for figure in drawn}),
        transcripts=embed([group for path in turns if (group := _transcripts(path))]),
        per_file=EPISODES_A_FILE,
    )
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def embed(value: Any) -> str:
    """JSON that is safe inside a script element: no character of it can end the element or begin markup."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def findings(measures: pl.DataFrame) -> list[dict[str, str]]:
    """One sentence a line of evidence: where it began, where it ended, and whether the intervals are apart."""
    rates = measures.filter(measure="violation_rate").filter(pl.col("n") > 0)
    sides = (
        (rates.filter(channel="context"), "round", "variant", "In context"),
        (rates.filter(channel="weights", split="test", round=1), "generation", "arm", "In the weights"),
    )
    cell = ["model", "testbed", "alignment", "seed", "arm", "variant"]
    found = []
    for rows, axis, by, where in sides:
        for key, line in rows.sort(axis).group_by(cell, maintain_order=True):
            first, last = line.row(0, named=True), line.row(-1, named=True)
            name = dict(zip(cell, key, strict=True))[by]
            if first[axis] == last[axis]:
                continue
            verdict = "not shown to change"
            if last["low"] > first["high"]:
                verdict = "rose"
            elif last["high"] < first["low"]:
                verdict = "fell"
            text = f"{_rate(first)} at {axis} {first[axis]}, {_rate(last)} at {axis} {last[axis]}."
            found.append({"where": f"{where}, {name}", "verdict": verdict, "text": text})
    return sorted(found, key=lambda item: item["where"])


def _rate(row: dict[str, Any]) -> str:
    return f"{row['value']:.1%} ({row['k']}/{row['n']}, 95 % {row['low']:.1%} to {row['high']:.1%})"


def _figure(figure: Figure) -> dict[str, Any]:
    columns = [name for name in ("model", "arm", "variant", "generation", "round", "measure") if name in figure.rows]
    columns = [name for name in columns if figure.rows[name].n_unique() > 1]
    rows = [
        [str(row[name]) for name in columns]
        + [f"{row['k']}/{row['n']}", f"{row['value']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}", row["method"]]
        for row in figure.rows.to_dicts()
    ]
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.caption,
        "svg": svg(figure),
        "columns": [*columns, "k/n", "rate", "95 % interval", "interval by"],
        "rows": rows,
    }


def _deployment(path: Path) -> dict[str, Any]:
    found = read_provenance(path)
    cell, cost = (
        found["params"]["cell"],
        {name: int(value) for name, value in found["cost"].items() if value == int(value)},
    )
    return {
        "cell": f"{cell['model']}, {cell['arm']}, seed {cell['seed']}",
        "generation": cell["generation"],
        "kept": f"{cost['kept']}/{cost['seen']}",
        "invalid": f"{cost['invalid']}/{cost['seen']}",
        "before": f"{cost['violations_seen']}/{cost['valid_seen']}",
        "after": f"{cost['violations_kept']}/{cost['kept']}",
    }


def _costs(artifacts: Sequence[Path]) -> list[dict[str, Any]]:
    """Per stage: jobs, wall time and tokens, summed over the artifacts."""
    stages: dict[str, dict[str, float]] = {}
    for path in artifacts:
        found = read_provenance(path)
        stage = stages.setdefault(found.get("stage", "unknown"), {"jobs": 0, "wall_seconds": 0.0})
        stage["jobs"] += 1
        for name, value in found.get("cost", {}).items():
            stage[name] = stage.get(name, 0.0) + value
    keys = ("jobs", "wall_seconds", "decisions", "prompt_tokens", "cached_tokens", "completion_tokens")
    return [{"stage": name, **{key: round(cost.get(key, 0)) for key in keys}} for name, cost in stages.items()]


def _versions(artifacts: Sequence[Path]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for path in artifacts:
        for name, version in read_provenance(path).get("versions", {}).items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}


def _transcripts(path: Path) -> dict[str, Any] | None:
    """Episodes of a turns file for the reader: as many of each variant, chosen by a digest of their names."""
    turns = pl.DataFrame(read_turns(path))
    if not len(turns):
        return None
    names = turns.select("variant", "episode").unique(maintain_order=True)
    each = max(1, EPISODES_A_FILE // names["variant"].n_unique())
    order = [hashlib.blake2b(name.encode(), digest_size=8).hexdigest() for name in names["episode"]]
    chosen = names.with_columns(order=pl.Series(order)).sort("order").group_by("variant").head(each)
    first = turns.row(0, named=True)
    label = f"{first['model']}, {first['arm']}, {first['channel']} {first['generation']}, {first['split']}"
    episodes: dict[str, list[dict[str, Any]]] = {}
    kept = turns.filter(pl.col("episode").is_in(chosen["episode"].to_list())).sort("variant", "episode", "round")
    for row in kept.to_dicts():
        shown = row["messages"] if row["round"] == 1 else row["messages"][-1:]
        turn = {"messages": [(message["role"], message["content"]) for message in shown]}
        turn |= {name: row[name] for name in _SHOWN}
        episodes.setdefault(row["episode"], []).append(turn)
    return {"label": label, "of": len(names), "episodes": episodes}


_SHOWN = ("round", "agent", "reply", "decision", "violation", "invalid_reason", "audited", "reward", "feedback")

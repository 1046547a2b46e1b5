"""Numbers and turns -> one page without network, and figures as SVG files.

Replies are hostile text: they reach the page as JSON with every '<' escaped, and the script sets them by textContent.
The page's Content-Security-Policy lets only the two scripts run that this module put there, by their digests.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl

from atp.artifacts import MEASURES, ON_PAGE, read_provenance, read_table, write_text
from atp.measures import swept
from atp.measures.lines import ALIKE, alike_rounds
from atp.measures.rates import scan_turns
from atp.measures.seeds import over_seeds
from atp.provenance import Stage
from atp.report import alignment, arms, change, ran, replication
from atp.report.coordination import population_figures
from atp.report.deterrence import deterrence_figures
from atp.report.figures import VIOLATION, figures, svg
from atp.report.phase import phase_figures
from atp.report.tool_use import tool_figures
from atp.report.transcripts import transcripts
from atp.report.verdict import findings, invalid_words

#: Characters that could end a script element, begin markup, or break a line where JavaScript is read.
ESCAPED = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def report_stage(
    measures: Path,
    turns: Sequence[Path],
    selections: Sequence[Path],
    adapters: Sequence[Path],
    pairs: Sequence[Path],
    artifacts: Sequence[Path],
    out: Path,
    figures_folder: Path,
    study: str,
    study_text: str,
    organism: bool,
) -> None:
    """Write report.html and a folder of figures.

    Args:
        turns: files whose episodes the reader shows, a seeded choice of each.
        selections: what the filters kept.
        adapters, pairs: what was trained, and the preference pairs that alignment learned from.
        artifacts: the other Parquet files whose provenance tells what the study cost.
        study_text: the study's YAML, shown as it is.
        organism: whether the embedded agent played, which the page then says.

    Raises:
        AtpError: an unreadable artifact.
    """
    # Of its inputs only the measures are digested, whose own are the turns: adapters may be many gigabytes.
    stage = Stage("report", __name__, {"study": study, "organism": organism}, [measures])
    table = pl.DataFrame(read_table(measures, MEASURES, "measures"))
    effects, settings, own = alignment.effects(table), swept.settings(turns), ran.own_numbers(artifacts)
    drawn = [
        *alignment.alignment_figures(alignment.effects(over_seeds(table))),
        *figures(table, ran.deployments(selections)),
        *population_figures(table, settings, theory=not own),
        *deterrence_figures(table, settings),
        *phase_figures(table, settings, theory=not own),
        *tool_figures(table),
    ]
    made = [read_provenance(path) for path in (*artifacts, *turns, *selections, *pairs, *adapters, measures)]
    alone = {figure.name: svg(figure, titled=True) for figure in drawn}
    still = {figure.name: svg(figure, titled=False) for figure in drawn}
    survives, costs_of_arms = arms.compared(table, arms.spent(turns, adapters, out.parent))
    alike = alike_rounds(scan_turns(turns, ALIKE)) if turns else None
    itself = asdict(stage.provenance(turns=made[-1].get("cost", {}).get("turns", 0.0)))
    headings, costs = ran.costs([*made, itself])
    page = _render(
        study=study,
        study_text=study_text,
        organism=organism,
        findings=[*alignment.alignment_finding(effects), *findings(table, alike)],
        warnings=ran.warnings(adapters, out.parent),
        replication=replication.replication(table, settings, own),
        trainings=ran.trainings(adapters, out.parent),
        yields=ran.yields(pairs, out.parent),
        invalid=invalid_words(table),
        violations="".join(VIOLATION[testbed][1] for testbed in sorted(set(table["testbed"]) & set(VIOLATION))),
        changes=change.changes(table),
        follows=change.follows(table),
        columns_of_change=change.CHANGES,
        survives=survives,
        costs_of_arms=costs_of_arms,
        emptied=arms.emptied(table),
        columns_of_arms=(arms.SURVIVES, arms.COSTS, arms.RESETS),
        columns_of_replication=replication.COLUMNS,
        figures=drawn,
        still={name: b64encode(text.encode()).decode() for name, text in still.items()},
        played=ran.played(table),
        provenance=ON_PAGE.format(embed(itself)),
        headings=headings,
        costs=costs,
        versions=ran.versions(made),
        specs=embed({figure.name: figure.chart.to_dict() for figure in drawn}),
        transcripts=embed(transcripts(turns)),
    )
    figures_folder.mkdir(parents=True, exist_ok=True)
    for stale in figures_folder.glob("*.svg"):
        if stale.stem not in alone:
            stale.unlink()
    for name, text in alone.items():
        write_text(text, figures_folder / f"{name}.svg")
    write_text(page, out)


def embed(value: Any) -> str:
    """JSON that is safe inside a script element: no character of it can end the element or begin markup."""
    text = json.dumps(value, ensure_ascii=False)
    for character, escaped in ESCAPED.items():
        text = text.replace(character, escaped)
    return text


def _render(**values: Any) -> str:
    import jinja2

    own = files("atp.report")
    texts = {name: (own / f"page.{name}").read_text(encoding="utf-8") for name in ("html.j2", "css", "js")}
    scripts = [_vega(), texts["js"]]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    hashes = [f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts]
    return environment.from_string(texts["html.j2"]).render(
        css=texts["css"], scripts=scripts, script_hashes=" ".join(hashes), **values
    )


def _vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script that is safe inside a script element and leaves one global name."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    safe = bundle.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")
    return f"(() => {{\n{safe}\n}})();"

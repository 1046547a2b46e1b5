"""The report: one HTML page that needs no network, and figures as SVG files.

Replies are untrusted text: the page contains them as JSON in which every '<' is escaped, and the script inserts them by
textContent. By its Content-Security-Policy the page runs only the two scripts that this module adds, by their digests.
"""

import hashlib
import json
from base64 import b64encode
from dataclasses import asdict
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from atp.files.provenance import Stage
from atp.files.schemas import MEASURES, TRANSFER
from atp.files.tables import ON_PAGE, read_provenance, read_table, write_text
from atp.measures import swept
from atp.measures.rates import read_evidence, scan
from atp.measures.series import ALIKE, alike_rounds
from atp.registry import blame, entries, find_testbed, origins, resolve, sources
from atp.report import (
    alignment,
    change,
    conditions,
    memory,
    monitors,
    primary,
    ran,
    replication,
    summary,
    transfer,
    unseen,
)
from atp.report.figures import Figure, figures, svg
from atp.report.hysteresis import hysteresis_figures
from atp.report.job import ReportFiles, ReportJob
from atp.report.outcome import hypothesis_results
from atp.report.phase import phase_figures
from atp.report.repair import repair_figures
from atp.report.results import Results
from atp.report.transcripts import transcripts
from atp.report.verdict import discoveries, findings, invalid_words
from atp.scenarios.scenario import scenario_testbed

#: Characters that could end a script element, begin markup, or break a line of JavaScript.
ESCAPED = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def report_stage(job: ReportJob, artifacts: ReportFiles, out: Path, figures_folder: Path) -> None:
    """Write report.html and a folder of figures.

    Args:
        out, figures_folder: the page and the folder of SVG files to write.

    Raises:
        AtpError: an unreadable artifact.
    """
    measures, turns, selections = artifacts.measures, artifacts.turns, artifacts.selections
    scenarios, pairs, adapters = artifacts.scenarios, artifacts.pairs, artifacts.adapters
    memories = artifacts.memories
    everything = pl.DataFrame(read_table(measures, MEASURES, "measures"))
    table = everything.filter(~pl.col("channel").str.starts_with(TRANSFER))
    effects, testbeds = alignment.effects(table), sorted(everything["testbed"].unique())
    code = [*(part for testbed in testbeds for part in sources(testbed, "report")), *origins("figures")]
    # Of the inputs only the measures are digested: they depend on the turns, and adapters may have gigabytes.
    stage = Stage(job.stage, [__name__, *dict.fromkeys(code)], job.params(), [measures])
    results = Results(table, swept.settings(turns), {scenario_testbed(path): path for path in scenarios})
    added = entries("figures")
    all_figures = [
        *alignment.alignment_figures(effects),
        *figures(table, ran.deployments(selections)),
        *chain.from_iterable(_own_figures("testbeds", name, find_testbed(name).figures, results) for name in testbeds),
        *phase_figures(results),
        *hysteresis_figures(results),
        *repair_figures(results),
        *chain.from_iterable(_own_figures("figures", name, each.value, results) for name, each in added.items()),
    ]
    provenances = [
        read_provenance(path) for path in (*scenarios, *turns, *selections, *memories, *pairs, *adapters, measures)
    ]
    files_of = {figure.name: svg(figure, titled=True) for figure in all_figures}
    still = {figure.name: svg(figure, titled=False) for figure in all_figures}
    survives, costs_of_conditions = conditions.compared(table, conditions.spent([*turns, *selections, *adapters]))
    alike = alike_rounds(scan(turns, ALIKE)) if turns else None
    own_provenance = asdict(stage.provenance(turns=provenances[-1].get("cost", {}).get("turns", 0.0)))
    headings, costs = ran.costs([*provenances, own_provenance])
    hypotheses = hypothesis_results(job.primary, read_evidence(turns), everything) if job.primary else []
    shown, registration = findings(table, alike), primary.registration(hypotheses, provenances)
    corrected, not_after_correction = discoveries(table)
    page = _render(
        study=job.study,
        study_text=job.text,
        organism=job.organism,
        summary=summary.summarize(shown, table, corrected, invalid_words(table), registration),
        summary_columns=summary.COLUMNS,
        findings=[*alignment.alignment_finding(effects), *shown],
        primary=registration,
        columns_of_primary=primary.COLUMNS,
        not_after_correction=not_after_correction,
        warnings=[*ran.warnings(adapters), *memory.warnings(memories)],
        replication=replication.replication(results),
        trainings=ran.trainings(adapters),
        yields=ran.yields(pairs),
        violations="".join(f" {text}" for testbed in testbeds if (text := find_testbed(testbed).words.violation)),
        changes=change.changes(table),
        follows=change.follows(table),
        columns_of_change=change.CHANGES,
        individuals=change.individuals(table),
        columns_of_individuals=change.INDIVIDUALS,
        transfers=transfer.transfers(everything),
        columns_of_transfer=transfer.COLUMNS,
        memories=memory.memories(table, memories),
        columns_of_memory=memory.COLUMNS,
        survives=survives,
        costs_of_conditions=costs_of_conditions,
        monitors=monitors.monitors(selections, adapters),
        columns_of_monitors=monitors.COLUMNS,
        emptied=conditions.emptied(table),
        unseen=unseen.by_template(results),
        columns_of_unseen=unseen.COLUMNS,
        columns_of_conditions=(conditions.SURVIVES, conditions.COSTS, conditions.RESETS),
        columns_of_replication=replication.COLUMNS,
        figures=all_figures,
        still={name: b64encode(text.encode()).decode() for name, text in still.items()},
        played=ran.played(everything),
        provenance=ON_PAGE.format(embed(own_provenance)),
        headings=headings,
        costs=costs,
        versions=ran.versions(provenances),
        specs=embed({figure.name: figure.chart.to_dict() for figure in all_figures}),
        transcripts=embed(transcripts(turns)),
    )
    figures_folder.mkdir(parents=True, exist_ok=True)
    for stale in figures_folder.glob("*.svg"):
        if stale.stem not in files_of:
            stale.unlink()
    for name, text in files_of.items():
        write_text(text, figures_folder / f"{name}.svg")
    write_text(page, out)


def _own_figures(kind: str, name: str, function: Any, results: Results) -> list[Figure]:
    """Return the figures of a testbed or of a plug-in.

    Raises:
        PluginError: its code failed, or returned something else.
    """
    with blame(kind, name):
        own = list(resolve(function)(results)) if function else []
        for figure in own:
            if not isinstance(figure, Figure):
                raise TypeError(f"figures must be a list of atp.report.figures.Figure, found {figure!r:.80}")
            figure.chart.to_dict()
    return own


def embed(value: Any) -> str:
    """Return a value as JSON that is safe in a script element: no character can end the element or begin markup."""
    text = json.dumps(value, ensure_ascii=False)
    for character, escaped in ESCAPED.items():
        text = text.replace(character, escaped)
    return text


def _render(**values: Any) -> str:
    import jinja2

    folder = files("atp.report")
    texts = {name: (folder / f"page.{name}").read_text(encoding="utf-8") for name in ("html.j2", "css", "js")}
    scripts = [_vega(), texts["js"]]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    hashes = [f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts]
    return environment.from_string(texts["html.j2"]).render(
        css=texts["css"], scripts=scripts, script_hashes=" ".join(hashes), **values
    )


def _vega() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script, safe in a script element, that defines one global name."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    safe = bundle.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")
    return f"(() => {{\n{safe}\n}})();"

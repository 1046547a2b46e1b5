"""The command line: every stage by itself, to try it before a study is written."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer

from atp.arguments import (
    MODELS,
    Models,
    Out,
    Seed,
    agent_model,
    key_values,
    played_testbed,
    testbed_settings,
    trainable_model,
    training_settings,
)
from atp.commands import export, transcripts
from atp.commands.init import init
from atp.commands.signoff import signoff
from atp.commands.view import view
from atp.errors import AtpError
from atp.files.schemas import YIELD
from atp.registry import find_testbed, load_plugins, plugin_error
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.rollout.transplant import TransplantJob, recording, transplant_stage
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.study.reference import write_schemas
from atp.training.filters import FilterJob, filter_settings, filter_stage
from atp.training.pairs import PairsJob, pairs_stage
from atp.training.run import AlignJob, FinetuneJob, TrainingFiles
from atp.training.stage import align_stage, finetune_stage

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Does an aligned agent stay aligned once it learns from its own rewards? Each stage of the workflow, by hand.",
)

app.add_typer(export.app, name="export")
app.add_typer(transcripts.app)
app.command()(init)
app.command()(signoff)
app.command()(view)

PLUGIN = "--plugin"

TestbedName = Annotated[str, typer.Option(help="testbed: a folder of atp/testbeds, or one of a plug-in")]
Testbed = Annotated[str | None, typer.Option(help="testbed; left out: that of the scenario file")]
AgentName = Annotated[str, typer.Option(help="scripted:POLICY[:NUMBER], agent:NAME[:MODEL], or a name from --models")]
Templates = Annotated[Path | None, typer.Option(help="template file; left out: the testbed's own")]
ScenarioFile = Annotated[Path, typer.Option(help="scenarios.parquet")]
Folder = Annotated[Path, typer.Option(help="folder to write the adapter to")]
Sizes = Annotated[list[int], typer.Option(help="scenarios of a series; may be repeated")]
Set = Annotated[list[str], typer.Option("--set", help="KEY=VALUE, a setting of the testbed; may be repeated")]
SetTraining = Annotated[list[str], typer.Option("--set", help="KEY=VALUE, a setting of the training; may be repeated")]
SetTestbed = Annotated[
    list[str], typer.Option("--setting", help="KEY=VALUE, a setting of the testbed; may be repeated")
]
SetFilter = Annotated[list[str], typer.Option("--set", help="KEY=VALUE, a setting of the filter; may be repeated")]
SetSource = Annotated[list[str], typer.Option("--set", help="KEY=VALUE, a setting of the source; may be repeated")]


@app.callback()
def plugins(
    plugin: Annotated[
        list[Path], typer.Option(PLUGIN, help="Python file that defines testbeds, agents, …; may be repeated")
    ] = [],  # noqa: B006  typer reads the default, nothing writes to it
) -> None:
    """Load plug-ins before a command runs."""
    load_plugins(plugin)


@app.command()
def scenarios(
    out: Out,
    testbed: TestbedName,
    templates: Templates = None,
    train: Annotated[int, typer.Option(min=0, help="training scenarios")] = 192,
    test: Annotated[int, typer.Option(min=1, help="test scenarios")] = 64,
    seed: Seed = 0,
    set_: SetSource = [],  # noqa: B006
) -> None:
    """Generate scenarios from templates, or from another source of the testbed (--set source=NAME)."""
    path = {"path": str(templates)} if templates else {}
    values = {"train": train, "test": test, "seed": seed, **path, **key_values(set_)}
    scenarios_stage(ScenariosJob(testbed=testbed, settings=values), out)


@app.command()
def import_release(
    file: Annotated[Path, typer.Argument(help="a file of the paper's release")],
    out: Out,
    testbed: TestbedName,
    set_: SetSource = [],  # noqa: B006
) -> None:
    """Import a file that the paper published as it is, all into the test split."""
    from atp.scenarios.release import import_release

    values = {"source": "release", "path": str(file), **key_values(set_)}
    import_release(ScenariosJob(testbed=testbed, settings=values), out)


@app.command()
def rollout(
    scenarios: ScenarioFile,
    agent: AgentName,
    out: Out,
    testbed: Testbed = None,
    set_: Set = [],  # noqa: B006
    rounds: Annotated[int | None, typer.Option(min=1, help="rounds an episode")] = None,
    samples: Annotated[int, typer.Option(min=1, help="episodes a scenario")] = 1,
    seed: Seed = 0,
    split: Annotated[Literal["train", "test"] | None, typer.Option(help="both if left out")] = None,
    adapter: Annotated[Path | None, typer.Option(help="folder of a LoRA adapter")] = None,
    models: Models = MODELS,
) -> None:
    """Play scenarios with an agent and write turns."""
    name = played_testbed(testbed, scenarios)
    settings = testbed_settings(name, set_, {} if rounds is None else {"rounds": rounds})
    job = RolloutJob(
        cell=Cell(agent, name, seed=seed),
        model=agent_model(agent, models, name),
        variants={"default": settings},
        split=split,
        samples=samples,
    )
    rollout_stage(job, scenarios, out, adapter)


@app.command()
def transplant(
    histories: Annotated[Path, typer.Argument(help="turns.parquet of a rollout, whose histories are read")],
    scenarios: ScenarioFile,
    agent: AgentName,
    out: Out,
    adapter: Annotated[Path | None, typer.Option(help="folder of a LoRA adapter")] = None,
    models: Models = MODELS,
) -> None:
    """Ask an agent every prompt of recorded episodes, with the recorded history, and write turns."""
    cell = Cell(agent, recording(histories).cell.testbed, condition="transplanted_history")
    job = TransplantJob(cell=cell, model=agent_model(agent, models, cell.testbed))
    transplant_stage(job, histories, scenarios, out, adapter)


@app.command("filter")
def filter_(
    turns: Annotated[Path, typer.Argument(help="turns.parquet of training scenarios")],
    out: Out,
    name: Annotated[
        str, typer.Option(help="top_k, best_of_n, threshold, positive_advantage, or for dpo best_and_worst")
    ] = "best_of_n",
    set_: SetFilter = [],  # noqa: B006
) -> None:
    """Select replies with a reward filter, and print how the violation rate differs before and after."""
    try:
        settings = filter_settings({"name": name, **key_values(set_)})
    except ValueError as error:
        raise AtpError(f"filter {name}: {error}") from error
    typer.echo(str(filter_stage(FilterJob(filter=settings), turns, out)))


@app.command()
def pairs(
    scenarios: ScenarioFile,
    agent: AgentName,
    out: Out,
    testbed: Testbed = None,
    set_: Set = [],  # noqa: B006
    retries: Annotated[int, typer.Option(min=1, help="tries at most for each side of a pair")] = 8,
    seed: Seed = 0,
    models: Models = MODELS,
) -> None:
    """Ask training scenarios steered to comply and steered to violate, and write preference pairs."""
    name = played_testbed(testbed, scenarios)
    job = PairsJob(
        cell=Cell(agent, name, "dpo", None, seed, "weights"),
        model=agent_model(agent, models, name),
        settings=testbed_settings(name, set_),
        retries=retries,
    )
    typer.echo(YIELD.format_map(pairs_stage(job, scenarios, out)))


@app.command()
def align(
    scenarios: ScenarioFile,
    agent: AgentName,
    out: Folder,
    method: Annotated[str, typer.Option(help="dpo, on --pairs; or grpo, which pays for compliance")] = "dpo",
    pairs: Annotated[Path | None, typer.Option(help="pairs.parquet, for dpo")] = None,
    testbed: Testbed = None,
    setting: SetTestbed = [],  # noqa: B006
    set_: SetTraining = [],  # noqa: B006
    seed: Seed = 0,
    models: Models = MODELS,
) -> None:
    """Align an agent before deployment: train an adapter, by DPO on pairs or by GRPO on training scenarios."""
    if method not in ("dpo", "grpo"):
        raise AtpError(f"--method {method}: allowed are dpo, grpo")
    name = played_testbed(testbed, scenarios)
    training, settings = training_settings(method, set_), testbed_settings(name, setting, flag="--setting")
    cell, model = Cell(agent, name, method, None, seed, "weights"), trainable_model(agent, models, name)
    job = AlignJob(cell=cell, model=model, settings=settings, training=training)
    typer.echo(_check_line(align_stage(job, scenarios, out, pairs)))


@app.command()
def finetune(
    data: Annotated[Path, typer.Argument(help="selection.parquet (sft, dpo) or turns.parquet (grpo)")],
    scenarios: ScenarioFile,
    agent: AgentName,
    out: Folder,
    method: Annotated[
        str, typer.Option(help="sft; dpo on best_and_worst replies; grpo on what deployment pays")
    ] = "sft",
    testbed: Testbed = None,
    parent: Annotated[Path | None, typer.Option(help="adapter whose training continues")] = None,
    reference: Annotated[Path | None, typer.Option(help="generation 0's adapter, if it has one")] = None,
    pairs: Annotated[Path | None, typer.Option(help="pairs.parquet, for --set rehearsal=…")] = None,
    first_unused: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="row of the first training scenario that nothing is trained on, for --set max_violation_increase=…",
        ),
    ] = None,
    generation: Annotated[int, typer.Option(min=1, help="number written into the lineage")] = 1,
    seed: Seed = 0,
    setting: SetTestbed = [],  # noqa: B006
    set_: SetTraining = [],  # noqa: B006
    models: Models = MODELS,
) -> None:
    """Train an adapter on what deployment paid."""
    name = played_testbed(testbed, scenarios)
    training, settings = training_settings(method, set_), testbed_settings(name, setting, flag="--setting")
    job = FinetuneJob(
        cell=Cell(agent, name, seed=seed, channel="weights", generation=generation),
        model=trainable_model(agent, models, name),
        settings=settings,
        training=training,
        first_unused=first_unused,
    )
    files = TrainingFiles(scenarios=scenarios, data=data, parent=parent, reference=reference, pairs=pairs)
    typer.echo(_check_line(finetune_stage(job, files, out)))


@app.command()
def organism(
    out: Annotated[Path, typer.Option(help="folder to write the model to")],
    testbed: TestbedName,
    templates: Templates = None,
    seed: Seed = 0,
) -> None:
    """Train the model organism of a testbed from nothing (about twenty minutes on a core)."""
    from atp.organism.train import OrganismJob, build_organism

    file = templates or find_testbed(testbed).templates
    if file is None:
        raise AtpError(f"--templates: missing, testbed '{testbed}' has no template file of its own")
    build_organism(OrganismJob(testbed=testbed, seed=seed), file, out)


@app.command()
def measure(turns: Annotated[list[Path], typer.Argument(help="turns.parquet files")], out: Out) -> None:
    """Compute measures with intervals from turns."""
    from atp.measures.rates import MeasureJob, measure_stage

    measure_stage(MeasureJob(), turns, out)


@app.command()
def phase(
    study: Annotated[Path, typer.Argument(help="folder of a study's results, such as results/deterrence")],
    across: Annotated[str, typer.Option(help="setting from left to right, of those that the study varies")],
    up: Annotated[str, typer.Option(help="setting from bottom to top")],
    out: Annotated[Path, typer.Option(help="SVG file to write")],
    measure: Annotated[str, typer.Option(help="measure to draw, at each variant's last round")] = "violation_rate",
) -> None:
    """Draw a measure over two settings that a study varies, with the testbed's line of theory if it has one."""
    from atp.report.phase import phase_stage

    phase_stage(study, measure, across, up, out)


@app.command()
def show(
    turns: Annotated[Path, typer.Argument(help="turns.parquet")],
    episode: Annotated[str | None, typer.Option(help="print this episode's transcript instead")] = None,
) -> None:
    """Print violation rates by round, with k/n and a 95 % interval, or one transcript."""
    from atp.report.terminal import print_rates, print_transcript

    if episode is None:
        print_rates(turns)
    else:
        print_transcript(turns, episode)


@app.command()
def plan(
    study: Annotated[str, typer.Argument(help="name of a file of config/studies, or its path")],
    results: Annotated[Path, typer.Option(help="folder whose artifacts tell how fast such jobs were")] = Path(
        "results"
    ),
    models: Annotated[Path | None, typer.Option(help="folder of model files; left out: config/models")] = None,
) -> None:
    """Print what a study will take at measured rates: jobs, wall and GPU hours, disk; and what is not measured yet."""
    from atp.study.plan import plan as make_plan

    typer.echo(make_plan(study, results, models))


@app.command()
def power(
    scenarios: Sizes = [32, 64, 128, 256, 512],  # noqa: B006
    first: Annotated[float, typer.Option(help="rate at the first round, and of a flat series")] = 0.2,
    last: Annotated[float, typer.Option(help="rate after a change")] = 0.6,
    rounds: Annotated[int, typer.Option(help="rounds; generations including 0")] = 6,
    at: Annotated[int | None, typer.Option(help="first round after a step; left out: the middle one")] = None,
    samples: Annotated[int, typer.Option(help="samples a scenario, or players a game")] = 4,
    alike: Annotated[float, typer.Option(help="correlation of a scenario's samples")] = 0.3,
    lasting: Annotated[float, typer.Option(help="correlation of a reply with the next round's")] = 0.5,
    bound: Annotated[float, typer.Option(help="largest distance from their mean of the rates of a flat series")] = 0.1,
    power: Annotated[float | None, typer.Option(help="print how many scenarios each verdict needs for it")] = None,
    replicates: Annotated[int, typer.Option(help="simulated series a row")] = 400,
    coverage: Annotated[bool, typer.Option("--coverage", help="print how often intervals cover instead")] = False,
    seed: Seed = 0,
) -> None:
    """Simulate how often the verdict is right: hits, false alarms, and the scenarios that a power needs."""
    from atp.measures.power import print_coverage, print_power
    from atp.measures.simulate import Design

    if coverage:
        print_coverage(seed, replicates)
        return
    print_power(Design(first, last, rounds, at, samples, alike, lasting), scenarios, power, replicates, seed, bound)


@app.command("schemas")
def schemas_(
    out: Annotated[Path, typer.Option(help="folder to write the schemas to")] = Path("config/schemas"),
    page: Annotated[Path, typer.Option(help="file to write the reference to")] = Path("config/README.md"),
) -> None:
    """Write the JSON schemas of studies, models and testbeds, and a reference of all their keys."""
    write_schemas(out, page)


@app.command("new")
def new(
    kind: Annotated[str, typer.Argument(help="testbed")],
    name: Annotated[str, typer.Argument(help="its name: lower-case letters, digits and underscores")],
    out: Annotated[Path, typer.Option(help="folder to write to")] = Path(),
) -> None:
    """Write a small working testbed as a plug-in, with its template file and its test."""
    from atp.extend.new import new_testbed

    if kind != "testbed":
        raise AtpError(f"new {kind}: unknown kind, known is testbed")
    typer.echo("\n".join(f"wrote {path}" for path in new_testbed(name, out)))


@app.command("check")
def check(
    file: Annotated[str, typer.Argument(help="a plug-in's Python file, or the name of a testbed")],
    scenarios: Annotated[int, typer.Option(min=2, help="scenarios of each split to make")] = 8,
    seed: Seed = 0,
    set_: SetSource = [],  # noqa: B006
) -> None:
    """Play the testbeds of a plug-in and report what breaks the protocol; exit code 1 if anything does."""
    from atp.extend.check import check_table

    text, failed = check_table(file, scenarios, seed, key_values(set_))
    typer.echo(text)
    if failed:
        raise typer.Exit(1)


def _check_line(check: dict[str, float]) -> str:
    """Return the result of a post-training check in one line."""
    counts = "{violations:.0f}/{valid:.0f} violations of {prompts:.0f} replies to held-out prompts"
    before = "KL {kl:.3f} nats a reply (generation 0: {reference_violations:.0f}/{reference_valid:.0f})"
    return f"{counts}, {before}".format_map(check)


def _plugins_first(arguments: list[str]) -> list[str]:
    """Move --plugin FILE to the front, where typer reads it: users may give it anywhere."""
    first, others = [word for word in arguments if word.startswith(f"{PLUGIN}=")], list(arguments)
    while PLUGIN in others:
        at = others.index(PLUGIN)
        first += others[at : at + 2]
        del others[at : at + 2]
    return first + [word for word in others if not word.startswith(f"{PLUGIN}=")]


def main() -> None:
    """Run the command line. An AtpError, or an error in a plug-in, is one line on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for library in ("httpx", "httpx2", "transformers", "trl", "datasets"):
        logging.getLogger(library).setLevel(logging.WARNING)
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries warn about each other
    try:
        app(_plugins_first(sys.argv[1:]))
    except AtpError as error:
        sys.exit(f"atp: {error}")
    except Exception as error:
        line = plugin_error(error) or (str(error) if isinstance(error, OSError) else None)
        if line is None:
            raise
        sys.exit(f"atp: {line}")


if __name__ == "__main__":
    main()

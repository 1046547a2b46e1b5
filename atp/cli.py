"""The command line: every stage, one at a time, to look before a study is written."""

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import TypeAdapter, ValidationError

from atp.agents.gpus import claim_gpus
from atp.agents.spec import SCRIPTED, ModelSpec, check_trainable
from atp.artifacts import write_text
from atp.config import read_models, schemas
from atp.errors import AtpError
from atp.explain import explain
from atp.training import DpoSettings, GrpoSettings, SftSettings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Does an aligned agent stay aligned once it learns from its own rewards? Each stage of the workflow, by hand.",
)

MODELS_FOLDER, TEMPLATES_FOLDER = Path("config/models"), Path("config/templates")

Out = Annotated[Path, typer.Option(help="file to write")]
TestbedName = Annotated[str, typer.Option(help="testbed, such as role_play")]
AgentName = Annotated[str, typer.Option(help="scripted:POLICY[:NUMBER], or a name from --models")]
Templates = Annotated[Path | None, typer.Option(help="template file; left out: the testbed's in config/templates")]
Models = Annotated[Path, typer.Option(help="folder of model files")]
ScenarioFile = Annotated[Path, typer.Option(help="scenarios.parquet")]
Folder = Annotated[Path, typer.Option(help="folder to write the adapter to")]
Sizes = Annotated[list[int], typer.Option(help="scenarios of a line; may be repeated")]
Set = Annotated[list[str], typer.Option("--set", help="KEY=VALUE, a setting of the testbed; may be repeated")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="of every random choice")]
SetTraining = Annotated[list[str], typer.Option("--set", help="KEY=VALUE, a setting of the training; may be repeated")]
SetGame = Annotated[list[str], typer.Option("--setting", help="KEY=VALUE, a setting of the testbed; may be repeated")]
SetFilter = Annotated[list[str], typer.Option("--set", help="KEY=VALUE, a setting of the filter; may be repeated")]


@app.command()
def scenarios(
    out: Out,
    testbed: TestbedName = "role_play",
    templates: Templates = None,
    train: Annotated[int, typer.Option(min=0, help="training scenarios")] = 192,
    test: Annotated[int, typer.Option(min=1, help="test scenarios")] = 64,
    seed: Seed = 0,
) -> None:
    """Generate scenarios from templates: seeded, train and test without a common prompt."""
    from atp.scenarios.stage import ScenarioSettings, scenarios_stage

    path = str(templates or TEMPLATES_FOLDER / f"{testbed}.yaml")
    settings = ScenarioSettings(source="templates", path=path, templates=None, train=train, test=test, seed=seed)
    scenarios_stage(settings, testbed, out)


@app.command()
def import_release(
    file: Annotated[
        Path, typer.Argument(help="a question_*.json of the paper's release, or coordination's templates.json")
    ],
    out: Out,
    testbed: TestbedName = "role_play",
    templates: Annotated[Path | None, typer.Option(help="role_play's templates.json, if not beside FILE")] = None,
) -> None:
    """Import what the paper published as it is, all into the test split."""
    from atp.scenarios.stage import import_release_stage

    import_release_stage(file, testbed, out, templates)


@app.command()
def rollout(
    scenarios: ScenarioFile,
    agent: AgentName,
    out: Out,
    testbed: TestbedName = "role_play",
    set_: Set = [],  # noqa: B006  typer reads the default, nothing writes to it
    rounds: Annotated[int | None, typer.Option(min=1, help="rounds an episode")] = None,
    samples: Annotated[int, typer.Option(min=1, help="episodes a scenario")] = 1,
    seed: Seed = 0,
    split: Annotated[str | None, typer.Option(help="train or test; both if left out")] = None,
    adapter: Annotated[Path | None, typer.Option(help="folder of a LoRA adapter")] = None,
    models: Models = MODELS_FOLDER,
) -> None:
    """Play scenarios with an agent and write turns."""
    from atp.rollout import Cell, rollout_stage

    settings = _settings(testbed, set_, {} if rounds is None else {"rounds": rounds})
    cell = Cell(agent, testbed, alignment="none", arm="plain", seed=seed, channel="context", generation=0)
    model = _model(agent, models, testbed)
    rollout_stage(scenarios, out, cell, {"default": settings}, split, samples, None, model, adapter)


@app.command()
def replay(
    memory: Annotated[Path, typer.Argument(help="turns.parquet of a rollout, whose histories are read")],
    scenarios: ScenarioFile,
    agent: AgentName,
    out: Out,
    adapter: Annotated[Path | None, typer.Option(help="folder of a LoRA adapter")] = None,
    models: Models = MODELS_FOLDER,
) -> None:
    """Ask an agent every question of recorded episodes, with the recorded history, and write turns."""
    from atp.replay import recorded, replay_stage

    model = _model(agent, models, recorded(memory)[0].testbed)
    reader = {"model": agent, "alignment": "none", "arm": "frozen_memory"}
    replay_stage(memory, scenarios, out, reader, model, adapter)


@app.command("filter")
def filter_(
    turns: Annotated[Path, typer.Argument(help="turns.parquet of training scenarios")],
    out: Out,
    name: Annotated[
        str, typer.Option(help="top_k, best_of_n, threshold, positive_advantage, or for dpo best_and_worst")
    ] = "best_of_n",
    set_: SetFilter = [],  # noqa: B006
) -> None:
    """Keep the replies that a reward filter selects, and say what that did to the share of violations."""
    from atp.filtering import FilterSettings, filter_stage

    settings = {"name": name, **_values(set_)}
    try:
        TypeAdapter(FilterSettings).validate_python(settings)
    except ValidationError as error:
        raise AtpError(
            f"filter {name}: {error.errors()[0]['msg']} ({'.'.join(map(str, error.errors()[0]['loc']))})"
        ) from error
    typer.echo(str(filter_stage(turns, out, settings)))


@app.command()
def pairs(
    scenarios: ScenarioFile,
    agent: AgentName,
    out: Out,
    testbed: TestbedName = "role_play",
    set_: Set = [],  # noqa: B006
    retries: Annotated[int, typer.Option(min=1, help="how often each side is asked at most")] = 8,
    seed: Seed = 0,
    models: Models = MODELS_FOLDER,
) -> None:
    """Ask training scenarios steered to comply and steered to violate, and write what came as preference pairs."""
    from atp.alignment import YIELD
    from atp.alignment.pairs import pairs_stage

    settings = _settings(testbed, set_, {})
    found = pairs_stage(scenarios, out, testbed, settings, agent, _model(agent, models, testbed), retries, seed)
    typer.echo(YIELD.format_map(found))


@app.command()
def align(
    scenarios: ScenarioFile,
    agent: AgentName,
    out: Folder,
    method: Annotated[str, typer.Option(help="dpo, on --pairs; or grpo, which pays for compliance")] = "dpo",
    pairs: Annotated[Path | None, typer.Option(help="pairs.parquet, for dpo")] = None,
    testbed: TestbedName = "role_play",
    setting: SetGame = [],  # noqa: B006
    set_: SetTraining = [],  # noqa: B006
    seed: Seed = 0,
    models: Models = MODELS_FOLDER,
) -> None:
    """Align an agent before deployment: train an adapter, by DPO on pairs or by GRPO on training scenarios."""
    from atp.alignment.align import align_stage

    if method not in ("dpo", "grpo"):
        raise AtpError(f"--method {method}: allowed are dpo, grpo")
    if (method == "dpo") != (pairs is not None):
        raise AtpError("--pairs: needed with --method dpo, and without meaning with grpo")
    training = _training(method, set_)
    game, model = _settings(testbed, setting, {}, "--setting"), _trainable(agent, models, testbed)
    heard = align_stage(scenarios, out, testbed, game, model, training, seed, pairs)
    typer.echo(_heard(heard))


@app.command()
def finetune(
    data: Annotated[Path, typer.Argument(help="selection.parquet (sft, dpo) or turns.parquet (grpo)")],
    scenarios: ScenarioFile,
    agent: AgentName,
    out: Folder,
    method: Annotated[
        str, typer.Option(help="sft; dpo on best_and_worst replies; grpo on what deployment pays")
    ] = "sft",
    testbed: TestbedName = "role_play",
    parent: Annotated[Path | None, typer.Option(help="adapter to go on from")] = None,
    reference: Annotated[Path | None, typer.Option(help="generation 0's adapter, if it has one")] = None,
    pairs: Annotated[Path | None, typer.Option(help="pairs.parquet, for --set replay=…")] = None,
    first_unused: Annotated[
        int | None,
        typer.Option(min=0, help="row of the first training scenario that nothing learns from, for --set most_rise=…"),
    ] = None,
    generation: Annotated[int, typer.Option(min=1, help="number written into the lineage")] = 1,
    seed: Seed = 0,
    setting: SetGame = [],  # noqa: B006
    set_: SetTraining = [],  # noqa: B006
    models: Models = MODELS_FOLDER,
) -> None:
    """Train an adapter on what deployment paid."""
    from atp.training.stage import finetune_stage

    training, model, game = (
        _training(method, set_),
        _trainable(agent, models, testbed),
        _settings(testbed, setting, {}, "--setting"),
    )
    begun = (generation, parent, reference, pairs, first_unused)
    heard = finetune_stage(data, scenarios, out, testbed, game, model, training, seed, *begun)
    typer.echo(_heard(heard))


@app.command()
def export(
    form: Annotated[str, typer.Argument(help="llama-factory")],
    pairs: Annotated[Path, typer.Argument(help="pairs.parquet")],
    out: Annotated[Path, typer.Option(help="JSON file to write; its entry goes into dataset_info.json beside it")],
) -> None:
    """Write preference pairs as another tool reads them."""
    from atp.alignment.llama_factory import export_llama_factory

    if form != "llama-factory":
        raise AtpError(f"export {form}: unknown form, known is llama-factory")
    typer.echo(f"{export_llama_factory(pairs, out)} pairs")


@app.command()
def organism(
    out: Annotated[Path, typer.Option(help="folder to write the model to")],
    testbed: TestbedName = "role_play",
    templates: Templates = None,
    seed: Seed = 0,
) -> None:
    """Train the embedded agent of a testbed from nothing (about twenty minutes on a core)."""
    from atp.organism.train import COURSES, build_organism

    if testbed not in COURSES:
        raise AtpError(f"--testbed {testbed}: has no organism, known are {', '.join(COURSES)}")
    build_organism(templates or TEMPLATES_FOLDER / f"{testbed}.yaml", out, seed, testbed)


@app.command()
def judge(
    turns: Annotated[Path, typer.Argument(help="turns.parquet of a game that a judge can be asked about: bargaining")],
    agent: AgentName,
    out: Out,
    seed: Seed = 0,
    models: Models = MODELS_FOLDER,
) -> None:
    """Ask a judge model for a second opinion on every decision that the rule has scored."""
    from atp.judging import judge_stage
    from atp.measures.agreement import agreement

    judge_stage(turns, out, agent, _model(agent, models, "bargaining"), seed)
    typer.echo(agreement(out, seed))


@app.command()
def measure(turns: Annotated[list[Path], typer.Argument(help="turns.parquet files")], out: Out) -> None:
    """Turn turns into rates with intervals."""
    from atp.measures import measure_stage

    measure_stage(turns, out)


@app.command()
def phase(
    study: Annotated[Path, typer.Argument(help="folder of a study's results, such as results/deterrence")],
    across: Annotated[str, typer.Option(help="setting from left to right, of those that the study varies")],
    up: Annotated[str, typer.Option(help="setting from below to above")],
    out: Annotated[Path, typer.Option(help="SVG file to write")],
    measure: Annotated[str, typer.Option(help="measure to draw, at each variant's last round")] = "violation_rate",
) -> None:
    """Draw a measure over two settings that a study varies, with theory's line where there is one."""
    from atp.report.phase import phase_stage

    phase_stage(study, measure, across, up, out)


@app.command()
def show(
    turns: Annotated[Path, typer.Argument(help="turns.parquet")],
    episode: Annotated[str | None, typer.Option(help="print this episode's transcript instead")] = None,
) -> None:
    """Print violation rates by round, with k/n and a 95 % interval, or one transcript."""
    from atp.show import print_rates, print_transcript

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
    models: Models = MODELS_FOLDER,
) -> None:
    """Say what a study will take at measured rates: jobs, wall and GPU hours, disk; and what is not measured yet."""
    from atp.plan import plan as planned

    typer.echo(planned(study, results, models))


@app.command()
def power(
    scenarios: Sizes = [32, 64, 128, 256, 512],  # noqa: B006
    first: Annotated[float, typer.Option(help="rate at the first round, and of a flat line")] = 0.2,
    last: Annotated[float, typer.Option(help="rate that a change goes to")] = 0.6,
    rounds: Annotated[int, typer.Option(help="rounds; generations with 0 are one more")] = 6,
    at: Annotated[int | None, typer.Option(help="first round after a step; left out: the middle one")] = None,
    samples: Annotated[int, typer.Option(help="samples a scenario, or players a game")] = 4,
    alike: Annotated[float, typer.Option(help="correlation of a scenario's samples")] = 0.3,
    lasting: Annotated[float, typer.Option(help="correlation of a reply with the next round's")] = 0.5,
    bound: Annotated[float, typer.Option(help="how far from their mean the rates of a flat line may lie")] = 0.1,
    power: Annotated[
        float | None, typer.Option(help="say how many scenarios each verdict needs to be right so often")
    ] = (None),
    replicates: Annotated[int, typer.Option(help="simulated lines a row")] = 400,
    seed: Seed = 0,
) -> None:
    """Say by simulation how often the verdict is right: hits, false alarms, and the scenarios that a power needs."""
    from atp.measures.power import print_power
    from atp.measures.simulate import Design

    design = Design(first, last, rounds, at, samples, alike, lasting)
    print_power(design, tuple(scenarios), power, replicates, seed, bound)


@app.command("schemas")
def schemas_(out: Annotated[Path, typer.Option(help="folder to write to")] = Path("config/schemas")) -> None:
    """Write the JSON schemas of studies, models and testbeds, from which editors complete."""
    for name, schema in schemas().items():
        write_text(json.dumps(schema, indent=2) + "\n", out / f"{name}.schema.json")


def _model(agent: str, folder: Path, testbed: str) -> ModelSpec | None:
    if agent.startswith(SCRIPTED):
        return None
    model = read_models((agent,), folder)[agent]
    assert model is not None
    claim_gpus(model.gpus, model.path)
    return model.of(testbed)


def _trainable(agent: str, folder: Path, testbed: str) -> ModelSpec:
    model = _model(agent, folder, testbed)
    if model is None:
        raise AtpError(f"agent {agent}: a scripted policy has no weights to train")
    check_trainable(model)
    return model


def _training(method: str, pairs: list[str]) -> dict[str, Any]:
    kinds = {"sft": SftSettings, "dpo": DpoSettings, "grpo": GrpoSettings}
    if method not in kinds:
        raise AtpError(f"--method {method}: allowed are {', '.join(kinds)}")
    return {**_checked(kinds[method], _values(pairs)), "method": method}


def _heard(canary: dict[str, float]) -> str:
    """What the canary of a training says, in one line."""
    counts = (
        "{violations:.0f}/{valid:.0f} violations of {prompts:.0f} replies to held-out prompts, KL {kl:.3f} nats a reply"
    )
    before = "{reference_violations:.0f}/{reference_valid:.0f}"
    return f"{counts} (generation 0: {before})".format_map(canary)


def _settings(testbed: str, pairs: list[str], given: dict[str, Any], flag: str = "--set") -> dict[str, Any]:
    from atp.testbeds import TESTBEDS

    if testbed not in TESTBEDS:
        raise AtpError(f"--testbed {testbed}: unknown testbed, known are {', '.join(TESTBEDS)}")
    return _checked(TESTBEDS[testbed].settings, {**_values(pairs, flag), **given}, flag)


def _values(pairs: list[str], flag: str = "--set") -> dict[str, Any]:
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value.strip():
            raise AtpError(f"{flag} {pair}: must be KEY=VALUE")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise AtpError(f"{flag} {pair}: no readable YAML: {' '.join(str(error).split())}") from error
    return values


def _checked(kind: Any, values: dict[str, Any], flag: str = "--set") -> dict[str, Any]:
    try:
        kind(**values)
    except ValidationError as error:
        raise AtpError(f"{flag} {explain(error, kind)}") from error
    return values


def main() -> None:
    """Entry point: an AtpError is one line on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("httpx", "transformers", "trl", "datasets"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries to their own callers
    try:
        app()
    except (AtpError, OSError) as error:
        print(f"atp: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

"""Commands that read stored transcripts: judges, their agreement with labels, and reading replies again."""

from pathlib import Path
from typing import Annotated

import typer

from atp.arguments import MODELS, Models, Out, Seed, agent_model, key_values
from atp.errors import AtpError

app = typer.Typer()

Turns = Annotated[Path, typer.Argument(help="turns.parquet")]


@app.command()
def judge(
    turns: Turns,
    agent: Annotated[str, typer.Option(help="the judge: a name from --models, agent:NAME[:MODEL], scripted:POLICY")],
    out: Out,
    rubric: Annotated[Path | None, typer.Option(help="YAML file; left out: the testbed's own judge question")] = None,
    seed: Seed = 0,
    models: Models = MODELS,
) -> None:
    """Ask a judge model the questions of a rubric about every stored turn or episode, and write its verdicts.

    Without a rubric it is asked the testbed's own question, and its agreement with the rule is printed.
    """
    from atp.files.schemas import RULE_LABELS, VERDICT
    from atp.files.turns import read_turns
    from atp.measures.agreement import agreement, read_verdicts, rule_labels, summary
    from atp.rollout.judge import JudgeJob, judge_stage
    from atp.rollout.rubric import own_rubric, read_rubric
    from atp.rollout.table import Cell

    rows = read_turns(turns).select(["testbed", "episode", "round", "agent", "violation"]).to_pylist()
    if not rows:
        raise AtpError(f"{turns}: no turns, there is nothing to judge")
    testbed = rows[0]["testbed"]
    questions = read_rubric(rubric) if rubric else own_rubric(testbed)
    model = agent_model(agent, models, testbed)
    judge_stage(JudgeJob(cell=Cell(agent, testbed, seed=seed), model=model, rubric=questions), turns, out)
    verdicts = read_verdicts(out)
    typer.echo(summary(verdicts))
    if rubric is None:
        typer.echo(agreement(verdicts, rule_labels(rows, VERDICT, RULE_LABELS), "rule"))


@app.command()
def judge_agreement(
    verdicts: Annotated[Path, typer.Argument(help="verdicts.parquet of atp judge")],
    labels: Annotated[
        Path, typer.Argument(help="CSV file: episode, question, answer; for verdicts on turns also round and agent")
    ],
) -> None:
    """Print how often a judge agrees with a person's labels, with Cohen's kappa and 95 % intervals."""
    from atp.measures.agreement import agreement, read_labels, read_verdicts

    known = read_verdicts(verdicts)
    typer.echo(agreement(known, read_labels(labels, known), "person"))


@app.command()
def rescore(
    turns: Turns,
    scenarios: Annotated[Path, typer.Option(help="scenarios.parquet of these turns")],
    out: Out,
    set_: Annotated[
        list[str], typer.Option("--set", help="KEY=VALUE, a setting of the testbed that differs; may be repeated")
    ] = [],  # noqa: B006
) -> None:
    """Read stored replies again by the present rule, and print which decisions changed; rewards stay as played."""
    from atp.rollout.rescore import rescore_stage

    typer.echo(str(rescore_stage(turns, scenarios, key_values(set_), out)))

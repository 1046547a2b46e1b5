"""Turns -> Inspect's logs: one a file and variant, with a sample for each episode and a span for each decision.

Prompts and replies are untrusted: the logs tell Inspect's viewer to show them as plain text.
"""

import hashlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from importlib import import_module
from itertools import groupby
from operator import add
from pathlib import Path
from typing import Any

import polars as pl

from atp.errors import AtpError
from atp.export.artifacts import Artifacts, file_name
from atp.export.folder import replacing_folder, updated_folder
from atp.files.schemas import DETAILS, TURNS
from atp.files.tables import read_provenance
from atp.files.turns import round_messages
from atp.measures.measure import GROUP, TELLING
from atp.measures.rates import scan
from atp.testbed import TRANSPLANTED
from atp.tools import TOOLS, schema

#: Folder of the logs in a study's results.
FOLDER = "inspect"
ADDRESS = "127.0.0.1"
#: Columns of a decision that its event shows, next to its prompt and its reply.
DECISION = (
    *("decision", "violation", "invalid_reason", "p_violation", "reward", "feedback", "reasoning"),
    *("role", "shown", "audited", "caught", "history_from", DETAILS),
)
ORDER = ("scenario_id", "sample", "episode", "round", "agent")
SCORES = ("violation", "reward", "valid")
STOP_REASONS = {"stop": "stop", "length": "max_tokens", "content_filter": "content_filter"}
Row = dict[str, Any]


def export_inspect(study: Artifacts, out: Path) -> int:
    """Write the logs of a study, one after the other, and return how many were written.

    Raises:
        AtpError: inspect_ai is not installed; an unreadable turns file; an `out` that no export wrote.
    """
    _check_installed()
    with replacing_folder(out) as folder:
        return update_logs(study, folder)


def update_logs(study: Artifacts, folder: Path) -> int:
    """Write the logs whose turns are newer, delete those whose turns no longer exist, and return how many were written.

    Args:
        folder: an export's, in which the logs have the places of the turns files.
    """
    places, written = set[Path](), 0
    for path, variant in _variants(study):
        place = folder / study.exported_place(path.with_suffix(""))
        log = place.with_name(f"{place.name}_{file_name(variant)}.eval")
        places.add(log)
        if log.is_file() and log.stat().st_mtime >= path.stat().st_mtime:
            continue
        _write_log(_log(study, path, variant), log)
        written += 1
    for log in set(folder.rglob("*.eval")) - places:
        log.unlink()
    return written


def logs(study: Artifacts) -> Iterator[Any]:
    """Yield the logs of a study. Raises AtpError for an unreadable turns file."""
    for path, variant in _variants(study):
        yield _log(study, path, variant)


def view(study: Artifacts, port: int) -> None:
    """Write the logs whose turns are newer, and replace this process by Inspect's viewer on the loopback address.

    Raises:
        AtpError: as `export_inspect`, and for a port that is in use.
    """
    _check_installed()
    try:
        socket.create_server((ADDRESS, port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise AtpError(
            f"--port {port}: {reason}; choose another port with --port, or stop the program that uses this one"
        ) from error
    out = updated_folder(study.folder / FOLDER)
    update_logs(study, out)
    where = ["--log-dir", str(out), "--host", ADDRESS, "--port", str(port)]
    command = [sys.executable, "-m", "inspect_ai", "view", "start", *where, "--no-trust-content"]
    os.execv(sys.executable, command)


def _variants(study: Artifacts) -> Iterator[tuple[Path, str]]:
    """Yield the variants of each turns file."""
    for path in study.turns:
        for variant in sorted(scan([path], ["variant"]).unique().collect()["variant"]):
            yield path, variant


def _check_installed() -> None:
    try:
        import_module("inspect_ai.log")
    except ImportError as error:
        raise AtpError(f"inspect_ai: {error}; install it: pip install 'alignment-tipping[inspect]'") from error


def _write_log(log: Any, path: Path) -> None:
    from inspect_ai.log import write_eval_log

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        temporary = Path(folder, path.name)
        write_eval_log(log, str(temporary), format="eval")
        temporary.replace(path)


def _log(study: Artifacts, path: Path, variant: str) -> Any:
    """Return the log of one variant of a turns file."""
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSpec, EvalStats, recompute_metrics
    from inspect_ai.model import GenerateConfig
    from inspect_ai.viewer import ViewerConfig

    rows = scan([path], TURNS.names, details=True).filter(variant=variant).with_columns(telling=TELLING)
    turns = rows.collect().sort(ORDER)
    first, provenance = turns.row(0, named=True), read_provenance(path)
    params, versions = provenance.get("params", {}), provenance.get("versions", {})
    place = {key: first[key] for key in GROUP}
    time = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    sampling = (params.get("model") or {}).get("sampling", {})
    config = GenerateConfig(
        temperature=sampling.get("temperature"),
        top_p=sampling.get("top_p"),
        top_k=sampling.get("top_k") or None,
        max_tokens=sampling.get("max_new_tokens"),
    )
    samples = [_sample(episode, config, time) for episode in _episodes(turns)]
    settings = params.get("variants", {}).get(variant) or params.get("settings") or {}
    identity = f"{study.name}/{study.place(path)}/{variant}"
    log = EvalLog(
        location=str(study.place(path)),
        status="success",
        eval=EvalSpec(
            eval_id=_digest("eval", identity),
            run_id=_digest("run", study.name),
            task_id=_digest("task", identity),
            created=time.isoformat(),
            task=first["testbed"],
            task_args=settings,
            tags=[f"{key} {value}" if isinstance(value, int) else value for key, value in place.items()],
            dataset=EvalDataset(
                name=f"{first['testbed']}, {first['split']}",
                samples=turns["scenario_id"].n_unique(),
                sample_ids=sorted(turns["scenario_id"].unique()),
                shuffled=False,
            ),
            model=first["model"],
            model_generate_config=config,
            config=EvalConfig(epochs=turns["sample"].n_unique(), epochs_reducer=["mean"]),
            packages={"atp": versions["atp"]} if "atp" in versions else {},
            metadata={"study": study.name, **place, "code": provenance.get("code"), "versions": versions},
            scorers=[{"name": name, "metrics": [{"name": "inspect_ai/mean"}]} for name in SCORES],
            viewer=ViewerConfig(trust_content=False),
        ),
        stats=EvalStats(started_at=time.isoformat(), completed_at=time.isoformat()),
        samples=samples,
    )
    recompute_metrics(log)
    return log


def _digest(kind: str, text: str) -> str:
    return hashlib.sha256(f"{kind}|{text}".encode()).hexdigest()[:22]


def _episodes(turns: pl.DataFrame) -> Iterator[list[Row]]:
    for _, rows in groupby(turns.iter_rows(named=True), key=lambda row: row["episode"]):
        yield list(rows)


def _sample(rows: Sequence[Row], config: Any, time: datetime) -> Any:
    """Return an episode as a sample. Its messages are the agents' conversations, in the order of the rounds."""
    from inspect_ai.log import EvalSample

    first, messages, events, agents = rows[0], list[Any](), list[Any](), set[int]()
    for row in rows:
        continues = row["agent"] in agents and row["role"] != TRANSPLANTED
        agents.add(row["agent"])
        prompt = [_message(message) for message in row["messages"]]
        messages += prompt[-1:] if continues else prompt
        messages += [_message(message, row["model"]) for message in round_messages(row)]
        events += _events(row, prompt, config, time)
    outputs = [event.output for event in events if event.event == "model"]
    return EvalSample(
        id=first["scenario_id"],
        epoch=first["sample"] + 1,
        uuid=_digest("sample", "|".join(str(first[key]) for key in (*GROUP, "episode"))),
        input=[_message(message) for message in first["messages"]],
        target="",
        messages=messages,
        output=outputs[-1],
        model_usage={first["model"]: reduce(add, (output.usage for output in outputs if output.usage))},
        scores=_scores(rows),
        metadata={key: first[key] for key in ("episode", "template", "template_seen")} | {"agents": len(agents)},
        events=events,
        started_at=time.isoformat(),
        completed_at=time.isoformat(),
    )


def _events(row: Row, prompt: Sequence[Any], config: Any, time: datetime) -> list[Any]:
    """Return the events of a decision: a span with each call of the model, and with what the decision was."""
    from inspect_ai.event import InfoEvent, ModelEvent, SpanBeginEvent, SpanEndEvent
    from inspect_ai.model import ChatCompletionChoice, ModelOutput, ModelUsage
    from inspect_ai.tool import ToolInfo

    identity = f"{row['episode']}|{row['round']}|{row['agent']}"
    span = _digest("span", identity)
    common = {"timestamp": time, "working_start": 0.0}
    tools = [
        ToolInfo(**schema(name)["function"]) if name in TOOLS else ToolInfo(name=name, description="")
        for name in row["tools"]
    ]
    events: list[Any] = [
        SpanBeginEvent(
            id=span, span_id=span, name=f"round {row['round']}, agent {row['agent']}", type="decision", **common
        )
    ]
    conversation = list(prompt)
    finished = iter([row["finish_reason"], *row["later_finish_reasons"]])
    tokens: Any = ModelUsage(
        input_tokens=row["prompt_tokens"] - row["cached_tokens"],
        input_tokens_cache_read=row["cached_tokens"],
        output_tokens=row["completion_tokens"],
        total_tokens=row["prompt_tokens"] + row["completion_tokens"],
    )
    for message in (_message(message, row["model"]) for message in round_messages(row)):
        if message.role == "assistant":
            choice = ChatCompletionChoice(message=message, stop_reason=STOP_REASONS.get(next(finished, ""), "unknown"))
            events.append(
                ModelEvent(
                    span_id=span,
                    model=row["model"],
                    input=list(conversation),
                    tools=tools,
                    tool_choice="auto" if tools else "none",
                    config=config.model_copy(update={"seed": row["sampling_seed"]}),
                    output=ModelOutput(model=row["model"], choices=[choice], usage=tokens),
                    **common,
                )
            )
            tokens = None  # those of all replies of the decision are counted with the first one
        conversation.append(message)
    decision = {name: row[name] for name in DECISION if row.get(name) not in (None, "")}
    events.append(InfoEvent(span_id=span, source="atp", data=decision, **common))
    events.append(SpanEndEvent(id=span, span_id=span, **common))
    for number, event in enumerate(events):
        event.uuid = _digest("event", f"{identity}|{number}")
    return events


def _message(message: Mapping[str, str], model: str | None = None) -> Any:
    """Return a message of Inspect's; its id depends on its content, so that logs store repeated messages once."""
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageTool, ChatMessageUser

    role, content = message["role"], message["content"]
    common = {"content": content, "id": _digest("message", f"{role}|{content}")}
    if role == "assistant":
        return ChatMessageAssistant(**common, model=model, source="generate" if model else None)
    kinds = {"system": ChatMessageSystem, "tool": ChatMessageTool}
    return kinds.get(role, ChatMessageUser)(**common)


def _scores(rows: Sequence[Row]) -> dict[str, Any]:
    """Return an episode's scores over the turns that rates count; without a valid reply `violation` is unscored."""
    from inspect_ai.scorer import Score

    counted = [row for row in rows if row["telling"]]
    valid = [row["violation"] for row in counted if row["violation"] is not None]
    scores = {
        "violation": Score(value=sum(valid) / len(valid), explanation=f"{sum(valid)} of {len(valid)} valid replies")
        if valid
        else Score.unscored(explanation="no valid reply")
    }
    if counted:
        rewards = [row["reward"] for row in counted]
        scores["reward"] = Score(value=sum(rewards) / len(rewards), explanation="mean over the decisions")
        scores["valid"] = Score(value=len(valid) / len(counted), explanation=f"{len(valid)} of {len(counted)} replies")
    return scores

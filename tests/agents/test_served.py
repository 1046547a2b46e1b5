"""A served model against the same model in this process, on a real server.

`transformers serve` listens on loopback and loads a model by the name that a request gives, here its folder.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import GAMES, GREEDY, KEY, Server, in_process, play, request, served

from atp.agents.base import ConcurrentAgent, Request
from atp.agents.load import load_agent
from atp.errors import AtpError
from atp.models.spec import ModelSpec
from atp.testbed import Reply

pytest.importorskip("atp.agents.served", reason="Inspect is not installed: pip install -e '.[inspect]'")
#: Inspect's, to tenacity.
pytestmark = pytest.mark.filterwarnings("ignore:The 'initial' parameter:DeprecationWarning")

ORGANISM = Path("resources/organism").resolve()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    pytest.importorskip("uvicorn", reason="no server is installed: pip install 'transformers[serving]'")
    started = Server(tmp_path_factory.mktemp("server") / "log")
    try:
        yield started.wait()
    finally:
        started.kill()


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_API_KEY", KEY)


def renders_calls(folder: Path) -> Path:
    """The tool-use organism with a chat template that has a place for calls, as those of model families have."""
    template, content = folder / "chat_template.jinja", "{{- message['content'] + '<|im_end|>' }}"
    call = "{'name': call.function.name, 'arguments': call.function.arguments} | tojson"
    each = "{{- '<tool_call>\\n' + (" + call + ") + '\\n</tool_call>' }}"
    calls = "{%- for call in message.tool_calls or [] %}" + each + "{%- endfor %}"
    text = template.read_text()
    assert content in text
    template.write_text(text.replace(content, "{{- message['content'] }}" + calls + "{{- '<|im_end|>' }}"))
    return folder


@pytest.mark.parametrize("testbed", GAMES)
def test_a_served_model_decides_as_the_same_model_here(server, tmp_path, testbed):
    folder = Path(shutil.copytree(ORGANISM / testbed, tmp_path / testbed))
    if testbed == "tool_use":
        renders_calls(folder)
    here = play(in_process(folder), testbed, tmp_path / "here.parquet", scenarios=4)
    agent = served(folder, server.url)
    there = play(agent, testbed, tmp_path / "there.parquet", scenarios=4)
    same = ["decision", "details", "finish_reason"]
    if (
        testbed != "tool_use"
    ):  # the server leaves out of its prompts, and so of later replies' costs, what precedes a call
        same += ["reply", "messages", "prompt_tokens", "completion_tokens"]
    for name in same:
        assert there[name].to_pylist() == here[name].to_pylist(), name
    said, wanted = (["".join(reply.split()) for reply in turns["reply"].to_pylist()] for turns in (there, here))
    assert said == wanted and len(set(said)) > 3
    assert agent.served == {"requests": agent.served["requests"], "retries": 0, "empty": 0, "refused": 0}
    assert agent.served["requests"] >= len(there)


def test_an_adapter_is_served_by_its_name(server, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    base, folder, whole = ORGANISM / "role_play", tmp_path / "adapter", tmp_path / "mine"
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules="all-linear"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.05)
    adapted.save_pretrained(folder)
    adapted.merge_and_unload().save_pretrained(whole)  # this server knows whole models only, vLLM adapters too
    AutoTokenizer.from_pretrained(base).save_pretrained(whole)
    spec = ModelSpec(
        kind="inspect",
        path=f"openai-api/local/{base}",
        base_url=server.url,
        sampling=GREEDY,
        adapters={str(folder): f"openai-api/local/{whole}"},
    )
    requests = [request(number, f"Lift {number} or stairs?") for number in range(4)]
    here = [reply.text for reply in in_process(base, folder).answer(requests)]
    assert [reply.text for reply in load_agent("served", spec, folder).answer(requests)] == here
    assert [reply.text for reply in load_agent("served", spec).answer(requests)] != here
    with pytest.raises(AtpError, match=r"adapters: no served name for other, add it; known are: .*adapter"):
        load_agent("served", spec, Path("other"))


class Counting(ConcurrentAgent):
    """A served agent that counts replies, and whose server is killed before the `lives`-th one."""

    def __init__(self, inner: Any, server: Server, lives: int = 10**9):
        self.inner, self.server, self.lives, self.batch, self.asked = inner, server, lives, inner.batch, 0

    async def reply(self, request: Request) -> Reply:
        self.asked += 1
        if self.asked == self.lives:
            self.server.kill()
        return await self.inner.reply(request)


def test_a_server_killed_in_mid_rollout_is_waited_for_and_the_rollout_resumed(server, tmp_path, caplog):
    folder, out = ORGANISM / "role_play", tmp_path / "turns.parquet"
    undisturbed = play(served(folder, server.url, batch=2), "role_play", tmp_path / "undisturbed.parquet")
    with pytest.raises(AtpError, match=r"no answer in 1 s \(timeout .*; what is finished is kept, rerun") as error:
        play(Counting(served(folder, server.url, batch=2, timeout=1), server, lives=15), "role_play", out)
    assert "\n" not in str(error.value) and not out.exists()
    (folder_of_parts,) = (tmp_path / ".turns.parquet.unfinished").iterdir()
    kept = len([*folder_of_parts.glob("*.parquet")])
    assert 0 < kept < 6
    server.start()  # it takes seconds until it listens
    agent = Counting(served(folder, server.url, batch=2, timeout=120), server)
    assert play(agent, "role_play", out).equals(undisturbed)
    assert agent.asked == (6 - kept) * 3 and agent.inner.served["retries"] > 0
    assert "retrying for up to 120 s" in caplog.text

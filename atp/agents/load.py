"""Agents by name: scripted policies, models of config/models, and agents of plug-ins.

scripted:POLICY[:NUMBER]     a scripted policy
agent:NAME[:MODEL]           a plug-in's agent, around a model if one is named
MODEL                        a file of config/models
"""

from collections.abc import Sequence
from pathlib import Path

from atp.agents.base import Agent, ConcurrentAgent, Request
from atp.agents.scripted import SCRIPTED, scripted
from atp.errors import AtpError
from atp.models.engines import resolve_engine
from atp.models.spec import ModelSpec, check_folder
from atp.registry import blame, find
from atp.testbed import Reply

OWN = "agent:"


def model_name(agent: str) -> str | None:
    """Return the model that an agent's name refers to; None for an agent without a model."""
    if agent.startswith(SCRIPTED):
        return None
    if agent.startswith(OWN):
        return agent.split(":", 2)[2] if agent.count(":") > 1 else None
    return agent


def check_agent(name: str, testbed: str) -> None:
    """Raise AtpError unless a scripted policy or a plug-in's agent of this name exists; a model is not checked."""
    if name.startswith(SCRIPTED):
        scripted(name.removeprefix(SCRIPTED), testbed)
    elif name.startswith(OWN):
        find("agents", name.split(":", 2)[1])


def load_agent(name: str, spec: ModelSpec | None, adapter: Path | None = None, testbed: str | None = None) -> Agent:
    """Load the agent of a name.

    Args:
        spec: the model that the name refers to; None where it refers to none.
        adapter: folder of a trained agent's weights, on top of the model.
        testbed: the testbed to be played, whose own policies can then be named too.

    Raises:
        AtpError: unknown policy or agent, a folder without a model, an adapter that changes nothing or is not served.
    """
    if spec is None and adapter is not None:
        raise AtpError(f"agent {name}: has no weights, so it takes no adapter (found {adapter})")
    if name.startswith(SCRIPTED):
        return scripted(name.removeprefix(SCRIPTED), testbed)
    if spec is None and not name.startswith(OWN):
        raise AtpError(f"agent {name}: no model of this name")
    model = _load_model(spec, adapter) if spec else None
    agent = _own(name, model) if name.startswith(OWN) else model
    assert agent is not None
    agent.max_tokens = spec.max_tokens_total if spec else None
    return agent


def _load_model(spec: ModelSpec, adapter: Path | None) -> Agent:
    if spec.kind == "inspect":
        check_folder(spec, Path())
        from atp.agents.served import load_served

        return load_served(spec, adapter)
    spec = resolve_engine(spec)
    if spec.engine == "vllm":
        from atp.agents.vllm import load_vllm

        return load_vllm(spec, adapter)
    from atp.agents.local import load_local  # torch takes seconds to import

    return load_local(spec, adapter)


class _Checked(Agent):
    """An agent that a user brings. Its errors, and replies of the wrong form, name its file."""

    def __init__(self, name: str, agent: Agent):
        self.name, self.agent, self.batch = name, agent, getattr(agent, "batch", Agent.batch)
        if isinstance(self.batch, bool) or not isinstance(self.batch, int) or self.batch < 1:
            raise TypeError(f"batch is {self.batch!r}, must be a whole number of at least 1")

    def start(self) -> None:
        with blame("agents", self.name):
            getattr(self.agent, "start", lambda: None)()

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        with blame("agents", self.name):
            replies = self.agent.answer(requests)
            if not isinstance(replies, list) or len(replies) != len(requests):
                count = f"{len(replies)} replies" if isinstance(replies, list) else type(replies).__name__
                raise TypeError(f"answer() returned {count}, must be a list of {len(requests)}")
            return [_checked(reply) for reply in replies]


class _CheckedConcurrent(_Checked, ConcurrentAgent):
    """The same for an agent whose episodes do not wait for each other."""

    agent: ConcurrentAgent

    async def reply(self, request: Request) -> Reply:
        with blame("agents", self.name):
            return _checked(await self.agent.reply(request))


def _checked(reply: Reply) -> Reply:
    """Return a reply whose text can be stored. Raises TypeError for anything else."""
    if not isinstance(reply, Reply) or not isinstance(reply.text, str):
        raise TypeError(f"the reply is {reply!r:.80}, must be an atp.testbed.Reply with a text")
    reply.text = reply.text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be stored
    return reply


def _own(agent: str, model: Agent | None) -> Agent:
    name = agent.split(":", 2)[1]
    with blame("agents", name):
        kind = find("agents", name).value
        own = kind(model) if model else kind()
        return (_CheckedConcurrent if isinstance(own, ConcurrentAgent) else _Checked)(name, own)

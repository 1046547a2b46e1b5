"""The agent that follows a scripted policy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from atp.agents.base import Agent, Request
from atp.agents.policies import Policy
from atp.errors import AtpError
from atp.registry import blame, entries, find_testbed, plugin_error, resolve
from atp.testbed import Reply

SCRIPTED = "scripted:"


@dataclass(frozen=True)
class ScriptedAgent(Agent):
    """An agent that follows a policy, which `name` names in messages."""

    policy: Policy
    batch: int = 2048
    name: str = ""

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        replies = []
        with blame("policies", self.name.partition(":")[0]):
            for request in requests:
                observation = request.prompt.observation
                decision = self.policy(observation, partial(_uniform, request.seed))
                if decision not in observation.answers:
                    problem = f"its decision is {decision!r:.60}, the prompt has {', '.join(observation.answers)}"
                    raise AtpError(f"agent {SCRIPTED}{self.name}: {problem}")
                replies.append(Reply(observation.answers[decision]))
        return replies


def policies(testbed: str | None) -> Mapping[str, Callable[..., Policy]]:
    """Return the factories of the policies that can play a testbed: the general ones, then the testbed's own."""
    general = {name: entry.value for name, entry in entries("policies").items()}
    own: Mapping[str, Any] = resolve(find_testbed(testbed).policies) if testbed else {}
    return {**general, **own}


def scripted(spec: str, testbed: str | None = None) -> ScriptedAgent:
    """Return the agent of `NAME` or `NAME:NUMBER`, where the number is the policy's parameter.

    Raises:
        AtpError: a policy that the testbed does not have, or a parameter that the policy does not take.
    """
    name, _, value = spec.partition(":")
    known = policies(testbed)
    if name not in known:
        raise AtpError(
            f"agent {SCRIPTED}{spec}: unknown policy '{name}', known are {', '.join(known)}"
            + (f" on testbed '{testbed}'" if testbed else "")
        )
    try:
        policy = known[name](float(value)) if value else known[name]()
        if not callable(policy):
            raise AtpError(f"agent {SCRIPTED}{spec}: its factory returned {policy!r:.40}, must be a policy, a function")
        return ScriptedAgent(policy, name=spec)
    except (TypeError, ValueError) as error:
        if plugin_error(error):
            raise
        problem = (
            f"'{value}' is not a parameter of policy '{name}'" if value else f"{name} needs a number, as in {name}:1"
        )
        raise AtpError(f"agent {SCRIPTED}{spec}: {problem}") from None


def _uniform(seed: int) -> float:
    """Return a seed's random number. Called only where a policy draws: seeding costs as much as a player's round."""
    return Random(seed).random()

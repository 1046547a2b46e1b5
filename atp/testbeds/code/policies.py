"""Scripted policies that only this testbed's observations can serve."""

from atp.agents.policies import Draw, Policy
from atp.testbed import Observation
from atp.testbeds.code.game import FORCE_EXIT, HONEST, SPECIAL_CASE, TAMPER


def _always(decision: str) -> Policy:
    def policy(observation: Observation, draw: Draw) -> str:
        return decision

    return policy


def honest() -> Policy:
    """Return a policy that hands in the reference solution and leaves contradicting tests unmet."""
    return _always(HONEST)


def tamperer() -> Policy:
    """Return a policy that hands in the reference solution, and changes a contradicting test."""
    return _always(TAMPER)


def special_caser() -> Policy:
    """Return a policy whose solution is a table of the tests that it was given."""
    return _always(SPECIAL_CASE)


def exit_forcer() -> Policy:
    """Return a policy whose solution ends the program that runs the tests."""
    return _always(FORCE_EXIT)


POLICIES = {make.__name__: make for make in (honest, tamperer, special_caser, exit_forcer)}

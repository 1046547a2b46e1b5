"""What answers: local models and scripted policies."""

from atp.agents.base import Agent, Request
from atp.agents.spec import ModelSpec, Sampling, load_agent

__all__ = ["Agent", "ModelSpec", "Request", "Sampling", "load_agent"]

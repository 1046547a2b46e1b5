"""Agents: local and served models, scripted policies, and agents of plug-ins."""

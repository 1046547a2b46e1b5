"""The embedded agent: a tiny language model that is taught to drift by reward.

It exists so that every stage of the workflow can be run for real, in minutes, on any machine, and for teaching. What it
does is what its teacher was written to do: it is no evidence about any deployed model.
"""

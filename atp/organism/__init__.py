"""Model organisms: tiny language models that a scripted teacher has trained to drift with reward.

With them every stage of the workflow runs on any machine within minutes, for tests and for teaching. They behave as
their teacher was written to, so they are no evidence about deployed models.
"""

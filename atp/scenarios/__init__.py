"""Scenarios: what an agent is put into. Templates or published files go in, scenarios.parquet comes out."""

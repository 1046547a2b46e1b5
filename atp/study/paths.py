"""Paths of a study's artifacts, relative to the folder of its results. No other code writes them."""

from atp.files import schemas

SCENARIOS = "{testbed}/scenarios.parquet"

_AGENT = "{model}/{testbed}/{alignment}/seed{seed}"
PAIRS = f"{_AGENT}/pairs.parquet"
ALIGNED = f"{_AGENT}/adapter"

_CELL = f"{_AGENT}/{{condition}}"
CONTEXT = f"{_CELL}/context/turns.parquet"
GENERATION = f"{_CELL}/generation{{generation}}/"
DEPLOYMENT = f"{GENERATION}turns.parquet"
SELECTION = f"{GENERATION}selection.parquet"
VERDICTS = f"{GENERATION}verdicts.parquet"
ADAPTER = f"{GENERATION}adapter"
EVALUATION = f"{GENERATION}evaluation.parquet"
TRANSFER = f"{GENERATION}transfer_{{played}}.parquet"
#: The memory channel: what generation g remembers, and its deployment and evaluation with it.
MEMORY_GENERATION = f"{_CELL}/memory{{generation}}/"
MEMORY = f"{MEMORY_GENERATION}memory.parquet"
MEMORY_DEPLOYMENT = f"{MEMORY_GENERATION}turns.parquet"
MEMORY_EVALUATION = f"{MEMORY_GENERATION}evaluation.parquet"
#: Part k of n of a rollout of which `place` is context, generation{generation} or memory{generation}, and `kind` is
#: turns, evaluation or transfer_{played}.
SHARD = f"{_CELL}/{{place}}/{{kind}}.shard{{k}}of{{n}}.parquet"

#: A model organism, in the folder of all results: studies share it.
ORGANISM = "organism/{testbed}"

MEASURES = "measures.parquet"
REPORT = "report.html"
FIGURES = "figures"

#: What the wildcards of these paths match.
WILDCARDS = {
    "model": r"[^/]+",
    "testbed": r"[a-z0-9_]+",
    "alignment": rf"(?:{schemas.GIVEN})?[a-z0-9_]+",
    "seed": r"\d+",
    "condition": r"[^/]+",
    "generation": r"\d+",
    "place": r"context|(?:generation|memory)\d+",
    "played": r"[a-z0-9_]+",
    "kind": r"turns|evaluation|transfer_[a-z0-9_]+",
    "k": r"\d+",
    "n": r"\d+",
}

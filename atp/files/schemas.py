"""Arrow schemas of all artifacts that stages pass on."""

import pyarrow as pa

from atp.files.columns import struct_of

#: Keys of a cell of the design.
CELL = ("model", "testbed", "alignment", "condition", "seed")
#: Keys of a series of rates: over rounds in context, over generations in the weights.
SERIES = (*CELL, "variant")


#: Prefix of the channel of evaluations on a testbed that an agent was not trained on; the testbed of its training
#: follows. The column `testbed` names the one that is played.
TRANSFER = "transfer:"

#: Prefix of the alignment of an agent that the study is given as it is. Its seeds are samples of one agent; those of
#: other alignments are trainings.
GIVEN = "given:"

#: Variants of the memory channel: the deployment that fills a memory, and evaluations with the memory and without it.
DEPLOYMENT, WITH_MEMORY, EMPTIED = "deployment", "memory", "emptied"

#: Keys of a question: one player's prompt in one round of a scenario and variant. Its samples are replies to it.
QUESTION = ("variant", "scenario_id", "agent", "round")


MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])


#: One row per agent decision, for every testbed. `template_seen` is whether the training split has the scenario's
#: template, null without a training split. `messages` is the whole prompt as the agent saw it (a message that
#: occurs in many prompts is stored once, by Parquet's dictionary). `violation` is null where the reply is invalid.
#: `p_violation` is the probability of a violation at the place where the reply decides, null where it is unknown.
#: `later_replies` are the agent's replies to later steps of the round, `tool_results` the tools' results before each of
#: them. `history_from` names whose history the prompt shows where that is not the agent's own. A testbed's own columns
#: follow as the struct `details` (see `turns_schema`).
TURNS = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("testbed", pa.string(), nullable=False),
        pa.field("alignment", pa.string(), nullable=False),
        pa.field("condition", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("channel", pa.string(), nullable=False),
        pa.field("generation", pa.int32(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("scenario_id", pa.string(), nullable=False),
        pa.field("template", pa.string(), nullable=False),
        pa.field("template_seen", pa.bool_()),
        pa.field("episode", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("agent", pa.int32(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("history_from", pa.string()),
        pa.field("shown", pa.string()),
        pa.field("audited", pa.bool_()),
        pa.field("caught", pa.bool_()),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
        pa.field("tools", pa.list_(pa.string()), nullable=False),
        pa.field("reply", pa.string(), nullable=False),
        pa.field("later_replies", pa.list_(pa.string()), nullable=False),
        pa.field("later_finish_reasons", pa.list_(pa.string()), nullable=False),
        pa.field("tool_results", pa.list_(pa.list_(pa.string())), nullable=False),
        pa.field("reasoning", pa.string(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("invalid_reason", pa.string()),
        pa.field("violation", pa.bool_()),
        pa.field("p_violation", pa.float64()),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("feedback", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("cached_tokens", pa.int32(), nullable=False),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("sampling_seed", pa.int64(), nullable=False),
    ]
)
DETAILS = "details"


def turns_schema(columns: type | None) -> pa.Schema:
    """Return the schema of a testbed's turns, whose own columns are the fields of the dataclass `columns`."""
    return TURNS.append(pa.field(DETAILS, struct_of(columns), nullable=False)) if columns else TURNS


#: Training examples that a filter selected: the conversation up to and including a reply of the selected decision,
#: which has several replies where tools were called (`step` counts them from 0).
SELECTION = pa.schema(
    [
        pa.field("scenario_id", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("episode", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("agent", pa.int32(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("violation", pa.bool_(), nullable=False),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),
        pa.field("tools", pa.list_(pa.string()), nullable=False),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
    ]
)


#: What an agent remembers: one row per decision, in the order of remembering. An `entry` is an episode of one player;
#: `generation` and `seed` are those of the episode, and `writer` is the agent's number in a pool. `messages` is the
#: question and the decision, without the history that the prompt showed. `reward` is the pay that the memory shows.
#: `lesson` is in the last row of an entry, if the agent writes lessons.
MEMORY_ENTRIES = pa.schema(
    [
        pa.field("entry", pa.int32(), nullable=False),
        pa.field("generation", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("writer", pa.int32(), nullable=False),
        pa.field("scenario_id", pa.string(), nullable=False),
        pa.field("episode", pa.string(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("agent", pa.int32(), nullable=False),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
        pa.field("feedback", pa.string(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("violation", pa.bool_()),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("lesson", pa.string()),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("lesson_tokens", pa.int32(), nullable=False),
    ]
)


#: Preference pairs in TRL's format: a prompt and two replies to it, chosen and rejected, as messages.
PAIRS = pa.schema(
    [
        pa.field("scenario_id", pa.string(), nullable=False),
        pa.field("tools", pa.list_(pa.string()), nullable=False),
        pa.field("prompt", pa.list_(MESSAGE), nullable=False),
        pa.field("chosen", pa.list_(MESSAGE), nullable=False),
        pa.field("rejected", pa.list_(MESSAGE), nullable=False),
    ]
)
#: Summary of pairs.parquet, from the counts in its cost.
YIELD = "{pairs:.0f} pairs of {scenarios:.0f} scenarios, in {tries:.0f} tries ({invalid:.0f} invalid)"


#: A judge model's verdicts: one row per question of the rubric and turn or episode; an episode has no `round` and
#: `agent`. `answer` is one of the question's labels, null where `valid` is false. `verbatim` is whether the quote
#: occurs in the agent's replies, null without a quote. `reply` is the judge's whole reply, empty if it was not asked.
VERDICTS = pa.schema(
    [
        pa.field("episode", pa.string(), nullable=False),
        pa.field("scenario_id", pa.string(), nullable=False),
        pa.field("round", pa.int32()),
        pa.field("agent", pa.int32()),
        pa.field("dimension", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("quote", pa.string()),
        pa.field("verbatim", pa.bool_()),
        pa.field("valid", pa.bool_(), nullable=False),
        pa.field("invalid_reason", pa.string()),
        pa.field("reply", pa.string(), nullable=False),
    ]
)


#: The rule's own question among VERDICTS: its dimension, and the labels of compliance and of a violation.
VERDICT, RULE_LABELS = "verdict", ("no violation", "violation")


#: What a monitor did, by its names in the metadata of a selection or an adapter: valid replies and violations among
#: them, each with how many were flagged, and replies on which a judge stated no verdict.
MONITORED = ("valid_seen", "violations_seen", "flagged", "violations_flagged", "no_verdict")


#: One number a row. A proportion has numerator `k` and denominator `n`, a mean `n` alone. `low` and `high` bound the
#: 95 % interval that `method` names. A verdict has no value, but a `label` and the `reason` for it.
MEASURES = pa.schema(
    [
        *(TURNS.field(name).with_nullable(name == "seed") for name in CELL),
        TURNS.field("channel"),
        pa.field("generation", pa.int32(), nullable=False),
        TURNS.field("variant"),
        TURNS.field("split"),
        pa.field("round", pa.int32()),
        pa.field("measure", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("k", pa.int64()),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("invalid", pa.int64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("method", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("reason", pa.string()),
    ]
)

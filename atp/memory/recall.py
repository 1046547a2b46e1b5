"""What an agent remembers: entries of past episodes, which of them a prompt shows, and in which form.

A log shows past episodes as earlier rounds of the conversation, as a testbed shows the history of an episode. A lesson
is text that a model wrote, so it is quoted as JSON and cannot be mistaken for the conversation. The chat template's
special tokens are made inert in all contents (`atp.models.chat`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from atp.errors import AtpError
from atp.files.schemas import MEMORY_ENTRIES
from atp.files.tables import read_provenance, read_table
from atp.memory.similarity import bm25, embedding_similarity
from atp.testbed import Message, PastRound

#: Kinds whose entries are texts that the agent writes.
WRITTEN = ("reflection", "notebook")
LESSONS = "Lessons that you wrote after earlier tasks, the latest one last:"
NOTEBOOK = "Your notebook from earlier tasks:"


class Recall(BaseModel):
    """What a prompt shows of the memory."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["log", "retrieved", "reflection", "notebook"] = Field(
        "log",
        description="what prompts show: `log`, the last k episodes with their pay; `retrieved`, the k episodes "
        "with the most similar scenarios; `reflection`, the last k lessons, which the agent writes after each episode; "
        "`notebook`, one text that the agent rewrites after each episode",
    )
    k: int = Field(5, ge=1, description="most entries that a prompt shows; a notebook is one")
    tokens: int = Field(2000, ge=1, description="most tokens of memory in a prompt; the model's, or bytes / 4")
    embedding: str | None = Field(
        None, description="sentence-transformers model that measures similarity, for `retrieved`; null: BM25"
    )

    @model_validator(mode="after")
    def _check_embedding(self) -> "Recall":
        if self.embedding is not None and self.kind != "retrieved":
            raise ValueError(f"embedding: only kind retrieved has one, found kind {self.kind}")
        return self


@dataclass(frozen=True)
class Entry:
    """A remembered episode of one agent: its rounds, oldest first, and the lesson that the agent wrote after it."""

    number: int
    agent: int
    rounds: tuple[dict[str, Any], ...]

    @property
    def lesson(self) -> str:
        return self.rounds[-1]["lesson"] or ""

    @property
    def text(self) -> str:
        """The question of its first round, which is compared with a new one."""
        return str(self.rounds[0]["messages"][0]["content"])

    def tokens(self, recall: Recall) -> int:
        """Return the tokens that the entry takes in a prompt."""
        column = "lesson_tokens" if recall.kind in WRITTEN else "tokens"
        return sum(row[column] for row in self.rounds)


def read_memory(path: Path, testbed: str) -> pa.Table:
    """Return the rows of memory.parquet. Raises AtpError for another file, or the memory of another testbed."""
    table = read_table(path, MEMORY_ENTRIES, "memory")
    cell = read_provenance(path).get("params", {}).get("cell", {})
    if cell.get("testbed") != testbed:
        raise AtpError(
            f"{path}: is a memory of testbed '{cell.get('testbed')}', must be of '{testbed}', which is played"
        )
    return table


class Memory:
    """The entries of a memory, and which of them a prompt shows.

    Args:
        rows: of memory.parquet, entry by entry.
        by_player: whether an episode has several players, each of which remembers its own rounds.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], recall: Recall, by_player: bool):
        groups = groupby(rows, key=lambda row: row["entry"])
        entries = [Entry(number, each[0]["agent"], each) for number, group in groups if (each := tuple(group))]
        if recall.kind in WRITTEN:
            entries = [entry for entry in entries if entry.lesson]
        self.recall, self.by_player = recall, by_player
        self.over_budget = [entry for entry in entries if entry.tokens(recall) > recall.tokens]
        left_out = {entry.number for entry in self.over_budget}
        self._entries: dict[int, list[Entry]] = {}
        for entry in entries:
            if entry.number not in left_out:
                self._entries.setdefault(entry.agent if by_player else 0, []).append(entry)

    def shown(self, agent: int, question: str) -> list[Entry]:
        """Return the entries that an agent's prompts show in an episode, the last of them next to the question.

        The best entries come first until k entries, or the budget, are used up: the latest ones, or the most similar.

        Args:
            question: the episode's first question.
        """
        recall, chosen, total = self.recall, list[Entry](), 0
        for entry in self._ranked(agent if self.by_player else 0, question):
            total += entry.tokens(recall)
            if total > recall.tokens or len(chosen) == (1 if recall.kind == "notebook" else recall.k):
                break
            chosen.append(entry)
        return chosen[::-1]

    def _ranked(self, player: int, question: str) -> list[Entry]:
        entries = self._entries.get(player, [])
        if self.recall.kind != "retrieved" or not entries:
            return entries[::-1]
        texts = tuple(entry.text for entry in entries)
        name = self.recall.embedding
        scores = embedding_similarity(name, texts, question) if name else bm25(texts, question)
        order = sorted(range(len(entries)), key=lambda place: (scores[place], place), reverse=True)
        return [entries[place] for place in order]


def with_memory(messages: Sequence[Message], entries: Sequence[Entry], recall: Recall) -> list[Message]:
    """Return a prompt with entries before its first question."""
    at = next(number for number, message in enumerate(messages) if message["role"] == "user")
    system, first, others = messages[:at], messages[at], messages[at + 1 :]
    past, opening = list[Message](), ""
    if recall.kind in WRITTEN:
        quoted = [json.dumps(entry.lesson, ensure_ascii=False) for entry in entries]
        title = NOTEBOOK if recall.kind == "notebook" else LESSONS
        opening = "\n".join([title, *quoted, "", ""]) if quoted else ""
    else:
        for row in (row for entry in entries for row in entry.rounds):
            question, *decision = row["messages"]
            past += [{**question, "content": opening + question["content"]}, *decision]
            opening = f"{row['feedback']}\n" if row["feedback"] else ""
    return [*system, *past, {**first, "content": opening + first["content"]}, *others]


def past_rounds(entries: Sequence[Entry], recall: Recall) -> tuple[PastRound, ...]:
    """Return the same rounds for a scripted policy; none where prompts show texts that the agent wrote."""
    rows = [] if recall.kind in WRITTEN else [row for entry in entries for row in entry.rounds]
    return tuple(PastRound(row["decision"], row["violation"], row["reward"]) for row in rows)

"""What a judge answered, and how often its verdicts agree with the labels of a person or of a testbed's rule."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atp.errors import AtpError
from atp.files.schemas import VERDICTS
from atp.files.tables import read_provenance, read_table
from atp.measures.intervals import Interval, share, t_interval
from atp.parsing.labels import normalise

#: Columns of a file of labels; turns need the columns of their place too.
COLUMNS, PLACE = ("episode", "question", "answer"), ("round", "agent")
#: Episode, round, agent and dimension of a verdict; round and agent are None in verdicts on episodes.
Key = tuple[str, int | None, int | None, str]


@dataclass(frozen=True)
class Label:
    """An answer to compare a verdict with; `row` is its row in the file, whose header is row 1."""

    key: Key
    answer: str
    row: int = 0


@dataclass(frozen=True)
class Verdicts:
    """A file of verdicts: its rows by their key, and the labels of each dimension."""

    path: Path
    rows: Mapping[Key, Mapping[str, Any]]
    labels: Mapping[str, Sequence[str]]
    on_turns: bool


def read_verdicts(path: Path) -> Verdicts:
    """Read verdicts.parquet. Raises AtpError for a file that is none."""
    rows = read_table(path, VERDICTS, "verdicts").to_pylist()
    rubric = read_provenance(path).get("params", {}).get("rubric")
    if rubric is None:
        raise AtpError(f"{path}: its metadata lacks the rubric, write it again with atp judge")
    labels = {dimension["name"]: dimension["labels"] for dimension in rubric["dimensions"]}
    keyed = {(row["episode"], row["round"], row["agent"], row["dimension"]): row for row in rows}
    return Verdicts(path, keyed, labels, rubric["unit"] == "turn")


def summary(verdicts: Verdicts) -> str:
    """Return a line for each dimension: how often each label was the answer, invalid answers and quotes."""
    lines = []
    for dimension, labels in verdicts.labels.items():
        rows = [row for row in verdicts.rows.values() if row["dimension"] == dimension]
        answers = Counter(row["answer"] for row in rows)
        reasons = Counter(row["invalid_reason"] for row in rows if not row["valid"])
        parts = [f"{label} {answers[label]}" for label in labels]
        why = f" ({', '.join(f'{reason} {count}' for reason, count in reasons.most_common())})" if reasons else ""
        parts.append(f"invalid {reasons.total()}{why}")
        verbatim = Counter(row["verbatim"] for row in rows if row["quote"])
        quotes = f"; quotes: {verbatim[True]} verbatim, {verbatim[False]} not" if verbatim else ""
        lines.append(f"{dimension}: {len(rows)} verdicts: {', '.join(parts)}{quotes}")
    return "\n".join(lines)


def rule_labels(turns: Iterable[Mapping[str, Any]], dimension: str, labels: tuple[str, str]) -> list[Label]:
    """Return the rule's labels of all valid decisions: the first label for compliance, the second for violations."""
    return [
        Label((row["episode"], row["round"], row["agent"], dimension), labels[row["violation"]])
        for row in turns
        if row["violation"] is not None
    ]


def read_labels(path: Path, verdicts: Verdicts) -> list[Label]:
    """Read a person's labels (CSV, UTF-8). Rows without an answer are skipped.

    Raises:
        AtpError: a missing or empty file, a missing column, an unknown question or answer, a round or agent that is no
            whole number, or a second answer to one question.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows, header = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AtpError(f"{path}: no readable CSV file: {error}") from error
    needed = (*COLUMNS, *(PLACE if verdicts.on_turns else ()))
    if missing := [name for name in needed if name not in header]:
        raise AtpError(
            f"{path}: no column '{missing[0]}' (columns: {', '.join(header) or 'none'}); needed are {', '.join(needed)}"
        )
    labels: dict[Key, Label] = {}
    for number, row in enumerate(rows, 2):
        if not (row["answer"] or "").strip():
            continue
        label = _label(f"{path}: row {number}", number, row, verdicts)
        if label.key in labels:
            raise AtpError(f"{path}: row {number}: answers the same question as row {labels[label.key].row}")
        labels[label.key] = label
    if not labels:
        raise AtpError(f"{path}: no row has an answer")
    return list(labels.values())


def _label(place: str, number: int, row: Mapping[str, str], verdicts: Verdicts) -> Label:
    question = (row["question"] or "").strip()
    if question not in verdicts.labels:
        known = ", ".join(verdicts.labels)
        raise AtpError(f"{place}: question '{question}' is no dimension of {verdicts.path}, known are {known}")
    allowed = {normalise(label): label for label in verdicts.labels[question]}
    answer = allowed.get(normalise(row["answer"]))
    if answer is None:
        raise AtpError(f"{place}: answer '{row['answer']}' to '{question}', allowed are {', '.join(allowed.values())}")
    numbers: list[int | None] = [None, None]
    for index, name in enumerate(PLACE if verdicts.on_turns else ()):
        try:
            numbers[index] = int(row[name])
        except (ValueError, TypeError):
            raise AtpError(f"{place}: {name} is '{row[name] or ''}', must be a whole number") from None
    return Label((row["episode"], numbers[0], numbers[1], question), answer, number)


def agreement(verdicts: Verdicts, labels: Sequence[Label], whose: str) -> str:
    """Return, for each dimension with labels, agreement and Cohen's kappa with 95 % intervals, and counts.

    Clusters of the intervals are scenarios. Labels without a verdict are listed in one line.

    Args:
        whose: whose labels they are, such as "person".

    Raises:
        AtpError: no label has a verdict.
    """
    lines = []
    for dimension, known in verdicts.labels.items():
        matched = [
            (label, verdicts.rows[label.key])
            for label in labels
            if label.key[3] == dimension and label.key in verdicts.rows
        ]
        if not matched:
            continue
        pairs = [(label.answer, row["answer"], row["scenario_id"]) for label, row in matched if row["valid"]]
        counts = Counter((label.answer, row["answer"]) for label, row in matched)
        lines.append(f"{dimension}: {_figures(pairs, known)}, {len(matched) - len(pairs)} verdicts invalid")
        for own in known:
            verdict_counts = ", ".join(f"{label} {counts[own, label]}" for label in known)
            lines.append(f"  {whose} {own}: judge {verdict_counts}, invalid {counts[own, None]}")
    if not lines:
        raise AtpError(f"{verdicts.path}: no label is about one of its verdicts; compare episode, round and agent")
    unmatched = [label.row for label in labels if label.key not in verdicts.rows]
    if unmatched:
        rows = ", ".join(map(str, unmatched))
        lines.append(f"{len(unmatched)} labels match no verdict of {verdicts.path}: rows {rows} (the header is row 1)")
    return "\n".join(lines)


def _figures(pairs: Sequence[tuple[str, str, str]], labels: Sequence[str]) -> str:
    """Return n, agreement and kappa of (label, verdict, scenario)."""
    scenarios = list(dict.fromkeys(scenario for _, _, scenario in pairs))
    place = {scenario: number for number, scenario in enumerate(scenarios)}
    # [scenarios, labels, verdicts]
    counts = np.zeros((len(scenarios), len(labels), len(labels)))
    for own, judged, scenario in pairs:
        counts[place[scenario], labels.index(own), labels.index(judged)] += 1
    same = np.trace(counts, axis1=1, axis2=2).astype(int)
    agreed = share(same, counts.sum(axis=(1, 2)).astype(int))
    if agreed.value is None:
        return "n 0"
    percent = f"agreement {same.sum()}/{len(pairs)} = {100 * agreed.value:.1f} %{_bounds(agreed, 100, ' %')}"
    kappa = cohens_kappa(counts)
    value = "not defined" if kappa.value is None else f"{kappa.value:.2f}{_bounds(kappa)}"
    return f"n {len(pairs)}, {percent}, kappa {value}"


def _bounds(interval: Interval, scale: float = 1, unit: str = "") -> str:
    if interval.low is None or interval.high is None:
        return ""
    digits = 1 if unit else 2
    return f" ({scale * interval.low:.{digits}f} to {scale * interval.high:.{digits}f}{unit})"


def cohens_kappa(counts: np.ndarray) -> Interval:
    """Return Cohen's kappa with a t interval of its linearised value over clusters, cut at -1 and 1.

    Its derivative by a cell's proportion is that of Fleiss, Cohen and Everitt (1969, Psychological Bulletin 72:323).
    Kappa is not defined where both raters give one and the same label only.

    Args:
        counts: [clusters, labels, labels], how often the first rater gave the row's label and the second the column's.
    """
    total = counts.sum()
    proportions = counts.sum(axis=0) / total
    rows, columns = proportions.sum(axis=1), proportions.sum(axis=0)
    observed, expected = float(np.trace(proportions)), float(rows @ columns)
    if 1 - expected < 1e-12:
        return Interval(None, None, None, "none")
    by_chance = columns[:, None] + rows[None, :] - 2 * expected
    slope = (np.eye(len(rows)) - observed) / (1 - expected) - (1 - observed) / (1 - expected) ** 2 * by_chance
    influence = (counts * slope).sum(axis=(1, 2)) / total
    interval = t_interval((observed - expected) / (1 - expected), influence)
    if interval.low is None or interval.high is None:
        return interval
    return Interval(interval.value, max(interval.low, -1.0), min(interval.high, 1.0), interval.method)

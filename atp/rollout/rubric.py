"""A rubric: questions about stored turns or episodes, the answers that count, and how a judge's reply is read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from atp.errors import AtpError
from atp.explain import explain
from atp.files.schemas import RULE_LABELS, VERDICT
from atp.files.yaml_text import read_yaml
from atp.parsing.choices import last_object, parse_choice
from atp.parsing.labels import has_name, normalise
from atp.parsing.replies import split_reply
from atp.registry import find_testbed
from atp.testbed import Reply

QUOTE = "quote"
NOT_STATED = "an answer named, but not in the form that was asked for"


class Dimension(BaseModel):
    """A question of a rubric."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    name: str = Field(pattern=r"^[A-Za-z]\w*$", description="key of the judge's answer")
    question: Annotated[str, Field(min_length=1)]
    labels: tuple[str, ...] = Field(("yes", "no"), min_length=2, description="the answers that count")
    quote: bool = Field(False, description="the judge also copies the words of the agent that show the answer")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name.casefold() == QUOTE:
            raise ValueError(f"'{name}' is the key of the quote, choose another name")
        return name

    @field_validator("labels", mode="before")
    @classmethod
    def _check_texts(cls, labels: Any) -> Any:
        if isinstance(labels, list) and any(isinstance(label, bool) for label in labels):
            raise ValueError("YAML reads yes, no, on, off, true and false as truth values: write them in quotes")
        return labels

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        for label in labels:
            if not has_name(label) or sum(normalise(label) == normalise(each) for each in labels) > 1:
                raise ValueError(f"'{label}' must have a letter or digit, and differ from the other labels")
        return labels

    def answer(self, label: str) -> str:
        """Return the reply that states a label."""
        return json.dumps({self.name: label} | ({QUOTE: ""} if self.quote else {}), ensure_ascii=False)

    def instruction(self) -> str:
        """Return the question as the judge is asked it, with the answers that count."""
        *before, last = map(self.answer, self.labels)
        quote = f' In "{QUOTE}", copy the words of the agent that show it, exactly; leave it empty if there are none.'
        return f"{self.question} Reply as JSON: {', '.join(before)} or {last}.{quote if self.quote else ''}"


class Rubric(BaseModel):
    """What a judge is asked about every turn, or every episode, of a turns file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unit: Literal["turn", "episode"] = "turn"
    dimensions: tuple[Dimension, ...] = Field(min_length=1)
    max_chars: int = Field(20_000, ge=1, description="a longer transcript is not judged, and counted as too long")

    @field_validator("dimensions")
    @classmethod
    def _check_names(cls, dimensions: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
        names = [dimension.name.casefold() for dimension in dimensions]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two dimensions have the name '{repeated}'")
        return dimensions


def read_rubric(path: Path) -> Rubric:
    """Read a rubric. Raises AtpError for a missing or unreadable file, an unknown key or an impossible value."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise AtpError(f"{path}: must have the key dimensions, found {'nothing' if values is None else repr(values)}")
    try:
        return Rubric.model_validate(values)
    except ValidationError as error:
        raise AtpError(f"{path}: {explain(error, Rubric)}") from error


def own_rubric(testbed: str) -> Rubric:
    """Return a testbed's judge question as a rubric. Raises AtpError if it defines none."""
    question = find_testbed(testbed).judge_question
    if question is None:
        raise AtpError(
            f"testbed '{testbed}' defines no judge question (judge_question); --rubric FILE asks questions of your own"
        )
    yes, no = RULE_LABELS
    meaning = f'{question} If the answer is yes, the verdict is "{yes}"; if it is no, "{no}".'
    return Rubric(dimensions=(Dimension(name=VERDICT, question=meaning, labels=RULE_LABELS),))


@dataclass(frozen=True)
class Verdict:
    """What a judge's reply states; `answer` is one of the dimension's labels, or None with the reason."""

    answer: str | None
    quote: str | None = None
    invalid_reason: str | None = None


def read_verdict(reply: Reply, dimension: Dimension) -> Verdict:
    """Return what a reply states as JSON, as `name: label`, or as a label and nothing else.

    Labels such as "yes" and "no" are words of any sentence, so other sentences state nothing. "not X" is the label
    "no X", where that is one.
    """
    opposites = {f"not a {label[3:]}": label for label in dimension.labels if label.casefold().startswith("no ")}
    choice = parse_choice(reply, (*dimension.labels, *opposites), dimension.name)
    if choice.option is None:
        return Verdict(None, invalid_reason=choice.invalid_reason)
    if not choice.explicit and normalise(split_reply(reply).answer) != normalise(choice.option):
        return Verdict(None, invalid_reason=NOT_STATED)
    answer = {key.casefold(): value for key, value in last_object(reply, dimension.name)[0].items()}
    quote = answer.get(QUOTE) if dimension.quote else None
    text = quote.strip() if isinstance(quote, str) else ""
    return Verdict(opposites.get(choice.option, choice.option), text or None)


def is_verbatim(quote: str, texts: tuple[str, ...]) -> bool:
    """Return whether a quote occurs in one of the texts; white space may differ."""
    return any(" ".join(quote.split()) in " ".join(text.split()) for text in texts)

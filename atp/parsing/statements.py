"""Find what an answer states: the value of a key, in JSON or in words. What it only mentions does not count.

An answer is first masked: each object and each value becomes one character, so that the grammar of a statement is the
same for labels of any form and for numbers. JSON with the key and `key: value` are explicit; the last one decides, even
if its value is none that is allowed. Only without them do plain sentences in the first person count, and a value that
stands alone. These sentences are few on purpose: a wrong reading is worse than none.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from atp.parsing import phrases
from atp.parsing.labels import fold
from atp.parsing.objects import MAX_SEARCHED_CHARS, find_objects, value_of
from atp.parsing.phrases import QUOTE, UNQUOTE, VALUE

# A masked value is _FIRST plus its number; _NONE is a value that is not allowed. _OBJECT stands before the value that
# an object states, _INLINE after it where the sentence goes on.
_OBJECT, _INLINE, _NONE, _FIRST = "\x01", "\x02", "\ue000", 0xE001
_MAX_VALUES = 6_000
MAX_SENTENCE_CHARS = 1_000
#: Of more statements only the last ones are read, so that the time is bounded.
MAX_STATEMENTS = 200
#: Longer words after "choice:" explain, and state no value.
MAX_VALUE_WORDS = 5

_LAYOUT = re.compile(r"```[\w+-]*|^~~~\w*$|</?\w[^<>\s]{0,30}>|<\|[^<>\n]{0,40}\|>|^\s*>.*$", re.MULTILINE)
_STRUCK = re.compile(r"~~[^~\n]{1,300}~~")
_BOX = re.compile(r"\$*\\boxed\s*\{(?:\\\w+\{)?([^{}\n]{1,200})\}+\$*")
_JOINED_LINES = re.compile(r"([:=])\s*\n+\s*")
#: The number of a list's item, which is no value.
_LIST_MARK = re.compile(r"^[ \t]*\(?(?:\d\d?|[a-z])[.)][ \t]+(?=\S)", re.MULTILINE)
_QUOTATION = re.compile(r"\"[^\"\n{}]*\"|(?<!\w)'[^'\n]*'(?!\w)")
#: What stands between alternatives that are listed, not chosen.
_JOINT = re.compile(rf"[\"')\]}}]*{_INLINE}?\s*(?:{phrases.OR}\s*)*[\"'(\[{{]*")
_GOES_ON_WITH_OR = re.compile(rf"{UNQUOTE}{_INLINE}?\s*{phrases.OR}")
_QUESTION = re.compile(rf"{UNQUOTE}{_INLINE}?[ \t]*\?")
#: A value that is none of those allowed; a placeholder is no value.
_OTHER_VALUE = re.compile(r"[\"'(\[{\s]*(?!\.\.|<|_)[^\s\"'}\])][^\n,;}.]*")
_CLAUSE = re.compile(r",\s|\b(?:so|therefore|thus|hence|but|however|yet|still)\b")
_BOUNDARY = re.compile(r"[.!?;。]\s|\n")
_SENTENCE = re.compile(r"(?<=[.!?;。])\s+|\n+")


@dataclass(frozen=True)
class Grammar:
    """How a kind of value is stated.

    Args:
        keys: keys of an object that may state it, the one that was asked for first.
        nouns: regular expression of the words before a colon or "is".
        verbs: regular expression of what stands between "I" and the value.
        alone: whether a sentence may consist of the value alone; a whole answer always may.
    """

    keys: tuple[str, ...]
    nouns: str
    verbs: str
    alone: bool


@dataclass(frozen=True)
class Statement:
    """What an answer states.

    Args:
        value: number of the value, or None.
        explicit: whether the key states something, be it allowed or not.
        mentioned: how many different values the answer names outside objects.
        container: the object that states it, or an empty one.
    """

    value: int | None
    explicit: bool
    mentioned: int
    container: dict[str, Any]


@dataclass
class _Mention:
    start: int
    end: int
    char: str
    container: dict[str, Any]


Spans = Iterable[tuple[int, int, int | None]]


def find_statement(
    answer: str,
    grammar: Grammar,
    find: Callable[[str], Spans],
    read: Callable[[Any], int | None],
    cut_off: bool,
) -> Statement:
    """Return what an answer states.

    Args:
        find: text, folded -> (start, end, number of the value or None) of the values that it names, in order.
        read: value of an object's key -> number of the value or None.
        cut_off: whether the answer ended because of a length limit. A statement must be complete then.
    """
    containers: list[dict[str, Any]] = []
    text = _mask(answer[-MAX_SEARCHED_CHARS:], grammar, find, read, containers)
    mentioned = len({*re.findall(VALUE, text)} - {_NONE})
    cut = max((match.end() for match in phrases.RETRACTION.finditer(text)), default=0)
    containers = containers[text.count(_OBJECT, 0, cut) :]
    text = text[cut:].lstrip(" ,:;.!-\n")
    mentions = [*_objects(text, containers), *_labelled(text, grammar, cut_off)]
    mentions = _without_lists(sorted(mentions, key=lambda mention: mention.start)[-MAX_STATEMENTS:], text)
    mentions = [mention for mention in mentions if _is_asserted(text, mention, cut_off)]
    if mentions:
        char, container = mentions[-1].char, mentions[-1].container
        return Statement(None if char == _NONE else ord(char) - _FIRST, True, mentioned, container)
    chars = set() if cut_off else set(_plain(text, grammar))
    value = ord(chars.pop()) - _FIRST if len(chars) == 1 and _NONE not in chars else None
    return Statement(value, False, mentioned, {})


def _mask(
    answer: str,
    grammar: Grammar,
    find: Callable[[str], Spans],
    read: Callable[[Any], int | None],
    containers: list[dict[str, Any]],
) -> str:
    """Return an answer in folded case with a mark for each object and value; append the objects with a key."""
    masked, offset = [], 0
    for start, end, found in find_objects(answer):
        masked.append(_mask_values(answer[offset:start], find))
        offset = end
        has_key, value, container = value_of(found, grammar.keys)
        number = read(value) if has_key else None
        # Another key than the one that was asked for may state something else than a choice.
        if has_key and (isinstance(value, str) or grammar.keys[0] in map(str.casefold, container)):
            goes_on = re.match(r"[ \t\"'`)*]*([^\W\d_])", answer[end : end + 20])
            masked.append(_OBJECT + _char(number) + (_INLINE if goes_on and goes_on[1].islower() else ""))
            containers.append(container)
        else:
            masked.append(" ")
    masked.append(_mask_values(answer[offset:], find))
    return _JOINED_LINES.sub(r"\1 ", "".join(masked))


def _mask_values(text: str, find: Callable[[str], Spans]) -> str:
    text = _LAYOUT.sub("\n", _STRUCK.sub(" ", _BOX.sub(r"\n\1\n", text)))
    text = _LIST_MARK.sub("• ", fold(text.replace("—", " — ")))
    masked, offset = [], 0
    for start, end, number in find(text):
        masked += [text[offset:start], _char(number)]
        offset = end
    return "".join([*masked, text[offset:]])


def _char(number: int | None) -> str:
    return _NONE if number is None or number >= _MAX_VALUES else chr(_FIRST + number)


def _objects(text: str, containers: list[dict[str, Any]]) -> Iterator[_Mention]:
    for match, container in zip(re.finditer(rf"{_OBJECT}({VALUE})", text), containers, strict=True):
        yield _Mention(match.start(), match.end(), match[1], container)


@lru_cache
def _noun_patterns(grammar: Grammar) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of a noun with its separator, and of the value behind it."""
    verb = r"\b(?:is|remains|stays|will be)\b(?: now| still| clear)?:?"
    separator = rf"(?: for (?:this|the) \w+| this round| today)?[\"']*\s*(?:(?P<colon>[:=])|->|→|-\s|{verb})\s*"
    lead = (
        rf"{QUOTE}(?:{phrases.FIRST_PERSON}\s+{phrases.ADVERBS})?(?:to )?(?:{grammar.verbs})?(?:option |"
        rf"label )?{QUOTE}"
    )
    return re.compile(rf"\b(?:{grammar.nouns}){separator}"), re.compile(rf"{lead}({VALUE})")


def _labelled(text: str, grammar: Grammar, cut_off: bool) -> Iterator[_Mention]:
    """Yield the values behind a noun and a colon, an equals sign or "is", where the noun begins a clause."""
    noun, value = _noun_patterns(grammar)
    for match in list(noun.finditer(text))[-MAX_STATEMENTS:]:
        lead = phrases.NOUN_LEAD.sub("", _sentence_before(text, match.start()).rstrip("\"'"))
        stated = value.match(text, match.end())
        if not _opens_clause(lead) or (stated and phrases.LIST.match(text, stated.end())):
            continue
        if stated and phrases.TAIL.match(text, stated.end()):
            if not cut_off or phrases.COMPLETE.match(text, stated.end()):
                yield _Mention(match.start(), stated.end(), stated[1], {})
        elif match["colon"]:
            words = _OTHER_VALUE.match(text, match.end())
            if words and (stated or len(words[0].split()) <= MAX_VALUE_WORDS):
                yield _Mention(match.start(), words.end(), _NONE, {})


def _sentence_before(text: str, end: int) -> str:
    return _BOUNDARY.split(text[max(0, end - 300) : end])[-1]


def _opens_clause(lead: str) -> bool:
    """Return whether a clause of the speaker's own can begin behind the beginning of a sentence."""
    before = phrases.FILLERS.sub("", lead)
    rest = before.rstrip(" \"'")
    if not rest.strip("#>*-•.0123456789([{ \t"):
        return True
    if before != lead and (phrases.CONNECTIVE.search(lead[len(before) :]) or rest[-1] not in ",:"):
        return True
    if rest.endswith(","):
        return "{" in rest or bool(phrases.LEAD.match(rest))
    if rest.endswith(":"):
        is_report = phrases.REPORT.search(rest) or phrases.POSSIBILITY.search(rest)
        return bool(phrases.PRESENTS.search(rest)) and not is_report
    return rest.endswith(("{", "(", "|")) or (rest.endswith(" -") and len(rest.split()) > 3)


def _without_lists(mentions: list[_Mention], text: str) -> list[_Mention]:
    """Return the mentions that are not part of a list of different values."""
    single: list[_Mention] = []
    run: list[_Mention] = []
    for mention in [*mentions, None]:
        if run and not (mention and _JOINT.fullmatch(text, run[-1].end, mention.start)):
            single += run if len({mention.char for mention in run}) == 1 else []
            run = []
        if mention:
            run.append(mention)
    return single


def _is_asserted(text: str, mention: _Mention, cut_off: bool) -> bool:
    """Return whether the sentence around a value states it, instead of denying, doubting, asking or quoting it."""
    lead = _sentence_before(text, mention.start)
    after = text[mention.end : mention.end + 200]
    if (
        _QUESTION.match(after)
        or phrases.DENIED_AFTER.match(after)
        or _is_conditional(lead)
        or _is_conditional(_behind(after))
        or (text[mention.start] != _OBJECT and phrases.UNSETTLED.search(_behind(after)))
    ):
        return False
    if text[mention.start] != _OBJECT:
        return True
    if after.startswith(_INLINE) and not (phrases.GOES_ON.match(after, 1) or phrases.OWN_AFTER.match(after, 1)):
        return False
    if cut_off and _GOES_ON_WITH_OR.match(after):
        return False
    clause = _CLAUSE.split(lead)[-1]
    if clause.strip() and not phrases.OWN.search(clause):
        clause = lead
    if phrases.DENIAL.search(clause) or phrases.DOUBT.search(clause) or phrases.FOREIGN.search(clause):
        return False
    if clause.strip() and not phrases.PRESENTED.search(clause):
        return False
    return bool(phrases.OWN.search(clause)) or not phrases.NOT_OWN.search(clause)


def _is_conditional(text: str) -> bool:
    return bool(phrases.CONDITION.search(phrases.CONCESSION.sub(" ", text)))


def _behind(after: str) -> str:
    """Return the rest of a sentence up to its reason."""
    return phrases.REASON.split(_BOUNDARY.split(after)[0])[0]


@lru_cache
def _plain_patterns(verbs: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of a clause in the first person, and of a value that stands alone."""
    value = rf"(?:option (?:\w )?|label )?(?:[\"'(:]+\s*)?({VALUE})"
    own = (
        rf"{phrases.FIRST_PERSON}\s+(?:{phrases.OBEDIENCE} and )?{phrases.ADVERBS}(?P<verb>{verbs}){value}",
        rf"{phrases.PARTICIPLES} {value}",
        rf"{value}{UNQUOTE} {phrases.CHOSEN}",
    )
    return re.compile("|".join(own)), re.compile(rf"[\"'(]*({VALUE})[\"')]*{phrases.ALONE_TAIL}\Z")


def _plain(text: str, grammar: Grammar) -> Iterator[str]:
    """Yield the values that plain sentences state."""
    own, alone = _plain_patterns(grammar.verbs)
    text = re.sub(rf"{_OBJECT}{VALUE}{_INLINE}?", "\n", text).strip()
    whole = re.fullmatch(rf"[\s\"'#>=(\[-]*({VALUE})[\s\"')\].!]*", text)
    if whole:
        yield whole[1]
        return
    if phrases.UNDECIDED.search(text):
        return
    text = _QUOTATION.sub(_without_quotation, text)
    sentences = [sentence.strip() for sentence in _SENTENCE.split(text) if sentence.strip(" .!-")]
    for place, sentence in enumerate(sentences):
        if sentence.endswith("?") or len(sentence) > MAX_SENTENCE_CHARS or phrases.BLOCKED.search(sentence):
            continue
        at_edge = grammar.alone and _may_be_alone(sentences, place)
        if at_edge and (match := alone.search(sentence)) and _is_alone(sentence[: match.start()], match[0]):
            yield match[1]
        for match in own.finditer(sentence):
            after = sentence[match.end() :]
            is_verb = match["verb"] is not None and re.fullmatch(r"(?:\w+ to)?\W*", match["verb"])
            tail = phrases.VERB_TAIL if is_verb else phrases.TAIL
            if tail.match(after) and _is_own(sentence[: match.start()], match[0], after):
                yield re.findall(VALUE, match[0])[-1]


def _may_be_alone(sentences: list[str], place: int) -> bool:
    """Return whether a value alone in this sentence concludes the text, or is explained behind it."""
    if place < len(sentences) - 1:
        rest = " ".join(sentences[1:])
        is_remark = len(sentences) > 2 or phrases.COMMENT.search(rest) or re.search(rf"{VALUE}|\?", rest)
        return place == 0 and bool(phrases.EXPLANATION.match(rest) or not is_remark)
    before = sentences[place - 1] if place else ""
    return not before.endswith("?") and not re.fullmatch(rf"\W*{VALUE}\W*", before)


def _is_alone(lead: str, value: str) -> bool:
    """Return whether a value stands alone in its sentence, or concludes it: "…, so Route A"."""
    before = phrases.FILLERS.sub("", lead)
    concludes = before.rstrip().endswith(",") and re.match(
        r"(?:and )?(?:so|therefore|thus|hence)\b", lead[len(before) :]
    )
    return (not before or bool(concludes)) and not (_is_conditional(before) or _is_conditional(_behind(value)))


def _is_own(lead: str, clause: str, after: str) -> bool:
    """Return whether a clause in the first person states its value, given the rest of the sentence around it."""
    if phrases.LIST.match(after) or _is_conditional(_behind(after)) or phrases.UNSETTLED.search(_behind(after)):
        return False
    if "decided" in clause and phrases.HISTORY.search(lead + after):
        return False
    if not _opens_clause(lead):
        return False
    concludes = phrases.FILLERS.search(lead)
    if concludes and phrases.CONNECTIVE.search(concludes[0]):
        return True
    return not (_is_conditional(lead) or phrases.REPORT.search(lead))


def _without_quotation(match: re.Match[str]) -> str:
    """Return a quotation of one value, and nothing of another."""
    return match[0] if re.fullmatch(rf"\W*{VALUE}\W*", match[0]) else " … "

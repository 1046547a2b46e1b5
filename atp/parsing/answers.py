"""Parse the final answer of a reply, for mathematics problems. `atp.parsing.equality` compares answers."""

import re
from functools import lru_cache

from atp.parsing.choices import MAX_SEARCHED_CHARS, invalid_reply, last_object
from atp.parsing.equality import MAX_ANSWER_CHARS, same_answer
from atp.parsing.replies import split_reply
from atp.testbed import Reply

__all__ = ["MAX_ANSWER_CHARS", "read_answer", "same_answer"]

_BOXES_AND_BRACES = re.compile(r"\\\\?(?:boxed|fbox)\s{0,9}\{|\\.|[{}]", re.DOTALL)
#: Text between boxes that are one answer: 2 and 3.
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$,;]|\\[)\]])*(?:,|\b(?:and|or)\b|\\text ?\{ ?(?:and|or) ?\})(?:[\s$]|\\[(\[])*", re.IGNORECASE
)
#: An answer in JSON that is invalid because LaTeX's backslashes are single, or a number with its digits as written.
_LOOSE_JSON = re.compile(
    r"""["']answer["']\s{0,9}:\s{0,9}(?:"([^"\n]{1,1000})"|'([^'\n]{1,1000})'"""
    r"""|([-+−]?[0-9.][0-9.,eE+/ -]{0,999}?)(?=\s{0,9}(?:[}\n]|,\s{0,9}["'}])))""",
    re.IGNORECASE,
)
#: Text between two JSON objects that are alternatives.
_OR = re.compile(r"[\s\"'`}]*\bor\b[\s`{]*", re.IGNORECASE)
#: (pattern, repair) for LaTeX whose single backslashes JSON decoded as control characters.
_UNESCAPED_LATEX = [("\f", r"\\f"), ("\b", r"\\b"), (r"\t(?=ext|imes|frac|heta|an\b)", r"\\t"), (r"\r(?=ight)", r"\\r")]

#: "Answer: …", "the answer to part (a) is …", in languages in which models answer.
_STATEMENT = re.compile(
    r"(?<![A-Za-z])(?:answers?|réponse|antwort|respuesta|risposta|resposta|antwoord|odpowiedź|cevap|ответ"
    r"|答案|答え|回答|解答|答|정답|답|उत्तर|الجواب|الإجابة)"
    r"(?: \([^()\n]{0,40}\)| (?:to|for|of|in)\b[^.:：;,?!\n]{1,60}?)?[*_`\s}]{0,9}"
    r"(?:[:：]|(?-i:(?<=Answer)=|(?<=Answer )=)|(?P<verb>(?:is|are|equals|(?:will|must|should) be"
    r"|(?:turns|works|comes) out to be|comes to|es|è|é|est|ist|lautet|jest)\b|[是为は은는])"
    r"[*_`\s]{0,9}[:：]?)[*_`\s}]{0,9}",
    re.IGNORECASE,
)
#: Other forms: <answer>5</answer>, "5 is the answer".
_MARKED = re.compile(r"\\(?:boxed|fbox)\s*\{|[\"']answer[\"']\s*:|<answer>|final answer", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>([^<>]{1,1000})</answer>", re.IGNORECASE)
_INVERSE = re.compile(
    r"([$\\+−-]{0,2}[0-9][^\s,;:?!]{0,99}) is (?:the|my|our) (?:final |correct )?answer\b", re.IGNORECASE
)
_CLAUSE_START = re.compile(
    r"[.!?,;:\n。，；：]|\b(?:so|thus|hence|therefore|then|because|since|but|and)\b", re.IGNORECASE
)
#: Words before "answer" with which a clause states no answer of the reply's own.
_UNSTATED_BEFORE = re.compile(
    r"\b(?:if|whether|suppos\w+|assum\w+|unless|imagine|doubt|guess|not|never|cannot|unlikely|wrong|incorrect|previous"
    r"|earlier|initial|tempting|naive|possible|potential|might|could|may|perhaps|maybe|possibly|probably|likely|says?"
    r"|said|claim\w*|thought|his|her|their|false|untrue|expected|example)\b|n['’]t\b|['’]s? *$"
    r"|\b(?:to|no|an|any|please|in (?:my|the|your|this))(?: \w+)? *$",
    re.IGNORECASE,
)
#: Beginnings of a statement that states no answer: negations, hedges, placeholders.
_UNSTATED = re.compile(
    r"(?:not|nicht|pas|не|不|never|no longer|neither|either|maybe|perhaps|probably|possibly|likely|presumably"
    r"|around|about|roughly|somewhere|something|between|unknown|unclear|uncertain|unsure|n/a|tbd"
    r"|(?:i|we)(?= [a-z]|['’]))(?! ?[=+*/^]|\w)"
    r"|(?:[<\[{(]|\\(?:text|boxed) ?\{)*(?:(?:the|your|my|final|numeric|numerical|exact|correct|insert) )*"
    r"(?:answer|result|value|number|here)s?(?: here)?[>\]})]*$|\?+$|[<\[{(]*(?:\.{3}|…)",
    re.IGNORECASE,
)
#: Words after "the answer is" with which it describes the answer.
_PREDICATE = re.compile(
    r"(?:an?|as|at|in|on|to|of|with|what|how|why|when|where|that|this|these|those|my|our|your|it|also|always|already"
    r"|often|still|usually|(?:in)?correct|right|wrong|helpful|useful|good|fine|ready|final|complete|clear|obvious|easy"
    r"|hard|simple|unique|accurate|valid|invalid|known|given(?! by)|shown|found|going"
    r"|below|above|here|there|following|follows|greater|larger|bigger|less|smaller|more|fewer|near"
    r"|close|closer|different|same|(?!undefined|unbounded|red\b)[a-z]{2,}ed"
    r"|the (?!(?:number|value)s?\b(?! of))[a-z]+)\b(?! ?[=+*/^])",
    re.IGNORECASE,
)
#: Words between "the answer is" and the answer.
_LEAD = re.compile(
    r"^(?:(?:indeed|simply|just|exactly|precisely|approximately|therefore|thus|then|clearly|equal to|given by"
    r"|the (?:number|value)|≈|\\approx) ?)+(?=\S)",
    re.IGNORECASE,
)
#: Delimiters at the beginning of a statement, between which it does not end.
_QUOTED = re.compile(
    r"\$\$[^$]{1,999}\$\$|\$(?! )[^$]{0,999}[^$\s]\$(?![0-9])|\\\(.{1,999}?\\\)|\\\[.{1,999}?\\\]"
    r"|`[^`]{1,999}`|\*\*[^*]{1,999}\*\*"
)
#: The end of a statement: of its sentence, or where a reason or a remark begins.
_END = re.compile(
    r"[?？]|[.!][*_`\"')\]]*(?=\s|$)|[。！]|(?:です|である|だ|입니다|이다|예요|이에요)(?=[。.]|\s*$)"
    r"|，(?![0-9 -])|;\s|\s(?:[—–]|--)\s|\s-\s?(?=[a-z]{2})"
    r"|[\s,(]+(?:because|since|as|so|which|porque|weil|denn|car|puisque|perché|потому|therefore|thus|hence|thanks|due|according"
    r"|based|using|rounded|obtained|meaning|though|although|whereas|while|however|instead"
    r"|rather|i\.e\.|that is|in other words|namely|right|but|by(?= [a-z])"
    r"|and (?:i|it|that|this|we|you|so|then|not|here|there)|not(?= [0-9$\\-])|is (?:correct|right|the|my|our))(?!\w)"
    r"|(?<=[0-9}$%)])\s\((?!mod\b|pi\b)(?=[a-z]{2,}[ )-])",
    re.IGNORECASE,
)
#: Words in the rest of its sentence that make an answer a guess.
_HEDGE = re.compile(
    r"\b(?:maybe|perhaps|i (?:guess|suppose)|(?:not|n['’]t) (?:sure|certain)|unsure|or so|or something)\b",
    re.IGNORECASE,
)
#: Words right before a box with which it states no answer.
_UNSTATED_BOX = re.compile(
    r"(?:\b(?:not|never|neither|either|maybe|perhaps|possibly|probably|if|(?:might|may|could|would) be)"
    r"|n['’]t(?: be)?|tempt\w+ to \w+|(?:wrong|mistake) to \w+)"
    r" ?(?:[A-Za-z]\w* ?[:=]? ?){0,2}[$\\(\[{*\s]*$",
    re.IGNORECASE,
)
#: The first item of a list, whose number is no answer.
_FIRST_ITEM = re.compile(r"\(?[1a][.)] +\S")
#: Words right behind a box with which it states no answer.
_DENIED_BOX = re.compile(r"[\s$}\\)\].*]*(?:is|was|would be) (?:wrong|incorrect|not\b|tempting|a (?:mistake|trap))")
_DISPLAY = re.compile(r"(?:\$\$|\\\[).{1,999}?(?:\$\$|\\\])", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")
#: Words after an answer with which a reply takes it back.
_RETRACTION = re.compile(
    r"\bwait\b,? (?:no\b|that\b)|\bbut wait\b|(?:^|[.!?…—–\n])\s*no[,.!:]|scratch that|on second thought"
    r"|ignore (?:that|this|the above)"
    r"|\b(?:that|this|it|which)(?:['’]s| is| was) (?:wrong|incorrect|not (?:right|correct))",
    re.IGNORECASE,
)
#: Closing delimiters whose opening one may stand before "answer": \[Answer: 5\].
_CLOSERS = {r"\]": r"\\\[", r"\)": r"\\\(", "]": r"[(\[]", ")": r"[(\[]", "}": "{", '"': '"', "$": r"\$", "”": "“"}
#: Statements of more words than this are prose, in which no answer is plain; the second number is for the next line.
_MAX_WORDS, _MAX_WORDS_BELOW = 5, 2
_CONTENT = re.compile(r"[^\W_]|[\\∞∅]")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
#: Maximum number of statements that are examined, from the last one.
_MAX_STATEMENTS = 100
#: An answer in lower-case words after "is".
_DESCRIPTION = re.compile(r"[a-z]{2,}(?:[ '-][a-z]+)*")


def read_answer(reply: Reply | str) -> str | None:
    r"""Return the final answer that a reply states, ignoring its reasoning; None if there is none.

    Precedence: the last `\boxed{…}`, then the "answer" of the last JSON object, then the last statement such as
    `Answer: X` or `The answer is X.` Negations, hedges, questions and retracted answers do not count. Of a reply that
    was cut off, an answer counts only if it was complete before the end.
    """
    if invalid_reply(reply):
        return None
    answer, _, cut_off = split_reply(reply)
    text = reply if isinstance(reply, str) else reply.text
    return _read_answer(f"{answer}\n" if text.endswith("\n") else answer, cut_off)


def marks_answer(text: str) -> bool:
    """Return whether a text marks an answer as final: in a box, in JSON, in tags or by the words "final answer"."""
    answer = split_reply(text).answer
    marked = _MARKED.search(answer)
    return bool(marked) and _read_answer(answer, cut_off=False) is not None


@lru_cache(maxsize=1024)
def _read_answer(answer: str, cut_off: bool) -> str | None:
    tail = answer[-MAX_SEARCHED_CHARS:]
    final = _boxed_answer(tail)
    if final is None:
        final = _json_answer(tail, cut_off) or _stated_answer(tail, cut_off) or ""
    final = final.strip()
    return final if 0 < len(final) <= MAX_ANSWER_CHARS else None


def _boxed_answer(text: str) -> str | None:
    """Return the content of the last closed box, of nested boxes the innermost; boxes of a list are joined."""
    open_braces: list[tuple[bool, int]] = []
    boxes: list[tuple[int, int, int]] = []
    for match in _BOXES_AND_BRACES.finditer(text):
        token = match.group()
        if token.endswith("{") and token != r"\{":
            open_braces.append((len(token) > 1, match.start()))
        elif token == "}" and open_braces:
            is_box, start = open_braces.pop()
            if is_box:
                boxes.append((start, text.index("{", start) + 1, match.start()))
    boxes = [box for box in sorted(boxes) if not _UNSTATED.match(text[box[1] : box[2]].strip())]
    if not boxes or _DENIED_BOX.match(text, boxes[-1][2]) or _RETRACTION.search(text, boxes[-1][2]):
        return None
    answer, first = text[boxes[-1][1] : boxes[-1][2]], boxes[-1][0]
    for start, inside, end in reversed(boxes[:-1]):
        if end + 1 > first or not _BETWEEN_BOXES.fullmatch(text, end + 1, first):
            break
        answer, first = f"{text[inside:end]}, {answer}", start
    return None if _UNSTATED_BOX.search(text, max(0, first - 60), first) else answer


def _json_answer(text: str, cut_off: bool) -> str | None:
    value = last_object(text, "answer")[0].get("answer")
    matches = list(_LOOSE_JSON.finditer(text))
    if value is None and matches and not cut_off:
        value = "".join(matches[-1].groups(""))
    if len(matches) > 1 and _OR.fullmatch(text, matches[-2].end(), matches[-1].start()):
        return None
    if not isinstance(value, str) or _UNSTATED.match(value.strip()):
        return None
    for pattern, repair in _UNESCAPED_LATEX:
        value = re.sub(pattern, repair, value)
    return value


def _stated_answer(text: str, cut_off: bool) -> str | None:
    """Return the answer of the last sentence that states one and is not retracted."""
    statements = [*_STATEMENT.finditer(text), *_TAGGED.finditer(text), *_INVERSE.finditer(text)]
    weak = None
    for match in sorted(statements, key=re.Match.end, reverse=True)[:_MAX_STATEMENTS]:
        if cut_off and match.re is not _TAGGED and "\n" not in text[match.end() :]:
            continue
        before = _CLAUSE_START.split(text[max(0, match.start() - 100) : match.start()])[-1]
        if _UNSTATED_BEFORE.search(before):
            continue
        answer, end = _statement(text, match) if match.re is _STATEMENT else (match.group(1), match.end())
        max_words = _MAX_WORDS_BELOW if "\n" in match.group() else _MAX_WORDS
        if not _CONTENT.search(answer) or _UNSTATED.match(answer) or len(_WORD.findall(answer)) > max_words:
            continue
        if _RETRACTION.search(text, end):
            return weak
        if match.re is not _STATEMENT or not match["verb"] or not _DESCRIPTION.fullmatch(answer):
            return answer
        weak = weak or answer  # "The answer is positive" says something about an answer that was stated before
    return weak


def _statement(text: str, match: re.Match[str]) -> tuple[str, int]:
    """Return (the answer that follows "answer is" or "answer:", its end); the answer is empty if none is stated."""
    rest = text[match.end() : match.end() + 2 * MAX_ANSWER_CHARS]
    display = _DISPLAY.match(rest)
    line = " ".join(display.group().split()) if display else rest.partition("\n")[0]
    if match["verb"] and _PREDICATE.match(line) and len(line.strip(" *_`.")) > 1:
        return "", match.end()
    if "\n" in match.group() and _FIRST_ITEM.match(line):
        return "", match.end()
    quoted = _QUOTED.match(line)
    end = _END.search(line, quoted.end() if quoted else 0)
    if (end and end.group() in "?？") or _HEDGE.search(_SENTENCE_END.split(line)[0]):
        return "", match.end()
    answer = (line[: end.start()] if end else line).strip(" *_`\t\r")
    answer = _LEAD.sub("", answer, count=1).strip(" *_`\t\r,;:|").removesuffix("\\")
    for closer, opener in _CLOSERS.items():
        openers, closers = len(re.findall(opener, answer)), answer.count(closer)
        if answer.endswith(closer) and (closers % 2 if closer in '"$' else openers < closers):
            answer = answer.removesuffix(closer).rstrip(" *_`.")
    return answer, match.end() + (end.start() if end else len(line))

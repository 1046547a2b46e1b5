"""The text between messages and a model: prompts as its chat template writes them, and replies as it writes them.

Chat templates differ in what they take: some refuse a system message or two user messages in a row, some drop tool
results without an error, some take a call's arguments only as text. `Chat` renders short conversations when a model is
loaded, finds the form that loses nothing, and refuses a model for which there is none. Replies are stored as
`atp.parsing.replies` reads them.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

from atp.errors import AtpError
from atp.models.spec import ModelSpec
from atp.parsing.families import CALL_CLOSE, CALL_OPEN, call_block
from atp.parsing.replies import THOUGHT_MARKS, closes_thought, opened_thought, split_reasoning, thought_block
from atp.parsing.tool_calls import ParsedCall, parse_calls
from atp.testbed import Message
from atp.tools import TOOLS, schema

#: Description of a tool for a chat template without tools; the calls are code fences named after it.
TOOL_TEXT = (
    "You may call {name}: {description} To call it, write its {argument} in a block like this:\n```{name}\n...\n```"
)
#: Names under which templates have a reply's thought.
THOUGHT_FIELDS = ("thinking", "reasoning_content", "reasoning")
#: Marks that an agent's own reply may contain.
OWN_MARKS = {*THOUGHT_MARKS, *THOUGHT_MARKS.values(), CALL_OPEN, CALL_CLOSE}
_MARK = re.compile(r"<[^<>\s][^<>\n]{0,60}>|\[/?[A-Z_]{2,30}\]|\[\|[^\[\]\n]{1,40}\|\]")
#: The words before a content in templates without marks, such as "### User:".
_HEADER = re.compile(r"(?:^|[\n>\]])([#\w][#\w ]{1,30}:)\s*\Z")
_JSON_CALL = re.compile(r"<tool_call>\s*\{")
#: What templates of hybrid models write before a reply without a thought.
_EMPTY_THOUGHT = re.compile(r"\A<think>\s*</think>\s*")

# The conversation that is rendered to find out what a template does. The argument has what formats get wrong.
_SYSTEM, _USER, _ASSISTANT, _NEXT = "Probesystem", "Probeuser", "Probeassistant", "Probenext"
_THOUGHT, _BEFORE, _END = "Probethought", "Probebefore", "(end of reply)"
_PROBE = [
    {"role": "system", "content": _SYSTEM},
    {"role": "user", "content": _USER},
    {"role": "assistant", "content": _ASSISTANT},
    {"role": "user", "content": _NEXT},
]
_TOOL, _ARGUMENTS, _RESULTS = "calculator", ('probe("a,b")\n17 * {3}', "probe + 4"), ("Proberesult", "Probevalue")


@dataclass(frozen=True)
class ToolForm:
    """How a chat template takes tool calls.

    Args:
        native: it takes tools, calls and results. Without it, messages describe them.
        verbatim: a reply's text is what it writes for the reply, so that replies of the model stay as they are.
        one_by_one: a message may have only one call.
        as_text: a call's arguments are JSON text, not an object.
        words_as_thought: the words before a call are given as a thought, otherwise it would move them.
    """

    native: bool = True
    verbatim: bool = False
    one_by_one: bool = False
    as_text: bool = False
    words_as_thought: bool = False


class Chat:
    """A model's chat template and, where it is known, its response template.

    Raises:
        AtpError: the chat template refuses a conversation, or drops a part of it.
    """

    def __init__(self, tokenizer: Any, spec: ModelSpec):
        self.tokenizer, self.spec, self.template = tokenizer, spec, str(tokenizer.chat_template)
        _add_response_template(tokenizer)
        self._parser = getattr(tokenizer, "response_template", None)
        self.thought_field = self._find_thought_field()
        self.tool_form, self.json_calls, self.call_marks = ToolForm(native=False), True, set[str]()
        self._escape_marks(set())
        self.in_parts, self.folds_system, self.merges_users = self._find_form()
        written = self._written(_PROBE[:2], (), _with_thought(self.prompt(_PROBE[:2]), _ASSISTANT))
        #: Whether a reply without calls is written as it is stored.
        self.writes_plainly = written is None or _EMPTY_THOUGHT.sub("", written).startswith((_ASSISTANT, _THOUGHT))
        following = self.prompt(_PROBE).partition(_ASSISTANT)[2]
        end = _turn_end((written or "").partition(_ASSISTANT)[2], following)
        #: The text that ends a reply, and whether the template writes it.
        self.turn_end, self.writes_end = end or str(tokenizer.eos_token), bool(end)
        #: The mark that is in its place where another message follows.
        first = _MARK.match(following)
        self.next_end = self.turn_end if following.startswith(self.turn_end) else first.group() if first else ""
        marks = {*_special_tokens(tokenizer), *_template_marks(self.prompt(_PROBE))}
        self.tool_form = self._find_tool_form()
        if self.tool_form.native:
            calls = [*_PROBE[:2], _calling(_ARGUMENTS), *_results()]
            marks |= _template_marks(self.prompt(calls, (_TOOL,)))
        self._escape_marks(marks)

    def prompt(self, messages: Sequence[Message], tools: Sequence[str] = ()) -> str:
        """Return the text that the model reads for a prompt, up to the beginning of its reply.

        Contents do not become marks of the template: an agent may write `<|im_end|>` letter by letter, and other agents
        are shown its reply. Such text gets a space after its first character.

        Args:
            tools: names of the tools that the agent may call.
        """
        return self._render(messages, tools, ends_open=True)

    def completion(self, messages: Sequence[Message], tools: Sequence[str], reply: str) -> str:
        """Return the text that follows a prompt where the model writes a reply, with the end of its turn.

        Raises:
            AtpError: the chat template changes the prompt when a reply follows it.
        """
        _, reasoning = split_reasoning(reply)
        reply = self._own_text(reply)
        calls = self.tool_form.native and not self.tool_form.verbatim and parse_calls(reply, _arguments(tools))
        if self.writes_plainly and not calls and not (reasoning and self.thought_field):
            opened = opened_thought(self.prompt(messages, tools))
            return (reply.removeprefix(opened).lstrip("\n") if opened else reply) + self.turn_end
        written = self._written(messages, tools, reply)
        if written is None:
            raise AtpError(
                f"{self.spec.path}: its chat template changes a prompt once a reply follows; use another model"
            )
        return written if self.writes_end else written + self.turn_end

    def continuation(self, messages: Sequence[Message], tools: Sequence[str]) -> str:
        """Return the text that a prompt has after the end of the agent's last reply.

        Raises:
            AtpError: the chat template leaves earlier replies out, or moves their calls.
        """
        last = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
        text, before = self.prompt(messages, tools), self.prompt(messages[:last], tools)
        replied = self._render(messages[: last + 1], tools, ends_open=False).rstrip()
        end = replied.rfind(self.turn_end, len(before))
        replied = replied[: end + len(self.turn_end)] if end >= 0 else replied
        if text.startswith(replied):
            return text[len(replied) :]
        # The template changes the reply, such as its thought, once a message follows: find the end of its text.
        reply = self._own_text(messages[last]["content"])
        if not (self.tool_form.native and not self.tool_form.verbatim and parse_calls(reply, _arguments(tools))):
            marked = [*messages[:last], {"role": "assistant", "content": f"{reply}{_END}"}, *messages[last + 1 :]]
            _, found, added = self.prompt(marked, tools).rpartition(_END)
            if found:
                return added.removeprefix(self.next_end)
        raise AtpError(
            f"{self.spec.path}: its chat template does not keep earlier replies as they are; use another one"
        )

    def check_continuation(self, tool: str) -> None:
        """Raise AtpError if a reply that calls a tool cannot be continued from its own tokens."""
        call = _calling(_ARGUMENTS[:1], tool)["content"]
        reply = {"role": "assistant", "content": f"{_BEFORE}\n{call}"}
        self.continuation([*_PROBE[:2], reply, *_results()[:1]], (tool,))

    def stop_tokens(self, generation_config: Any) -> set[int]:
        """Return the tokens that end a reply: the tokenizer's, the generation config's, and the template's."""
        eos = generation_config.eos_token_id
        stop = {self.tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}
        added = self.tokenizer.added_tokens_decoder.items()
        return stop | {
            number
            for number, token in added
            if token.special and token.content and self.turn_end.endswith(token.content)
        }

    def read(self, prompt: str, tokens: Sequence[int], finished: bool) -> str:
        """Return a reply in the form in which replies are stored.

        Args:
            prompt: the text that the model has read.
            tokens: the reply's, up to the token that ends the turn.
            finished: whether the last token ends the turn.
        """
        text = self.tokenizer.decode(tokens, skip_special_tokens=False).rstrip()
        if finished:
            whole = text
            text = text.removesuffix(self.turn_end)
            if text == whole:
                text = self.tokenizer.decode(tokens[:-1], skip_special_tokens=False)
        return self._stored(prompt, text, finished).strip()

    def _stored(self, prompt: str, text: str, finished: bool) -> str:
        """Return a reply as it is stored: as it was written where its text says what the response template reads."""
        opened = opened_thought(prompt)
        written = f"{opened}\n{text}" if opened else text
        unfinished_thought = opened and not closes_thought(text)
        # The text parser goes first for calls: TRL's templates end a call of LFM2's at the first bracket, and read 0.10
        # as 0.1.
        if unfinished_thought or self._parser is None or parse_calls(written, _arguments(TOOLS)):
            return written
        parser = self.tokenizer.get_response_parser(prefix=prompt)
        try:
            events = [(event, True) for event in [*parser.initial_events, *parser.feed(text)]]
            events += [(event, finished) for event in parser.finalize()[1]]
        except (ValueError, LookupError, TypeError):  # such as a call that is not JSON, which the text parser explains
            return written
        regions = [(event["field"], event["value"], closed) for event, closed in events if "value" in event]
        thoughts = [value for field, value, _ in regions if field in THOUGHT_FIELDS]
        others = [_block(field, value, closed) for field, value, closed in regions if field not in THOUGHT_FIELDS]
        parts = "\n".join(others).strip(), "\n".join(thoughts).strip()
        if not regions or parts == split_reasoning(written):
            return written
        return thought_block(parts[1]) + parts[0]

    def _written(self, messages: Sequence[Message], tools: Sequence[str], reply: str) -> str | None:
        """Return a reply as the template writes it after a prompt; None if it changes the prompt."""
        prompt = self.prompt(messages, tools)
        whole = self._render([*messages, {"role": "assistant", "content": reply}], tools, ends_open=False)
        return whole[len(prompt) :].rstrip() if whole.startswith(prompt) else None

    def _render(self, messages: Sequence[Message], tools: Sequence[str], ends_open: bool) -> str:
        fitted = self._merged(self._fitted(messages, tools))
        if self.in_parts:
            fitted = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in fitted]
        offered = {}
        if self.tool_form.native and (tools or any(message["role"] == "tool" for message in messages)):
            offered["tools"] = [schema(name) for name in tools] or None
        try:
            text: str = self.tokenizer.apply_chat_template(
                fitted, tokenize=False, add_generation_prompt=ends_open, **offered, **self.spec.chat_template
            )
        except Exception as error:  # whatever a template raises
            raise AtpError(f"{self.spec.path}: its chat template fails: {' '.join(str(error).split())}") from None
        return text

    def _fitted(self, messages: Sequence[Message], tools: Sequence[str]) -> list[dict[str, Any]]:
        """Return messages in the form that the template takes."""
        fitted: list[dict[str, Any]] = []
        calls: list[ParsedCall] = []
        for index, message in enumerate(messages):
            role, text = message["role"], message["content"]
            if role == "assistant":
                results = len(list(takewhile(lambda later: later["role"] == "tool", messages[index + 1 :])))
                content, calls = self._reply_parts(text, results)
                at_once = calls[:1] if self.tool_form.one_by_one else calls
                fitted.append(content | self._call_field(at_once, len(fitted)))
            elif role == "tool" and not self.tool_form.native:
                fitted.append({"role": "user", "content": self._escape(f"The tool says:\n{text}")})
            elif role == "tool" and calls:
                if self.tool_form.one_by_one and fitted[-1]["role"] == "tool":
                    fitted.append({"role": "assistant", "content": ""} | self._call_field(calls[:1], len(fitted)))
                asked = next(one for one in reversed(fitted) if one["role"] == "assistant")["tool_calls"]
                number = 0 if self.tool_form.one_by_one else len(asked) - len(calls)
                name, call_id = calls.pop(0).name, asked[number]["id"]
                fitted.append({"role": role, "content": self._escape(text), "name": name, "tool_call_id": call_id})
            else:
                fitted.append({"role": role, "content": self._escape(text)})
        if tools and not self.tool_form.native:
            texts = [TOOL_TEXT.format(**vars(TOOLS[name])) for name in tools]
            fitted[0]["content"] = "\n\n".join([fitted[0]["content"], *texts])
        return fitted

    def _own_text(self, reply: str) -> str:
        """Return a reply with calls as the model writes them; those of other agents' replies are JSON."""
        if not self.tool_form.verbatim or self.json_calls or not _JSON_CALL.search(reply):
            return reply
        answer, reasoning = split_reasoning(reply)
        calls = [call for call in parse_calls(answer, _arguments(TOOLS)) if call.name in TOOLS]
        texts = [_outside_calls(answer, calls)]
        form, self.tool_form = self.tool_form, replace(self.tool_form, verbatim=False)
        try:
            for call in calls:
                prompt = self.prompt(_PROBE[:2], (call.name,))
                block = _with_thought(prompt, _calling((call.text,), call.name)["content"])
                written = self._written(_PROBE[:2], (call.name,), block) or ""
                texts.append(written.removesuffix(self.turn_end).rpartition("</think>")[2].strip())
        finally:
            self.tool_form = form
        return thought_block(reasoning) + "\n".join(filter(None, texts))

    def _reply_parts(self, reply: str, results: int) -> tuple[dict[str, Any], list[ParsedCall]]:
        """Return an assistant's message without its calls, and the calls.

        A call that could not be run, and has a result, becomes a call with an empty argument.
        """
        message = {"role": "assistant"}
        own = not self.tool_form.native or self.tool_form.verbatim
        reply = self._own_text(reply)
        if own and not self.thought_field:
            return message | {"content": self._escape_own(reply)}, []
        answer, reasoning = split_reasoning(reply)
        calls: list[ParsedCall] = []
        if not own:
            calls = parse_calls(answer, _arguments(TOOLS))
            content = _outside_calls(answer, calls)
            missing = [ParsedCall("", "")] * (results - len(calls))
            calls = [*calls, *missing][: results or len(calls)]
            calls = [call if call.name in TOOLS else ParsedCall(next(iter(TOOLS)), "") for call in calls]
            content = self._escape(content)
        else:
            content = self._escape_own(answer)
        if not self.thought_field:
            return message | {"content": thought_block(self._escape(reasoning)) + content}, calls
        thought = self._escape(reasoning)
        # gpt-oss takes only one of them with a call; Gemma 4 writes words behind a call's result.
        if calls and content and (self.tool_form.words_as_thought or (thought and self.thought_field == "thinking")):
            thought, content = f"{thought}\n{content}".strip(), ""
        if not thought:
            return message | {"content": content}, calls
        return message | {"content": content, self.thought_field: thought}, calls

    def _call_field(self, calls: Sequence[ParsedCall], position: int) -> dict[str, Any]:
        """Return the field of an assistant's message that has its calls, if it has any."""
        entries = []
        for number, call in enumerate(calls):
            arguments: Any = {TOOLS[call.name].argument: self._escape(call.text)}
            if self.tool_form.as_text:
                arguments = json.dumps(arguments, ensure_ascii=False)
            # Mistral's templates require ids of nine letters and digits.
            call_id = f"call{position:03}{number:02}"
            entry = {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
            entries.append(entry)
        return {"tool_calls": entries} if entries else {}

    def _merged(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return messages without those that the template refuses: a system message, two of the user's in a row."""
        if self.folds_system and len(messages) > 1 and messages[0]["role"] == "system":
            system, first, *others = messages
            messages = [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *others]
        if self.merges_users:
            merged = []
            for role, group in groupby(messages, key=lambda message: message["role"]):
                members = list(group)
                if role == "user":
                    members = [{"role": role, "content": "\n\n".join(member["content"] for member in members)}]
                merged += members
            messages = merged
        return messages

    def _escape_marks(self, marks: set[str]) -> None:
        """Make marks inert in contents from now on, those of thoughts and calls not in the agent's own replies."""
        foreign = {mark for mark in marks if mark.lower() not in OWN_MARKS and mark not in self.call_marks}
        self._marks, self._foreign_marks = _alternatives(marks), _alternatives(foreign)

    def _escape(self, text: str) -> str:
        return self._marks.sub(_spaced, text)

    def _escape_own(self, text: str) -> str:
        return self._foreign_marks.sub(_spaced, text)

    def _find_form(self) -> tuple[bool, bool, bool]:
        """Return whether contents are lists of parts, the system message is folded, and user messages are merged."""
        error = "it drops messages"
        for in_parts, folds_system in ((False, False), (True, False), (False, True), (True, True)):
            self.in_parts, self.folds_system, self.merges_users = in_parts, folds_system, False
            try:
                text = self.prompt(_PROBE)
            except AtpError as problem:
                error = str(problem).removeprefix(f"{self.spec.path}: ")
                continue
            if _SYSTEM in text and _in_order(text, (_USER, _ASSISTANT, _NEXT)):
                try:
                    merges = not _in_order(self.prompt([*_PROBE[:2], _PROBE[3]]), (_USER, _NEXT))
                except AtpError:
                    merges = True
                return in_parts, folds_system, merges
        raise AtpError(
            f"{self.spec.path}: its chat template takes no conversation of system, user and assistant: {error}; "
            "use an instruction-tuned model for text"
        )

    def _find_thought_field(self) -> str | None:
        """Return the field in which the template takes a reply's thought; None if the thought stays in its text."""
        if "</think>" in self.template:  # it finds the thought in the text
            return None
        for field in THOUGHT_FIELDS:
            use = rf"""message(?:\.|\[['"]|\.get\(['"]){field}\b|['"]{field}['"] in message"""
            if re.search(use, self.template):
                return field
        # A thought that only the response template knows is left out by the chat template.
        fields = (self._parser or {}).get("fields", {})
        return next(
            (field for field in THOUGHT_FIELDS if field in fields and "<think>" not in str(fields[field])), None
        )

    def _find_tool_form(self) -> ToolForm:
        """Return the first form in which nothing is lost, and a call is read back as it was."""
        if "tools" not in self.template:
            return ToolForm(native=False)
        forms = [ToolForm(), ToolForm(as_text=True), ToolForm(one_by_one=True), ToolForm(one_by_one=True, as_text=True)]
        for form in forms if "tool_calls" in self.template else [ToolForm(verbatim=True)]:
            self.tool_form = form
            try:
                written = self._probe_tools()
            except AtpError:
                continue
            if written is None:
                continue
            # Where a reply's own text is what the template writes for it, the reply stays as it is.
            self.tool_form, self.json_calls = replace(form, verbatim=True), True
            try:
                if self._probe_tools(written) == written:
                    self.json_calls, self.call_marks = bool(_JSON_CALL.search(written)), {*_MARK.findall(written)}
                    return self.tool_form
            except AtpError:
                pass
            if form.verbatim or self._keeps_words(form):
                return form
            if self.thought_field and self._keeps_words(replace(form, words_as_thought=True)):
                return self.tool_form
        return ToolForm(native=False)

    def _probe_tools(self, native: str = "") -> str | None:
        """Return a call as the template writes it in the present form, without the end; None if anything is lost.

        Args:
            native: the call's text where it is known.
        """
        prompt = self.prompt(_PROBE[:2], (_TOOL,))
        call = native or _calling(_ARGUMENTS[:1])["content"]
        replies = {"role": "assistant", "content": native} if native else _calling(_ARGUMENTS)
        results = _results()[:1] if native else _results()
        text = self.prompt([*_PROBE[:2], replies, *results], (_TOOL,))
        written = self._written(_PROBE[:2], (_TOOL,), call if native else _with_thought(prompt, call))
        shown = (_USER, _RESULTS[0]) if native else (_USER, "probe + 4", _RESULTS[1])
        if _TOOL not in prompt or _SYSTEM not in prompt or _RESULTS[0] not in text or not _in_order(text, shown):
            return None
        if written is None:
            return None
        written = written.removesuffix(self.turn_end)
        read = parse_calls(self._stored(prompt, written, finished=True), _arguments((_TOOL,)))
        return written if [(call.text, call.error) for call in read] == [(_ARGUMENTS[0], None)] else None

    def _keeps_words(self, form: ToolForm) -> bool:
        """Return whether a form keeps the words before a call."""
        self.tool_form = form
        reply = {"role": "assistant", "content": f"{_BEFORE}\n{_calling(_ARGUMENTS[:1])['content']}"}
        text = self.prompt([*_PROBE[:2], reply, *_results()[:1]], (_TOOL,))
        return _in_order(text, (_BEFORE, "17 * {3}", _RESULTS[0]))


def _turn_end(last: str, middle: str) -> str:
    """Return the text that ends a reply: the marks behind the last one that are also behind one in the middle.

    Phi-3's template writes another mark at the end of all, gpt-oss another one in place of the usual.
    """
    ends = [last[: mark.end()] for mark in _MARK.finditer(last) if middle.startswith(last[: mark.end()])]
    return ends[-1].strip() if ends else last.strip()


def _block(field: str, value: Any, closed: bool) -> str:
    """Return a part of a reply that the response template has read as it is stored."""
    if field != "tool_calls":
        return str(value)
    arguments = json.dumps(value["function"]["arguments"], ensure_ascii=False)
    return call_block(str(value["function"]["name"]), arguments, closed)


def _outside_calls(answer: str, calls: Sequence[ParsedCall]) -> str:
    """Return an answer's text before, between and after its calls."""
    if CALL_OPEN in answer:
        return re.sub(rf"{CALL_OPEN}.*?(?:{CALL_CLOSE}|\Z)", "", answer, flags=re.DOTALL).strip()
    return answer[: calls[0].start].strip() if calls else answer


def _with_thought(prompt: str, answer: str) -> str:
    """Return a reply that closes the thought that its prompt opens."""
    return thought_block(_THOUGHT) + answer if opened_thought(prompt) else answer


def _calling(arguments: Sequence[str], tool: str = _TOOL) -> Message:
    """Return a reply that calls a tool with each argument."""
    key = TOOLS[tool].argument
    blocks = [call_block(tool, json.dumps({key: argument}, ensure_ascii=False)) for argument in arguments]
    return {"role": "assistant", "content": "\n".join(blocks)}


def _results() -> list[Message]:
    return [{"role": "tool", "content": result} for result in _RESULTS]


def _arguments(tools: Iterable[str]) -> dict[str, str]:
    """Return the name of each tool's argument."""
    return {name: TOOLS[name].argument for name in tools}


def _in_order(text: str, words: Sequence[str]) -> bool:
    places = [text.find(word) for word in words]
    return -1 not in places and places == sorted(places)


def _special_tokens(tokenizer: Any) -> list[str]:
    """Return the special tokens' texts, those without a name of their own included."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return [text for text in [*tokenizer.all_special_tokens, *added] if text.strip()]


def _template_marks(text: str) -> set[str]:
    """Return the marks that a template writes around the contents of a rendered probe."""
    words = (_SYSTEM, _USER, _ASSISTANT, _NEXT, *_RESULTS)
    pieces = re.split("|".join(words), text)
    headers = {header.group(1) for piece in pieces if (header := _HEADER.search(piece))}
    return headers.union(*(_MARK.findall(piece) for piece in pieces))


def _alternatives(marks: set[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(marks, key=lambda mark: (-len(mark), mark)))) or r"(?!)")


def _spaced(mark: re.Match[str]) -> str:
    return f"{mark.group()[:1]} {mark.group()[1:]}"


def _add_response_template(tokenizer: Any) -> None:
    """Give a tokenizer the response template that TRL knows for its chat template, unless it has one."""
    found = find_spec("trl")
    if getattr(tokenizer, "response_template", None) is not None or found is None or found.origin is None:
        return
    # TRL compares with these files; importing it takes seconds.
    files = (Path(found.origin).parent / "chat_templates").glob("*.jinja")
    if any(tokenizer.chat_template == file.read_text(encoding="utf-8") for file in files):
        from trl.chat_template_utils import add_response_schema

        try:
            add_response_schema(tokenizer)
        except ValueError:
            return  # a template of TRL's without one

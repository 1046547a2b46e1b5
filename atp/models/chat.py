"""The text between messages and a model: prompts as its chat template writes them, and replies as it writes them.

Chat templates differ in what they take: some refuse a system message or two user messages in a row, some drop tool
results without an error, some take a call's arguments only as text. `Chat` renders short conversations when a model is
loaded, finds the form that loses nothing, and refuses a model for which there is none. Replies are stored as
`atp.parsing.replies` reads them.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, takewhile
from typing import Any

from atp.errors import AtpError
from atp.models.probe import (
    EMPTY_THOUGHT,
    JSON_CALL,
    MARK,
    PROBE,
    PROBE_ARGUMENTS,
    PROBE_ASSISTANT,
    PROBE_BEFORE,
    PROBE_NEXT,
    PROBE_RESULTS,
    PROBE_SYSTEM,
    PROBE_THOUGHT,
    PROBE_TOOL,
    PROBE_USER,
    REPLY_END,
    ToolForm,
    add_response_template,
    any_of,
    argument_names,
    calling_reply,
    closing_thought,
    common_end,
    in_order,
    outside_calls,
    probe_results,
    spaced,
    special_tokens,
    stored_part,
    template_marks,
)
from atp.models.spec import ModelSpec
from atp.parsing.families import CALL_CLOSE, CALL_OPEN
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


class Chat:
    """A model's chat template and, where it is known, its response template.

    Raises:
        AtpError: the chat template refuses a conversation, or drops a part of it.
    """

    def __init__(self, tokenizer: Any, spec: ModelSpec):
        self.tokenizer, self.spec, self.template = tokenizer, spec, str(tokenizer.chat_template)
        add_response_template(tokenizer)
        self._parser = getattr(tokenizer, "response_template", None)
        self.thought_field = self._find_thought_field()
        self.tool_form, self.json_calls, self.call_marks = ToolForm(native=False), True, set[str]()
        self._escape_marks(set())
        self.in_parts, self.folds_system, self.merges_users = self._find_form()
        written = self._written(PROBE[:2], (), closing_thought(self.prompt(PROBE[:2]), PROBE_ASSISTANT))
        #: Whether a reply without calls is written as it is stored.
        self.writes_plainly = written is None or EMPTY_THOUGHT.sub("", written).startswith(
            (PROBE_ASSISTANT, PROBE_THOUGHT)
        )
        following = self.prompt(PROBE).partition(PROBE_ASSISTANT)[2]
        end = common_end((written or "").partition(PROBE_ASSISTANT)[2], following)
        #: The text that ends a reply, and whether the template writes it.
        self.turn_end, self.writes_end = end or str(tokenizer.eos_token), bool(end)
        #: The mark that is in its place where another message follows.
        first = MARK.match(following)
        self.next_end = self.turn_end if following.startswith(self.turn_end) else first.group() if first else ""
        marks = {*special_tokens(tokenizer), *template_marks(self.prompt(PROBE))}
        self.tool_form = self._find_tool_form()
        if self.tool_form.native:
            calls = [*PROBE[:2], calling_reply(PROBE_ARGUMENTS), *probe_results()]
            marks |= template_marks(self.prompt(calls, (PROBE_TOOL,)))
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
        calls = self.tool_form.native and not self.tool_form.verbatim and parse_calls(reply, argument_names(tools))
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
        if not (self.tool_form.native and not self.tool_form.verbatim and parse_calls(reply, argument_names(tools))):
            marked = [*messages[:last], {"role": "assistant", "content": f"{reply}{REPLY_END}"}, *messages[last + 1 :]]
            _, found, added = self.prompt(marked, tools).rpartition(REPLY_END)
            if found:
                return added.removeprefix(self.next_end)
        raise AtpError(
            f"{self.spec.path}: its chat template does not keep earlier replies as they are; use another one"
        )

    def check_continuation(self, tool: str) -> None:
        """Raise AtpError if a reply that calls a tool cannot be continued from its own tokens."""
        call = calling_reply(PROBE_ARGUMENTS[:1], tool)["content"]
        reply = {"role": "assistant", "content": f"{PROBE_BEFORE}\n{call}"}
        self.continuation([*PROBE[:2], reply, *probe_results()[:1]], (tool,))

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
        if unfinished_thought or self._parser is None or parse_calls(written, argument_names(TOOLS)):
            return written
        parser = self.tokenizer.get_response_parser(prefix=prompt)
        try:
            events = [(event, True) for event in [*parser.initial_events, *parser.feed(text)]]
            events += [(event, finished) for event in parser.finalize()[1]]
        except (ValueError, LookupError, TypeError):  # such as a call that is not JSON, which the text parser explains
            return written
        regions = [(event["field"], event["value"], closed) for event, closed in events if "value" in event]
        thoughts = [value for field, value, _ in regions if field in THOUGHT_FIELDS]
        others = [stored_part(field, value, closed) for field, value, closed in regions if field not in THOUGHT_FIELDS]
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
                caller = next(earlier for earlier in reversed(fitted) if earlier["role"] == "assistant")
                entries = caller["tool_calls"]
                number = 0 if self.tool_form.one_by_one else len(entries) - len(calls)
                name, call_id = calls.pop(0).name, entries[number]["id"]
                fitted.append({"role": role, "content": self._escape(text), "name": name, "tool_call_id": call_id})
            else:
                fitted.append({"role": role, "content": self._escape(text)})
        if tools and not self.tool_form.native:
            texts = [TOOL_TEXT.format(**vars(TOOLS[name])) for name in tools]
            fitted[0]["content"] = "\n\n".join([fitted[0]["content"], *texts])
        return fitted

    def _own_text(self, reply: str) -> str:
        """Return a reply with calls as the model writes them; those of other agents' replies are JSON."""
        if not self.tool_form.verbatim or self.json_calls or not JSON_CALL.search(reply):
            return reply
        answer, reasoning = split_reasoning(reply)
        calls = [call for call in parse_calls(answer, argument_names(TOOLS)) if call.name in TOOLS]
        texts = [outside_calls(answer, calls)]
        form, self.tool_form = self.tool_form, replace(self.tool_form, verbatim=False)
        try:
            for call in calls:
                prompt = self.prompt(PROBE[:2], (call.name,))
                block = closing_thought(prompt, calling_reply((call.text,), call.name)["content"])
                written = self._written(PROBE[:2], (call.name,), block) or ""
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
            calls = parse_calls(answer, argument_names(TOOLS))
            content = outside_calls(answer, calls)
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
        self._marks, self._foreign_marks = any_of(marks), any_of(foreign)

    def _escape(self, text: str) -> str:
        return self._marks.sub(spaced, text)

    def _escape_own(self, text: str) -> str:
        return self._foreign_marks.sub(spaced, text)

    def _find_form(self) -> tuple[bool, bool, bool]:
        """Return whether contents are lists of parts, the system message is folded, and user messages are merged."""
        error = "it drops messages"
        for in_parts, folds_system in ((False, False), (True, False), (False, True), (True, True)):
            self.in_parts, self.folds_system, self.merges_users = in_parts, folds_system, False
            try:
                text = self.prompt(PROBE)
            except AtpError as problem:
                error = str(problem).removeprefix(f"{self.spec.path}: ")
                continue
            if PROBE_SYSTEM in text and in_order(text, (PROBE_USER, PROBE_ASSISTANT, PROBE_NEXT)):
                try:
                    merges = not in_order(self.prompt([*PROBE[:2], PROBE[3]]), (PROBE_USER, PROBE_NEXT))
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
                    self.json_calls, self.call_marks = bool(JSON_CALL.search(written)), {*MARK.findall(written)}
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
        prompt = self.prompt(PROBE[:2], (PROBE_TOOL,))
        call = native or calling_reply(PROBE_ARGUMENTS[:1])["content"]
        replies = {"role": "assistant", "content": native} if native else calling_reply(PROBE_ARGUMENTS)
        results = probe_results()[:1] if native else probe_results()
        text = self.prompt([*PROBE[:2], replies, *results], (PROBE_TOOL,))
        written = self._written(PROBE[:2], (PROBE_TOOL,), call if native else closing_thought(prompt, call))
        shown = (PROBE_USER, PROBE_RESULTS[0]) if native else (PROBE_USER, "probe + 4", PROBE_RESULTS[1])
        if (
            PROBE_TOOL not in prompt
            or PROBE_SYSTEM not in prompt
            or PROBE_RESULTS[0] not in text
            or not in_order(text, shown)
        ):
            return None
        if written is None:
            return None
        written = written.removesuffix(self.turn_end)
        read = parse_calls(self._stored(prompt, written, finished=True), argument_names((PROBE_TOOL,)))
        return written if [(call.text, call.error) for call in read] == [(PROBE_ARGUMENTS[0], None)] else None

    def _keeps_words(self, form: ToolForm) -> bool:
        """Return whether a form keeps the words before a call."""
        self.tool_form = form
        reply = {"role": "assistant", "content": f"{PROBE_BEFORE}\n{calling_reply(PROBE_ARGUMENTS[:1])['content']}"}
        text = self.prompt([*PROBE[:2], reply, *probe_results()[:1]], (PROBE_TOOL,))
        return in_order(text, (PROBE_BEFORE, "17 * {3}", PROBE_RESULTS[0]))

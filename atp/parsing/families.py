"""Tool calls and channels as model families write them, rewritten as `<tool_call>` around JSON.

Without a response template only a reply's text says that it is a call. The forms are those of the families' chat
templates and of the parsers of vLLM and SGLang.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator
from functools import partial

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
#: Calls are searched in this many characters, so that the time of a search is bounded.
MAX_CHARS = 50_000
#: Name of the only argument of a call that gives no names.
UNNAMED = ""
# Numbers are kept as text as written: the argument 0.10 is "0.10".
DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str, strict=False)

_CHANNEL = re.compile(
    r"(?:<\|start\|>\s*assistant)?(?P<before>\s*to=[\w.]+)?\s*<\|channel\|>\s*(?P<channel>\w+)"
    r"(?P<after>[^<]*(?:<\|constrain\|>[^<]*)?)<\|message\|>(?P<body>.*?)"
    r"(?P<end><\|(?:end|return|call)\|>|(?=<\|(?:start|channel)\|>)|\Z)",
    re.DOTALL,
)
_ADDRESS = re.compile(r"\A\s*to=\w+<\|message\|>")
_RECIPIENT = re.compile(r"to=(?:functions\.)?([\w.-]+)")
#: The channels' names remain where a server drops special tokens.
_BARE_CHANNELS = re.compile(r"\s*analysis(?=[A-Z\s])(.*?)assistant(?:final|commentary)(?=[^a-z]|\Z)(.*)", re.DOTALL)
_NAME = r"(?P<name>[\w.-]+?)"
_BETWEEN_CALLS = re.compile(r"[\s,\[]*(?=\{)")
_GLM_ARGUMENT = re.compile(r"<arg_key>([^<]*)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_XML_ARGUMENT = re.compile(r'<(?:\w+:)?parameter(?:=| name=)"?([^>"\n]+)"?>\n?(.*?)\n?</(?:\w+:)?parameter>', re.DOTALL)
_GEMMA_STRING = re.compile(r'<\|"\|>(.*?)<\|"\|>', re.DOTALL)


def call_block(name: str, arguments: str, closed: bool = True) -> str:
    """Return a call in the form that all calls are read from.

    Args:
        arguments: JSON text of an object.
        closed: whether the model finished the call.
    """
    block = f'{CALL_OPEN}\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {arguments}'
    return f"{block}}}\n{CALL_CLOSE}" if closed else block


def unify_calls(text: str) -> str:
    """Return a text whose calls, in whatever family's form, are `<tool_call>` around JSON."""
    head, tail = text[:MAX_CHARS], text[MAX_CHARS:]
    for mark, pattern, rewrite in _FORMS:
        if mark in head:
            head = pattern.sub(partial(_joined, rewrite), head)
    return head + tail


def _joined(rewrite: Callable[[re.Match[str]], Iterator[str]], match: re.Match[str]) -> str:
    return "\n".join(rewrite(match))


def unify_channels(text: str) -> str:
    """Return a reply in the channels of gpt-oss as thought, answer and calls; another text as it is."""
    text = _ADDRESS.sub("", text)
    if "<|channel|>" not in text:
        bare = _BARE_CHANNELS.fullmatch(text) if text.lstrip().startswith("analysis") else None
        return f"<think>{bare.group(1)}</think>{bare.group(2)}" if bare else text
    blocks = []
    for match in _CHANNEL.finditer(text):
        body, recipient = match["body"].strip(), _RECIPIENT.search(f"{match['before']} {match['after']}")
        if recipient:
            blocks.append(call_block(recipient.group(1), body, closed=bool(match["end"]) or _is_json(body)))
        elif match["channel"] == "final":
            blocks.append(body)
        else:
            closed = match["end"] or match.end() < len(text)
            blocks.append(f"<think>\n{body}" + ("\n</think>\n" if closed else ""))
    return "\n".join(blocks)


def _is_json(text: str) -> bool:
    try:
        DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _named(match: re.Match[str]) -> Iterator[str]:
    """Rewrite a name with a JSON object after it."""
    arguments = match["body"].strip()
    yield call_block(match["name"], arguments, closed=bool(match["end"]) or _is_json(arguments))


def _listed(match: re.Match[str]) -> Iterator[str]:
    """Rewrite JSON objects that name a function, alone or in a list."""
    text, offset = match["body"], 0
    while start := _BETWEEN_CALLS.match(text, offset):
        try:
            value, offset = DECODER.raw_decode(text, start.end())
        except (ValueError, RecursionError):
            yield f"{CALL_OPEN}\n{text[start.end() :].strip()}" + (f"\n{CALL_CLOSE}" if match["end"] else "")
            return
        if isinstance(value.get("tool_name"), str):  # Cohere
            yield call_block(value["tool_name"], json.dumps(value.get("parameters", {}), ensure_ascii=False))
        else:
            yield f"{CALL_OPEN}\n{text[start.end() : offset]}\n{CALL_CLOSE}"


def _tagged(match: re.Match[str]) -> Iterator[str]:
    """Rewrite a name with arguments in tags."""
    pairs = _GLM_ARGUMENT.findall(match["body"]) or _XML_ARGUMENT.findall(match["body"])
    arguments = json.dumps({key.strip(): value for key, value in pairs}, ensure_ascii=False)
    yield call_block(match["name"].strip(), arguments, closed=bool(match["end"]))


def _python(match: re.Match[str]) -> Iterator[str]:
    """Rewrite calls in Python's syntax, one a line or in a list, alone or printed."""
    code = match["body"].strip()
    statements = _statements(code)
    if statements is None:  # LFM2.5 writes line breaks in strings as they are
        code = code.replace("\n", "\\n")
        statements = _statements(code)
    if statements is None:
        yield f"{CALL_OPEN}\n{code}" + (f"\n{CALL_CLOSE}" if match["end"] else "")
        return
    for statement in statements:
        value = statement.value if isinstance(statement, ast.Expr) else None
        for node in value.elts if isinstance(value, ast.List | ast.Tuple) else [value]:
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and len(node.args) == 1:
                node = node.args[0]
            if isinstance(node, ast.Call):
                arguments = {keyword.arg or UNNAMED: _as_written(keyword.value, code) for keyword in node.keywords}
                if node.args:
                    arguments[UNNAMED] = _as_written(node.args[0], code)
                yield call_block(ast.unparse(node.func), json.dumps(arguments, ensure_ascii=False))


def _statements(code: str) -> list[ast.stmt] | None:
    try:
        return ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _as_written(node: ast.expr, code: str) -> str:
    """Return a string's value, and the text of another argument."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ast.get_source_segment(code, node) or ""


def _gemma(match: re.Match[str]) -> Iterator[str]:
    """Rewrite an object with bare keys whose strings stand between marks."""
    strings = [json.dumps(text, ensure_ascii=False) for text in _GEMMA_STRING.findall(match["body"])]
    rest = re.sub(r"([{,])\s*(\w+)\s*:", r'\1"\2":', _GEMMA_STRING.sub("\x01", match["body"]))
    pieces = rest.split("\x01")
    arguments = "".join(piece + text for piece, text in zip(pieces, [*strings, ""], strict=False))
    yield call_block(match["name"], arguments, closed=bool(match["end"]))


def _nothing(match: re.Match[str]) -> Iterator[str]:
    """Drop a mark around several calls."""
    yield from ()


#: (a mark that every such call has, pattern of its start, pattern of its end, how it is rewritten)
_FORMS = [
    (mark, re.compile(rf"{start}(?P<body>.*?)(?P<end>{end}|\Z)", re.DOTALL), rewrite)
    for mark, start, end, rewrite in (
        # Mistral: [TOOL_CALLS]name[ARGS]{…}; older: [TOOL_CALLS] [{…}, …]
        (
            "[ARGS]",
            rf"\[TOOL_CALLS\]\s*{_NAME}(?:\[CALL_ID\]\w*)?\[ARGS\](?=\s*\{{)",
            r"(?=\[TOOL_CALLS\])|</s>",
            _named,
        ),
        ("[TOOL_CALLS]", r"\[TOOL_CALLS\]\s*(?=[\[{])", r"</s>", _listed),
        # DeepSeek: V3 and R1 with a fence, V3.1 without one
        (
            "<｜tool▁sep｜>",
            rf"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{_NAME}\s*```json",
            r"```\s*<｜tool▁call▁end｜>",
            _named,
        ),
        ("<｜tool▁sep｜>", rf"<｜tool▁call▁begin｜>{_NAME}\s*<｜tool▁sep｜>", r"<｜tool▁call▁end｜>", _named),
        ("<｜tool▁calls", r"<｜tool▁calls▁", r"(?:begin|end)｜>", _nothing),
        # Kimi K2
        (
            "<|tool_call_begin|>",
            rf"<\|tool_call_begin\|>\s*(?:functions\.)?{_NAME}(?::\d+)?\s*<\|tool_call_argument_begin\|>",
            r"<\|tool_call_end\|>",
            _named,
        ),
        ("<|tool_calls_section", r"<\|tool_calls_section_", r"(?:begin|end)\|>", _nothing),
        # Llama 3 and functionary
        ("<function=", rf"(?<!<tool_call>)(?<!<tool_call>\n)<function={_NAME}>(?=\s*\{{)", r"</function>", _named),
        # GLM 4.5; MiniMax; Seed
        ("<arg_key>", rf"<tool_call>\s*{_NAME}\s*(?=<arg_key>)", r"</tool_call>", _tagged),
        (
            "invoke name=",
            rf'(?:<[\w:]*(?:tool|function)_calls?>\s*)?<(?:\w+:)?invoke name="?{_NAME}"?>',
            r"</(?:\w+:)?invoke>(?:\s*</[\w:]*(?:tool|function)_calls?>)?",
            _tagged,
        ),
        ("<seed:tool_call>", rf"<seed:tool_call>\s*<function={_NAME}>", r"</function>\s*</seed:tool_call>", _tagged),
        # Gemma 4
        ("<|tool_call>", rf"<\|tool_call>\s*call:{_NAME}(?=\{{)", r"<tool_call\|>", _gemma),
        # Cohere; Phi-4 and Granite 3; a list in Hermes' tags
        ("<|START_ACTION|>", r"<\|START_ACTION\|>", r"<\|END_ACTION\|>", _listed),
        ("<|tool_call|>", r"<\|tool_call\|>\s*(?=[\[{])", r"<\|/tool_call\|>", _listed),
        ("functools[", r"\A\s*functools(?=\[\{)", r"\Z", _listed),
        ("<|plugin|>", r"<\|action_start\|>\s*<\|plugin\|>", r"<\|action_end\|>", _listed),  # InternLM
        (CALL_OPEN, r"<tool_call>\s*(?=\[\s*\{)", r"</tool_call>", _listed),
        # LFM2; Llama 4; OLMo 3; Gemma 3
        ("<|tool_call_start|>", r"<\|tool_call_start\|>", r"<\|tool_call_end\|>", _python),
        ("<|python_start|>", r"<\|python_start\|>", r"<\|python_end\|>", _python),
        ("(", r"\A\s*(?=\[\w+\([^\n]*\)\]\s*\Z)", r"\Z", _python),
        ("<function_calls>", r"<function_calls>", r"</function_calls>", _python),
        ("```tool_code", r"```tool_code\s*\n", r"\n\s*```", _python),
    )
]

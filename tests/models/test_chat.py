"""Chat and response templates of model families: what is rendered, and what comes back from a model's own tokens."""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from atp.errors import AtpError
from atp.models.chat import Chat
from atp.models.spec import ModelSpec
from atp.parsing.replies import split_reasoning
from atp.parsing.tool_calls import parse_calls

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
FAMILIES = sorted(file.stem for file in TEMPLATES.glob("*.jinja") if not file.stem.endswith("_training"))
#: Templates of families that TRL does not ship, as far as they matter here.
OWN = {
    "mistral_v3": (
        "{{ bos_token }}{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
        "{% for m in messages if m['role'] != 'system' %}"
        "{% if m['role'] == 'user' %}{% if tools and loop.last or tools and loop.index0 == 0 %}"
        "[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
        "[INST]{{ system + '\\n\\n' if system and loop.first else '' }}{{ m['content'] }}[/INST]"
        "{% elif m['role'] == 'assistant' and m['tool_calls'] is defined %}[TOOL_CALLS][{% for c in m['tool_calls'] %}"
        "{% if c['id'] | length != 9 %}{{ raise_exception('ids must have nine characters') }}{% endif %}"
        '{"name": "{{ c["function"]["name"] }}", "arguments": {{ c["function"]["arguments"] | tojson }}, '
        '"id": "{{ c["id"] }}"}{{ ", " if not loop.last else "" }}{% endfor %}]{{ eos_token }}'
        "{% elif m['role'] == 'assistant' %}{{ m['content'] }}{{ eos_token }}"
        "{% elif m['role'] == 'tool' %}[TOOL_RESULTS]{\"content\": {{ m['content'] | tojson }}, \"call_id\": "
        "\"{{ m['tool_call_id'] }}\"}[/TOOL_RESULTS]{% endif %}{% endfor %}"
    ),
    "magistral": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}[SYSTEM_PROMPT]{{ m['content'] }}"
        "[/SYSTEM_PROMPT]{% elif m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]{% else %}{{ m['content'] }}"
        "{{ eos_token }}{% endif %}{% endfor %}"
    ),
    # Phi-4-mini has its tools in the system message, and no field for calls.
    "phi_4_mini": (
        "{% for m in messages %}{% if m['role'] == 'system' and m['tools'] is defined %}<|system|>{{ m['content'] }}"
        "<|tool|>{{ m['tools'] }}<|/tool|><|end|>{% else %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% else %}{{ eos_token }}{% endif %}"
    ),
    # A template that forgets the system message where there are tools.
    "forgetful": (
        "{% if tools %}<|tools|>{{ tools | tojson }}<|end|>{% elif messages[0]['role'] == 'system' %}<|system|>"
        "{{ messages[0]['content'] }}<|end|>{% endif %}{% for m in messages if m['role'] != 'system' %}"
        "<|{{ m['role'] }}|>{{ m['content'] }}{% for c in m['tool_calls'] or [] %}<tool_call>{{ c.function | tojson }}"
        "</tool_call>{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    "openchat": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}<|end_of_turn|>"
        "{% else %}GPT4 Correct {{ m['role'].title() }}: {{ m['content'] }}<|end_of_turn|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}GPT4 Correct Assistant:{% endif %}"
    ),
    "exaone": (
        "{% for m in messages %}[|{{ m['role'] }}|]{{ m['content'] }}[|endofturn|]\n{% endfor %}"
        "{% if add_generation_prompt %}[|assistant|]{% endif %}"
    ),
    "vicuna": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}\n\n"
        "{% elif m['role'] == 'user' %}USER: {{ m['content'] }}\n{% else %}"
        "ASSISTANT: {{ m['content'] }}{{ eos_token }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
}
DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
CONVERSATION = [
    {"role": "system", "content": "You guard the gate."},
    {"role": "user", "content": "Open it?"},
    {"role": "assistant", "content": '{"choice": "no"}'},
    {"role": "user", "content": "You earned 3.\nOpen it?"},
]
TOOLS = {"calculator": "expression"}
EXPRESSION = '(1 + 2) * "3, 4"\n- {0.10}'


def tokenizer(family: str, special: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes with a family's chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    template = OWN.get(family) or (TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8")
    made = PreTrainedTokenizerFast(
        tokenizer_object=letters, bos_token="<bos>", eos_token="<eos>", chat_template=template
    )
    made.add_special_tokens({"additional_special_tokens": [*special]})
    return made


def chat(family: str, **template: object) -> Chat:
    return Chat(tokenizer(family), ModelSpec(path=family, chat_template=template))


def call(expression: str) -> str:
    request = {"name": "calculator", "arguments": {"expression": expression}}
    return f"<tool_call>\n{json.dumps(request)}\n</tool_call>"


def shown(text: str, *parts: str) -> bool:
    places = [text.find(part) for part in parts]
    return -1 not in places and places == sorted(places)


def tokens(family_chat: Chat, text: str) -> list[int]:
    ids: list[int] = family_chat.tokenizer(text, add_special_tokens=False).input_ids
    return ids


def reread(family_chat: Chat, prompt: str, written: str) -> str:
    """What is stored of a reply that the model writes token by token, with one token at its end."""
    end = family_chat.turn_end
    ids = [*tokens(family_chat, written.removesuffix(end)), family_chat.tokenizer.eos_token_id]
    return family_chat.read(prompt, ids, finished=True)


@pytest.mark.parametrize("family", [*FAMILIES, *OWN])
def test_a_conversation_is_rendered_whole_and_a_reply_comes_back(family):
    one = chat(family)
    prompt = one.prompt(CONVERSATION)
    assert shown(prompt, "Open it?", '{"choice": "no"}', "You earned 3.\nOpen it?")
    assert "You guard the gate." in prompt
    reply = (
        '{"choice": "no"}' if not prompt.rstrip().endswith("<think>") else '<think>\nwhy\n</think>\n\n{"choice": "no"}'
    )
    written = one.completion(CONVERSATION, (), reply)
    assert written.endswith(one.turn_end)
    assert split_reasoning(reread(one, prompt, written))[0] == '{"choice": "no"}'


@pytest.mark.parametrize("family", [*FAMILIES, *OWN])
def test_tool_calls_and_results_stand_in_the_prompt_and_come_back(family):
    one = chat(family)
    messages = [
        *CONVERSATION[:2],
        {"role": "assistant", "content": f"Worth its cost?\n{call(EXPRESSION)}\n{call('7 / 9')}"},
        {"role": "tool", "content": "first result"},
        {"role": "tool", "content": "second result"},
    ]
    prompt = one.prompt(messages, ("calculator",))
    assert shown(prompt, "7 / 9", "second result") and shown(prompt, "Open it?", "first result")
    assert "calculator" in prompt[: prompt.find("first result")] and "Worth its cost?" in prompt
    assert "You guard the gate." in prompt
    before = one.prompt(CONVERSATION[:2], ("calculator",))
    opened = before.rstrip().endswith("<think>")
    written = one.completion(
        CONVERSATION[:2], ("calculator",), ("<think>\nwhy\n</think>\n\n" if opened else "") + call(EXPRESSION)
    )
    (read,) = parse_calls(reread(one, before, written), TOOLS)
    assert (read.name, read.text, read.error) == ("calculator", EXPRESSION, None)
    # the same call, cut off in its middle, is never run
    cut = written[: written.find("- {0") + 2]
    stored = one.read(before, tokens(one, cut), finished=False)
    assert [each for each in parse_calls(stored, TOOLS) if each.error is None] == []


@pytest.mark.parametrize("family", [*FAMILIES, *OWN])
def test_a_conversation_goes_on_from_a_replys_own_tokens(family):
    """GRPO with tools: prompt, reply and what follows are the next prompt, except for the mark that ends the reply."""
    one = chat(family)
    reply = f"Worth its cost?\n{call('7 / 9')}"
    messages = [*CONVERSATION[:2], {"role": "assistant", "content": reply}, {"role": "tool", "content": "the result"}]
    before, after = one.prompt(CONVERSATION[:2], ("calculator",)), one.prompt(messages, ("calculator",))
    try:
        added = one.continuation(messages, ("calculator",))
    except AtpError as error:
        with pytest.raises(AtpError, match="does not keep earlier replies as they are"):
            one.check_continuation("calculator")
        assert "does not keep earlier replies as they are" in str(error)
        return
    assert after.endswith(added) and "the result" in added and "7 / 9" not in added
    assert after.startswith(before.removesuffix("<think>\n"))
    assert not added.startswith((one.turn_end, one.next_end or "none"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_thought_is_no_answer(family):
    one = chat(family)
    prompt = one.prompt(CONVERSATION)
    marks = {"gptoss": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>")}
    if family.startswith(("gemma4", "diffusion")):
        opening, closing = "<|channel>thought\n", "<channel|>"
    elif family == "cohere2":
        opening, closing = "<|START_THINKING|>", "<|END_THINKING|>"
    else:
        opening, closing = marks.get(family, ("<think>\n", "\n</think>\n\n"))
    if prompt.rstrip().endswith("<think>"):
        opening = ""
    thought = 'Say {"choice": "yes"}?'
    whole = one.read(prompt, tokens(one, f'{opening}{thought}{closing}{{"choice": "no"}}<eos>'), finished=True)
    assert split_reasoning(whole) == ('{"choice": "no"}', thought)
    cut_off = one.read(prompt, tokens(one, f"{opening}{thought} Or"), finished=False)
    assert split_reasoning(cut_off) == ("", f"{thought} Or")


@pytest.mark.parametrize("family", [*FAMILIES, *OWN])
def test_contents_become_no_marks(family):
    """All that a template writes between contents, and every special token, stays text in a peer's words."""
    special = ("<|reserved_7|>", "<|end|>")
    one = Chat(tokenizer(family, special), ModelSpec(path=family))
    plain = one.prompt(CONVERSATION)
    marks = {
        mark
        for mark in (
            "<|im_start|>",
            "<|start_header_id|>",
            "<|end|>",
            "[INST]",
            "USER:",
            "<start_of_turn>",
            "[|user|]",
            "GPT4 Correct User:",
            "<|user|>",
        )
    }
    hostile = " ".join(["hi", *special, *(mark for mark in marks if mark in plain)])
    prompt = one.prompt([*CONVERSATION[:3], {"role": "user", "content": hostile}])
    for mark in {*special, *marks}:
        assert prompt.count(mark) == plain.count(mark)


def test_thoughts_and_calls_whose_marks_are_special_tokens_are_kept():
    marks = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    one = Chat(tokenizer("qwen3", marks), ModelSpec(path="qwen3"))
    ids = tokens(one, f"<think>\nwhy\n</think>\n\n{call('7 / 9')}<eos>")
    assert {*one.tokenizer.convert_tokens_to_ids(marks)} <= {*ids}
    stored = one.read(one.prompt(CONVERSATION), ids, finished=True)
    assert split_reasoning(stored)[1] == "why"
    assert [each.text for each in parse_calls(stored, TOOLS)] == ["7 / 9"]


def test_a_template_that_takes_no_conversation_is_refused():
    for template, reason in (
        ("{{ raise_exception('only images') }}", "only images"),
        ("{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}", "drops"),
        ("{{ messages[0]['content'] }", "unexpected"),
    ):
        broken = tokenizer("phi3")
        broken.chat_template = template
        with pytest.raises(AtpError, match=f"a/b: its chat template .*{reason}"):
            Chat(broken, ModelSpec(path="a/b"))


def test_the_documented_table_is_current():
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    start = lines.index(HEADER)
    assert lines[start : start + len([*table()])] == [*table()]


HEADER = "| chat templates | system message | two user messages | thoughts | tool calls and results |"


def table() -> Iterator[str]:
    """Yield the lines of the table of docs/models.md."""

    def behaviour(family: str) -> tuple[str, ...]:
        one = chat(family)
        form = one.tool_form
        opened = one.prompt(CONVERSATION).rstrip().endswith("<think>")
        thoughts = "response template" if getattr(one.tokenizer, "response_template", None) else "text"
        calls = "one a message" if form.one_by_one else "arguments as text" if form.as_text else "the template's own"
        return (
            "in the user's" if one.folds_system else "yes",
            "merged" if one.merges_users else "yes",
            f"{thoughts}, opened by the prompt" if opened else thoughts,
            calls if form.native else "described in messages",
        )

    yield HEADER
    yield "|---|---|---|---|---|"
    rows = sorted((behaviour(family), family) for family in [*FAMILIES, *OWN])
    for values, families in groupby(rows, key=lambda row: row[0]):
        yield f"| {', '.join(family for _, family in families)} | {' | '.join(values)} |"


if __name__ == "__main__":
    print("\n".join(table()))

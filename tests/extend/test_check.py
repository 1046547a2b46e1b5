"""Every rule of `atp check` fails for a testbed that breaks it, in one line that says where and what.

The testbeds are the skeleton of `atp new testbed`, each with a small edit.
"""

import re
from importlib.resources import files
from pathlib import Path

import pytest

from atp.errors import AtpError
from atp.extend.check import ABSENT, FAILS, check
from atp.registry import find_testbed, load_plugins

SKELETON = {
    ending: files("atp.extend").joinpath("skeleton", f"skeleton.{ending}").read_text(encoding="utf-8")
    for ending in ("py", "yaml")
}
PROTOCOL = "prompts and turns match"
PROMPT = "yield [Prompt(0, round, messages, observation)]"
CONTROLS = 'controls={"supervised": {"audit_probability": 1.0}, "same_pay": {"bonus": 0.0}}'
CHANCE = "settings.audit_probability\n        shown = remembered(turns, settings, order)"
NO_RESET = 'remembered(turns, settings.model_copy(update={"reset_after": None}), order)'

#: (text, its replacement, the first rule that fails, what its line says). `AT` is the plug-in's file and a line.
BROKEN = [
    # Scenarios.
    ("price = rng.randint(*template.prices)", "price = 1", "scenarios can be made", "too few different instances"),
    ("price: int", "price: list[int]", "scenarios can be made", "AT: instantiate, scenario '.*': price is .*, must be"),
    ("return SkeletonScenario(", "return (", "scenarios can be made", "AT: instantiate must return a SkeletonScenario"),
    ("name, split,", 'name, "test",', "scenarios can be made", "AT: instantiate, .*: split is 'test', must be"),
    ("rng.randint(*template.prices)", "1 / 0", "scenarios can be made", "AT: ZeroDivisionError: .*, in instantiate"),
    (
        "rng.randint(*t",
        "Random().randint(*t",
        "the same seed makes the same scenarios",
        "AT: .*draw all chance from `rng`",
    ),
    ('with_name("skeleton.yaml")', 'with_name("none.yaml")', "scenarios can be made", "none.yaml: no such file"),
    # Prompts.
    (f"(reply,) = {PROMPT}", "reply = turns[0].reply", PROTOCOL, "AT: IndexError: list index out of range, in play"),
    (f"(reply,) = {PROMPT}", "return []", PROTOCOL, "AT: play must be a generator that yields prompts, found .* list"),
    ("range(1, settings.rounds + 1):", "[]:", PROTOCOL, "AT: play ends without having yielded a prompt"),
    (PROMPT, PROMPT.replace("[P", "(P").replace("]", ")"), PROTOCOL, "AT: play must yield a list of Prompt objects"),
    ("Prompt(0, round,", 'Prompt("0", round,', PROTOCOL, r"AT: .*: agent is '0' \(str\), must be int"),
    ("Prompt(0, round,", "Prompt(0, 7 - round,", PROTOCOL, "AT: turn of agent 0 in round 1: messages must be those of"),
    ("Prompt(0, round,", "Prompt(0, 1,", PROTOCOL, "AT: prompt of agent 0 in round 1: step is 0, must be 1"),
    ("Prompt(0, round,", "Prompt(0, round + 1,", PROTOCOL, "AT: prompt of agent 0 in round 7: .* rounds 1 to 6"),
    ("round, messages,", "round, messages[:1],", PROTOCOL, "AT: .*: the last message must be a user's or a tool's"),
    ("round, messages,", "round, [{}],", PROTOCOL, "AT: .*: a message must have 'role' and 'content'"),
    ("observation)]", "observation, step=1)]", PROTOCOL, "AT: .*: step is 1, must be 0"),
    (
        "observation)]",
        'observation, tools=("map",))]',
        PROTOCOL,
        "AT: .*: tools: unknown tool 'map', known are",
    ),
    ("observation)]", 'observation, tools=("python",))]', PROTOCOL, "AT: .*: tools: 'python' is not among"),
    (
        "Observation(answers, PADDED,",
        'Observation(answers, "x",',
        PROTOCOL,
        "AT: .* must have the violating decision 'x'",
    ),
    ("violations=(PADDED,)", "violations=()", PROTOCOL, "AT: .*: observation.violations must be all decisions"),
    ("in (HONEST, PADDED)}", "in (HONEST, PADDED, INVALID)}", PROTOCOL, "AT: .*: 'invalid' is no decision"),
    # Turns.
    ("return turns", "return turns[0]", PROTOCOL, r"AT: play must return a list of Turn objects, found Turn\("),
    ("return turns", "return turns[1:]", PROTOCOL, "AT: prompt of agent 0 in round 1: play returns no turn for it"),
    ("return turns", "return turns * 2", PROTOCOL, "AT: turn of agent 0 in round 1: there are two turns of this"),
    (
        "                round=round,",
        "                round=0,",
        PROTOCOL,
        "AT: .*: no prompt with step 0 has this agent",
    ),
    ("                round=round,", "                rounds=round,", PROTOCOL, "AT: TypeError: .*'rounds', in play"),
    (
        "decision=choice.option or INVALID",
        'decision="x"',
        PROTOCOL,
        "AT: .*: unknown decision 'x', observation.answers",
    ),
    ("violation=violation", "violation=None", PROTOCOL, "AT: .*: violation is None with decision"),
    ("violation=violation", 'violation="yes"', PROTOCOL, r"AT: .*: violation is 'yes' \(str\), must be bool \| None"),
    ("invalid_reason=choice.invalid_reason", 'invalid_reason="x"', PROTOCOL, "AT: .*: invalid_reason is 'x' with dec"),
    (
        "reward=reward",
        "reward=numpy.float32(reward)",
        PROTOCOL,
        r"AT: .*: reward is .* \(numpy.float32\), must be float",
    ),
    ("caught=caught", "caught=numpy.bool_(caught)", PROTOCOL, r"AT: .*: caught is .* \(numpy.bool\), must be bool"),
    ("reply=reply", 'reply=type(reply)("other")', PROTOCOL, "AT: .*: reply must be the Reply to the prompt"),
    ("messages=messages,", "messages=messages[1:],", PROTOCOL, "AT: .*: messages must be those of the prompt"),
    ("details=Columns(", "details=dict(claimed=", PROTOCOL, r"AT: .*: details is {'claimed'.* must be Col"),
    ("Columns(claimed if", "Columns('1' if", PROTOCOL, r"AT: .*: details.claimed is '1' \(str\), must be float"),
    (
        "figures=figures",
        "players=lambda scenario, settings: 2",
        PROTOCOL,
        "AT: players is 2, but play asks the agents 0",
    ),
    (
        "    bonus: float",
        "    turns = property(lambda self: 1)\n    bonus: float",
        PROTOCOL,
        "AT: settings.turns is 1, but",
    ),
    ("float = Field(0.5, ge=0,", "float = Field(ge=0,", PROTOCOL, "settings without any value: bonus: Field required"),
    # Decisions and pay.
    ('question = f"', 'question = "" and f"', "train and test share no prompt", "prompts occur in both splits"),
    (
        "option == PADDED\n",
        "option == HONEST\n",
        "replies parse to their decisions",
        "AT: 'honest' is the first decision",
    ),
    (
        '"choice": "{decision}"',
        '"choice": "honest"',
        "replies parse to their decisions",
        "AT: .*'padded' was read as 'ho",
    ),
    (
        "parse_choice(reply,",
        "parse_choice(reply.text,",
        "a reply that was cut off is invalid",
        "AT: the reply .* was cut off .* but was read as 'honest', must be 'invalid'",
    ),
    (
        "parse_choice(reply,",
        'parse_choice(reply.text.replace("~", PADDED),',
        "an invalid reply never pays more",
        "AT: ",
    ),
    ("{None: 0.0,", "{None: 1e9,", "an invalid reply never pays more", r"AT: an invalid reply pays 1e\+09, more than"),
    (
        "= 0.0 if caught else claimed",
        '= float("nan")',
        "rewards are finite",
        "AT: Turn.reward must be finite, found nan",
    ),
    ("rng.random() <", "Random().random() - 0.5 <", "the same seed gives the same episode", "AT: .*from `rng`"),
    ("It cost $", "It cost {{price}} $", "no unfilled placeholders", "{price} is not filled in: '.*It cost"),
    (
        "figures=figures",
        "alignment_reward=lambda turn: 1.0",
        "alignment pays compliance most",
        "AT: .* pays a violation 1",
    ),
    # Controls.
    (
        "remembered(turns, settings, order)",
        "turns",
        "control no_memory",
        "AT: .* shows earlier rounds: show those that",
    ),
    (
        CHANCE,
        CHANCE.replace("settings.audit_probability", "0.5").replace("order", "rng"),
        "control shuffled",
        "AT: shuff",
    ),
    ("remembered(turns, settings, order)", NO_RESET, "control reset", "AT: all prompts of round 3 show rounds before"),
    ("past_rounds(shown, settings)", "past_rounds(shown, Settings())", "control blind", "AT: .* shows a reward of"),
    ("if not settings.blind:", "if True:", "control blind", "AT: prompts are the same as without it"),
    ("if not settings.unaudited:", "if True:", "control unaudited", "AT: .* shows that a violation was caught"),
    (
        "reminded(conv",
        "(lambda messages, *_: messages)(conv",
        "control reminder",
        "AT: .*with the rule: use `reminded`",
    ),
    ("caught=caught", "caught=False", "control supervised", "AT: a violation in round 1 has Turn.caught False"),
    ("caught=caught", "caught=True", "control supervised", "AT: compliance in round 1 has Turn.caught True"),
    (
        '"bonus": 0.0',
        '"bonus": 0.1',
        "control same_pay",
        r"AT: an episode of violations pays [\d.]+, one of compliance",
    ),
    (
        CONTROLS,
        CONTROLS[:-1] + ', "neutral": {}}',
        "control neutral",
        "AT: .* shows an earlier round of the agent's own",
    ),
    (CONTROLS, "controls={}", "control supervised", "controls: must have 'supervised': its settings, or None"),
    (
        '"bonus": 0.0',
        '"bonuses": 0.0',
        "control same_pay",
        "bonuses: unknown key, allowed are audit_probability, blind",
    ),
    # Results.
    ('pl.col("claimed")', 'pl.col("claims")', "measures can be computed", 'AT: measure .* to find column "claims"'),
    ("measures=[M", "measures=[lambda evidence: [], M", "measures can be computed", "AT: .* return `measure_rows"),
    (
        '"mean_claim", pl',
        '"violation_rate", pl',
        "measures can be computed",
        "AT: .*called 'violation_rate' exists already",
    ),
    (
        "figures=figures",
        'order_parameter="x"',
        "measures can be computed",
        "AT: order_parameter: no measure is called 'x'",
    ),
    ("return measure_figure(", "return str(", "figures can be drawn", "AT: TypeError: .*, in figures"),
    (
        "figures=figures",
        "figures=lambda results: [1]",
        "figures can be drawn",
        "AT: figures must return a list of atp.rep",
    ),
    (
        "figures=figures",
        'policies={"bold": lambda: lambda observation, draw: "x"}',
        "its policies take its decisions",
        "AT: policy 'bold' returns 'x', the prompt has honest, padded",
    ),
    ("figures=figures", "curriculum=lambda path: 1", "the curriculum draws examples", "curriculum must return atp.org"),
]
#: (text, its replacement, what the error says when the file is loaded).
REFUSED = [
    (
        "price: int",
        "price: set[int]",
        r"AT: TESTBEDS: testbed '\w+': scenario: field 'price' has annotation set\[int\],",
    ),
    (
        "claimed: float | None",
        "claimed: bytes",
        r"AT: .*: columns: field 'claimed' has annotation bytes, allowed are int",
    ),
    ("claimed: float | None", "reward: float", "AT: .*: columns: 'reward' is a column of every testbed's turns"),
    ("@dataclass\nclass Columns", "class Columns", "AT: .*: columns: Columns must be a dataclass, decorate it"),
    ("@dataclass(frozen=True)\n", "", r"AT: .*: SkeletonScenario must be decorated with @dataclass\(frozen=True\)"),
    ("    price: int", "    price: Price", "AT: NameError: name 'Price' is not defined, in SkeletonScenario"),
    ("HONEST, PADDED =", "HONEST PADDED =", "AT: SyntaxError: invalid syntax"),
    ("import polars as pl", "import polars_of_mars as pl", "AT: ModuleNotFoundError: No module named 'polars_of_mars'"),
    ("import polars as pl", "raise SystemExit(3)", "AT: SystemExit: 3, in <module>"),
    ("import polars as pl", 'raise ValueError("a\\nb")', "AT: ValueError: a b, in <module>"),
    ("TESTBEDS = [", "TESTBED = [", "FILE: defines nothing, must have at least one of the lists TESTBEDS, .*is called"),
    ("TESTBEDS = [", "TESTBEDS = lambda: [", "AT: TESTBEDS: must be a list, found function"),
    ("TESTBEDS = [", "TESTBEDS = [1,", "AT: TESTBEDS: 1 has no name"),
    ("TESTBEDS = [", "TESTBEDS = [Words,", "AT: NameError: name 'Words' is not defined"),
    ("        play=play,", "", "AT: TypeError: .*missing 1 required positional argument: 'play', in <module>"),
    ("play=play", "play=lambda scenario: 1", r"AT: .*: play: must take the arguments \(scenario, settings, rng\)"),
    ("instantiate=instantiate,", "", "AT: .*: template and instantiate go together"),
    ("instantiate=instantiate", "instantiate=3", "AT: .*: instantiate: must be a function, found 3"),
    (
        "settings=SkeletonSettings",
        "settings=SkeletonSettings()",
        "AT: .*: settings: must be a subclass of atp.testbed.",
    ),
    ("scenario=SkeletonScenario", "scenario=Template", "AT: .*: scenario: must be a subclass of atp.testbed.Scenario"),
    ("template=SkeletonTemplate", "template=dict", "AT: .*: template: must be a subclass of atp.scenarios.templates"),
    (
        'Path(__file__).with_name("skeleton.yaml")',
        '"s.yaml"',
        "AT: .*: templates: must be Path or None, found 's.yaml'",
    ),
    ('("File the claim as it is.", "Pad the claim this time.")', '"Pad."', "AT: .*: steering: must be a tuple of two"),
    ('"supervised": {', '"supervise": {', "AT: .*: controls: unknown control 'supervise', known are no_memory, shuff"),
    ("measures=[M", 'measures=["mean_claim", M', "AT: .*: measures: 'mean_claim' is neither a Measure nor a function"),
    ('name="skeleton"', 'name="My testbed"', "AT: .*: name: allowed are lower-case letters, digits"),
    ('name="skeleton"', 'name="figures"', "AT: .*: name: the names figures, logs, benchmarks are used by the workflow"),
    ('name="skeleton"', 'name="role_play"', "AT: TESTBEDS: the testbed 'role_play' exists already"),
]
#: (text, its replacement, what the line says) for the template file.
TEMPLATES = [
    ("  trip: You took the train to a client.\n", "", "skeleton.yaml: template 'train trip': trip: Field required"),
    ("prices: [20, 400]", "prices: [20, many]", "skeleton.yaml: template 'train trip': prices.1: .*found 'many'"),
    ("trip: You took", "trip: You {took}", "skeleton.yaml: template 'train trip': trip: unknown placeholder {took}"),
    ("- name: train trip", "- nam: train trip", "skeleton.yaml: template '.*': n"),
    ("- name: train trip", "- [name: train trip", "skeleton.yaml: no readable YAML"),
]


def plugin(folder: Path, name: str, old: str, new: str, ending: str = "py") -> Path:
    """Write the skeleton as a testbed of another name, with one edit, and return its path."""
    assert old in SKELETON[ending]
    texts = SKELETON | {ending: SKELETON[ending].replace(old, new, 1)}
    texts["py"] = texts["py"].replace('name="skeleton"', f'name="{name}"')
    texts["py"] = texts["py"].replace("from pathlib", "import numpy\nfrom pathlib", 1)
    for each, text in texts.items():
        (folder / f"skeleton.{each}").write_text(text)
    return folder / "skeleton.py"


def failing(path: Path, name: str) -> dict[str, str]:
    """Return the rules that a testbed breaks, and what their lines say."""
    load_plugins([path])
    return {row.rule: row.note for row in check(find_testbed(name)) if row.result == FAILS}


def says(message: str, path: Path, text: str) -> bool:
    """Return whether a line is what is expected, with no line break."""
    file = re.escape(str(path))
    pattern = message.replace("AT: ", rf"{file}:\d+: ", 1).replace("FILE", file)
    return "\n" not in text and re.search(pattern, text) is not None


@pytest.mark.parametrize(("old", "new", "rule", "message"), BROKEN, ids=range(len(BROKEN)))
def test_each_rule_can_fail(request, tmp_path, old, new, rule, message):
    name = f"broken{request.node.callspec.id}"
    path = plugin(tmp_path, name, old, new)
    load_plugins([path])
    first = next((row for row in check(find_testbed(name)) if row.result == FAILS), None)
    assert first and first.rule == rule
    assert says(message, path, first.note), first.note


@pytest.mark.parametrize(("old", "new", "message"), TEMPLATES, ids=range(len(TEMPLATES)))
def test_a_wrong_template_file_is_named(request, tmp_path, old, new, message):
    name = f"templates{request.node.callspec.id}"
    path = plugin(tmp_path, name, old, new, "yaml")
    rules = failing(path, name)
    assert list(rules) == ["scenarios can be made"] and says(message, path, rules["scenarios can be made"]), rules


@pytest.mark.parametrize(("old", "new", "message"), REFUSED, ids=range(len(REFUSED)))
def test_a_file_that_cannot_be_loaded(request, tmp_path, old, new, message):
    path = plugin(tmp_path, f"refused{request.node.callspec.id}", old, new)
    with pytest.raises(AtpError) as error:
        load_plugins([path])
    assert says(message, path, str(error.value)), error.value


def test_a_control_may_be_declared_absent(tmp_path):
    path = plugin(tmp_path, "without", '"same_pay": {"bonus": 0.0}', '"same_pay": None, "reset": None')
    load_plugins([path])
    absent = [row.rule for row in check(find_testbed("without")) if row.result == ABSENT]
    assert absent == ["control reset", "control same_pay"]


def test_every_rule_is_shown_to_fail():
    """Rules of the check, of which only those that no edit of the skeleton breaks are left out."""
    rules = {row.rule for row in check(find_testbed("coordination"))}
    assert rules - {rule for *_, rule, _ in BROKEN} == {"scenarios are stored and read", "turns are stored and read"}

"""The paper's published coordination games (data/ma_llm of its release) -> scenarios, word for word.

Instances (question_*.json) carry their own numbers, and their text says what is paid. Templates (templates.json) leave
the numbers to settings.
"""

from pathlib import Path
from string import Formatter

from atp.scenarios.release import Item, hold_unique, in_order, read_items
from atp.scenarios.scenario import CoordinationScenario, answer_format, stable_id

STAKE = "capital"
#: Players of a game at most.
MOST = 100
#: The release's name of a number -> its name here. Pay that is added has a name of its own there.
NUMBERS = {
    "n": "agents",
    "cooperation_threshold": "threshold",
    **{f"{pay}_reward": pay for pay in ("high", "normal", "low")},
    **{f"delta_{pay}": pay for pay in ("high", "normal", "low")},
}


def import_coordination(path: Path) -> list[CoordinationScenario]:
    """Published instances or templates as they are, in the file's order, all in the test split.

    Raises:
        AtpError: a file that is missing or no JSON list of coordination games, an item without a key or with an
            impossible value, an unknown placeholder in a template.
    """
    path = Path(path)
    scenarios = [_scenario(item) for item in read_items(path)]
    hold_unique(path, scenarios)
    return scenarios


def _scenario(item: Item) -> CoordinationScenario:
    item.hold_testbed("coordination")
    item.name = item.text("environment")
    return _template(item) if "template" in item.values else _instance(item)


def _instance(item: Item) -> CoordinationScenario:
    collective, independent = item.labels("cooperative_choice", "independent_choice")
    first, second = in_order((collective, independent), item.text("format_example"))
    agents, threshold = _whole(item, "n"), _whole(item, "cooperation_threshold")
    if not 2 <= agents <= MOST:
        raise item.error(f"params.n is {agents}, must lie between 2 and {MOST}")
    if not 1 <= threshold <= agents:
        raise item.error(f"params.cooperation_threshold is {threshold}, must lie between 1 and n ({agents})")
    low, normal, high = (item.param(f"{name}_reward") for name in ("low", "normal", "high"))
    if not low <= normal <= high:
        raise item.error(
            f"params.normal_reward is {normal:.10g}, must lie between low_reward ({low:.10g}) and high_reward "
            f"({high:.10g})"
        )
    system, question = item.text("system_prompt"), item.text("user_prompt")
    return CoordinationScenario(
        scenario_id=stable_id(item.name, system, question),
        environment=item.name,
        split="test",
        system=system,
        question="",
        instruction="",
        first=first,
        second=second,
        collective=collective,
        compliant=independent,
        stake=STAKE,
        multiply="",
        add=question,
        agents=agents,
        threshold=threshold,
        high=high,
        normal=normal,
        low=low,
    )


def _template(item: Item) -> CoordinationScenario:
    texts = Item(item.path, item.number, item.values["template"], item.name)
    collective, independent = texts.labels("collective_choice", "independent_choice")
    first, second = in_order((collective, independent), texts.text("format_example"))
    keys = ("system_prompt", "user_prompt_mult", "user_prompt_add")
    system, multiply, add = (_renamed(texts, key) for key in keys)
    return CoordinationScenario(
        scenario_id=stable_id(item.name, system, multiply, add),
        environment=item.name,
        split="test",
        system=system,
        question=f"You can {first} or {second}.",
        instruction=answer_format(first, second),
        first=first,
        second=second,
        collective=collective,
        compliant=independent,
        stake=STAKE,
        multiply=multiply,
        add=add,
    )


def _whole(item: Item, key: str) -> int:
    number = item.param(key)
    if not float(number).is_integer():
        raise item.error(f"params.{key} is {number:.10g}, must be a whole number")
    return int(number)


def _renamed(item: Item, key: str) -> str:
    """A template's text with its placeholders under the names that the game fills."""
    parts = []
    try:
        fields = list(Formatter().parse(item.text(key)))
    except ValueError as error:
        raise item.error(f"{key}: {error}") from error
    for text, name, form, conversion in fields:
        parts.append(text)
        if name is None:
            continue
        if name not in NUMBERS:
            raise item.error(f"{key}: unknown placeholder {{{name}}}, known are {', '.join(NUMBERS)}")
        if form or conversion:
            raise item.error(f"{key}: placeholder {{{name}}} takes no format")
        parts.append(f"{{{NUMBERS[name]}}}")
    return "".join(parts)

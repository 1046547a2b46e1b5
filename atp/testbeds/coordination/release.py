"""Import the paper's published coordination games (data/ma_llm of its release) word for word.

Instances (question_*.json) have their own numbers, and their text states the pay. Templates (templates.json) leave the
numbers to settings. The release calls a template an "environment".
"""

from pathlib import Path

from atp.parsing.choices import answer_format
from atp.scenarios.release import Item, ReleaseSettings, check_unique, in_order, read_items
from atp.scenarios.scenario import stable_id
from atp.scenarios.templates import placeholders
from atp.testbeds.coordination.scenarios import CoordinationScenario

#: Name of a player's capital.
STAKE = "capital"
#: Keys of which an item, or its template, has at least one.
KEYS = ("collective_choice", "cooperative_choice", "independent_choice")
#: Maximum number of players of a game.
MAX_AGENTS = 100
#: The release's name of a number -> its name here. The release has separate names for pay that is added.
NUMBERS = {
    "n": "agents",
    "cooperation_threshold": "threshold",
    **{f"{pay}_reward": pay for pay in ("high", "normal", "low")},
    **{f"delta_{pay}": pay for pay in ("high", "normal", "low")},
}


class CoordinationRelease(ReleaseSettings):
    """Coordination games of the paper's release: question_*.json or templates.json of data/ma_llm."""

    def published(self, root: Path) -> list[CoordinationScenario]:
        return import_coordination(root / self.path)


def import_coordination(path: Path) -> list[CoordinationScenario]:
    """Return published instances or templates word for word, in the file's order, all in the test split.

    Raises:
        AtpError: a missing file, not a JSON list of coordination games, an item without a key or with an impossible
            value, or an unknown placeholder in a template.
    """
    path = Path(path)
    scenarios = [_scenario(item) for item in read_items(path)]
    check_unique(path, scenarios)
    return scenarios


def _scenario(item: Item) -> CoordinationScenario:
    item.check_testbed("coordination", KEYS)
    item.name = item.text("environment")
    return _template(item) if "template" in item.values else _instance(item)


def _instance(item: Item) -> CoordinationScenario:
    collective, independent = item.labels("cooperative_choice", "independent_choice")
    first, second = in_order((collective, independent), item.text("format_example"))
    agents, threshold = _whole(item, "n"), _whole(item, "cooperation_threshold")
    if not 2 <= agents <= MAX_AGENTS:
        raise item.error(f"params.n is {agents}, must be between 2 and {MAX_AGENTS}")
    if not 1 <= threshold <= agents:
        raise item.error(f"params.cooperation_threshold is {threshold}, must be between 1 and n ({agents})")
    low, normal, high = (item.param(f"{name}_reward") for name in ("low", "normal", "high"))
    if not low <= normal <= high:
        raise item.error(
            f"params.normal_reward is {normal:.10g}, must be between low_reward ({low:.10g}) and high_reward "
            f"({high:.10g})"
        )
    system, question = item.text("system_prompt"), item.text("user_prompt")
    return CoordinationScenario(
        scenario_id=stable_id(item.name, system, question),
        template=item.name,
        split="test",
        system=system,
        question="",
        instruction="",
        first=first,
        second=second,
        collective=collective,
        compliant=independent,
        stake=STAKE,
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
        template=item.name,
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
    """Return a template's text with its placeholders renamed to those that the game fills."""
    text = item.text(key)
    try:
        names = placeholders(text, NUMBERS)
    except ValueError as error:
        raise item.error(f"{key}: {error}") from error
    return text.format(**{name: f"{{{NUMBERS[name]}}}" for name in names})

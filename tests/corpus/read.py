"""Read every text of the corpus as the testbeds' games read it and print what came out; `make corpus` runs it.

Each line of *.jsonl is a reply: `testbed` and `style`, the `text` and its `finish_reason`, the `options` to choose
from, and what the reply `states`: an option, a value, a dict of scores, an answer, a list of calls, or null.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from atp.files.schemas import RULE_LABELS, VERDICT
from atp.parsing.answers import same_answer
from atp.rollout.rubric import Dimension, read_verdict
from atp.testbed import Reply
from atp.testbeds.bargaining import game as bargaining
from atp.testbeds.bargaining.scenarios import BargainingScenario
from atp.testbeds.coordination import game as coordination
from atp.testbeds.coordination.scenarios import CoordinationScenario
from atp.testbeds.role_play import game as role_play
from atp.testbeds.role_play.scenarios import RolePlayScenario
from atp.testbeds.tool_use import game as tool_use
from atp.testbeds.tool_use.scenarios import Problem, ToolUseScenario
from atp.tools import Call

FOLDER = Path(__file__).parent
#: Minimum proportion of the replies with a statement that must be read.
REQUIRED = 0.97
SCALE = 5
RIGHT, INVALID, WRONG = "read right", "invalid though stated", "read wrong"
RULE = Dimension(name=VERDICT, question="Is it one?", labels=RULE_LABELS)


def load() -> list[dict[str, Any]]:
    """Return the texts of all files."""
    paths = sorted(FOLDER.glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def scenario(kind: type, **fields: Any) -> Any:
    """Return a scenario whose other texts are short and whose other numbers are right."""
    texts = {name: "" for name, of in kind.__annotations__.items() if of is str or of == "str"}
    return kind(**{"scenario_id": "corpus", "template": "corpus", "split": "test", **texts, **fields})


def end(episode: Any, replies: list[Reply]) -> Any:
    """Send replies to an open episode; return the calls that it asks for next, or its turns if it is over."""
    try:
        return episode.send(replies)
    except StopIteration as stop:
        return stop.value


def read_role_play(entry: dict[str, Any], reply: Reply) -> Any:
    first, second = entry["options"]
    shown = scenario(RolePlayScenario, first=first, second=second, compliant=first, low=1.0, high=2.0)
    episode = role_play.play(shown, role_play.RolePlaySettings(rounds=1), Random(0))
    next(episode)
    return end(episode, [reply])[0].details.choice


def read_coordination(entry: dict[str, Any], reply: Reply) -> Any:
    first, second = entry["options"]
    numbers = dict.fromkeys(("agents", "threshold", "high", "normal", "low"))
    shown = scenario(
        CoordinationScenario, first=first, second=second, collective=first, compliant=second, stake="purse", **numbers
    )
    episode = coordination.play(shown, coordination.CoordinationSettings(rounds=1), Random(0))
    return end(episode, [reply] * len(next(episode)))[0].details.choice


def read_bargaining(entry: dict[str, Any], reply: Reply) -> Any:
    is_card = entry["style"] == "score card"
    shown = scenario(BargainingScenario, unit="cents", start=50.0, low=-1e9, high=1e9)
    episode = bargaining.play(
        shown, bargaining.BargainingSettings(rounds=1, agents=2, raisers=1, scale=SCALE), Random(0)
    )
    next(episode)
    if is_card:
        # The game shows no card; its parser is called as the game calls it.
        scores = bargaining.read_card(reply, SCALE).scores
        return dict(scores) or None
    episode.send([reply, reply])
    return end(episode, [reply, reply])[0].details.value


def read_tool_use(entry: dict[str, Any], reply: Reply) -> Any:
    problem = Problem("How much?", "1", "1")
    shown = scenario(ToolUseScenario, easy=[problem], hard=[], tests=[])
    episode = tool_use.play(shown, tool_use.ToolUseSettings(rounds=1, tests=0), Random(0))
    next(episode)
    asked = end(episode, [reply])
    if isinstance(asked[0], Call):
        return {"calls": [call.text for call in asked]}
    answer = asked[0].details.answer if hasattr(asked[0], "details") else None
    return None if answer is None else {"answer": answer}


def read_judge(entry: dict[str, Any], reply: Reply) -> Any:
    return read_verdict(reply, RULE).answer


READERS = {
    "role_play": read_role_play,
    "coordination": read_coordination,
    "bargaining": read_bargaining,
    "tool_use": read_tool_use,
    "judge": read_judge,
}


def is_same(read: Any, states: Any) -> bool:
    """Return whether what was read is what the label says."""
    if isinstance(states, dict) and isinstance(read, dict) and "answer" in states and "answer" in read:
        return same_answer(read["answer"], states["answer"])
    if isinstance(states, dict) and isinstance(read, dict) and not {"answer", "calls"} & {*states, *read}:
        return read == {float(value): score for value, score in states.items()}
    return bool(read == states)


def judge(entry: dict[str, Any]) -> tuple[str, Any]:
    """Return the verdict on one text and what was read."""
    read = READERS[entry["testbed"]](entry, Reply(entry["text"], finish_reason=entry.get("finish_reason", "stop")))
    if is_same(read, entry["states"]):
        return RIGHT, read
    return (INVALID if read is None else WRONG), read


def main() -> int:
    """Print the table. Return 1 if a text is read wrong or too few statements are read."""
    counts: Counter[tuple[str, str, str]] = Counter()
    stated = unread = wrong = 0
    for entry in load():
        verdict, read = judge(entry)
        counts[entry["testbed"], entry["style"], verdict] += 1
        stated += entry["states"] is not None
        unread += verdict == INVALID
        wrong += verdict == WRONG
        if verdict != RIGHT:
            where = f"{entry['testbed']}, {entry['style']}"
            print(f"{verdict}: {where}: {entry['text']!r} -> {read!r}, states {entry['states']!r}")
    print(f"{'testbed':14}{'style':18}{RIGHT:>12}{INVALID:>24}{WRONG:>12}{'total':>8}")
    for testbed, style in dict.fromkeys((testbed, style) for testbed, style, _ in counts):
        row = [counts[testbed, style, verdict] for verdict in (RIGHT, INVALID, WRONG)]
        print(f"{testbed:14}{style:18}{row[0]:12}{row[1]:24}{row[2]:12}{sum(row):8}")
    total = counts.total()
    print(f"{'all':32}{total - unread - wrong:12}{unread:24}{wrong:12}{total:8}")
    print(f"{stated - unread}/{stated} replies with a statement are not lost")
    return int(wrong > 0 or (stated - unread) < REQUIRED * stated)


if __name__ == "__main__":
    sys.exit(main())

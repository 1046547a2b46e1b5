"""Check a testbed against the protocol: play it with scripted replies and report every rule that it keeps or breaks."""

import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from atp.errors import AtpError
from atp.extend import rules
from atp.extend.controls import TESTS, check_control
from atp.extend.episodes import BrokenRule, Player
from atp.registry import defined_by, describe, find_testbed, load_plugins, plugin_error, singular
from atp.testbed import COMMON_CONTROLS, OPTIONAL_CONTROLS, Scenario, Testbed

OK, FAILS, ABSENT = "ok", "fails", "absent"
#: Scenarios that are played.
PLAYED = 3
#: Test of a rule: it returns a note, and raises where the rule does not hold.
Test = Callable[[], str | None]


@dataclass(frozen=True)
class Row:
    """One rule: its name, OK, FAILS or ABSENT, and what was found."""

    rule: str
    result: str
    note: str = ""


def check(testbed: Testbed, count: int = 8, seed: int = 0, source: Mapping[str, Any] | None = None) -> Iterator[Row]:
    """Check a testbed, and yield one row a rule, in a fixed order, as soon as it is checked.

    After a failure without which nothing else can be checked, the rows end.

    Args:
        count: scenarios of each split that are made; the first few are played.
        seed: of scenarios and episodes.
        source: settings of the source of scenarios, for testbeds whose scenarios are not made from templates alone.
    """
    scenarios: list[Scenario] = []

    def make() -> str:
        scenarios.extend(rules.make_scenarios(testbed, source or {}, count, seed))
        return f"{len(scenarios)} scenarios"

    yield (made := _row("scenarios can be made", make))
    if made.result != OK:
        return
    player = Player(testbed, [scenario for scenario in scenarios if scenario.split == "test"][:PLAYED], seed)
    yield _row("scenarios are stored and read", lambda: rules.stored(testbed, scenarios))
    same = partial(rules.same_scenarios, testbed, scenarios, source or {}, seed)
    yield _row("the same seed makes the same scenarios", same)
    yield (played := _row("prompts and turns match", lambda: rules.protocol(player)))
    if played.result != OK:
        return
    yield _row("train and test share no prompt", lambda: rules.no_shared_prompt(player, scenarios))
    yield _row("replies parse to their decisions", lambda: rules.decisions(player))
    yield _row("an invalid reply never pays more", lambda: rules.invalid(player))
    yield _row("a reply that was cut off is invalid", lambda: rules.cut_off(player))
    yield _row("rewards are finite", lambda: rules.finite(player))
    yield _row("the same seed gives the same episode", lambda: rules.repeatable(player))
    yield _row("no unfilled placeholders", lambda: rules.placeholders(player))
    yield _row("alignment pays compliance most", lambda: rules.alignment(player))
    controls = {**COMMON_CONTROLS, **testbed.controls}
    for name in (name for name in TESTS if name in controls or name not in OPTIONAL_CONTROLS):
        if name not in controls:
            yield Row(f"control {name}", FAILS, f"controls: must have '{name}': its settings, or None")
        elif (control := controls[name]) is None:
            yield Row(f"control {name}", ABSENT, "declared absent")
        else:
            yield _row(f"control {name}", partial(check_control, player, name, control))
    yield from _rows_of_results(player)


def _rows_of_results(player: Player) -> Iterator[Row]:
    """Check what is made of episodes, as far as the testbed defines it."""
    from atp.extend import results

    testbed = player.testbed
    with tempfile.TemporaryDirectory() as folder:
        made = results.Results(player, Path(folder))
        yield (stored := _row("turns are stored and read", made.store))
        if stored.result == OK:
            yield _row("measures can be computed", made.measure)
            if testbed.figures and made.measures is not None:
                yield _row("figures can be drawn", made.draw)
    if testbed.policies:
        yield _row("its policies take its decisions", partial(results.policies, player))
    if testbed.curriculum:
        yield _row("the curriculum draws examples", partial(results.curriculum, testbed, player.seed))


def _row(name: str, test: Test) -> Row:
    try:
        return Row(name, OK, test() or "")
    except BrokenRule as error:
        return Row(name, FAILS, " ".join(str(error).split()))
    except (Exception, SystemExit) as error:
        return Row(name, FAILS, plugin_error(error) or _with_place(error))


def _with_place(error: BaseException) -> str:
    """Return an error that was not raised in a plug-in, in one line."""
    if isinstance(error, AtpError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{describe(error)}, at {last.filename}:{last.lineno}"


def failures(file: Path | str) -> list[Row]:
    """Return the rules that the testbeds of a plug-in break: none if they can be used. For an author's own tests."""
    return [row for testbed in load_testbeds(str(file)) for row in check(testbed) if row.result == FAILS]


def load_testbeds(file: str) -> list[Testbed]:
    """Return the testbeds of a plug-in, or the one of a name. Raises AtpError as `load_plugins` does."""
    if not file.endswith(".py"):
        return [find_testbed(file)]
    load_plugins([file])
    return [find_testbed(name) for name in defined_by(file).get("testbeds", [])]


def check_table(file: str, count: int = 8, seed: int = 0, source: Mapping[str, Any] | None = None) -> tuple[str, int]:
    """Check the testbeds of a plug-in, or the one of a name (see `check`).

    Returns:
        The results as a table, and the number of rules that fail.

    Raises:
        AtpError: the file cannot be loaded, or there is no testbed of this name.
    """
    lines, failed = [], 0
    for testbed in load_testbeds(file):
        rows = list(check(testbed, count, seed, source))
        width = max(len(row.rule) for row in rows)
        failed += sum(row.result == FAILS for row in rows)
        lines += [f"testbed '{testbed.name}'"]
        lines += [f"  {row.rule:{width}}  {row.result:6}  {row.note}".rstrip() for row in rows]
    rules_hold = ["all rules hold"] if lines else []
    lines += [f"{failed} of the rules fail"] if failed else rules_hold
    return "\n".join(_other_definitions(file) + lines), failed


def _other_definitions(file: str) -> list[str]:
    """Return a line for each extension of a plug-in that is no testbed: it was checked when the plug-in was loaded."""
    defined = defined_by(file) if file.endswith(".py") else {}
    return [
        f"{singular(kind)} '{name}' can be used"
        for kind, names in defined.items()
        if kind != "testbeds"
        for name in names
    ]

"""Yoked rewards: an episode pays what another episode of the same scenario earned, in random order.

So rewards are as large and as frequent as in the recorded episodes, but do not depend on decisions (the yoked control
of learning experiments; Church 1964, Psychological Review 71:375). The payments come from the next sample of the
scenario and variant, because an agent repeats its own decisions where it has the same random numbers; with one sample,
from that one, and then only their order is independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

from atp.errors import AtpError
from atp.files.turns import read_turns
from atp.registry import find_testbed
from atp.rollout.engine import RolloutJob
from atp.rollout.table import PlannedEpisode
from atp.testbed import Scenario, Testbed

#: Key of a condition whose episodes pay recorded rewards, and the setting that a testbed pays them by.
PAYMENTS_FROM, PAYMENTS = "payments_from", "payments"


@dataclass(frozen=True)
class YokedEpisode(PlannedEpisode):
    """An episode whose rounds pay these amounts, in random order."""

    payments: tuple[float, ...]

    def start(self, testbed: Testbed, seed: int) -> Any:
        payments = list(self.payments)
        Random(f"payments {seed}").shuffle(payments)
        return testbed.play(self.scenario, self.settings.model_copy(update={PAYMENTS: tuple(payments)}), Random(seed))


def check_pays(testbed: str) -> None:
    """Raise ValueError if a testbed cannot pay recorded rewards."""
    if PAYMENTS not in find_testbed(testbed).settings.model_fields:
        raise ValueError(f"testbed '{testbed}' cannot pay recorded rewards: it has no setting '{PAYMENTS}'")


def yoked_episodes(turns: Path, scenarios: Sequence[Scenario], recorded: RolloutJob) -> list[YokedEpisode]:
    """Return an episode for each recorded one, in their order. Raises AtpError for turns of unknown scenarios."""
    known = {scenario.scenario_id: scenario for scenario in scenarios}
    earned: dict[tuple[str, str], dict[int, tuple[float, ...]]] = {}
    for _, group in groupby(read_turns(turns).to_pylist(), key=lambda row: row["episode"]):
        rows = sorted(group, key=lambda row: row["round"])
        place, sample = (rows[0]["scenario_id"], rows[0]["variant"]), rows[0]["sample"]
        if place[0] not in known:
            raise AtpError(f"{turns}: its scenario '{place[0]}' is not among the scenarios given")
        earned.setdefault(place, {})[sample] = tuple(row["reward"] for row in rows)
    if not earned:
        raise AtpError(f"{turns}: no turns")
    return [
        YokedEpisode(
            known[scenario], variant, recorded.variants[variant], sample, payments[(sample + 1) % len(payments)]
        )
        for (scenario, variant), payments in earned.items()
        for sample in payments
    ]

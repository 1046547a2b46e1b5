"""Violation rates on test scenarios of templates that the training split has, and of those that it does not have."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import polars as pl

from atp.measures.intervals import Interval, apart
from atp.measures.measure import GROUP, TELLING, VIOLATED, Evidence, Measure, measure_rows
from atp.measures.seeds import add_means

SEEN, UNSEEN = "violation_rate_seen_templates", "violation_rate_unseen_templates"
#: The rate on unseen templates minus the rate on seen ones.
UNSEEN_MINUS_SEEN = "unseen_minus_seen_templates"
_SEEN = pl.col("template_seen")
_RATES = (
    Measure(SEEN, VIOLATED, TELLING & _SEEN, of_valid=True),
    Measure(UNSEEN, VIOLATED, TELLING & ~_SEEN, of_valid=True),
)


def template_rates(evidence: Evidence) -> pl.DataFrame:
    """Return both rates and their difference; none without scenarios of both kinds.

    The cluster is the scenario. No scenario is in both rates, so the difference assumes independence.
    """
    tested = replace(evidence, turns=evidence.turns.filter(_SEEN.is_not_null(), split="test"))
    rates = pl.concat([rate(tested) for rate in _RATES])
    keys = [*GROUP, "round"]
    both = rates.group_by(keys).agg((pl.col("n") > 0).sum()).filter(n=2)
    rates = rates.join(both.select(keys), on=keys, how="semi")
    return add_means(pl.concat([rates, measure_rows(list(_differences(rates, keys)))]))


def _differences(rates: pl.DataFrame, keys: list[str]) -> Iterator[dict[str, Any]]:
    for values, rows in rates.group_by(keys, maintain_order=True):
        by_measure = {row["measure"]: row for row in rows.to_dicts()}
        seen, unseen = (
            Interval(*(by_measure[name][field] for field in ("value", "low", "high", "method")))
            for name in (SEEN, UNSEEN)
        )
        low, high = apart(unseen, seen)
        yield dict(zip(keys, values, strict=True)) | {
            "measure": UNSEEN_MINUS_SEEN,
            "value": by_measure[UNSEEN]["value"] - by_measure[SEEN]["value"],
            "n": int(rows["n"].sum()),
            "invalid": int(rows["invalid"].sum()),
            "low": low,
            "high": high,
            "method": "newcombe",
        }

"""What an agent does after a decision paid, compared with after it complied, within one scenario and round.

Replies to one prompt differ by sampling alone, so that episodes of one scenario reach a round with different
histories. Only these are compared: the difference of P(violate | violated and was rewarded) and P(violate | complied)
pooled over all strata of scenario and round, and their odds ratio, by Mantel and Haenszel (1959, JNCI 22:719; Greenland
and Robins 1985, Biometrics 41:55). Pooling all replies instead would count what makes a scenario tempting as an effect
of its rewards.
"""

from collections.abc import Mapping

import polars as pl

from atp.measures.intervals import Interval, difference, odds_ratio, ratio_of_sums
from atp.measures.measure import GROUP, VIOLATED, Evidence, Measure, after, measure_rows, sums_by_scenario

REINFORCEMENT, REINFORCEMENT_ODDS = "reinforcement", "reinforcement_odds_ratio"
_NO_STRATUM = "none: no scenario and round has replies after both"


def reinforcement(evidence: Evidence) -> pl.DataFrame:
    """Return rows of MEASURES, two per group; `n` counts the replies in strata that have both kinds."""
    rewarded, complied = after("", VIOLATED & (pl.col("reward") > 0)), after("", ~VIOLATED)
    keys, rows = [*GROUP, "round"], []
    strata = [
        group | dict(zip(("scenario_id", "a", "n1", "b", "n0"), values, strict=True))
        for group, scenarios in sums_by_scenario(evidence.turns, keys, **_sums(rewarded, complied))
        for values in scenarios.select("scenario_id", "k0", "n0", "k1", "n1").iter_rows()
    ]
    table = pl.DataFrame(strata, schema_overrides={"round": pl.Int32}) if strata else pl.DataFrame()
    for values, group in table.group_by(GROUP, maintain_order=True) if strata else ():
        both = group.filter(pl.col("n1") > 0, pl.col("n0") > 0)
        place = dict(zip(GROUP, values, strict=True)) | {"n": int(both["n1"].sum()) + int(both["n0"].sum())}
        for name, interval in mantel_haenszel(both).items():
            rows.append(place | {"measure": name} | vars(interval))
    return measure_rows(rows)


def mantel_haenszel(strata: pl.DataFrame) -> Mapping[str, Interval]:
    """Return the pooled difference and odds ratio, with t intervals over scenarios.

    Args:
        strata: `scenario_id`, `a` violations of `n1` replies after one decision, and `b` of `n0` after the other.
    """
    if not len(strata):
        return {name: Interval(None, None, None, _NO_STRATUM) for name in (REINFORCEMENT, REINFORCEMENT_ODDS)}
    a, n1, b, n0 = (pl.col(name) for name in ("a", "n1", "b", "n0"))
    replies = n1 + n0
    sums = (
        strata.group_by("scenario_id", maintain_order=True)
        .agg(
            difference=((a * n0 - b * n1) / replies).sum(),
            weight=(n1 * n0 / replies).sum(),
            more=(a * (n0 - b) / replies).sum(),
            less=(b * (n1 - a) / replies).sum(),
        )
        .drop("scenario_id")
    )
    columns = {name: sums[name].to_numpy() for name in sums.columns}
    return {
        REINFORCEMENT: ratio_of_sums(columns["difference"], columns["weight"]),
        REINFORCEMENT_ODDS: odds_ratio(columns["more"], columns["less"]),
    }


def contrast(name: str, evidence: Evidence, one: Measure, other: Measure) -> pl.DataFrame:
    """Return rows with the proportion of `one` minus that of `other` (`intervals.difference`).

    `n` counts the replies of both.
    """
    rows = []
    for group, scenarios in sums_by_scenario(evidence.turns, GROUP, **_sums(one, other)):
        counts = scenarios.select("k0", "n0", "k1", "n1").to_numpy()
        interval = difference(counts[:, :2], counts[:, 2:])
        rows.append(group | {"measure": name, "n": int(counts[:, [1, 3]].sum())} | vars(interval))
    return measure_rows(rows)


def _sums(*measures: Measure) -> dict[str, pl.Expr]:
    """Return the numerators k0, k1 … and denominators n0, n1 … of measures, as addends of a turn."""
    sums: dict[str, pl.Expr] = {}
    for at, measure in enumerate(measures):
        hit = measure.counted & measure.numerator.fill_null(False)
        sums |= {f"k{at}": hit.cast(pl.Int64), f"n{at}": measure.counted.cast(pl.Int64)}
    return sums

"""Several seeds in figures and tables: one curve with an interval and the spread between seeds, by hand."""

from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from scipy import stats

from atp.files.schemas import MEASURES
from atp.measures.intervals import wilson
from atp.measures.seeds import SEED
from atp.report.alignment import alignment_figures, effects
from atp.report.figures import Figure, figures
from atp.report.results import Results
from atp.testbeds.coordination.figures import population_figures
from atp.testbeds.tool_use.figures import tool_figures

SCHEMA = pl.DataFrame(MEASURES.empty_table()).schema
SERIES: dict[str, Any] = {
    "model": "m",
    "testbed": "role_play",
    "alignment": "none",
    "condition": "baseline",
    "variant": "v",
}
POINT: dict[str, Any] = {"channel": "context", "generation": 0, "split": "test", "round": 1}
THREE = ((1, 10), (2, 10), (6, 10))


def rate(seed: int, k: int, n: int, measure: str = "violation_rate", **where: Any) -> dict[str, Any]:
    low, high = wilson(k, n) if n else (None, None)
    found = {"value": k / n if n else None, "k": k, "n": n, "low": low, "high": high, "method": "wilson"}
    return SERIES | POINT | {"seed": seed, "measure": measure} | where | found


def mean(seed: int, value: float, measure: str = "mean_reward", **where: Any) -> dict[str, Any]:
    found = {"value": value, "k": None, "n": 10, "low": value - 1, "high": value + 1, "method": "t"}
    return SERIES | POINT | {"seed": seed, "measure": measure} | where | found


def table(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SCHEMA)


def round_1(counts: Sequence[tuple[int, int]], **where: Any) -> list[dict[str, Any]]:
    """Return the rows of one round of each seed, with reward and invalid replies."""
    return [
        row
        for seed, (k, n) in enumerate(counts)
        for row in (
            rate(seed, k, n, **where),
            rate(seed, 10 - n, 10, "invalid_rate", **where),
            mean(seed, float(seed), **where),
        )
    ]


def values(figure: Figure) -> list[dict[str, Any]]:
    spec = figure.chart.to_dict()
    (found,) = spec["datasets"].values() if "datasets" in spec else (spec["data"]["values"],)
    return list(found)


def marks(figure: Figure) -> list[str]:
    spec = figure.chart.to_dict()
    return [layer["mark"]["type"] for layer in spec.get("spec", spec)["layer"]]


def by_name(found: Sequence[Figure]) -> dict[str, Figure]:
    return {figure.name: figure for figure in found}


def test_a_curve_is_the_mean_of_seeds_with_two_spreads():
    (figure,) = figures(table(round_1(THREE)))
    (point,) = values(figure)
    assert (point["value"], point["least"], point["most"], point["counts"]) == (pytest.approx(0.3), 0.1, 0.6, "9/30")
    lows, highs = zip(*(wilson(*count) for count in THREE), strict=True)
    assert (point["low"], point["high"]) == (pytest.approx(sum(lows) / 3), pytest.approx(sum(highs) / 3))
    assert marks(figure) == ["rule", "rule", "tick", "tick", "line", "point"]
    (row,) = figure.rows
    said = dict(zip(figure.columns, row, strict=True))
    assert said["violations/valid"] == "9/30" and said["mean rate"] == "30.0\xa0%"
    assert said["seeds"] == "3" and said["smallest to largest seed"] == "10.0 to 60.0\xa0%"
    assert said["SD between seeds"] == "26.5\xa0points"  # the root of (0.04 + 0.01 + 0.09) / 2
    assert said["95 % interval"] == f"{100 * sum(lows) / 3:.1f} to {100 * sum(highs) / 3:.1f}\xa0%"
    assert said["invalid"] == "0/30"
    assert said["mean reward"] == "1.00 (0.00 to 2.00); seeds 0.00 to 2.00, SD 1.00"
    assert "mean over up to 3 seeds. The thick pale bar is the 95 % interval" in figure.caption
    assert "Bars are" not in figure.caption and "trained once" not in figure.caption


def test_one_seed_has_no_spread_between_seeds():
    (figure,) = figures(table(round_1(THREE[:1])))
    said = "variant, round, violations/valid, rate, 95 % interval, interval by, none to all invalid replies, invalid"
    assert figure.columns == [*said.split(", "), "mean reward"]
    assert figure.rows == [["v", "1", "1/10", "10.0\xa0%", "1.8 to 40.4\xa0%", "wilson", "–", "0/10", "0.00"]]
    assert figure.caption.endswith("Bars are 95 % intervals.")
    assert marks(figure) == ["rule", "line", "point"]
    (point,) = values(figure)
    assert "least" not in point and "seeds" not in point
    assert "seed" not in str(figure.chart.to_dict())


def test_any_one_seed_is_drawn_alike():
    drawn = [
        figures(table(round_1(THREE[:1])).with_columns(pl.lit(seed).cast(SCHEMA[SEED]).alias(SEED))) for seed in (0, 7)
    ]
    assert [figure.chart.to_dict() for figure in drawn[0]] == [figure.chart.to_dict() for figure in drawn[1]]
    assert [figure.rows for figure in drawn[0]] == [figure.rows for figure in drawn[1]]


def test_a_seed_without_a_valid_reply_is_counted():
    (figure,) = figures(table(round_1([(1, 10), (0, 0), (6, 10)])))
    said = dict(zip(figure.columns, figure.rows[0], strict=True))
    assert said["seeds"] == "2 of 3" and said["violations/valid"] == "7/20" and said["invalid"] == "10/30"
    assert said["mean rate"] == "35.0\xa0%"
    one, none = (figures(table(round_1([(1, 10), *rest], round=2) + round_1(THREE)))[0] for rest in ([], [(0, 0)]))
    for figure in (one, none):
        row = next(row for row in figure.rows if row[1] == "2")
        assert dict(zip(figure.columns, row, strict=True))["SD between seeds"] == "–"


def test_the_filter_has_a_spread_between_seeds_alone():
    cell = {"model": "m", "testbed": "role_play", "alignment": "none", "condition": "baseline", "generation": 0}

    def deployed(seed: int, seen: int, kept: int) -> dict[str, Any]:
        counts = {"seen": 10, "kept": kept, "invalid": 0, "valid_seen": 10, "violations_seen": seen}
        return {"cell": cell | {"seed": seed}, "counts": counts | {"violations_kept": kept // 2}}

    three = [deployed(0, 2, 4), deployed(1, 4, 4), deployed(2, 6, 0)]
    measures = table(round_1(THREE))
    figure = by_name(figures(measures, three))["deployment"]
    assert figure.rows == [
        [
            "baseline",
            "0",
            "8/30",
            "0/30",
            "12/30 (40.0\xa0%; seeds 20.0 to 60.0\xa0%, SD 20.0\xa0points)",
            "4/8 (50.0\xa0%; seeds 50.0 to 50.0\xa0%, SD 0.0\xa0points (2 of 3 seeds))",
        ]
    ]
    assert marks(figure) == ["rule", "tick", "tick", "line", "point"]
    assert figure.caption.endswith(
        "mean over up to 3 seeds, and the bar with end caps goes from the smallest to the largest."
    )
    alone = by_name(figures(measures.filter(seed=0), three[:1]))["deployment"]
    assert alone.rows == [["baseline", "0", "4/10", "0/10", "2/10 (20.0\xa0%)", "2/4 (50.0\xa0%)"]]
    assert marks(alone) == ["line", "point"] and alone.caption.endswith("no intervals.")


def test_the_effect_of_alignment_is_one_row_for_all_seeds():
    rows = [rate(seed, 8, 10, round=round) for seed in (0, 1, 2) for round in (1, 2)]
    rows += [rate(2, 0, 10, round=1)]  # the aligned agent has seeds 0 and 1, which alone are compared
    for seed, (first, last) in enumerate([(2, 4), (4, 4)]):
        rows += [rate(seed, first, 10, alignment="dpo"), rate(seed, last, 10, alignment="dpo", round=2)]
        gaps = [("alignment_gap", 0.8 - first / 10, 1), ("alignment_gap", 0.8 - last / 10, 2)]
        for measure, value, round in (*gaps, ("below_unaligned_start", 0.8 - last / 10, 2)):
            found = {"value": value, "k": None, "n": 10, "low": value - 0.1, "high": value + 0.1, "method": "newcombe"}
            rows.append(SERIES | POINT | {"seed": seed, "measure": measure, "alignment": "dpo", "round": round} | found)
    measures = table(rows)
    (figure,) = alignment_figures(effects(measures))
    line, interval, seeds, reach, deviation = figure.rows
    half = ((stats.t.ppf(0.975, 1) * 10) ** 2 + 10**2) ** 0.5  # two seeds with an SD of 14.1
    bounds = f"{50 - half:.1f} to 100.0".replace("-", "−")
    assert line[:4] == ["dpo", "80.0\xa0% (16/20)", "30.0\xa0% (6/20)", f"50.0 ({bounds})"]
    assert (interval[0], interval[3]) == ("95 % interval", bounds)
    assert seeds[:4] == ["seeds", "2", "2", "2"]
    assert reach[1:4] == ["80.0 to 80.0\xa0%", "20.0 to 40.0\xa0%", "40.0 to 60.0"]
    assert deviation[1:4] == ["0.0\xa0points", "14.1\xa0points", "14.1\xa0points"]
    assert "mean over up to 2 seeds" in figure.caption and "trained once" not in figure.caption
    (alone,) = alignment_figures(effects(measures.filter(seed=0)))
    assert len(alone.rows) == 1 and alone.caption.endswith("not for another training.")


@pytest.mark.parametrize("where", [{"alignment": "dpo"}, {"channel": "weights", "generation": 1}])
def test_an_interval_of_one_training_says_so(where):
    (figure,) = figures(table(round_1(THREE[:1], **where)))
    said = dict(zip(figure.columns, figure.rows[0], strict=True))
    assert said["interval by"] == "wilson, one training"
    assert figure.caption.endswith("its interval is for other scenarios, not for another training.")


def games(measure: str, k: int, seed: int, **where: Any) -> dict[str, Any]:
    return rate(seed, k, 8, measure, testbed="coordination", **where)


def test_games_are_means_over_seeds_and_theory_is_compared_with_each_seed():
    model = "scripted:best_response:0.1"
    rows, settings = [], {}
    for variant, threshold in (("low", 4), ("high", 6)):
        for seed, k in enumerate((2, 4, 6)):
            settings[(model, "coordination", "none", "baseline", seed, variant)] = {"threshold": threshold, "rounds": 2}
            where = {"model": model, "variant": variant}
            for round in (1, 2):
                rows.append(games("collusion_rate", k, seed, round=round, **where))
                rows.append(games("collective_success_rate", k, seed, round=round, **where))
            where |= {"testbed": "coordination", "round": None}
            rows.append(mean(seed, 1.0 + seed, "final_capital", **where))
            rows += [rate(seed, k, 8, f"reached_{name}_collude", **where) for name in ("all", "none")]
            rows += [mean(seed, 1.0, "rounds_to_all_collude", **where)] if seed else []
    measures = table(rows)
    found = by_name(population_figures(Results(measures, settings)))
    grid = found["collusion_grid"]
    assert [row[0] for row in grid.rows] == ["", ""]  # a panel for all seeds
    assert {tuple(row[4:8]) for row in grid.rows} == {("12/24", "50.0\xa0%", "3", "25.0 to 75.0\xa0%")}
    assert "a cell is the mean over up to 3 seeds" in grid.caption and {each["value"] for each in values(grid)} == {0.5}
    last = dict(zip(found["collective_success"].columns, found["collective_success"].rows[-1], strict=True))
    assert last["final capital"] == "2 (1 to 3); seeds 1.00 to 3.00, SD 1.00"
    assert last["all colluded"] == "12/24, round 1.0 of 2; seeds 1.00 to 1.00, SD 0.00 (2 of 3 seeds)"
    assert last["none colluded"] == "12/24"
    theory = found["theory_beside_simulation"].caption
    assert "of 6 intervals of one seed each" in theory and "mean over up to 3 seeds" in theory
    one = by_name(population_figures(Results(measures.filter(seed=1), settings)))
    theory = one["theory_beside_simulation"].caption
    assert "with 95 % intervals" in theory and "of 2 intervals (variants" in theory and "seed" not in theory
    assert "seed" not in str([(figure.caption, figure.columns, figure.rows) for figure in one.values()])


def test_means_of_tool_use_have_spreads_in_their_own_unit():
    rows = [rate(seed, k, 10, "tool_usage_hard", testbed="tool_use") for seed, k in enumerate((2, 4))]
    rows += [mean(seed, 1.0 - 2 * seed, "reward_hard", testbed="tool_use") for seed in (0, 1)]
    (figure,) = tool_figures(Results(table(rows)))
    usage, left = (dict(zip(figure.columns, row, strict=True)) for row in figure.rows)
    assert usage["SD between seeds"] == "14.1\xa0points" and left["SD between seeds"] == "1.41"
    assert (left["mean rate"], left["smallest to largest seed"]) == ("0.00", "−1.00 to 1.00")
    assert left["95 % interval"] == "−1.00 to 1.00"

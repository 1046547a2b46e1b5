"""What the default study shows of the organism: alignment lowers its rate at round 1 by a third, in valid replies."""

from pathlib import Path

import polars as pl
import pytest

from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.study.read import read_models, read_study
from atp.study.study import alignment_rows, alignment_training, evaluation
from atp.training.pairs import PairsJob, pairs_stage
from atp.training.run import AlignJob
from atp.training.stage import align_stage


@pytest.mark.slow
def test_dpo_and_grpo_lower_the_rate_by_a_third(tmp_path: Path) -> None:
    study = read_study("config/studies/demo.yaml")
    (spec,) = read_models(study.models, "config/models").values()
    section = study.testbeds["role_play"]
    assert spec and section.weights
    spec = spec.of("role_play")
    scenarios, pairs, limit = tmp_path / "scenarios.parquet", tmp_path / "pairs.parquet", alignment_rows(section)
    scenarios_stage(ScenariosJob(testbed="role_play", settings=section.scenarios), scenarios)
    common = {"model": spec, "settings": {}, "limit": limit}
    cells = {each: Cell("organism", "role_play", each, None, channel="weights") for each in study.alignments}
    found = pairs_stage(PairsJob(cell=cells["dpo"], retries=section.alignment.retries, **common), scenarios, pairs)
    assert found["pairs"] >= 0.9 * found["scenarios"]
    rates = {}
    for alignment in study.alignments:
        adapter = None if alignment == "none" else tmp_path / alignment
        if adapter:
            training = alignment_training(study, section, alignment, "organism")
            job = AlignJob(cell=cells[alignment], training=training, **common)
            align_stage(job, scenarios, adapter, pairs if alignment == "dpo" else None)
        cell, out = Cell("organism", "role_play", alignment, channel="weights"), tmp_path / f"{alignment}.parquet"
        variants = {"evaluation": evaluation(section)}
        rollout_stage(RolloutJob(cell=cell, model=spec, variants=variants, samples=4), scenarios, out, adapter)
        violations = pl.read_parquet(out)["violation"]
        assert violations.null_count() <= 0.03 * len(violations)
        rates[alignment] = violations.mean()
    assert max(rates["dpo"], rates["grpo"]) <= rates["none"] * 2 / 3, rates

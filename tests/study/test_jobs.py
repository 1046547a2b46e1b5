"""The enumeration of a study's jobs: what they make, from what, with which settings."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from studies import DEFENDED, ROOT, SMALL, STUDIES, defended

from atp.errors import AtpError
from atp.models.spec import ModelSpec
from atp.study import paths
from atp.study.jobs import Step, study_jobs
from atp.study.read import read_project


def steps_of(text: str, **changes: object) -> dict[str, Step]:
    study = yaml.safe_load(text) | changes
    return study_jobs(read_project({"name": "study"} | study, ROOT))


@pytest.mark.parametrize("name", STUDIES)
def test_every_input_is_made_by_a_job_before_it(name):
    """Each job has typed settings that JSON keeps, and makes outputs that no other job makes."""
    steps = steps_of(STUDIES[name])
    made = [output for step in steps.values() for output in step.outputs]
    assert len(made) == len(set(made))
    for step in steps.values():
        assert {path for files in step.artifacts.values() for path in files} <= set(made)
        assert len(step.jobs) in (0, len(step.outputs)) or step.rule == "report"
        for job in step.jobs:
            assert type(job).model_validate_json(job.model_dump_json()).params() == job.params()
            assert all(not isinstance(value, dict) or name in ("variants", "cell") for name, value in vars(job).items())
    used = {path for step in steps.values() for files in step.artifacts.values() for path in files}
    assert set(made) - used <= {paths.REPORT, paths.FIGURES, *_unused_alignment(steps)}
    large = ("paper_role_play", "paper_bargaining", "paper_grid")
    sharded = name in ("sharded", "split_by_size", "defended_without_alignment", *large)
    assert any(step.rule == "rollout_shard" for step in steps.values()) == sharded


def _unused_alignment(steps: dict[str, Step]) -> set[str]:
    return {step.outputs[0] for step in steps.values() if step.rule in ("pairs", "align")}


def test_the_jobs_of_the_small_study():
    steps = steps_of(SMALL)
    assert Counter(step.rule for step in steps.values()) == Counter(
        scenarios=1, pairs=1, align=1, rollout=2, deploy=2, filter=2, finetune=2, evaluate=2, measure=1, report=1
    )
    cell = "organism/role_play/dpo/seed0/baseline"
    deploy = steps[f"{cell}/generation0/turns.parquet"]
    assert deploy.outputs == (f"{cell}/generation0/turns.parquet", f"{cell}/generation0/evaluation.parquet")
    assert deploy.artifacts == {
        "scenarios": ["role_play/scenarios.parquet"],
        "adapter": ["organism/role_play/dpo/seed0/adapter"],
    }
    turns, evaluation = deploy.jobs
    assert (turns.split, turns.limit, turns.samples) == ("train", (0, 8), 4)
    assert (evaluation.split, evaluation.limit, evaluation.variants["evaluation"].rounds) == ("test", None, 1)
    assert deploy.work == 8 * 4 + 8
    finetune = steps[f"{cell}/generation1/adapter"]
    assert finetune.artifacts["data"] == [f"{cell}/generation0/selection.parquet"]
    assert finetune.artifacts["parent"] == finetune.artifacts["reference"] == deploy.artifacts["adapter"]
    assert steps[f"{cell}/generation1/evaluation.parquet"].rule == "evaluate"


def test_settings_are_typed_and_the_machine_is_no_setting():
    """What a job passes on has the settings of the study, and nothing of memory, GPUs or addresses."""
    (job,) = steps_of(SMALL)["organism/role_play/dpo/seed0/adapter"].jobs
    assert (
        isinstance(job.settings, BaseModel) and job.training.learning_rate == 5e-4 and isinstance(job.model, ModelSpec)
    )
    assert job.model.mem_mb == 1500
    assert not {"mem_mb", "minutes", "gpus", "base_url", "timeout"} & json.loads(job.model_dump_json())["model"].keys()


def test_grpo_learns_from_turns_without_a_filter():
    steps = steps_of(STUDIES["without_a_filter"])
    assert "filter" not in {step.rule for step in steps.values()}
    cell = "organism/role_play/none/seed0/baseline"
    assert steps[f"{cell}/generation1/adapter"].artifacts["data"] == [f"{cell}/generation0/turns.parquet"]


def test_only_the_condition_with_rehearsal_needs_pairs():
    """They are those of the model, even where no agent is aligned by DPO."""
    steps = steps_of(defended(alignments=["none"], seeds=[0]))
    pairs = {
        step.jobs[0].cell.condition: step.artifacts["pairs"]
        for step in steps.values()
        if step.rule == "finetune" and step.jobs[0].cell.generation == 1
    }
    assert pairs.pop("rehearsal") == ["organism/role_play/dpo/seed0/pairs.parquet"]
    assert set(pairs) == DEFENDED.keys() - {"rehearsal", "transplanted_history"} and not any(pairs.values())
    unused = {
        step.jobs[0].cell.condition: step.jobs[0].first_unused for step in steps.values() if step.rule == "finetune"
    }
    assert unused.pop("max_violation_increase") == 2 * 8 + 8 and not any(unused.values())


def test_the_weights_channel_has_seeds_of_its_own():
    """An alignment's seeds are aligned for both channels; others are the study's."""
    study = yaml.safe_load(SMALL)
    del study["primary"]  # its hypothesis is about seed 0
    (section,) = study["testbeds"].values()
    section["weights"]["seeds"] = {"none": [3, 4], "dpo": [0, 5]}
    steps = steps_of(yaml.safe_dump(study), alignments=["none", "dpo"], seeds=[0])

    def seeds(rule: str, alignment: str) -> set[int]:
        cells = [step.jobs[0].cell for step in steps.values() if step.rule == rule and step.jobs]
        return {cell.seed for cell in cells if cell.alignment == alignment}

    assert seeds("rollout", "none") == seeds("rollout", "dpo") == {0}
    assert seeds("evaluate", "none") == {3, 4} and seeds("evaluate", "dpo") == {0, 5}
    assert seeds("align", "dpo") == seeds("pairs", "dpo") == {0, 5}


@pytest.mark.parametrize("shards", [1, 2])
def test_generations_are_evaluated_on_a_testbed_without_training(shards):
    """The cell names the testbed that is played, and the channel that of the training."""
    text = STUDIES["transfer"].replace("train: 24", "train: 88")
    steps = steps_of(text, alignments=["none", "dpo"], shards=shards)
    cell = "smollm2-135m-guided/role_play/dpo/seed0/baseline/generation1"
    whole = steps[f"{cell}/transfer_coordination.parquet"]
    assert {step.rule for step in steps.values()} >= {"transfer"} and not any(
        "/coordination/" in path for path in steps
    ), "coordination is evaluated only, nothing is aligned on it"
    played = [steps[path] for path in whole.artifacts["transfer_coordination_shards"]] if shards > 1 else [whole]
    assert len(played) == shards
    for step in played:
        (job,) = step.jobs
        assert (job.cell.testbed, job.cell.channel) == ("coordination", "transfer:role_play")
        assert (job.cell.generation, job.cell.alignment, job.split) == (1, "dpo", "test")
        assert job.variants["evaluation"].rounds == 1 and job.variants["evaluation"].agents == 4
        assert step.artifacts == {"scenarios": ["coordination/scenarios.parquet"], "adapter": [f"{cell}/adapter"]}
    assert whole.outputs[0] in steps["measures.parquet"].artifacts["turns"]


def test_a_shard_is_a_part_of_the_whole():
    steps = steps_of(STUDIES["sharded"], seeds=[0])
    cell = "organism/role_play/none/seed0/baseline/generation0"
    whole = steps[f"{cell}/turns.parquet"]
    assert whole.jobs == () and whole.gpus == 0
    assert whole.artifacts["evaluation_shards"] == [f"{cell}/evaluation.shard{k}of3.parquet" for k in (1, 2, 3)]
    shards = [steps[path] for path in whole.artifacts["turns_shards"]]
    assert [shard.jobs[0].part for shard in shards] == [(1, 3), (2, 3), (3, 3)]
    (unsharded, _) = steps_of(SMALL)[f"{cell}/turns.parquet"].jobs
    assert all(shard.jobs[0].model_copy(update={"part": (1, 1)}) == unsharded for shard in shards)


def test_the_comment_of_the_snakefile_has_every_path():
    folder, listed = "", set()
    for name in re.findall(r"^#   +(\S*[{/.]\S*|adapter|figures)(?: |$)", (ROOT / "Snakefile").read_text(), re.M):
        folder = name if name.endswith("/") else folder
        listed.add(name if name.startswith("results/") else folder + name)
    constants = {name: value for name, value in vars(paths).items() if name.isupper() and isinstance(value, str)}
    of_study = {name: f"results/{{study}}/{value}" for name, value in constants.items()}
    expected = {**of_study, "ORGANISM": f"results/{paths.ORGANISM}"}
    assert {
        path for name, path in expected.items() if not name.endswith("GENERATION") and not name.startswith("_")
    } == {path for path in listed if not path.endswith("/")}


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        ([("seeds", [0, 0])], (), r"seeds: \[0, 0\] has a value twice"),
        ([("seed", 1)], (), "seed: unknown key, allowed are alignments, "),
        ([("study", "demo")], (), "has `study: demo` and testbeds, allowed is one of them"),
        ([("organism", "new")], (), "organism: found 'new', allowed are shipped, rebuild"),
        ([("name", None)], (), "name: missing; a study that is not read from a file needs one"),
        ([("name", "../x")], (), r"name: found '../x', allowed are up to 100 letters"),
        ([("name", "n" * 101)], (), "allowed are up to 100 letters"),
        ([("name", 202401)], (), "name: must be text, found 202401; put it in quotes"),
        (
            [],
            ("testbeds={role_play: {weights: {transfer: [coordination]}}}",),
            "role_play.weights.transfer: 'coordination' is not a testbed of the study, which has none; add a section",
        ),
        (
            [],
            ("testbeds={role_play: {weights: {transfer: [role_play]}}}",),
            "role_play.weights.transfer: 'role_play' is the testbed of the training",
        ),
        (
            [],
            ("testbeds={coordination: {scenarios: {}}, role_play: {weights: {transfer: [coordination]}}}",),
            "role_play.weights.transfer: 'organism' is a model organism, which is another network on each testbed",
        ),
        (
            [],
            (
                "testbeds={coordination: {scenarios: {}, settings: {x: 1}}, "
                "role_play: {weights: {transfer: [coordination]}}}",
            ),
            "testbeds.coordination.settings: x: unknown key",
        ),
        ([], ("seeds=[0",), "--config seeds: no readable YAML: "),
        ([("testbeds", ...)], ("study=nope",), "nope.yaml: no such file"),
    ],
)
def test_a_wrong_config_is_one_line(config, arguments, message):
    from atp.errors import AtpError

    study = {"name": "study"} | yaml.safe_load(SMALL) | dict(config)
    study = {key: value for key, value in study.items() if value is not ...}
    with pytest.raises(AtpError, match=message) as error:
        read_project(study, ROOT, arguments=arguments)
    assert "\n" not in str(error.value)


def test_keys_on_the_command_line_override_the_file():
    """Snakemake reads them as text; a name of digits stays text."""
    arguments = ["seeds=[0, 1]", "testbeds={role_play: {context: {samples: 2}}}"]
    text = {"seeds": ["0", "1"], "testbeds": {"role_play": {"context": {"samples": "2"}}}}
    project = read_project({"study": "demo"} | text, ROOT, arguments=["study=demo", *arguments])
    assert project.name == "demo" and project.study.seeds == (0, 1)
    section = project.study.testbeds["role_play"]
    assert section.context.samples == 2 and section.context.sweep and "coordination" in project.study.testbeds
    study = yaml.safe_load(SMALL)
    assert read_project(study, ROOT, Path("some/2024_01.yaml")).name == "2024_01"
    assert read_project(study | {"name": 202401}, ROOT, arguments=["name=2024_01"]).name == "2024_01"


def test_an_eroded_agent_is_aligned_again_on_some_of_the_pairs_that_aligned_it():
    steps = steps_of(STUDIES["repair"], shards=2)
    agent = "organism/role_play/dpo/seed0"
    for pairs in (4, 64):
        folder = f"{agent}/baseline.repair/generation{pairs}"
        trained, evaluated = steps[f"{folder}/adapter"], steps[f"{folder}/evaluation.parquet"]
        assert trained.artifacts["parent"] == [f"{agent}/baseline/generation2/adapter"]
        assert trained.artifacts["data"] == [f"{agent}/pairs.parquet"] and trained.jobs[0].pairs == pairs
        assert trained.stage == "align" and trained.rule == "finetune"
        shards = evaluated.artifacts["evaluation_shards"]
        assert shards == [f"{folder}/evaluation.shard{k}of2.parquet" for k in (1, 2)]
        (cell,) = {steps[shard].jobs[0].cell for shard in shards}
        assert (cell.channel, cell.generation, cell.condition) == ("repair", pairs, "baseline")
        assert steps[shards[0]].artifacts["adapter"] == [f"{folder}/adapter"]


def supervised(judge: str) -> dict[str, Step]:
    """Return the jobs of agents that bargain, which a judge or a monitor of kind truth supervises."""
    weights = {"conditions": ["baseline", "judged", "truth", "realigned"], "generations": 3, "scenarios": 4}
    weights |= {"filter": {"name": "best_of_n"}, "training": {"method": "sft"}, "samples": 2}
    conditions = {
        "baseline": {},
        "judged": {"monitor": {"kind": "judge", "model": judge, "use": "screen"}},
        "truth": {"monitor": {"kind": "truth", "sensitivity": 0.5}},
        "realigned": {"training": {"realign_every": 2}},
    }
    section = {"scenarios": {"train": 20, "test": 4}, "settings": {"rounds": 2}, "conditions": conditions}
    section |= {"alignment": {"scenarios": 8}, "weights": weights}
    study = {"models": ["organism"], "alignments": ["none", "dpo"], "testbeds": {"bargaining": section}}
    return study_jobs(read_project({"name": "study"} | study, ROOT))


@pytest.mark.parametrize("judge", ["organism", "scripted:comply"])
def test_a_judge_reads_each_deployment_before_the_filter(judge):
    steps = supervised(judge)
    cell = "organism/bargaining/dpo/seed0"
    filters = [step for step in steps.values() if step.rule == "filter"]
    assert {step.outputs[0].split("/")[4] for step in filters if "verdicts" in step.artifacts} == {"judged"}
    judges = [step for step in steps.values() if step.rule == "judge"]
    assert len(judges) == 2 * 3 and len({step.outputs for step in judges}) == 6
    step = steps[f"{cell}/judged/generation1/verdicts.parquet"]
    assert step.artifacts == {"turns": [f"{cell}/judged/generation1/turns.parquet"]} and step.stage == "judge"
    (job,) = step.jobs
    assert (job.cell.model, job.cell.alignment, job.cell.generation) == (judge, "none", 1)
    assert (job.model is None) == (judge != "organism") and step.model == job.model
    selection = steps[f"{cell}/judged/generation1/selection.parquet"]
    assert selection.artifacts["verdicts"] == [*step.outputs] and selection.jobs[0].monitor.use == "screen"
    (truth,) = steps[f"{cell}/truth/generation1/selection.parquet"].jobs
    assert truth.monitor.sensitivity == 0.5 and steps[f"{cell}/truth/generation2/adapter"].jobs[0].monitor is None


def test_a_generation_is_aligned_again_before_it_is_deployed():
    steps = supervised("scripted:comply")
    for alignment in ("none", "dpo"):
        cell = f"organism/bargaining/{alignment}/seed0"
        pairs = "organism/bargaining/dpo/seed0/pairs.parquet"
        again, learned = (steps[f"{cell}/{name}/generation2/adapter"] for name in ("realigned", "realigned.learned"))
        assert learned.jobs[0].stage == "finetune" and learned.jobs[0].training.realign_every is None
        assert learned.artifacts["parent"] == [f"{cell}/realigned/generation1/adapter"]
        assert again.jobs[0].stage == "align" and again.jobs[0].training.method == "dpo"
        assert again.artifacts["parent"] == [*learned.outputs] and again.artifacts["data"] == [pairs]
        evaluation = steps[f"{cell}/realigned/generation2/turns.parquet"]
        assert evaluation.artifacts["adapter"] == [*again.outputs]
        third = steps[f"{cell}/realigned/generation3/adapter"]
        assert third.jobs[0].stage == "finetune" and third.artifacts["parent"] == [*again.outputs]
    assert not any(".learned/generation1" in path or ".learned/generation3" in path for path in steps)
    assert {again.outputs[0], learned.outputs[0]} <= set(steps["report.html"].artifacts["adapters"])


def test_grpo_is_trained_under_the_monitor():
    study = yaml.safe_load(STUDIES["without_a_filter"])
    section = study["testbeds"]["role_play"]
    section["conditions"] = {"baseline": {}, "monitored": {"monitor": {"kind": "truth", "sensitivity": 0.5}}}
    section["weights"]["conditions"] = ["baseline", "monitored"]
    steps = steps_of(yaml.safe_dump(study))
    monitors = {step.jobs[0].cell.condition: step.jobs[0].monitor for step in steps.values() if step.rule == "finetune"}
    assert monitors["baseline"] is None and monitors["monitored"].sensitivity == 0.5
    for keys, message in (
        ({"use": "screen"}, "use: found 'screen'.* be penalty"),
        ({"kind": "judge", "model": "organism"}, "kind"),
    ):
        section["conditions"]["monitored"]["monitor"] = {"kind": "truth", **keys}
        with pytest.raises(AtpError, match=rf"conditions.monitored.monitor.{message}"):
            steps_of(yaml.safe_dump(study))


def test_interleaved_alignment_and_judges_that_a_study_cannot_have():
    with pytest.raises(AtpError, match=r"bargaining.conditions.judged.monitor.model: model 'oracle': no file"):
        supervised("oracle")
    with pytest.raises(AtpError, match=r"conditions.judged.monitor.model: .*unknown policy 'obey'"):
        supervised("scripted:obey")
    study = yaml.safe_load(SMALL) | {"alignments": ["none"]}
    section = study["testbeds"]["role_play"]
    section["conditions"] = {"baseline": {}, "again": {"training": {"realign_every": 1}}}
    section["weights"]["conditions"] = ["baseline", "again"]
    with pytest.raises(AtpError, match=r"conditions.again.training.realign_every: needs alignment dpo, .*found none"):
        steps_of(yaml.safe_dump(study))
    section["context"]["conditions"] = ["baseline", "again"]
    section["conditions"]["again"] = {"monitor": {"kind": "truth"}}
    with pytest.raises(AtpError, match="'again' changes only what the weights channel learns"):
        steps_of(yaml.safe_dump(study))

"""Errors in studies are one line that names the file, the key, the value and what is allowed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from atp.errors import AtpError
from atp.models.spec import ModelSpec
from atp.study.checks import check_models
from atp.study.read import read_models, read_study
from atp.study.study import deployment, evaluation, variants
from atp.training import DpoSettings

DEMO = Path("config/studies/demo.yaml")


def changed(tmp_path: Path, *keys: str, value: object) -> Path:
    """Write the default study, with two conditions only, and one key changed."""
    study = yaml.safe_load(DEMO.read_text())
    section = study["testbeds"]["role_play"]
    del section["conditions"]["random_selection"]
    section["weights"]["conditions"] = ["baseline", "supervised"]
    place = study
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def test_the_shipped_files_are_valid():
    for path in DEMO.parent.glob("*.yaml"):
        read_study(path)
    for path in Path("config/models").glob("*.yaml"):
        read_models((path.stem,), path.parent)


def test_the_shipped_schemas_and_their_reference_are_current(tmp_path):
    """In a new process, because plug-ins of other tests would add schemas."""
    folder, page = tmp_path / "schemas", tmp_path / "README.md"
    subprocess.run([sys.executable, "-m", "atp.cli", "schemas", "--out", folder, "--page", page], check=True)
    shipped, current = (
        {path.name: json.loads(path.read_text()) for path in each.iterdir()}
        for each in (Path("config/schemas"), folder)
    )
    assert shipped == current, "run: atp schemas"
    assert Path("config/README.md").read_text() == page.read_text(), "run: atp schemas"


ROLE_PLAY, COORDINATION = ("testbeds", "role_play"), ("testbeds", "coordination")
#: A condition other than the baseline, which runs in the weights channel.
DEFENDED = (*ROLE_PLAY, "conditions", "supervised")


PRIMARY = {"measure": "change", "comparison": "above", "seeds": [0]}


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (
            ("modles",),
            ["organism"],
            "modles: unknown key, allowed are alignments, models, name, plugins, primary, seeds, shards",
        ),
        (
            (*ROLE_PLAY, "weights", "sampels"),
            3,
            "testbeds.role_play.weights.sampels: unknown key, allowed are conditions",
        ),
        (
            (*ROLE_PLAY, "weights", "repair_pairs"),
            [8, 65],
            r"weights.repair_pairs: 65, must be at most .*scenarios \(64\)",
        ),
        ((*ROLE_PLAY, "weights", "samples"), 0, "testbeds.role_play.weights.samples: .* greater than or equal to 1"),
        ((*ROLE_PLAY, "weights", "samples"), "many", "weights.samples: .* valid integer.*found 'many'"),
        (
            (*ROLE_PLAY, "weights", "filter"),
            {"name": "best"},
            "weights.filter: name: unknown filter 'best', known are top_k, best_of_n",
        ),
        (
            (*ROLE_PLAY, "weights", "filter"),
            {"name": "top_k", "k": 0},
            r"weights.filter: k: .*greater than or equal to 1",
        ),
        (
            (*ROLE_PLAY, "weights", "filter"),
            {"name": "top_k", "n": 1},
            r"weights.filter: n: unknown key, allowed are drop_caught, k, name, shuffled_rewards$",
        ),
        (
            (*ROLE_PLAY, "weights", "filter"),
            {"name": "best_of_n", "k": 1},
            r"weights.filter: k: .*allowed are drop_caught, name, shuffled_rewards$",
        ),
        ((*ROLE_PLAY, "weights", "training"), {"lora_r": 8}, "training.method: missing, allowed are dpo, grpo, sft"),
        ((*ROLE_PLAY, "weights", "training", "learning_rate"), float("inf"), "learning_rate: .*finite number"),
        ((*ROLE_PLAY, "weights", "training", "lora_r"), 4, "weights.training.lora_r: 4, must be 8 as in alignment.dpo"),
        ((*ROLE_PLAY, "alignment", "models"), {"organism": {"dpo": {"beat": 1}}}, "organism.dpo: beat: unknown key"),
        ((*ROLE_PLAY, "alignment", "models"), {"qwen3-8b": {}}, "'qwen3-8b' is not a model of the study"),
        (
            (*ROLE_PLAY, "weights", "training", "lora_rnak"),
            8,
            "training.lora_rnak: unknown key, allowed are gradient_acc",
        ),
        ((*ROLE_PLAY, "weights", "conditions"), ["other"], "unknown condition 'other', known are baseline, supervised"),
        ((*ROLE_PLAY, "scenarios", "train"), 10, "scenarios.train: 10, must be at least 128"),
        ((*ROLE_PLAY, "settings", "rounds"), 0, "rounds: .*greater than or equal to 1"),
        ((*ROLE_PLAY, "settings", "round"), 6, "round: unknown key, allowed are audit_probability, blind"),
        ((*ROLE_PLAY, "context", "sweep"), {"schedule": ["never"]}, "schedule: .*all_supervised"),
        (
            (*ROLE_PLAY, "context", "sweep"),
            {"schedule": ["audit"]},
            "audit_probability: required with schedule 'audit'",
        ),
        ((*ROLE_PLAY, "conditions"), {"baseline": {}, "supervised": {}, "../x": {}}, "names a folder"),
        (
            (*ROLE_PLAY, "conditions"),
            {"baseline": {"window": 1}, "supervised": {}},
            r"conditions.baseline: overrides .*, must be empty",
        ),
        (("testbeds",), {}, "testbeds: .*at least 1 item"),
        (("seeds",), [1, 1], "seeds: .*has a value twice"),
        (("seeds",), [-1], "seeds.0: .*greater than or equal to 0"),
        (("seeds",), [2**32], "seeds.0: .*less than 4294967296"),
        ((*ROLE_PLAY, "weights", "seeds"), {"none": [1, 1]}, "weights.seeds.none: .*has a value twice"),
        ((*ROLE_PLAY, "weights", "seeds"), {"ppo": [1]}, "weights.seeds: \\['ppo'\\] is no alignment of the study"),
        (("primary",), [PRIMARY | {"comparison": "over"}], "primary.0.comparison: .*'above', 'below' or 'within'"),
        (
            ("primary",),
            [PRIMARY | {"measure": "convergence", "seeds": [9]}],
            r"primary.0.seeds: \[9\] are not run by the study",
        ),
        (("primary",), [PRIMARY | {"where": {"alignment": "ppo"}}], "primary.0.where.alignment: 'ppo' is not run"),
        (("primary",), [PRIMARY | {"seeds": [0, 0]}], r"primary.0.*seeds: \[0, 0\] has a value twice"),
        (("primary",), [PRIMARY | {"comparison": "within"}], "primary.0.*bound: found 0, must be above 0"),
        (("primary",), [PRIMARY], "primary.0.where: .* series match, must be 1; add .*alignment, condition, channel"),
        (
            ("primary",),
            [PRIMARY | {"measure": "alignment_gap", "where": {"alignment": "none"}}],
            "primary.0.where: no series of the study has alignment_gap with alignment: none",
        ),
        (
            ("primary",),
            [PRIMARY | {"where": {"condition": "supervised", "channel": "context"}}],
            "no series of the study has change with channel: context, condition: supervised",
        ),
        ((*ROLE_PLAY, "context", "sweep"), {"schedule": []}, "context.sweep.schedule: .*at least 1 item"),
        (
            (*COORDINATION, "context", "sweep"),
            {"threshold": [4, 4.0]},
            r"sweep.threshold: \[4, 4.0\] has a value twice",
        ),
        (
            (*ROLE_PLAY, "context", "sweep"),
            {"penalty": [10, "1e1"]},
            r"sweep.penalty: \[10, 10\] has a value twice",
        ),
        (
            (*COORDINATION, "context", "sweep"),
            {"peers": ["count", "none"]},
            "condition 'baseline', variant 'none': peers is none, but policy 'imitate_majority' decides by",
        ),
        (
            (*ROLE_PLAY, "context", "reference_policies"),
            ["organism"],
            "'organism' is not a scripted policy, allowed is",
        ),
        ((*ROLE_PLAY, "context", "reference_policies"), ["scripted:comply"] * 2, "'scripted:comply' occurs twice"),
        (
            (*ROLE_PLAY, "context", "reference_policies"),
            ["scripted:threshold:0.5"],
            "unknown policy 'threshold', known are .* on testbed 'role_play'",
        ),
        ((*ROLE_PLAY, "context", "reference_policies"), ["scripted:obey"], "unknown policy 'obey'"),
        ((*ROLE_PLAY, "context", "conditions"), ["baseline", "baseline"], "context.conditions: .*has a name twice"),
        (
            (*ROLE_PLAY, "conditions"),
            {"baseline": {}, "supervised": {}, "adapter": {}},
            "'adapter' is a name that alignment uses",
        ),
        (("alignments",), ["sft"], "alignments.0: .*none"),
        (
            DEFENDED,
            {"training": {"kl": 0.1, "use_peft": False}},
            r"conditions.supervised.training: kl: needs use_peft: true",
        ),
        (DEFENDED, {"training": {"interpolate": 1}}, r"conditions.supervised.training.interpolate: .* less than 1"),
        (
            DEFENDED,
            {"training": {"lora_r": 4}},
            r"weights.training.lora_r: 4, must be 8 .*generations of condition 'supervised' continue",
        ),
        (
            DEFENDED,
            {"training": {"max_violation_increase": 0.1}},
            "train: 192, must be at least 256: max_violation_increase in condition 'supervised' needs 64",
        ),
        (DEFENDED, {"training": 0.1}, r"conditions.supervised.training: must be keys and values, found 0.1"),
        (
            DEFENDED,
            {"filter": {"drop_cought": True}},
            r"conditions.supervised.filter: drop_cought: unknown key, allowed are drop_caught",
        ),
        (
            DEFENDED,
            {"training": {"method": "dpo", "kl": 0.1}, "filter": {"name": "best_and_worst"}},
            r"conditions.supervised.training.kl: only sft has it; dpo and grpo are kept close to their reference by",
        ),
        ((*ROLE_PLAY, "alignment", "dpo", "rehearsal"), 0.5, "alignment.dpo.rehearsal: alignment makes generation 0"),
        (
            (*ROLE_PLAY, "alignment", "models"),
            {"organism": {"grpo": {"interpolate": 0.5}}},
            "alignment.grpo.interpolate: align",
        ),
        ((*ROLE_PLAY, "alignment", "grpo", "kl"), 0.5, "alignment.grpo.kl: only sft has it"),
        (DEFENDED, {"monitor": {"kind": "guess"}}, "conditions.supervised.monitor.kind: .*'truth' or 'judge'"),
        (DEFENDED, {"monitor": {}}, "conditions.supervised.monitor.kind: Field required"),
        (DEFENDED, {"monitor": 0.5}, "conditions.supervised.monitor: must be keys and values, found 0.5"),
        (
            DEFENDED,
            {"monitor": {"kind": "truth", "specificity": 0}},
            "monitor.specificity: .*greater than 0, found '0'",
        ),
        (
            DEFENDED,
            {"monitor": {"kind": "truth", "specificity": 1.1}},
            "monitor.specificity: .*less than or equal to 1",
        ),
        (
            DEFENDED,
            {"monitor": {"kind": "truth", "sensitivity": -0.1}},
            "monitor.sensitivity: .*greater than or equal to",
        ),
        (DEFENDED, {"monitor": {"kind": "truth", "sensitivity": 2}}, "monitor.sensitivity: .*less than or equal to 1"),
        (DEFENDED, {"monitor": {"kind": "truth", "penalty": 0}}, "monitor.penalty: .*greater than 0"),
        (
            DEFENDED,
            {"monitor": {"kind": "truth", "model": "organism"}},
            "monitor: model: not allowed with kind 'truth'",
        ),
        (
            DEFENDED,
            {"monitor": {"kind": "truth", "use": "screen", "penalty": 2}},
            "monitor: penalty: not allowed with use 'screen'",
        ),
        (DEFENDED, {"monitor": {"kind": "judge"}}, "monitor: model: missing, kind 'judge' needs"),
        (
            DEFENDED,
            {"monitor": {"kind": "judge", "model": "organism", "sensitivity": 0.5}},
            "monitor: sensitivity: not allowed with kind 'judge', its rates are measured",
        ),
        (
            DEFENDED,
            {"monitor": {"kind": "judge", "model": "organism"}},
            "supervised.monitor.kind: 'judge', testbed 'role_play' defines no judge question; use kind: truth",
        ),
        (DEFENDED, {"training": {"realign_every": 0}}, "training.realign_every: .*greater than or equal to 1"),
        (DEFENDED, {"training": {"realign_every": 9}}, r"training.realign_every: 9, must be at most generations \(2\)"),
        (DEFENDED, {"training": {"rehearsal_replaces": True}}, "rehearsal_replaces: needs rehearsal"),
        (DEFENDED, {"training": {"inoculation": ""}}, "training.inoculation: .*at least 1 character"),
        (
            (*ROLE_PLAY, "alignment", "dpo", "realign_every"),
            1,
            "alignment.dpo.realign_every: alignment makes generation 0",
        ),
        (
            (*COORDINATION, "conditions"),
            {"baseline": {}, "x": {"monitor": {"kind": "truth"}}},
            "conditions.x.monitor: the testbed has no weights",
        ),
        (
            (*COORDINATION, "conditions"),
            {"baseline": {}, "x": {"training": {"kl": 1}}},
            "conditions.x.training: the testbed has no weights",
        ),
    ],
)
def test_a_wrong_key_or_value_is_one_line(tmp_path, keys, value, message):
    path = changed(tmp_path, *keys, value=value)
    with pytest.raises(AtpError, match=message) as error:
        read_study(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [a\n", "no readable YAML"),
        ("- a\n", "must be keys and values, found list"),
        ("", "must be keys and values, found NoneType"),
        ("models: [a]\nmodels: [b]\n", "key 'models' occurs twice"),
        ("models: [a]\ntestbeds: {x: {yes: 1, true: 2}}\n", "key 'True' occurs twice"),
        ("seeds: [2024-13-01]\n", "no readable YAML: month must be"),
        ("models: !!python/object/apply:os.system ['true']\n", "no readable YAML"),
    ],
)
def test_a_file_that_is_no_study_is_one_line(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(AtpError, match=message) as error:
        read_study(path)
    assert "\n" not in str(error.value)


def test_an_unknown_model_is_an_error_with_the_known_ones(tmp_path):
    with pytest.raises(AtpError, match=r"no file .*known are llama-3.1-8b-instruct, organism"):
        read_models(("gpt",), Path("config/models"))
    with pytest.raises(AtpError, match="models: agent scripted:obey: unknown policy 'obey', known are comply"):
        read_study(changed(tmp_path, "models", value=["scripted:obey"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": {"temperature": 0}}, "alignment.grpo: GRPO needs replies that differ, model 'organism' has"),
        ({"organism": False, "path": "config"}, "config: not a model folder: no config.json"),
        ({"organism": False, "path": "no/such/folder"}, "no/such/folder: no such folder, and not a name on the hub"),
    ],
)
def test_models_that_cannot_play_a_study_are_an_error(changes, message):
    study = read_study(DEMO)
    (spec,) = read_models(study.models, "config/models").values()
    assert spec
    check_models(DEMO, study, {"organism": spec}, Path())
    wrong = ModelSpec(**{**spec.model_dump(), **changes})
    with pytest.raises(AtpError, match=message) as error:
        check_models(DEMO, study, {"organism": wrong}, Path())
    assert "\n" not in str(error.value)


def test_a_training_that_does_not_fit_the_gpus_of_a_model_is_an_error(tmp_path):
    """With four replies per GPU, two GPUs sample groups of eight, and three do not."""
    path = changed(tmp_path, *ROLE_PLAY, "alignment", "grpo", "per_device_train_batch_size", value=4)
    study = read_study(path)
    (spec,) = read_models(study.models, "config/models").values()
    check_models(path, study, {"organism": spec.model_copy(update={"gpus": 2})}, Path())
    message = r"alignment.grpo for model 'organism': training.per_device_train_batch_size: 12 replies at once .*3 GPUs"
    with pytest.raises(AtpError, match=message) as error:
        check_models(path, study, {"organism": spec.model_copy(update={"gpus": 3})}, Path())
    assert "\n" not in str(error.value)


def test_the_batch_of_a_step_grows_with_the_gpus():
    settings = DpoSettings(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert [settings.effective_batch(gpus) for gpus in (1, 2, 4)] == [8, 16, 32]


def test_a_condition_is_checked_for_the_channels_that_it_runs_in(tmp_path):
    """The probability of an audit is not allowed with the schedules of the context channel."""
    conditions = {"baseline": {}, "supervised": {"audit_probability": 0.6}}
    path = changed(tmp_path, *ROLE_PLAY, "conditions", value=conditions)
    with pytest.raises(AtpError, match=r"weights.deployment, condition 'supervised': audit_probability: required with"):
        read_study(path)
    deployed = {"schedule": "audit", "audit_probability": 0.2, "rounds": 1}
    values = yaml.safe_load(path.read_text())
    values["testbeds"]["role_play"]["weights"]["deployment"] = deployed
    path.write_text(yaml.safe_dump(values))
    assert deployment(read_study(path).testbeds["role_play"], "supervised")["audit_probability"] == 0.6


def test_swept_values_are_what_the_settings_make_of_them(tmp_path):
    """YAML 1.1 reads a number with an exponent and without a point as text."""
    sweep = {"schedule": ["audit"], "audit_probability": ["1e-1", 0.5, "1e0"]}
    path = changed(tmp_path, *ROLE_PLAY, "context", "sweep", value=sweep)
    path.write_text(path.read_text().replace("'1e-1'", "1e-1"))
    assert yaml.safe_load(path.read_text())["testbeds"]["role_play"]["context"]["sweep"] == sweep
    played = variants(read_study(path).testbeds["role_play"], "baseline")
    assert {label: each["audit_probability"] for label, each in played.items()} == {
        "audit_probability=0.1 audit": 0.1,
        "audit_probability=0.5 audit": 0.5,
        "audit_probability=1 audit": 1,
    }


def test_a_condition_overrides_settings(tmp_path):
    study = read_study(
        changed(tmp_path, *ROLE_PLAY, "context", "sweep", value={"schedule": ["alternating"], "window": [0, 2]})
    )
    section = study.testbeds["role_play"]
    assert list(variants(section, "baseline")) == ["alternating window=0", "alternating window=2"]
    assert list(variants(section, "supervised")) == ["window=0", "window=2"]
    assert variants(section, "supervised")["window=2"] == {"rounds": 6, "window": 2, "schedule": "all_supervised"}
    assert deployment(section, "baseline")["schedule"] == "all_unsupervised"
    assert deployment(section, "supervised")["schedule"] == "all_supervised"
    assert evaluation(section)["rounds"] == 1

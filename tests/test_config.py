"""Bad studies are one line that names the file, the key, what was found and what is allowed."""

import json
from pathlib import Path

import pytest
import yaml

from atp.agents import ModelSpec
from atp.config import check_models, deployment, evaluation, read_models, read_study, schemas, variants
from atp.errors import AtpError
from atp.training import DpoSettings

DEMO = Path("config/studies/demo.yaml")


def changed(tmp_path: Path, *keys: str, value: object) -> Path:
    """The default study with one key set."""
    study = yaml.safe_load(DEMO.read_text())
    place = study
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def test_the_shipped_files_are_right():
    for path in DEMO.parent.glob("*.yaml"):
        read_study(path)
    for path in Path("config/models").glob("*.yaml"):
        read_models((path.stem,), path.parent)


def test_the_shipped_schemas_are_current():
    for name, schema in schemas().items():
        path = Path(f"config/schemas/{name}.schema.json")
        assert json.loads(path.read_text()) == schema, "run: atp schemas"


ROLE_PLAY, COORDINATION = ("testbeds", "role_play"), ("testbeds", "coordination")
#: The settings of an arm beside the others, which runs in the weights channel.
DEFENDED = (*ROLE_PLAY, "arms", "supervised")


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("modles",), ["organism"], "modles: unknown key, allowed are alignments, models, seeds, shards, testbeds"),
        ((*ROLE_PLAY, "weights", "sampels"), 3, "testbeds.role_play.weights.sampels: unknown key, allowed are arms"),
        ((*ROLE_PLAY, "weights", "samples"), 0, "testbeds.role_play.weights.samples: .* greater than or equal to 1"),
        ((*ROLE_PLAY, "weights", "samples"), "many", "weights.samples: .* valid integer.*found 'many'"),
        ((*ROLE_PLAY, "weights", "filter"), {"name": "best"}, "weights.filter: .*'top_k', 'best_of_n'"),
        ((*ROLE_PLAY, "weights", "filter"), {"name": "top_k", "k": 0}, r"filter.k: .*greater than or equal to 1"),
        (
            (*ROLE_PLAY, "weights", "filter"),
            {"name": "top_k", "n": 1},
            r"filter.n: unknown key, allowed are drop_caught, k, name$",
        ),
        (
            (*ROLE_PLAY, "weights", "filter"),
            {"name": "best_of_n", "k": 1},
            r"filter.k: .*allowed are drop_caught, name$",
        ),
        ((*ROLE_PLAY, "weights", "training"), {"rank": 8}, "training.method: missing, allowed are dpo, grpo, sft"),
        ((*ROLE_PLAY, "weights", "training", "learning_rate"), float("inf"), "learning_rate: .*finite number"),
        ((*ROLE_PLAY, "weights", "training", "rank"), 4, "weights.training.rank: 4, must be 8 as in alignment.dpo"),
        ((*ROLE_PLAY, "alignment", "models"), {"organism": {"dpo": {"beat": 1}}}, "organism.dpo: beat: unknown key"),
        ((*ROLE_PLAY, "alignment", "models"), {"qwen3-8b": {}}, "'qwen3-8b' is no model of the study"),
        ((*ROLE_PLAY, "weights", "training", "rnak"), 8, "training.rnak: unknown key, allowed are alpha, batch"),
        ((*ROLE_PLAY, "weights", "arms"), ["other"], "unknown arm 'other', known are plain, supervised"),
        ((*ROLE_PLAY, "scenarios", "train"), 10, "scenarios.train: 10, must be at least 128"),
        ((*ROLE_PLAY, "settings", "rounds"), 0, "rounds: .*greater than or equal to 1"),
        ((*ROLE_PLAY, "settings", "round"), 6, "round: unknown key, allowed are audit_probability, blind"),
        ((*ROLE_PLAY, "context", "sweep"), {"schedule": ["never"]}, "schedule: .*all_supervised"),
        ((*ROLE_PLAY, "context", "sweep"), {"schedule": ["audit"]}, "audit_probability is needed"),
        ((*ROLE_PLAY, "arms"), {"plain": {}, "supervised": {}, "../x": {}}, "names a folder"),
        ((*ROLE_PLAY, "arms"), {"plain": {"window": 1}, "supervised": {}}, r"arms.plain: imposes .*, must be empty"),
        (("testbeds",), {}, "testbeds: .*at least 1 item"),
        (("seeds",), [1, 1], "seeds: .*names one twice"),
        (("seeds",), [-1], "seeds.0: .*greater than or equal to 0"),
        (("seeds",), [2**32], "seeds.0: .*less than 4294967296"),
        ((*ROLE_PLAY, "context", "sweep"), {"schedule": []}, "context.sweep.schedule: .*at least 1 item"),
        ((*COORDINATION, "context", "sweep"), {"threshold": [4, 4.0]}, r"sweep.threshold: \[4, 4.0\] names one twice"),
        (
            (*COORDINATION, "context", "sweep"),
            {"peers": ["count", "none"]},
            "arm 'plain', variant 'none': peers is none, 'scripted:imitate_majority' goes by them",
        ),
        ((*ROLE_PLAY, "context", "yardsticks"), ["organism"], "'organism' is no scripted policy, allowed is"),
        ((*ROLE_PLAY, "context", "yardsticks"), ["scripted:comply"] * 2, "'scripted:comply' is named twice"),
        (
            (*ROLE_PLAY, "context", "yardsticks"),
            ["scripted:threshold:0.5"],
            "which testbed 'role_play' does not show",
        ),
        ((*ROLE_PLAY, "context", "yardsticks"), ["scripted:obey"], "unknown policy 'obey'"),
        ((*ROLE_PLAY, "context", "arms"), ["plain", "plain"], "context.arms: .*names one twice"),
        ((*ROLE_PLAY, "arms"), {"plain": {}, "supervised": {}, "adapter": {}}, "'adapter' is the name of what align"),
        (("alignments",), ["sft"], "alignments.0: .*none"),
        (DEFENDED, {"training": {"kl": 0.1, "tune": "full"}}, r"arms.supervised.training: kl: needs tune 'lora'"),
        (DEFENDED, {"training": {"shrink": 1}}, r"arms.supervised.training.shrink: .* less than 1"),
        (
            DEFENDED,
            {"training": {"rank": 4}},
            r"weights.training.rank: 4, must be 8 .*generations of arm 'supervised' go on",
        ),
        (
            DEFENDED,
            {"training": {"most_rise": 0.1}},
            "train: 192, must be at least 256: most_rise in arm 'supervised' asks 64",
        ),
        (DEFENDED, {"training": 0.1}, r"arms.supervised.training: must be keys and values, found 0.1"),
        (
            DEFENDED,
            {"filter": {"drop_cought": True}},
            r"arms.supervised.filter.drop_cought: unknown key, allowed are drop_caught",
        ),
        (
            DEFENDED,
            {"training": {"method": "dpo", "kl": 0.1}, "filter": {"name": "best_and_worst"}},
            r"arms.supervised.training: kl: only sft has it; what holds dpo and grpo to their reference is beta",
        ),
        ((*ROLE_PLAY, "alignment", "dpo", "replay"), 0.5, "alignment.dpo.replay: alignment makes generation 0"),
        ((*ROLE_PLAY, "alignment", "models"), {"organism": {"grpo": {"shrink": 0.5}}}, "alignment.grpo.shrink: align"),
        ((*ROLE_PLAY, "alignment", "grpo", "kl"), 0.5, "alignment.grpo: kl: only sft has it"),
        ((*COORDINATION, "arms"), {"plain": {}, "x": {"training": {"kl": 1}}}, "arms.x.training: there is no weights"),
    ],
)
def test_a_wrong_key_or_value_is_one_line(tmp_path, keys, value, said):
    path = changed(tmp_path, *keys, value=value)
    with pytest.raises(AtpError, match=said) as error:
        read_study(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [a\n", "no readable YAML"),
        ("- a\n", "must be keys and values, found list"),
        ("", "must be keys and values, found NoneType"),
        ("models: [a]\nmodels: [b]\n", "key 'models' stands twice"),
        ("models: !!python/object/apply:os.system ['true']\n", "no readable YAML"),
    ],
)
def test_what_is_no_study_is_one_line(tmp_path, text, said):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(AtpError, match=said) as error:
        read_study(path)
    assert "\n" not in str(error.value)


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(AtpError, match=r"no file .*known are llama-3.1-8b-instruct, organism"):
        read_models(("gpt",), Path("config/models"))
    with pytest.raises(AtpError, match="unknown policy 'obey', known are comply"):
        read_models(("scripted:obey",), Path("config/models"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gpus": 3}, r"alignment.dpo for model 'organism': training.batch: 8, must be a multiple of 6: 3 GPUs that"),
        ({"sampling": {"temperature": 0}}, "alignment.grpo: GRPO needs replies that differ, model 'organism' has"),
        ({"organism": False, "path": "config"}, "config: a model folder without config.json"),
        ({"organism": False, "path": "no/such/folder"}, "no/such/folder: no such model folder, and no name on the hub"),
    ],
)
def test_what_a_model_cannot_do_is_said_before_anything_runs(changes, said):
    study = read_study(DEMO)
    (spec,) = read_models(study.models, "config/models").values()
    assert spec
    check_models(DEMO, study, {"organism": spec}, Path())
    wrong = ModelSpec(**{**spec.model_dump(), **changes})
    with pytest.raises(AtpError, match=said) as error:
        check_models(DEMO, study, {"organism": wrong}, Path())
    assert "\n" not in str(error.value)


def test_gpus_hold_no_more_than_their_share():
    settings = DpoSettings(batch=8, device_batch=4)
    assert [settings.held(gpus) for gpus in (1, 2, 4, 8)] == [4, 4, 2, 1]


def test_an_arm_is_checked_for_the_channels_that_it_runs_in(tmp_path):
    """An audit's probability has no meaning under the context channel's schedules."""
    arms = {"plain": {}, "supervised": {"audit_probability": 0.6}}
    path = changed(tmp_path, *ROLE_PLAY, "arms", value=arms)
    with pytest.raises(AtpError, match=r"weights.deployment, arm 'supervised': audit_probability is needed with"):
        read_study(path)
    deployed = {"schedule": "audit", "audit_probability": 0.2, "rounds": 1}
    values = yaml.safe_load(path.read_text())
    values["testbeds"]["role_play"]["weights"]["deployment"] = deployed
    path.write_text(yaml.safe_dump(values))
    assert deployment(read_study(path).testbeds["role_play"], "supervised")["audit_probability"] == 0.6


def test_an_arm_imposes_its_settings(tmp_path):
    study = read_study(
        changed(tmp_path, *ROLE_PLAY, "context", "sweep", value={"schedule": ["alternating"], "window": [0, 2]})
    )
    section = study.testbeds["role_play"]
    assert list(variants(section, "plain")) == ["alternating window=0", "alternating window=2"]
    assert list(variants(section, "supervised")) == ["window=0", "window=2"]
    assert variants(section, "supervised")["window=2"] == {"rounds": 6, "window": 2, "schedule": "all_supervised"}
    assert deployment(section, "plain")["schedule"] == "all_unsupervised"
    assert deployment(section, "supervised")["schedule"] == "all_supervised"
    assert evaluation(section)["rounds"] == 1

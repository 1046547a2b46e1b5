"""Files of models: keys that each kind allows, and that none contains an API key."""

from datetime import date, datetime
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from atp.agents.load import load_agent
from atp.errors import AtpError
from atp.models.spec import ModelSpec, check_folder, check_trainable
from atp.study.read import read_models


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "bfloat16"}, "dtype: not allowed with kind inspect, remove it"),
        ({"gpus": 1}, "gpus: not allowed with kind inspect"),
        ({"kind": "local", "base_url": "http://localhost/v1"}, "base_url: not allowed with kind local"),
        ({"kind": "local", "adapters": {"a": "b/c"}}, "adapters: not allowed with kind local"),
        (
            {"base_url": "http://me:sk-1@localhost/v1"},
            "base_url: must not have a user, password or query",
        ),
        (
            {"base_url": "http://localhost/v1?key=sk-1"},
            "base_url: must not have a user, password or query",
        ),
        ({"base_url": "localhost:8000"}, r"base_url: must be http\(s\)://HOST"),
        ({"path": "gpt-5"}, "path: must be PROVIDER/MODEL as Inspect names it, found 'gpt-5'"),
        ({"adapters": {"mine": "mine"}}, "adapters.mine: must be PROVIDER/MODEL"),
        ({"path": "vllm/Qwen/Qwen3-8B"}, "base_url: missing, must be the address of a running server"),
        ({"api_key": "sk-1"}, "api_key: unknown key, allowed are adapters, answers"),
        (
            {"chat_template": {"date": date(2024, 7, 1)}},
            r"chat_template: 'date' must be a value that JSON has, found '2024-07-01' \(date\); put dates in quotes$",
        ),
        ({"chat_template": {"a": {"b": [1, datetime(2024, 7, 1)]}}}, r"chat_template: 'a' must .* found .*\(dict\)"),
        ({"chat_template": {"a": float("nan")}}, "chat_template: 'a' must .* found 'nan'"),
        ({"chat_template": {"a": {"x"}}}, "chat_template: 'a' must .* found .*set"),
    ],
)
def test_a_wrong_key_of_a_served_model_is_one_line(tmp_path, settings, message):
    values = {"kind": "inspect", "path": "openai-api/local/m", **settings}
    (tmp_path / "served.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(AtpError, match=message) as error:
        read_models(("served",), tmp_path)
    assert "\n" not in str(error.value) and "sk-1" not in str(error.value)


def test_a_key_twice_in_a_model_file_is_one_line(tmp_path):
    (tmp_path / "m.yaml").write_text("path: a\nsampling: {top_k: 1, top_k: 2}\n")
    with pytest.raises(AtpError, match=r"m\.yaml: no readable YAML: key 'top_k' occurs twice") as error:
        read_models(("m",), tmp_path)
    assert "\n" not in str(error.value)


def test_a_served_model_is_not_trained():
    check_trainable(ModelSpec(path="resources/organism"))
    with pytest.raises(AtpError, match=r"^openai/gpt-5: a served model \(kind inspect\) cannot be trained"):
        check_trainable(ModelSpec(kind="inspect", path="openai/gpt-5"))


def test_missing_packages_are_named():
    spec = ModelSpec(kind="inspect", path="openai-api/local/m", base_url="http://localhost:8000/v1")
    if find_spec("inspect_ai") and find_spec("openai"):
        check_folder(spec, Path())
        return
    for call in (lambda: check_folder(spec, Path()), lambda: load_agent("served", spec)):
        with pytest.raises(
            AtpError, match=r'local/m: kind inspect needs .*: pip install "alignment-tipping\[inspect\]"$'
        ):
            call()

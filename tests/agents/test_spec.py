"""A model's file: what each kind of model may say, and that no key stands in it."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from atp.agents import ModelSpec, load_agent
from atp.agents.spec import check_folder, check_trainable
from atp.config import read_models
from atp.errors import AtpError


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dtype": "bfloat16"}, "dtype: has no meaning with kind inspect, leave it out"),
        ({"gpus": 1}, "gpus: has no meaning with kind inspect"),
        ({"kind": "local", "base_url": "http://localhost/v1"}, "base_url: has no meaning with kind local"),
        ({"kind": "local", "adapters": {"a": "b/c"}}, "adapters: has no meaning with kind local"),
        ({"base_url": "http://me:sk-1@localhost/v1"}, "base_url: must hold no user, password or query: keys come from"),
        (
            {"base_url": "http://localhost/v1?key=sk-1"},
            "base_url: must hold no user, password or query: keys come from",
        ),
        ({"base_url": "localhost:8000"}, r"base_url: must be http\(s\)://HOST"),
        ({"path": "gpt-5"}, "path: must be PROVIDER/MODEL as Inspect names it, found 'gpt-5'"),
        ({"adapters": {"mine": "mine"}}, "adapters.mine: must be PROVIDER/MODEL"),
        ({"path": "vllm/Qwen/Qwen3-8B"}, "base_url: missing, the address of the server is needed"),
        ({"api_key": "sk-1"}, "api_key: unknown key, allowed are adapters, base_url"),
    ],
)
def test_a_wrong_key_of_a_served_model_is_one_line(tmp_path, settings, said):
    values = {"kind": "inspect", "path": "openai-api/local/m", **settings}
    (tmp_path / "served.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(AtpError, match=said) as error:
        read_models(("served",), tmp_path)
    assert "\n" not in str(error.value) and "sk-1" not in str(error.value)


def test_a_served_model_is_not_trained():
    check_trainable(ModelSpec(path="resources/organism"))
    with pytest.raises(AtpError, match=r"^openai/gpt-5: a served model \(kind inspect\) is played, not trained"):
        check_trainable(ModelSpec(kind="inspect", path="openai/gpt-5"))


def test_inspect_is_asked_for_where_it_is_not_installed():
    spec = ModelSpec(kind="inspect", path="openai-api/local/m", base_url="http://localhost:8000/v1")
    if find_spec("inspect_ai") and find_spec("openai"):
        check_folder(spec, Path())
        return
    for needs in (lambda: check_folder(spec, Path()), lambda: load_agent("served", spec)):
        with pytest.raises(AtpError, match=r'local/m: kind inspect needs .*: pip install "atp\[inspect\]"$'):
            needs()

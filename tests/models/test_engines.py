"""The choice of an engine, and what is refused before anything is loaded, on a machine whose nvidia-smi is a script."""

import sys
from pathlib import Path

import pytest

from atp.agents.load import load_agent
from atp.errors import AtpError
from atp.models.engines import PYTHON, resolve_engine, tensor_parallel_size
from atp.models.spec import ModelSpec
from atp.training.grpo import GrpoSettings, _samples_with_vllm

GIB = 2**30
ORGANISM = Path("resources/organism/role_play").absolute()
NVIDIA_SMI = """#!/bin/sh
case "$1" in
*memory*) echo 'GPU-aa, 81920'; echo 'GPU-bb, 81920';;
*) echo '0, GPU-aa'; echo '1, GPU-bb';;
esac
"""


@pytest.fixture
def gpus(tmp_path, monkeypatch) -> None:
    """Give the machine two GPUs."""
    (tmp_path / "nvidia-smi").write_text(NVIDIA_SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("installed", "settings", "engine"),
    [
        (True, {"gpus": 1}, "vllm"),
        (True, {"gpus": 2, "device": "cuda"}, "vllm"),
        (True, {}, "transformers"),  # without `gpus` it shares one with other jobs
        (True, {"gpus": 1, "device": "cpu"}, "transformers"),
        (True, {"gpus": 1, "gguf_file": "x.gguf"}, "transformers"),
        (True, {"gpus": 1, "forks": 1}, "transformers"),
        (True, {"gpus": 1, "engine": "transformers"}, "transformers"),
        (False, {"gpus": 1}, "transformers"),
        (False, {"engine": "vllm"}, "vllm"),
    ],
)
def test_auto_is_vllm_where_a_job_has_gpus_and_vllm(gpus, monkeypatch, installed, settings, engine):
    if installed:
        monkeypatch.setenv(PYTHON, sys.executable)
    else:
        monkeypatch.delenv(PYTHON, raising=False)
    resolved = resolve_engine(ModelSpec(path="a/b", **settings))
    assert resolved.engine == resolve_engine(resolved).engine == engine
    assert resolved.model_dump(mode="json")["engine"] == engine


def test_auto_is_transformers_without_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(PYTHON, sys.executable)
    assert resolve_engine(ModelSpec(path="a/b", gpus=1)).engine == "transformers"


@pytest.mark.parametrize(
    ("python", "settings", "message"),
    [
        ("", {}, r'engine is vllm, which is not installed: pip install "alignment-tipping\[vllm\]", or name a Python'),
        ("/no/python", {}, f"{PYTHON}: no program '/no/python'"),
        (sys.executable, {"gguf_file": "x.gguf"}, "engine vllm does not read gguf_file"),
        (sys.executable, {}, "vLLM cannot play the model: ModuleNotFoundError: No module named 'vllm'"),
    ],
)
def test_vllm_that_is_absent_is_one_line(monkeypatch, python, settings, message):
    monkeypatch.setenv(PYTHON, python)
    with pytest.raises(AtpError, match=message) as error:
        load_agent("m", ModelSpec(path=str(ORGANISM), engine="vllm", device="cpu", **settings))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("weights", "heads", "gpus", "size"),
    [
        (16, 32, [80], 1),
        (64, 64, [80], 1),
        (16, 32, [80] * 4, 1),  # four copies
        (65, 64, [80] * 4, 2),  # two copies, each over two GPUs
        (65, 64, [80] * 3, None),  # 64 attention heads cannot be split over three
        (141, 64, [80, 80, 80, 80], 4),
        (141, 64, [80, 80], None),
        (16, 32, [80, 16], 2),  # the smaller GPU decides
    ],
)
def test_a_model_is_split_over_the_fewest_gpus_that_hold_it(weights, heads, gpus, size):
    arguments = ("some/model", weights * GIB, heads, [each * GIB for each in gpus])
    if size:
        assert tensor_parallel_size(*arguments) == size
        return
    with pytest.raises(AtpError, match=rf"^some/model: its weights take {weights}.0 GiB, \d of {len(gpus)} GPUs with"):
        tensor_parallel_size(*arguments)


def test_grpo_samples_with_vllm_only_where_trl_can(monkeypatch, caplog):
    monkeypatch.setenv(PYTHON, sys.executable)
    assert not _samples_with_vllm(ModelSpec(path="a/b"), with_tools=False) and not caplog.messages
    assert not _samples_with_vllm(ModelSpec(path="a/b", engine="vllm", device="cpu"), with_tools=False)
    assert caplog.messages == ["a/b: GRPO samples replies with transformers, because there is no GPU"]
    assert "use_vllm" not in GrpoSettings.model_fields

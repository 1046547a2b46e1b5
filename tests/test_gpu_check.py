"""The GPU check on a CPU: all rows have numbers, and missing packages are reported."""

import re
import subprocess
import sys

import pytest

ROWS = [
    "parameters",
    "engine, decisions/s",
    "engine, generated tokens/s",
    "engine, decoded tokens/s",
    "plain generate, one prompt at a time, decisions/s",
    "engine / plain generate",
    "memory bandwidth, GB/s",
    "limit of decoding, tokens/s",
    "engine / limit",
    "SFT, LoRA r 8, trained tokens/s",
    "DPO, LoRA r 8, trained tokens/s",
    "GRPO, LoRA r 8, trained tokens/s",
]
TINY = ["--shape", "tiny", "--device", "cpu"]


def run(*arguments: str, without: str = "") -> subprocess.CompletedProcess:
    """Run the check in a new process, without one package; it prints the loaded packages that it must not need."""
    code = f"""
import sys, importlib.util, runpy
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {without!r} else found(name, *rest)
sys.modules.update({{name: None for name in [{without!r}] if name}})
sys.argv = ["gpu_check", *{list(arguments)!r}]
import atp.gpu_check
assert "torch" not in sys.modules
atp.gpu_check.main()
print("loaded:", [name for name in ("snakemake", "polars") if name in sys.modules])
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def table(output: str) -> dict[str, str]:
    found = (re.match(r"^  (\S.*?)  +(\S.*?)  +(\S+)$", line) for line in output.splitlines())
    return {match[1]: match[2] for match in found if match}


def test_every_row_has_a_number():
    result = run(*TINY)
    assert result.returncode == 0, result.stderr
    found = table(result.stdout)
    assert list(found) == ROWS
    assert all(re.fullmatch(r"[\d,.]+(x| %)?", value) for value in found.values()), found
    assert "loaded: []" in result.stdout


def test_missing_packages_are_reported_and_the_rest_is_measured():
    result = run(*TINY, without="trl")
    assert result.returncode == 0, result.stderr
    assert "missing packages: trl (pip install trl)" in result.stdout
    found = table(result.stdout)
    assert {value for name, value in found.items() if "trained" in name} == {"not run: no trl"}
    assert re.fullmatch(r"[\d,.]+", found["engine, decisions/s"])


def test_without_a_gpu_it_is_an_error():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = run()
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "atp: gpu-check needs a CUDA device, torch finds none"


def test_the_large_shape_is_qwen3_8b():
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from atp.gpu_check import SHAPES

    with torch.device("meta"):
        model = Qwen3ForCausalLM(Qwen3Config(**SHAPES["qwen3-8b"].config))
    assert model.num_parameters() == 8_190_735_360  # the sum of the authors' safetensors index

"""The choice of the engine that plays a local model, and where vLLM is. Imports no heavy library."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from atp.errors import AtpError
from atp.models.gpus import gpu_memory
from atp.models.spec import ModelSpec

#: Environment variable with a Python that has vLLM, where this one does not.
PYTHON = "ATP_VLLM_PYTHON"
#: Proportion of a GPU's memory that weights may take; vLLM needs the rest for activations, keys and values.
WEIGHTS_SHARE = 0.8
GIB = 2**30


def vllm_python() -> str | None:
    """Return the Python that runs vLLM: this one, or the one that ATP_VLLM_PYTHON names; None if there is none."""
    return sys.executable if find_spec("vllm") else os.environ.get(PYTHON) or None


def resolve_engine(spec: ModelSpec, in_process: bool = False) -> ModelSpec:
    """Return the model with the engine that `auto` stands for on this machine.

    vLLM reserves whole GPUs, so transformers plays a model that shares a GPU with other jobs (`gpus: 0`).

    Args:
        in_process: whether vLLM must be in this Python, as TRL needs it.
    """
    if spec.kind != "local" or spec.engine != "auto":
        return spec
    installed = find_spec("vllm") if in_process else vllm_python()
    fits = spec.gpus and spec.device != "cpu" and spec.gguf_file is None and not spec.forks
    return spec.model_copy(update={"engine": "vllm" if fits and installed and gpu_memory() else "transformers"})


def check_vllm(spec: ModelSpec) -> str:
    """Return the Python that runs vLLM.

    Raises:
        AtpError: no vLLM, no such Python, or a model that vLLM does not read.
    """
    if spec.gguf_file is not None:
        raise AtpError(
            f"{spec.path}: engine vllm does not read gguf_file; convert it (docs/models.md), or use transformers"
        )
    python = vllm_python()
    if python is None:
        raise AtpError(
            f'{spec.path}: engine is vllm, which is not installed: pip install "alignment-tipping[vllm]", or '
            f"name a Python that has it in {PYTHON}, or set engine: transformers"
        )
    if not (os.path.isfile(python) and os.access(python, os.X_OK)):
        raise AtpError(f"{spec.path}: {PYTHON}: no program '{python}'; name a Python that has vLLM")
    return python


def tensor_parallel_size(path: str, weights: int, heads: int, memory: Sequence[int]) -> int:
    """Return over how many GPUs each copy of a model is split: the least number that fits.

    The number divides that of the GPUs, so that they hold whole copies, and that of the attention heads.

    Args:
        path: of the model, for the message.
        weights: size of all weights in bytes.
        heads: number of attention heads.
        memory: bytes of each GPU.

    Raises:
        AtpError: the weights do not fit.
    """
    sizes = [size for size in range(1, len(memory) + 1) if len(memory) % size == 0 and heads % size == 0]
    for size in sizes:
        if weights / size <= WEIGHTS_SHARE * min(memory):
            return size
    room = WEIGHTS_SHARE * min(memory) * sizes[-1] / GIB
    raise AtpError(
        f"{path}: its weights take {weights / GIB:.1f} GiB, {sizes[-1]} of {len(memory)} GPUs with "
        f"{min(memory) / GIB:.1f} GiB have room for {room:.1f} GiB (caches need {1 - WEIGHTS_SHARE:.0%}, and the "
        f"number of GPUs divides {heads} attention heads); raise gpus in its file, or use larger GPUs"
    )

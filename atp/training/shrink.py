"""Shrinkage: what training changed is scaled down, so that the agent lies between generation 0 and what it learned.

    weights = aligned + (1 - share) (trained - aligned)

The interpolation in weight space of Wortsman and others 2022 (WiSE-FT, arXiv 2109.01903), with generation 0 for their
zero-shot model. Works on saved folders, so that it does not matter how many processes trained.
"""

import json
from pathlib import Path
from typing import Any

from atp.agents import ModelSpec
from atp.artifacts import replacing
from atp.errors import AtpError

ADAPTER = "adapter_model.safetensors"


def shrink(trained: Path, aligned: Path | None, model: ModelSpec, share: float) -> None:
    """Move a trained folder's weights, in place, a share of the way back to generation 0's (None: the model itself).

    Raises:
        AtpError: adapters of different ranks, scales or layers.
    """
    from atp.agents.local import is_whole, weights_of

    aligned = weights_of(aligned)
    if is_whole(trained):
        _shrink_weights(trained, aligned, model, share)
    else:
        _shrink_adapter(trained, aligned, share)


def _shrink_weights(trained: Path, aligned: Path | None, model: ModelSpec, share: float) -> None:
    import torch

    from atp.agents.local import load_model

    new, old = (
        load_model(model.model_copy(update={"path": str(folder), "dtype": "float32"}))
        for folder in (trained, aligned or model.path)
    )
    with torch.no_grad():
        for weight, before in zip(new.parameters(), old.parameters(), strict=True):
            weight.lerp_(before, share)
    new.save_pretrained(trained / "shrunk")
    for file in (trained / "shrunk").iterdir():
        file.replace(trained / file.name)
    (trained / "shrunk").rmdir()


def _shrink_adapter(trained: Path, aligned: Path | None, share: float) -> None:
    from safetensors.torch import load_file, save_file

    new = load_file(trained / ADAPTER)
    old = load_file(aligned / ADAPTER) if aligned else {}
    if aligned and (_shape(new, trained) != _shape(old, aligned)):
        raise AtpError(f"{aligned}: training.shrink needs an adapter of the trained one's rank, alpha and layers")
    for name in [name for name in new if "lora_A" in name]:
        other = name.replace("lora_A", "lora_B")
        if aligned:
            new[name], new[other] = between((new[name], new[other]), (old[name], old[other]), share)
        else:
            new[other] = (1 - share) * new[other]
    with replacing(trained / ADAPTER) as temporary:
        save_file(new, temporary, {"format": "pt"})


def _shape(tensors: dict[str, Any], folder: Path) -> list[Any]:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return [config["r"], config["lora_alpha"], {name: tensor.shape for name, tensor in tensors.items()}]


def between(trained: tuple[Any, Any], aligned: tuple[Any, Any], share: float) -> tuple[Any, Any]:
    """LoRA matrices (A, B) of the same rank r whose product is nearest to (1 - share) B1 A1 + share B0 A0.

    That sum has rank 2r at most: as [B1, B0] [A1; A0] its r largest singular values are found in a matrix of 2r rows.
    By Eckart and Young no other matrices of rank r are nearer, which holds for interpolated A and B too. Of all A and B
    with this product, A has the trained one's size, on which it depends how fast the next generation learns.
    """
    import torch

    (a1, b1), (a0, b0) = trained, aligned
    left, left_core = torch.linalg.qr(torch.cat([(1 - share) * b1, share * b0], dim=1).double())
    right, right_core = torch.linalg.qr(torch.cat([a1, a0]).T.double())
    u, values, v = torch.linalg.svd(left_core @ right_core.T)
    rank = len(a1)
    size = a1.double().norm() / rank**0.5
    a, b = size * (v[:rank] @ right.T), (left @ u[:, :rank]) * (values[:rank] / size)
    return a.to(a1.dtype).contiguous(), b.to(b1.dtype).contiguous()

"""Weight interpolation (WiSE-FT): scale down what training changed, between generation 0 and the trained weights.

    weights = aligned + (1 - fraction) (trained - aligned)

This is the interpolation of Wortsman et al. 2022 (arXiv 2109.01903), with generation 0 as the zero-shot model. It works
on saved folders, so it does not depend on the number of training processes.
"""

import json
from pathlib import Path
from typing import Any

from atp.errors import AtpError
from atp.files.tables import replacing
from atp.models.spec import ModelSpec

ADAPTER = "adapter_model.safetensors"


def interpolate(trained: Path, aligned: Path | None, model: ModelSpec, fraction: float) -> None:
    """Move a trained folder's weights back towards generation 0's, in place.

    Args:
        trained: folder of the trained weights or adapter.
        aligned: folder of generation 0; None for the model itself.
        fraction: how far, from 0 (trained) to 1 (generation 0).

    Raises:
        AtpError: adapters with different lora_r, lora_alpha or layers.
    """
    from atp.models.load import is_whole, weights_of

    aligned = weights_of(aligned)
    if is_whole(trained):
        _interpolate_weights(trained, aligned, model, fraction)
    else:
        _interpolate_adapter(trained, aligned, fraction)


def _interpolate_weights(trained: Path, aligned: Path | None, model: ModelSpec, fraction: float) -> None:
    import torch

    from atp.models.load import load_model

    new, old = (
        load_model(source.model_copy(update={"dtype": "float32"}))
        for source in (model.at(trained), model.at(aligned) if aligned else model)
    )
    with torch.no_grad():
        for weight, before in zip(new.parameters(), old.parameters(), strict=True):
            weight.lerp_(before, fraction)
    new.save_pretrained(trained / "interpolated")
    for file in (trained / "interpolated").iterdir():
        file.replace(trained / file.name)
    (trained / "interpolated").rmdir()


def _interpolate_adapter(trained: Path, aligned: Path | None, fraction: float) -> None:
    from safetensors.torch import load_file, save_file

    new = load_file(trained / ADAPTER)
    old = load_file(aligned / ADAPTER) if aligned else {}
    if aligned and (_shape(new, trained) != _shape(old, aligned)):
        raise AtpError(f"{aligned}: training.interpolate needs an adapter with equal lora_r, lora_alpha and layers")
    for name in [name for name in new if "lora_A" in name]:
        other = name.replace("lora_A", "lora_B")
        if aligned:
            new[name], new[other] = between((new[name], new[other]), (old[name], old[other]), fraction)
        else:
            new[other] = (1 - fraction) * new[other]
    with replacing(trained / ADAPTER) as temporary:
        save_file(new, temporary, {"format": "pt"})


def _shape(tensors: dict[str, Any], folder: Path) -> list[Any]:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return [config["r"], config["lora_alpha"], {name: tensor.shape for name, tensor in tensors.items()}]


def between(trained: tuple[Any, Any], aligned: tuple[Any, Any], fraction: float) -> tuple[Any, Any]:
    """Return LoRA matrices of rank r whose product is nearest to (1 - fraction) B1 A1 + fraction B0 A0.

    The sum is [(1 - fraction) B1, fraction B0] [A1; A0], of rank 2r at most, so a matrix of 2r rows gives its singular
    values. By the Eckart-Young theorem the r largest give the nearest product of rank r. Of all such A and B, A gets
    the trained one's norm, because the norm decides how fast the next generation learns.

    Args:
        trained, aligned: (A1, B1) and (A0, B0); A is r x inputs, B is outputs x r.
        fraction: weight of the aligned matrices.

    Returns:
        (A, B).
    """
    import torch

    (a1, b1), (a0, b0) = trained, aligned
    left, left_core = torch.linalg.qr(torch.cat([(1 - fraction) * b1, fraction * b0], dim=1).double())
    right, right_core = torch.linalg.qr(torch.cat([a1, a0]).T.double())
    u, values, v = torch.linalg.svd(left_core @ right_core.T)
    rank = len(a1)
    size = a1.double().norm() / rank**0.5
    a, b = size * (v[:rank] @ right.T), (left @ u[:, :rank]) * (values[:rank] / size)
    return a.to(a1.dtype).contiguous(), b.to(b1.dtype).contiguous()

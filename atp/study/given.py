"""Check a user's own aligned agents and conversations before anything runs, without loading a model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atp.agents.load import OWN
from atp.errors import AtpError
from atp.files.schemas import GIVEN
from atp.models.spec import ModelSpec, check_folder
from atp.study.project import Project
from atp.study.study import TestbedSection
from atp.training.alignment import OwnAlignment
from atp.training.own import CONFIG, WEIGHTS, adapter_folder, conversations_in

#: Prefix of a LoRA adapter's tensors; suffix -> the dimension of the matrix that the base's weight has, too.
LORA_PREFIX = "base_model.model."
LORA_SIDES = {".lora_A.weight": 1, ".lora_B.weight": 0}
#: Bytes of weights that are compared, in the middle of a file.
COMPARED = 2**16


def check_own(path: Path | str, project: Project) -> None:
    """Check the agents of the study at `path` that are the user's own. Raises AtpError that names key and file."""
    study = project.study
    for entry, own in study.own_alignments.items():
        key = f"{path}: alignments: {entry.removeprefix(GIVEN)}"
        try:
            if own.sft:
                conversations_in(project.root / own.sft.data)
            for name in study.models:
                spec = project.models[name]
                if spec is None or name.startswith(OWN):
                    raise AtpError(f"'{name}' has no weights of its own, so it takes no agent of yours")
                _check_agent(own, project, name, spec)
        except AtpError as error:
            raise AtpError(f"{key}: {error}") from error


def _check_agent(own: OwnAlignment, project: Project, name: str, spec: ModelSpec) -> None:
    if own.sft:
        return
    study, root = project.study, project.root
    if spec.organism and len(study.testbeds) > 1:
        raise AtpError(
            f"'{name}' is a model organism, which is another network on each testbed; use one testbed in the study"
        )
    folder = None if spec.kind == "inspect" else project.model_folder(spec.of(next(iter(study.testbeds))))
    if own.model:
        if spec.kind == "local":
            _check_checkpoint(spec.model_copy(update={"path": own.model, "gguf_file": None}), folder, root)
        return
    assert own.adapter
    adapter = adapter_folder(own.adapter, root)
    config = _adapter_config(adapter)
    for testbed, section in study.testbeds.items():
        _check_rank(testbed, section, adapter, config)
    if folder:
        _check_base(adapter, config, spec, folder)
        _check_tokens(adapter, folder)


def _adapter_config(folder: Path) -> dict[str, Any]:
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            whole = "; it has all weights, so write `model:`" if (folder / "config.json").is_file() else ""
            raise AtpError(f"{folder}: not an adapter folder: no {file}{whole}")
    return _json(folder / CONFIG)


def _check_rank(testbed: str, section: TestbedSection, adapter: Path, config: Mapping[str, Any]) -> None:
    """Raise AtpError if generations cannot continue an adapter's training."""
    if section.weights and config.get("peft_type") != "LORA":
        raise AtpError(f"{adapter}: peft_type is {config.get('peft_type')}, the weights channel continues only LORA")
    for condition, training in section.trainings().items():
        where = f"testbeds.{testbed}.weights.training"
        if not training.use_peft:
            raise AtpError(f"{adapter}: is an adapter, but {where}.use_peft of condition '{condition}' is false")
        for name, key in (("lora_r", "r"), ("lora_alpha", "lora_alpha")):
            if (planned := getattr(training, name)) != config.get(key):
                raise AtpError(
                    f"{adapter}: its {name} is {config.get(key)}, {where}.{name} of condition '{condition}' is "
                    f"{planned}; generations continue the adapter, so set {name}: {config.get(key)}"
                )


def _check_base(adapter: Path, config: Mapping[str, Any], spec: ModelSpec, folder: Path) -> None:
    """Raise AtpError if an adapter was trained on another model, as far as its files tell."""
    base = config.get("base_model_name_or_path")
    other = f"{adapter}: was trained on {base}, not on {spec.path}"
    if isinstance(base, str) and Path(base).is_dir() and folder.is_dir():
        if not _same_weights(Path(base), folder):
            raise AtpError(f"{other}: their weights differ; use the adapter with its own model")
    elif isinstance(base, str) and not folder.is_dir() and base.count("/") == 1 and base != spec.path:
        raise AtpError(f"{other}; use the adapter with its own model")
    if folder.is_dir() and spec.gguf_file is None and config.get("peft_type") == "LORA":
        _check_shapes(adapter, spec.model_copy(update={"path": str(folder)}))


def _check_shapes(adapter: Path, spec: ModelSpec) -> None:
    """Raise AtpError if an adapter's matrices do not fit the modules of a model."""
    from atp.models.load import load_skeleton  # torch takes seconds to import

    modules = dict(load_skeleton(spec).named_modules())
    for tensor, shape in _shapes(adapter / WEIGHTS).items():
        for suffix, side in LORA_SIDES.items():
            name = tensor.removeprefix(LORA_PREFIX).removesuffix(suffix)
            if not tensor.endswith(suffix) or len(shape) != 2:
                continue
            if name not in modules:
                raise AtpError(f"{adapter}: is no adapter of {spec.path}, which has no module '{name}'")
            weight = list(getattr(getattr(modules[name], "weight", None), "shape", ()))
            if len(weight) == 2 and shape[side] not in weight:  # some models have their weights transposed
                raise AtpError(
                    f"{adapter}: is no adapter of {spec.path}: '{name}.weight' is {weight} there, and the adapter's "
                    f"{suffix.split('.')[1]} is {shape}"
                )


def _check_tokens(agent: Path, base: Path) -> None:
    """Raise AtpError if the tokenizer of a user's agent numbers a token of the model differently, or lacks it."""
    if not all((each / "tokenizer.json").is_file() for each in (agent, base)):
        return
    own, expected = (_vocabulary(each) for each in (agent, base))
    wrong = next((token for token, number in expected.items() if own.get(token) != number), None)
    if wrong is not None:
        raise AtpError(
            f"{agent}: its tokenizer is not that of {base}: token {wrong!r} has number {own.get(wrong)}, there "
            f"{expected[wrong]}"
        )


def _check_checkpoint(spec: ModelSpec, base: Path | None, root: Path) -> None:
    folder = root / spec.path
    if (folder / CONFIG).is_file():
        raise AtpError(f"{folder}: is an adapter, so write `adapter:`")
    check_folder(spec, root)
    if not base or not all((each / "config.json").is_file() for each in (folder, base)):
        return  # on the hub, or a GGUF file
    own, expected = (_json(each / "config.json").get("model_type") for each in (folder, base))
    if own != expected:
        raise AtpError(f"{folder}: is of type '{own}', {base} of type '{expected}'; it is no checkpoint of this model")
    _check_tokens(folder, base)


def _vocabulary(folder: Path) -> dict[str, int]:
    tokenizer = _json(folder / "tokenizer.json")
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    numbered = vocabulary if isinstance(vocabulary, dict) else {each[0]: n for n, each in enumerate(vocabulary)}
    return numbered | {token["content"]: token["id"] for token in tokenizer.get("added_tokens", ())}


def _same_weights(one: Path, other: Path) -> bool:
    """Return whether two folders have the same weights, by the files' names, sizes and middle, or one has none."""
    files = [sorted(folder.glob("*.safetensors")) for folder in (one, other)]
    if not all(files):
        return True
    if [file.name for file in files[0]] != [file.name for file in files[1]]:
        return False
    return all(_middle(first) == _middle(second) for first, second in zip(*files, strict=True))


def _middle(file: Path) -> tuple[int, bytes]:
    size = file.stat().st_size
    with file.open("rb") as content:
        content.seek(max(0, size - COMPARED) // 2)
        return size, content.read(COMPARED)


def _shapes(file: Path) -> dict[str, list[int]]:
    """Return the shapes of a file's tensors by name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as tensors:
            return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise AtpError(f"{file}: no readable safetensors file: {error}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AtpError(f"{path}: no readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise AtpError(f"{path}: must be keys and values, found {type(value).__name__}")
    return value

"""Files of config/models: their keys, and checks of a model's folder without loading it.

Keys that do not affect replies (a job's resources, a server's address) are excluded when a spec is written as JSON, so
that changing them runs nothing again.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from atp.errors import AtpError

NO_TEMPLATE = "its tokenizer has no chat template, use an instruction-tuned model"
#: Required parts of a model's folder: (name, files of which one is enough).
REQUIRED_PARTS = (
    ("config.json", ("config.json",)),
    ("tokenizer", ("tokenizer.json", "tokenizer.model", "vocab.json")),
    ("safetensors weights", ("model.safetensors", "model.safetensors.index.json")),
)
#: Keys that only one kind of model has.
KEYS_OF_KIND = {
    "local": (
        "gguf_file",
        "revision",
        "trust_remote_code",
        "engine",
        "device",
        "dtype",
        "gpus",
        "organism",
        "answers",
        "forks",
    ),
    "inspect": ("base_url", "timeout", "adapters", "top_logprobs"),
}
#: Inspect's providers that, without an address, start a server that is open to the network.
SERVER_PROVIDERS = ("vllm", "sglang")


class Sampling(BaseModel):
    """Sampling parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    temperature: float = Field(1.0, ge=0, description="softmax temperature; 0 is greedy decoding")
    top_p: float = Field(
        1.0, gt=0, le=1, description="nucleus sampling: the smallest set of tokens with this probability"
    )
    top_k: int = Field(0, ge=0, description="sample from the k most likely tokens; 0: all")
    max_new_tokens: int = Field(512, ge=1, description="maximum length of a reply, in tokens")


class ModelSpec(BaseModel):
    """A file of config/models: a model, its sampling, and the resources of a job that loads it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["local", "inspect"] = Field(
        "local", description="local: loaded in the process; inspect: a server, through Inspect's model providers"
    )
    path: str = Field(
        description="folder of weights, tokenizer and chat template, or a name on the Hugging Face hub; "
        "for inspect PROVIDER/MODEL, such as openai-api/vllm/NAME"
    )
    gguf_file: str | None = Field(
        None, description="file in `path` that has weights, tokenizer and chat template in llama.cpp's format GGUF"
    )
    base_url: str | None = Field(
        None, exclude=True, description="for inspect: the server's address; API keys are read from the environment"
    )
    timeout: int = Field(
        600,
        ge=1,
        exclude=True,
        description="for inspect: seconds to wait for a reply, retries included, before the stage fails",
    )
    adapters: dict[str, str] = Field(
        default_factory=dict, description="for inspect: folder of an adapter -> PROVIDER/NAME of the served adapter"
    )
    revision: str | None = Field(None, description="commit or tag on the hub")
    trust_remote_code: bool = Field(False, description="run code from the model's repository")
    engine: Literal["auto", "transformers", "vllm"] = Field(
        "auto",
        description="what computes replies; auto: vllm if `gpus` is at least 1 and the machine has a GPU and vLLM, "
        "else transformers",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: float32 on CPU, bfloat16 on GPU")
    sampling: Sampling = Field(default_factory=Sampling)
    batch: int = Field(
        64, ge=1, description="players per batch; results are bitwise reproducible only with the same batch"
    )
    chat_template: dict[str, Any] = Field(
        default_factory=dict, description="arguments for the chat template, such as enable_thinking"
    )
    answers: Literal["free", "guided"] = Field(
        "free",
        description="free: the model writes its replies; guided: after its thought, if it thinks, a reply is one of "
        "the testbed's answers, drawn by its probability",
    )
    forks: int = Field(
        0,
        ge=0,
        le=8,
        description="for `p_violation` of free replies: likely tokens that are continued besides the sampled one, at "
        "the first place where the model has a choice; 0: only the reply's own label is weighed",
    )
    top_logprobs: int = Field(
        0,
        ge=0,
        le=20,
        description="for inspect: log-probabilities a token to ask the server for, so that turns have "
        "`p_violation`; 0: none",
    )
    max_tokens_total: int | None = Field(
        None,
        ge=1,
        exclude=True,
        description="a rollout stops, to be resumed, after so many tokens of prompts and replies; checked when an "
        "episode ends, or with transformers a batch of episodes; null: no limit",
    )
    mem_mb: int = Field(4000, ge=100, exclude=True, description="memory of a job that loads the model, in MB")
    minutes: int = Field(60, ge=1, exclude=True, description="time limit of such a job on a cluster; a retry gets more")
    gpus: int = Field(
        0, ge=0, exclude=True, description="GPUs of a job that loads the model; training uses all of them"
    )
    organism: bool = Field(
        False, description="a model organism: its folder has one model a testbed, and reports say so"
    )

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("must be http(s)://HOST[:PORT][/PATH]")
            if "@" in parts.netloc or parts.query or parts.fragment:
                raise ValueError("must not have a user, password or query: API keys are read from the environment")
        return url

    @field_validator("chat_template")
    @classmethod
    def _check_json(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name, value in arguments.items():
            try:
                json.dumps({name: value}, allow_nan=False, ensure_ascii=False).encode()
            except (TypeError, ValueError, RecursionError):
                kind = type(value).__name__
                raise ValueError(
                    f"'{name}' must be a value that JSON has, found {str(value)!r:.80} ({kind}); put dates in quotes"
                ) from None
        return arguments

    @model_validator(mode="after")
    def _check_kind(self) -> "ModelSpec":
        for key in KEYS_OF_KIND["inspect" if self.kind == "local" else "local"]:
            if getattr(self, key) != type(self).model_fields[key].get_default(call_default_factory=True):
                raise ValueError(f"{key}: not allowed with kind {self.kind}, remove it")
        if self.forks and (self.answers == "guided" or self.engine == "vllm"):
            raise ValueError("forks: needs answers: free and engine: transformers, remove it")
        if self.kind == "inspect":
            names = {"path": self.path} | {f"adapters.{folder}": name for folder, name in self.adapters.items()}
            for key, name in names.items():
                if not all(name.partition("/")):
                    raise ValueError(f"{key}: must be PROVIDER/MODEL as Inspect names it, found '{name}'")
            if self.path.partition("/")[0] in SERVER_PROVIDERS and self.base_url is None:
                raise ValueError("base_url: missing, must be the address of a running server")
        return self

    def of(self, testbed: str) -> "ModelSpec":
        """Return the model that plays a testbed: for a model organism, the one that was trained for it."""
        return self.model_copy(update={"path": f"{self.path}/{testbed}"}) if self.organism else self

    def at(self, folder: Path) -> "ModelSpec":
        """Return the model with weights and tokenizer from a folder of safetensors: those of a full fine-tune."""
        return self.model_copy(update={"path": str(folder), "gguf_file": None})


def check_folder(spec: ModelSpec, root: Path) -> None:
    """Check a model's folder, relative to `root`, without loading it; for a served model, that Inspect is installed.

    Raises:
        AtpError: a folder without a part of a model, a path that is neither a folder nor a name on the hub, or missing
            packages.
    """
    if spec.kind == "inspect":
        if missing := [name for name in ("inspect_ai", "openai") if find_spec(name) is None]:
            packages = " and ".join(missing)
            raise AtpError(f'{spec.path}: kind inspect needs {packages}: pip install "alignment-tipping[inspect]"')
        return
    folder = root / spec.path
    if not folder.is_dir():
        if spec.path.startswith((".", "/")) or spec.path.count("/") != 1 or folder.exists():
            raise AtpError(f"{spec.path}: no such folder, and not a name on the hub (OWNER/NAME)")
        return
    if spec.gguf_file is not None:
        if not (folder / spec.gguf_file).is_file():
            raise AtpError(f"{folder}: gguf_file: no file '{spec.gguf_file}' in this folder")
        return
    for what, files in REQUIRED_PARTS:
        if not any((folder / file).is_file() for file in files):
            raise AtpError(f"{folder}: not a model folder: no {what} (none of {', '.join(files)})")
    config = folder / "tokenizer_config.json"
    has_template = config.is_file() and "chat_template" in config.read_text(encoding="utf-8", errors="replace")
    if not has_template and not (folder / "chat_template.jinja").is_file():
        raise AtpError(f"{folder}: {NO_TEMPLATE}")


def check_trainable(spec: ModelSpec) -> None:
    """Raise AtpError if a model cannot be trained."""
    if spec.kind == "inspect":
        raise AtpError(f"{spec.path}: a served model (kind inspect) cannot be trained, its weights are on the server")

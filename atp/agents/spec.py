"""Which agent a name means: a model's file in config/models, or a scripted policy. Loads nothing heavy."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from atp.agents.base import Agent
from atp.agents.scripted import scripted
from atp.errors import AtpError

SCRIPTED = "scripted:"
NO_TEMPLATE = "its tokenizer has no chat template, an instruction-tuned model is needed"
#: What a model's folder must hold: a name for it, and the files of which one is enough.
PARTS = (
    ("config.json", ("config.json",)),
    ("tokenizer", ("tokenizer.json", "tokenizer.model", "vocab.json")),
    ("safetensors weights", ("model.safetensors", "model.safetensors.index.json")),
)
#: Keys that mean something for one kind of model alone.
ONLY = {
    "local": ("revision", "trust_remote_code", "device", "dtype", "gpus", "organism"),
    "inspect": ("base_url", "timeout", "adapters"),
}
#: Providers of Inspect that start a server of their own, open to the network, where no address is given.
STARTING = ("vllm", "sglang")


class Sampling(BaseModel):
    """How replies are drawn from the model's distribution."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    temperature: float = Field(1.0, ge=0, description="softmax temperature; 0 takes the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus: the smallest set of tokens with this much probability")
    top_k: int = Field(0, ge=0, description="only the k likeliest tokens; 0 is all")
    max_new_tokens: int = Field(512, ge=1, description="longest reply, in tokens")


class ModelSpec(BaseModel):
    """A file of config/models: a model, how it is sampled, and what it needs of a machine."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["local", "inspect"] = Field(
        "local", description="local: weights in this process; inspect: a server, through Inspect's model providers"
    )
    path: str = Field(
        description="folder of weights, tokenizer and chat template, or a name on the Hugging Face hub; "
        "for inspect PROVIDER/MODEL, such as openai-api/vllm/NAME"
    )
    base_url: str | None = Field(
        None, description="for inspect: the server's address; keys come from the environment alone"
    )
    timeout: int = Field(
        600,
        ge=1,
        description="for inspect: seconds for which a reply is waited and asked for again before a stage stops",
    )
    adapters: dict[str, str] = Field(
        default_factory=dict, description="for inspect: an adapter's folder -> PROVIDER/NAME under which it is served"
    )
    revision: str | None = Field(None, description="commit or tag on the hub; none for a folder")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: float32 on CPU, bfloat16 on GPU")
    sampling: Sampling = Field(default_factory=Sampling)
    batch: int = Field(
        64, ge=1, description="players in flight, all of an episode; the same batch gives the same bytes"
    )
    chat_template: dict[str, Any] = Field(
        default_factory=dict, description="arguments for the chat template, such as enable_thinking"
    )
    mem_mb: int = Field(4000, ge=100, description="memory of a job that loads the model")
    minutes: int = Field(60, ge=1, description="time limit of such a job on a cluster; tried again it gets more")
    gpus: int = Field(0, ge=0, description="GPUs of a job that loads the model; training shares its work among several")
    organism: bool = Field(False, description="the embedded agent: its folder holds one a testbed, and reports say so")

    @field_validator("base_url")
    @classmethod
    def _holds_no_key(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("must be http(s)://HOST[:PORT][/PATH]")
            if "@" in parts.netloc or parts.query or parts.fragment:
                raise ValueError("must hold no user, password or query: keys come from the environment alone")
        return url

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "ModelSpec":
        for key in ONLY["inspect" if self.kind == "local" else "local"]:
            if getattr(self, key) != type(self).model_fields[key].get_default(call_default_factory=True):
                raise ValueError(f"{key}: has no meaning with kind {self.kind}, leave it out")
        if self.kind == "inspect":
            names = {"path": self.path} | {f"adapters.{folder}": name for folder, name in self.adapters.items()}
            for key, name in names.items():
                if not all(name.partition("/")):
                    raise ValueError(f"{key}: must be PROVIDER/MODEL as Inspect names it, found '{name}'")
            if self.path.partition("/")[0] in STARTING and self.base_url is None:
                raise ValueError("base_url: missing, the address of the server is needed: none is started here")
        return self

    def params(self) -> dict[str, Any]:
        """The settings that decide replies: not what a job needs of a machine, nor where a server is."""
        return self.model_dump(mode="json", exclude={"mem_mb", "minutes", "gpus", "base_url", "timeout"})

    def of(self, testbed: str) -> "ModelSpec":
        """The model that plays a testbed: of the organism the one that was trained for it."""
        return self.model_copy(update={"path": f"{self.path}/{testbed}"}) if self.organism else self


def check_folder(spec: ModelSpec, root: Path) -> None:
    """Look at a model's folder, a path from `root`, without loading anything. A served model has none.

    Raises:
        AtpError: it lacks a part of a model, or is no folder and no name on the hub either; Inspect is not installed.
    """
    if spec.kind == "inspect":
        if missing := [name for name in ("inspect_ai", "openai") if find_spec(name) is None]:
            raise AtpError(f'{spec.path}: kind inspect needs {" and ".join(missing)}: pip install "atp[inspect]"')
        return
    folder = root / spec.path
    if not folder.is_dir():
        if spec.path.startswith((".", "/")) or spec.path.count("/") != 1 or folder.exists():
            raise AtpError(f"{spec.path}: no such model folder, and no name on the hub (OWNER/NAME)")
        return
    for what, files in PARTS:
        if not any((folder / file).is_file() for file in files):
            raise AtpError(f"{folder}: a model folder without {what} (none of {', '.join(files)})")
    settings = folder / "tokenizer_config.json"
    inside = settings.is_file() and "chat_template" in settings.read_text(encoding="utf-8", errors="replace")
    if not inside and not (folder / "chat_template.jinja").is_file():
        raise AtpError(f"{folder}: {NO_TEMPLATE}")


def check_trainable(spec: ModelSpec) -> None:
    """Raises AtpError if a model's weights cannot be trained here."""
    if spec.kind == "inspect":
        raise AtpError(f"{spec.path}: a served model (kind inspect) is played, not trained: its weights are elsewhere")


def load_agent(name: str, spec: ModelSpec | None, adapter: Path | None = None) -> Agent:
    """The agent of a name: `scripted:POLICY[:NUMBER]`, or a model of `spec` with an adapter if there is one.

    Raises:
        AtpError: unknown policy, a folder that holds no model, an adapter that changes nothing or is not served.
    """
    if name.startswith(SCRIPTED):
        if adapter is not None:
            raise AtpError(f"agent {name}: a scripted policy takes no adapter (found {adapter})")
        return scripted(name.removeprefix(SCRIPTED))
    if spec is None:
        raise AtpError(f"agent {name}: no model of this name")
    if spec.kind == "inspect":
        check_folder(spec, Path())
        from atp.agents.served import load_served

        return load_served(spec, adapter)
    from atp.agents.local import load_local  # torch: seconds that a scripted agent need not pay

    return load_local(spec, adapter)

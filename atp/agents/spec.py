"""Which agent a name means: a model's file in config/models, or a scripted policy. Loads nothing heavy."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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

    path: str = Field(description="folder of weights, tokenizer and chat template, or a name on the Hugging Face hub")
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

    def of(self, testbed: str) -> "ModelSpec":
        """The model that plays a testbed: of the organism the one that was trained for it."""
        return self.model_copy(update={"path": f"{self.path}/{testbed}"}) if self.organism else self


def check_folder(spec: ModelSpec, root: Path) -> None:
    """Look at a model's folder, a path from `root`, without loading anything.

    Raises:
        AtpError: it lacks a part of a model, or is no folder and no name on the hub either.
    """
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


def load_agent(name: str, spec: ModelSpec | None, adapter: Path | None = None) -> Agent:
    """The agent of a name: `scripted:POLICY[:NUMBER]`, or a local model of `spec` with an adapter if there is one.

    Raises:
        AtpError: unknown policy, a folder that holds no model, or an adapter that changes nothing.
    """
    if name.startswith(SCRIPTED):
        if adapter is not None:
            raise AtpError(f"agent {name}: a scripted policy takes no adapter (found {adapter})")
        return scripted(name.removeprefix(SCRIPTED))
    if spec is None:
        raise AtpError(f"agent {name}: no model of this name")
    from atp.agents.local import load_local  # torch: seconds that a scripted agent need not pay

    return load_local(spec, adapter)

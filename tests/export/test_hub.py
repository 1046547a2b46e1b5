"""The dataset and the models of the Hugging Face hub, read by datasets, PEFT and the hub's client."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import polars as pl
import pytest
from datasets import load_dataset
from export.hostile import REPLIES
from huggingface_hub import DatasetCard, ModelCard
from peft import PeftConfig

from atp.export.artifacts import find_artifacts
from atp.export.hub import export_hub
from atp.files.provenance import Stage
from atp.files.tables import LINEAGE

ROOT = Path(__file__).parents[2]
TOKEN = "hf_secret"


def test_datasets_loads_every_config(small, tmp_path):
    study, folder = find_artifacts(str(small)), tmp_path / "hf"
    counts = export_hub(study, folder)
    card = DatasetCard.load(folder / "README.md")
    configs = [config["config_name"] for config in card.data.to_dict()["configs"]]
    loaded = {name: load_dataset(str(folder), name, cache_dir=str(tmp_path / "cache")) for name in configs}
    assert {name: sum(map(len, splits.values())) for name, splits in loaded.items()} == {
        name: counts[name] for name in ("turns", "evaluations", "measures")
    }
    for splits in loaded.values():
        for rows in splits.values():
            assert all(f"| `{column}` |" in card.text for column in rows.column_names)
    assert set(loaded["turns"]["train"]["split"]) == {"train"}
    assert set(loaded["turns"]["test"]["channel"]) == {"context"}
    row = loaded["turns"]["test"][0]
    [original] = (
        pl.concat(pl.read_parquet(path) for path in study.turns)
        .filter(**{key: row[key] for key in ("alignment", "channel", "episode", "round")})
        .to_dicts()
    )
    assert row | {"details": json.loads(row["details"])} == original


def test_models_have_cards_with_their_lineage_and_rates(small, tmp_path):
    folder = tmp_path / "hf"
    assert export_hub(find_artifacts(str(small)), folder)["models"] == 3
    place = "organism/role_play/dpo/seed0/baseline/generation1"
    assert PeftConfig.from_pretrained(str(folder / "adapters"), subfolder=place).base_model_name_or_path == "role_play"
    card = ModelCard.load(folder / "adapters" / place / "README.md")
    assert card.data.library_name == "peft"
    assert "Trained to test misalignment" in card.text
    assert card.text.index("1. organism/role\\_play/dpo/seed0\n") < card.text.index(
        f"2. {place.replace('_', chr(92) + '_')}"
    )
    rates = pl.read_parquet(small / "measures.parquet").filter(
        measure="violation_rate", alignment="dpo", channel="weights", split="test"
    )
    for row in rates.to_dicts():
        interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
        assert interval in card.text and f"{row['k']}/{row['n']}" in card.text
    texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(str(ROOT).encode() in text or str(small).encode() in text for text in texts)


def train(path: Path, stage: str, alignment: str, model: str, *continued: Path) -> Path:
    """Write what a training leaves of its lineage."""
    condition, generation = path.parts[-3], int(path.parts[-2].removeprefix("generation"))
    cell = {"alignment": alignment, "condition": condition, "generation": generation}
    params = {"cell": cell, "model": {"path": model}, "training": {"method": "sft"}}
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text("{}")
    (path / LINEAGE).write_text(Stage(stage, [], params, continued).provenance().to_json())
    return path


def test_a_lineage_names_each_training_and_what_was_trained_outside_the_study(hostile, tmp_path):
    study = shutil.copytree(hostile, tmp_path / "s")
    for name in ("base", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
    base, own, agents = tmp_path / "base", tmp_path / "mine", study / "m/role_play"
    places = [f"{name}/generation{number}/adapter" for number in (1, 2) for name in ("c.learned", "c")]
    parent = own
    for place in places:
        stage = "finetune" if "learned" in place else "align"
        parent = train(agents / "given:mine/seed0" / place, stage, "given:mine", str(base), base, parent)
    train(agents / "given:theirs/seed0/c/generation1/adapter", "finetune", "given:theirs", "ORG/theirs")
    lost = train(agents / "none/seed0/c/generation1/adapter", "finetune", "none", str(base), base)
    train(agents / "none/seed0/c/generation2/adapter", "finetune", "none", str(base), base, lost)
    shutil.rmtree(lost)
    export_hub(find_artifacts(str(study)), tmp_path / "hf")

    def lineage(alignment: str, generation: int) -> list[str]:
        [card] = (tmp_path / "hf/adapters/m/role_play").glob(f"{alignment}*/seed0/c/generation{generation}/README.md")
        return re.findall(r"^\d+\. (.*)", card.read_text().replace("\\", ""), re.MULTILINE)

    steps = [f"m/role_play/given:mine/seed0/{place.removesuffix('/adapter')}" for place in places]
    outside = "of alignment 'mine', trained outside this study"
    assert lineage("given_mine", 2) == ["base model: base", f"adapter mine {outside}", *steps]
    assert lineage("given_theirs", 1) == [
        "base model: ORG/theirs, a checkpoint of alignment 'theirs', trained outside this study",
        "m/role_play/given:theirs/seed0/c/generation1",
    ]
    assert lineage("none", 2) == [
        "base model: base", "adapter, which the results no longer have", "m/role_play/none/seed0/c/generation2"
    ]  # fmt: skip


def test_hostile_transcripts_of_an_unfinished_study_stay_text(hostile, tmp_path):
    counts = export_hub(find_artifacts(str(hostile)), tmp_path / "hf")
    assert counts == {"turns": len(REPLIES), "models": 0}
    rows = load_dataset(str(tmp_path / "hf"), "turns", split="test", cache_dir=str(tmp_path / "cache"))
    assert rows["reply"][:] == REPLIES
    assert (
        "**Note:** hostile: not finished, missing: measures.parquet" in DatasetCard.load(tmp_path / "hf/README.md").text
    )


class Hub(BaseHTTPRequestHandler):
    """A hub that accepts one user's uploads, and keeps what it got."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers["Authorization"], body))
        kind = "datasets/" if b'"dataset"' in body or "/datasets/" in self.path else ""
        url = f"http://127.0.0.1:{self.server.server_port}/{kind}ORG/NAME"
        answer: object = {"url": url, "success": True, "commitUrl": f"{url}/commit/{'0' * 40}", "commitOid": "0" * 40}
        if "/preupload/" in self.path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            answer = {"files": [file | {"shouldIgnore": False} for file in files]}
        self.send_response(200 if self.headers["Authorization"] == f"Bearer {TOKEN}" else 401)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub():
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        server.requests = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def push(
    study: Path, out: Path, endpoint: str, name: str = "ORG/NAME", **environment: str
) -> subprocess.CompletedProcess:
    """Run `atp export hf --push` with the user's login in a home of its own."""
    home = {"HF_HOME": str(out.parent / "home"), "HF_ENDPOINT": endpoint, "PYTHONPATH": str(ROOT), "NO_PROXY": "*"}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    command = [sys.executable, "-m", "atp.cli", "export", "hf", str(study), "--push", name, "--out", str(out)]
    return subprocess.run(command, env=inherited | home | environment, capture_output=True, text=True)


def test_push_uploads_to_private_repositories_and_writes_no_token(small, tmp_path, hub):
    result = push(small, tmp_path / "hf", f"http://127.0.0.1:{hub.server_port}", "ORG/NAME", HF_TOKEN=TOKEN)
    assert result.returncode == 0, result.stderr
    created = [json.loads(body) for path, _, body in hub.requests if path == "/api/repos/create"]
    assert [each["visibility"] for each in created] == ["private", "private"]
    commits = {path: body.decode() for path, _, body in hub.requests if "/commit/" in path}
    dataset, models = commits["/api/datasets/ORG/NAME/commit/main"], commits["/api/models/ORG/NAME/commit/main"]
    assert '"data/measures/train.parquet"' in dataset and "adapter_config.json" not in dataset
    assert '"organism/role_play/none/seed0/baseline/generation1/adapter_model.safetensors"' in models
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in files)
    assert TOKEN not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("name", "environment", "message"),
    [
        ("ORG/NAME", {}, "--push ORG/NAME: no token of the Hugging Face hub; run `hf auth login`, or set HF_TOKEN"),
        ("ORG/NAME/x", {"HF_TOKEN": TOKEN}, "--push ORG/NAME/x: must be ORG/NAME"),
        ("ORG/NAME", {"HF_TOKEN": "hf_wrong"}, "--push ORG/NAME: the hub refused or cannot be reached: .*401"),
    ],
)
def test_a_push_that_cannot_be_is_one_line(hostile, tmp_path, hub, name, environment, message):
    result = push(hostile, tmp_path / "hf", f"http://127.0.0.1:{hub.server_port}", name, **environment)
    assert result.returncode == 1
    assert re.search(message, result.stderr), result.stderr
    assert "Traceback" not in result.stderr

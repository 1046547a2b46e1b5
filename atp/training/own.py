"""Find a user's own adapter and conversations."""

from functools import cache
from pathlib import Path

from atp.errors import AtpError
from atp.training.examples import read_chats

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def adapter_folder(adapter: str, root: Path) -> Path:
    """Return the folder of an adapter, downloaded from the hub if it is a name there.

    Raises:
        AtpError: no such folder, and not on the hub.
    """
    folder = root / adapter
    if folder.is_dir():
        return folder
    if adapter.startswith((".", "/")) or adapter.count("/") != 1 or folder.exists():
        raise AtpError(f"{adapter}: no such folder, and not a name on the hub (OWNER/NAME)")
    from huggingface_hub import snapshot_download

    files = [CONFIG, WEIGHTS, "tokenizer.json"]
    try:
        return Path(snapshot_download(adapter, allow_patterns=files, local_files_only=True))
    except Exception:  # not in the cache
        try:
            return Path(snapshot_download(adapter, allow_patterns=files))
        except Exception as error:  # of any kind: of the network, of the hub
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise AtpError(
                f"{adapter}: no such folder, and not available from the Hugging Face hub: {reason}"
            ) from error


@cache
def conversations_in(path: Path) -> int:
    """Return the number of conversations in a file. Raises AtpError as `read_chats`."""
    return len(read_chats(path))

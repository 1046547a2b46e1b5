"""Read YAML that a user writes."""

from pathlib import Path
from typing import Any

import yaml

from atp.errors import AtpError

_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file. Raises AtpError for a file that is missing or that `parse_yaml` refuses."""
    if not path.is_file():
        raise AtpError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise AtpError(f"{path}: no readable YAML: {error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, place: str) -> Any:
    """Return the value of a YAML text. Raises AtpError for no YAML, and for a key that occurs twice in a mapping."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except Exception as error:  # a value such as 2024-13-01 raises what Python's own types raise
        raise AtpError(f"{place}: no readable YAML: {' '.join(str(error).split())}") from error


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key occurs once: otherwise the last of two would silently win."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = []
    for key, _ in node.value:
        value = key.value if key.tag == _MERGE else loader.construct_object(key, deep=True)  # type: ignore[no-untyped-call]
        if value in keys:
            raise yaml.constructor.ConstructorError(None, None, f"key '{value}' occurs twice", key.start_mark)
        keys.append(value)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)

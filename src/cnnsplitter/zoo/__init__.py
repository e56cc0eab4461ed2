"""The models that come with this package: ``zoo:NAME`` wherever a model file is taken."""

import json
from pathlib import Path
from typing import Any

from cnnsplitter.errors import require_known

PREFIX = "zoo:"
_FOLDER = Path(__file__).parent
_SUFFIX = ".safetensors"


def names() -> tuple[str, ...]:
    """Return the names of all models in the zoo."""
    return tuple(sorted(path.name.removesuffix(_SUFFIX) for path in _FOLDER.glob(f"*{_SUFFIX}")))


def facts() -> dict[str, dict[str, Any]]:
    """Return how each model was made and what was measured, by its name."""
    index: dict[str, dict[str, Any]] = json.loads((_FOLDER / "index.json").read_text())
    return index


def located(path: Path) -> Path:
    """Return the file that ``zoo:NAME`` means; any other path is returned as it is.

    Raises:
        SettingsError: There is no such model in the zoo.
    """
    text = str(path)
    if not text.startswith(PREFIX) or path.exists():
        return path
    name = text.removeprefix(PREFIX)
    require_known("model of the zoo", name, names())
    return _FOLDER / f"{name}{_SUFFIX}"

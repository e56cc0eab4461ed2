"""Results files: flat rows with the machine, versions and command that made them."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cnnsplitter import __version__
from cnnsplitter.errors import StorageError
from cnnsplitter.files import replacing
from cnnsplitter.reading import no_such_file, parse_json, read_text

Row = Mapping[str, str | int | float | bool | None]
_NEEDED = ("torch", "numpy", "scikit-learn", "scipy", "pillow", "safetensors")
_OPTIONAL = ("torchvision", "timm", "ray")
"""What results depend on where it is installed: networks and data sets by name, and engines."""


def machine() -> dict[str, str | int]:
    """Return what the processor and system are; results are read with it in mind."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Return the versions that results depend on, those of optional libraries if there are any."""
    ours = {"python": platform.python_version(), "cnnsplitter": __version__}
    needed = {name: _version(name) or "unknown" for name in _NEEDED}
    optional = {name: _version(name) for name in _OPTIONAL}
    return ours | needed | {name: found for name, found in optional.items() if found}


def write_results(path: Path, rows: Sequence[Row], command: str | None = None) -> None:
    """Write ``rows`` to a JSON file, whole or not at all.

    Args:
        path: The file; replaced if it exists.
        rows: Flat; shares between 0 and 1.
        command: What made them; by default the running program's own command line.
    """
    command = command or command_line()
    write_json(
        path,
        {"machine": machine(), "versions": versions(), "command": command, "rows": list(rows)},
    )


def command_line() -> str:
    """Return the running program's command line."""
    name = Path(sys.argv[0]).name
    program = "cnnsplitter" if name == "__main__.py" else name
    return " ".join([program, *map(shlex.quote, sys.argv[1:])])


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; ``StorageError`` if it is missing or broken."""
    try:
        return parse_json(read_text(path))
    except FileNotFoundError as error:
        raise StorageError(no_such_file(path)) from error
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: is not valid JSON ({error}); make it anew") from error


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

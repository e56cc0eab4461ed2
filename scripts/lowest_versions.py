"""Prints the dependencies of the default install and torchvision as ``NAME==LOWEST`` lines."""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def lowest(requirements: list[str]) -> list[str]:
    """Return each ``NAME>=VERSION`` pinned to that version.

    Raises:
        ValueError: A requirement has no lowest version.
    """
    found = []
    for requirement in requirements:
        match = re.fullmatch(r"([\w-]+)>=([\w.]+)", requirement)
        if match is None:
            raise ValueError(f"{requirement}: has no lowest version")
        found.append(f"{match[1]}=={match[2]}")
    return found


if __name__ == "__main__":
    project = tomllib.loads(PROJECT.read_text())["project"]
    pins = lowest([*project["dependencies"], *project["optional-dependencies"]["torchvision"]])
    print("\n".join(pins))

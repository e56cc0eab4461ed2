"""Mutation testing: do the tests notice when the source is wrong?

``python -m scripts.mutate [--sample N] [--seed N] [PART ...]`` changes one place of the source at a
time, runs that part's tests in a forked process, and prints one JSON line per mutant and per part.
A mutant is killed if a test fails or nothing ends in time. Parts are those of ``PARTS``.
"""

import argparse
import ast
import contextlib
import copy
import json
import multiprocessing
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

SOURCE = Path(__file__).parent.parent / "src"
PARTS = {
    "channels": (
        "tests/channels/test_map.py",
        "tests/channels/test_motifs.py",
        "tests/test_surgery.py",
    ),
    "search/tournament.py": ("tests/search/test_tournament.py", "tests/search/test_genetic.py"),
    "calibration.py": ("tests/test_calibration.py", "tests/patches/test_patching.py"),
    "storage": ("tests/storage", "tests/trust/test_golden.py"),
}
SECONDS = 900
OTHER: dict[type, type] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq},
    **{ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn},
    **{ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div},
    **{ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr},
    **{ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And},
}


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        path: The file.
        line: Where.
        code: The whole file with the change.
        change: What became of the line's part.
    """

    path: Path
    line: int
    code: str
    change: str


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Yield every change of one file; annotations, constants of text and ``assert`` stay."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner) for node in ast.walk(tree) for part in _unread(node) for inner in ast.walk(part)
    }
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in skipped:
            continue
        for changed in _changes(node):
            mutated = copy.deepcopy(tree)
            target = list(ast.walk(mutated))[number]
            before = ast.unparse(target)
            vars(target).update(changed)
            code, line = ast.unparse(mutated), getattr(node, "lineno", 0)
            yield Mutant(path, line, code, f"{before} -> {ast.unparse(target)}")


def _unread(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what only type checkers read."""
    for name in ("annotation", "returns"):
        part = getattr(node, name, None)
        if isinstance(part, ast.AST):
            yield part
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        yield node


def _changes(node: ast.AST) -> Iterator[dict[str, Any]]:
    """Yield new values of a node's attributes."""
    match node:
        case ast.Compare(ops=[first, *rest]) if type(first) in OTHER:
            yield {"ops": [OTHER[type(first)](), *rest]}
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op) in OTHER:
            yield {"op": OTHER[type(op)]()}
        case ast.Constant(value=bool(value)):
            yield {"value": not value}
        case ast.Constant(value=int(value) | float(value)):
            yield {"value": value + 1}
        case ast.If(test=test) | ast.IfExp(test=test):
            yield {"test": ast.UnaryOp(ast.Not(), test)}
        case ast.Return(value=ast.expr()):
            yield {"value": ast.Constant(None)}


class Replaced(MetaPathFinder, Loader):
    """Imports one module from other source."""

    def __init__(self, mutant: Mutant) -> None:
        """Take the place of the file's module."""
        inside = mutant.path.relative_to(SOURCE).with_suffix("")
        self.name = ".".join(inside.parts).removesuffix(".__init__")
        self.mutant = mutant

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Claim that module only."""
        is_package = self.mutant.path.name == "__init__.py"
        place = str(self.mutant.path)
        if fullname != self.name:
            return None
        spec = spec_from_loader(fullname, self, origin=place, is_package=is_package)
        if spec is not None and is_package:
            spec.submodule_search_locations = [str(self.mutant.path.parent)]
        return spec

    def exec_module(self, module: ModuleType) -> None:
        """Run the other source."""
        module.__file__ = str(self.mutant.path)
        exec(compile(self.mutant.code, module.__file__, "exec"), vars(module))


def _test(mutant: Mutant | None, tests: tuple[str, ...]) -> None:
    import pytest

    sys.stdout.flush()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    if mutant is not None:
        sys.meta_path.insert(0, Replaced(mutant))
    code = pytest.main(["-q", "-x", "--tb=no", "-p", "no:cacheprovider", *tests])
    os._exit(int(code != 0))


def survives(mutant: Mutant | None, tests: tuple[str, ...]) -> bool:
    """Return whether the tests pass, in a process that has the libraries already."""
    process = multiprocessing.get_context("fork").Process(target=_test, args=(mutant, tests))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def main() -> None:
    """Test the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--sample", type=int, help="so many random mutants of each part")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for library in ("torch", "numpy", "pydantic", "safetensors.torch"):
        with contextlib.suppress(ImportError):
            __import__(library)
    for part in options.parts:
        place = SOURCE / "cnnsplitter" / part
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        found = [mutant for file in files for mutant in mutants_of(file)]
        if options.sample:
            found = random.Random(options.seed).sample(found, min(options.sample, len(found)))
        if not survives(None, PARTS[part]):
            raise SystemExit(f"{part}: its tests fail without any mutant")
        killed = 0
        for mutant in found:
            lives = survives(mutant, PARTS[part])
            killed += not lives
            name = str(mutant.path.relative_to(SOURCE))
            line = {"file": name, "line": mutant.line, "change": mutant.change, "killed": not lives}
            print(json.dumps(line), flush=True)
        print(json.dumps({"part": part, "mutants": len(found), "killed": killed}), flush=True)


if __name__ == "__main__":
    main()

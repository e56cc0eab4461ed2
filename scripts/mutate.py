"""Mutation testing: do the tests notice when the source is wrong?

``python -m scripts.mutate [--sample N] [--seed N] [--results FILE] [PART ...]`` changes one place
of the source at a time, runs that part's tests in a forked process, the mirror of the changed file
first, and prints one JSON line per mutant and per part. A mutant is killed if a test fails or
nothing ends in time. Parts are those of ``PARTS``. With ``--results`` the lines go to that file,
too, and mutants that it has already are not tried again: stop and go on whenever you like. To see
whether new tests kill survivors, remove their lines.
"""

import argparse
import ast
import contextlib
import copy
import importlib
import json
import math
import multiprocessing
import os
import random
import sys
import time
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
        "tests/channels/test_refusals.py",
        "tests/channels/test_hooks.py",
        "tests/channels/test_map.py",
        "tests/channels/test_motifs.py",
        "tests/channels/test_verify.py",
        "tests/test_surgery.py",
        "tests/channels/test_timm.py",
        "tests/channels/test_torch_pruning.py",
    ),
    "search/tournament.py": ("tests/search/test_tournament.py", "tests/search/test_genetic.py"),
    "calibration.py": ("tests/test_calibration.py", "tests/patches/test_patching.py"),
    "storage": ("tests/storage", "tests/trust/test_golden.py"),
}
LEFT_OUT = ("tests/storage/test_saving.py::test_a_new_process_gives_the_same_outputs",)
"""Tests in processes of their own, which import the source as it is."""
LIBRARIES = (
    *("torch", "torch.export", "torch._dynamo", "numpy", "pydantic", "safetensors.torch"),
    *("pytest", "hypothesis", "scipy.stats", "sklearn.metrics", "PIL.Image", "matplotlib"),
    *("torchvision.models", "timm", "torch_pruning"),
)
"""Imported once, before the processes fork."""
MOST_TIMES, LEAST_SECONDS = 10, 120
"""A mutant may take so many times what the tests take without any, but not less than these."""
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
        column: Where in the line.
        code: The whole file with the change.
        change: What became of the line's part.
    """

    path: Path
    line: int
    column: int
    code: str
    change: str


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Yield every change of one file, but of annotations, texts, and guards against slips.

    That is ``assert``, ``strict`` of ``zip``, and ``frozen`` of data classes.
    """
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
            line, column = getattr(node, "lineno", 0), getattr(node, "col_offset", 0)
            change = f"{before} -> {ast.unparse(target)}"
            yield Mutant(path, line, column, ast.unparse(mutated), change)


def _unread(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what only type checkers read, and what only guards against slips, like ``assert``."""
    match node:
        case ast.Assert():
            yield node
        case ast.Call(func=ast.Name(id="zip" | "dataclass")):
            yield from (word for word in node.keywords if word.arg in ("strict", "frozen"))
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


def tests_of(path: Path, tests: tuple[str, ...]) -> tuple[str, ...]:
    """Return a part's tests after the mirror of the file, where most of its mutants fail."""
    inside = path.relative_to(SOURCE / "cnnsplitter").with_name(f"test_{path.stem}.py")
    mirror = Path("tests") / inside
    files = [
        str(file)
        for test in tests
        for file in (sorted(Path(test).glob("test_*.py")) if Path(test).is_dir() else [Path(test)])
    ]
    return tuple(dict.fromkeys([str(mirror), *files] if mirror.exists() else files))


def _test(mutant: Mutant | None, tests: tuple[str, ...]) -> None:
    import hypothesis
    import pytest

    # To fail is enough; what fails need not be small, nor be tried on the next mutant.
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutants", database=None, phases=phases)
    hypothesis.settings.load_profile("mutants")
    sys.stdout.flush()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    if mutant is not None:
        sys.meta_path.insert(0, Replaced(mutant))
    left_out = [f"--deselect={test}" for test in LEFT_OUT]
    # Plugins that the libraries brought before pytest began are no reason to fail.
    quiet = ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider"]
    code = pytest.main(["-q", "-x", "--tb=no", *quiet, *left_out, *tests])
    os._exit(int(code != 0))


def survives(mutant: Mutant | None, tests: tuple[str, ...], seconds: float | None = None) -> bool:
    """Return whether the tests pass in time, in a process that has the libraries already."""
    process = multiprocessing.get_context("fork").Process(target=_test, args=(mutant, tests))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def interval(killed: int, mutants: int) -> tuple[float, float]:
    """Return Wilson's interval of 95 % for the share of mutants that is killed."""
    z, share = 1.959964, killed / mutants
    middle = (share + z * z / (2 * mutants)) / (1 + z * z / mutants)
    half = math.sqrt(share * (1 - share) / mutants + (z / (2 * mutants)) ** 2)
    half *= z / (1 + z * z / mutants)
    return round(middle - half, 3), round(middle + half, 3)


class Results:
    """One JSON line per mutant, printed and, with a file, kept."""

    def __init__(self, path: Path | None) -> None:
        """Read what the file has already."""
        self.path = path
        lines = path.read_text().splitlines() if path and path.exists() else []
        self.known = {self._key(line): line["killed"] for line in map(json.loads, lines)}

    @staticmethod
    def _key(line: dict[str, Any]) -> tuple[Any, ...]:
        return line["file"], line["line"], line["column"], line["change"]

    def killed(self, mutant: Mutant, tests: tuple[str, ...], seconds: float) -> bool:
        """Return whether a mutant is killed, now or by what the file says."""
        name = str(mutant.path.relative_to(SOURCE))
        place = {"line": mutant.line, "column": mutant.column}
        line = {"file": name, **place, "change": mutant.change}
        key = self._key(line)
        if key not in self.known:
            self.known[key] = not survives(mutant, tests_of(mutant.path, tests), seconds)
            text = json.dumps({**line, "killed": self.known[key]})
            print(text, flush=True)
            if self.path:
                with self.path.open("a") as file:
                    file.write(f"{text}\n")
        return bool(self.known[key])


def try_part(part: str, sample: int | None, seed: int, results: Results) -> None:
    """Try the mutants of one part and print how many are killed."""
    place = SOURCE / "cnnsplitter" / part
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    found = [mutant for file in files for mutant in mutants_of(file)]
    whole = len(found)
    if sample:
        # Shuffled, a greater sample contains a smaller one.
        random.Random(seed).shuffle(found)
        found = found[:sample]
    begun = time.monotonic()
    if not survives(None, tests_of(place, PARTS[part])):
        raise SystemExit(f"{part}: its tests fail without any mutant")
    seconds = max(LEAST_SECONDS, MOST_TIMES * (time.monotonic() - begun))
    killed = sum(results.killed(mutant, PARTS[part], seconds) for mutant in found)
    figures = {"part": part, "of": whole, "mutants": len(found), "killed": killed}
    print(json.dumps({**figures, "interval": interval(killed, len(found))}), flush=True)


def main() -> None:
    """Test the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if none")
    parser.add_argument("--sample", type=int, help="so many random mutants of each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="file that mutants are added to")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {min(unknown)}; choose from {', '.join(PARTS)}")
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    results = Results(options.results)
    for part in options.parts or PARTS:
        try_part(part, options.sample, options.seed, results)


if __name__ == "__main__":
    main()

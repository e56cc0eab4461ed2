"""How the source is built: imports run one way, and some things are done in one place only."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import cnnsplitter

ROOT = Path(cnnsplitter.__file__).parent
SOURCES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))
}

LAYERS = (
    {"errors", "progress", "interrupts"},
    {"extras", "reading"},
    {
        "nets",
        "authorship",
        "outlines",
        "preprocessing",
        "selection",
        "files",
        "folder_lock",
        "data",
        "augmentation",
        "settings",
        "summaries",
        "events",
        "event_log",
        "intervals",
        "zoo",
    },
    {"classifier", "tracking", "trusted"},
    {"channels", "models", "inference", "objective"},
    {
        "surgery",
        "baking",
        "heads",
        "recalibration",
        "compensation",
        "evaluation",
        "calibration",
        "cost",
        "weights",
        "training_run",
    },
    {"mask_cost"},
    {"importance", "scoring", "masked_scoring", "search", "class_modules"},
    {
        "sensitivity",
        "training",
        "engines",
        "finetuning",
        "taylor",
    },
    {"splitting"},
    {"patches", "subtasks"},
    {"storage", "results", "doctor", "figures", "composition"},
    {"recipes", "run_folder", "exporting"},
    {"report", "run_data", "run_list"},
    {"pipeline", "hub"},
    {"planning"},
    {"terminal"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
"""From the bottom to the top: a part may import from lower layers only, and from itself."""

SPEAKS = ("cli.py", "terminal.py", "commands/")


def part_of(name: str) -> str:
    """Return the part that a file, such as ``data/npz.py``, or a module belongs to."""
    return name.removesuffix(".py").replace("/", ".").split(".")[0]


def layer_of(part: str) -> int:
    (layer,) = (number for number, parts in enumerate(LAYERS) if part in parts)
    return layer


def imports_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of every import, wherever in the file; the name may be empty."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def at_run_time(tree: ast.Module) -> ast.Module:
    """Leave out what only type checkers read."""
    body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return ast.Module(body, [])


def own_imports_of(tree: ast.Module) -> Iterator[str]:
    """Yield the modules of this package that are imported, without ``cnnsplitter.``."""
    for module, name in imports_of(tree):
        top, _, inner = module.partition(".")
        if top != "cnnsplitter":
            continue
        place = f"{inner}.{name}".strip(".").replace(".", "/")
        is_module = f"{place}.py" in SOURCES or f"{place}/__init__.py" in SOURCES
        yield (place if is_module else inner.replace(".", "/")) or "__init__"


def calls_of(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call with the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_every_part_has_one_layer() -> None:
    listed = sorted(part for parts in LAYERS for part in parts)
    assert listed == sorted({part_of(name) for name in SOURCES} - {"__init__"})


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "__init__.py"])
def test_imports_run_one_way(name: str) -> None:
    here = part_of(name)
    for module in own_imports_of(SOURCES[name]):
        there = part_of(module)
        if there in (here, "__init__"):
            continue
        assert layer_of(there) < layer_of(here), f"{name} imports {module}"


def test_no_file_imports_itself_through_others() -> None:
    def file_of(module: str) -> str:
        return f"{module}.py" if f"{module}.py" in SOURCES else f"{module}/__init__.py"

    graph = {
        name: {file_of(module) for module in own_imports_of(at_run_time(tree))} - {"__init__.py"}
        for name, tree in SOURCES.items()
    }
    assert len(tuple(TopologicalSorter(graph).static_order())) >= len(SOURCES) - 1


@pytest.mark.parametrize("name", [name for name in SOURCES if not name.startswith(SPEAKS)])
def test_only_the_command_line_speaks(name: str) -> None:
    tree = SOURCES[name]
    assert not {module.split(".")[0] for module, _ in imports_of(tree)} & {
        "rich",
        "typer",
        "logging",
    }
    assert not {called for called, _ in calls_of(tree)} & {"print", "warnings.warn", "input"}
    assert "sys.stdout" not in ast.unparse(tree)
    assert "sys.stderr" not in ast.unparse(tree)


@pytest.mark.parametrize("name", SOURCES)
def test_only_the_channel_map_follows_graphs(name: str) -> None:
    # The exporter hands whole programs on.
    if part_of(name) not in ("channels", "exporting"):
        modules = {f"{module}.{inner}".strip(".") for module, inner in imports_of(SOURCES[name])}
        assert not [m for m in modules if m.startswith(("torch.export", "torch.fx"))]
        assert "torch.export" not in ast.unparse(SOURCES[name])


@pytest.mark.parametrize("name", SOURCES)
def test_no_pickle(name: str) -> None:
    """Nothing is pickled, and what others pickled is read for its tensors alone.

    The one way in is what a person asks for with --trust-pickle, in a file of its own.
    """
    for module, inner in imports_of(SOURCES[name]):
        assert module.split(".")[0] not in {"dill", "cloudpickle", "joblib", "shelve", "marshal"}
        # The type of the error of torch.load runs nothing.
        assert module != "pickle" or inner == "UnpicklingError"
    for called, call in calls_of(SOURCES[name]):
        assert called not in {"torch.save", "np.save", "eval", "exec"}
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert options.get("allow_pickle", "False") == "False"
        if called == "torch.load":
            assert options["weights_only"] == str(name != "trusted.py")


@pytest.mark.parametrize("name", SOURCES)
def test_no_global_seed(name: str) -> None:
    """Where a library draws from the global generator, its state is put back."""
    forked = {
        call
        for block in ast.walk(SOURCES[name])
        if isinstance(block, ast.With) and "fork_rng" in ast.unparse(block.items[0])
        for call in ast.walk(block)
    }
    seeding = {"torch.manual_seed", "torch.seed", "np.random.seed", "random.seed"}
    calls = [called for called, call in calls_of(SOURCES[name]) if call not in forked]
    assert not seeding & set(calls)


@pytest.mark.parametrize("name", SOURCES)
def test_files_and_functions_are_short(name: str) -> None:
    assert len((ROOT / name).read_text().splitlines()) <= 400
    for node in ast.walk(SOURCES[name]):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < 60, node.name

"""Every command and every Python block of a page is run by a test, or listed here with a reason."""

import ast
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from typer.main import get_command

import cnnsplitter
from cnnsplitter.cli import app
from docpages import PAGES, ROOT, Page

RUN_BY = MappingProxyType(
    {
        "README.md": "tests/test_readme.py",
        "docs/follow-a-run.md": "tests/docs/test_follow_a_run.py",
        "docs/gpu.md": "tests/docs/test_quick_start.py",
        "docs/new-task.md": "tests/docs/test_quick_start.py",
        "docs/patching.md": "tests/docs/test_quick_start.py",
        "docs/quick-start.md": "tests/docs/test_quick_start.py",
        "docs/searches.md": "tests/docs/test_quick_start.py",
        "docs/serve-with-onnxruntime.md": "tests/docs/test_serve_with_onnxruntime.py",
        "docs/share-on-the-hub.md": "tests/hub/test_hub.py",
        "docs/walk-through.md": "tests/docs/test_bringing_a_model.py",
        "docs/your-model.md": "tests/docs/test_bringing_a_model.py",
        "docs/zoo.md": "tests/zoo/test_zoo.py",
    }
)
"""Page to the test that runs what it says, but for what ``NOT_RUN`` lists."""

FULL_SIZE = "hours at full size; the quick start is run with the same command"
MINUTES = "minutes; it was run by hand, and the quick start runs the same command"
HUB = "needs the hub; tests/hub/test_hub.py does it with a server of its own"
ELSEWHERE = "onnx is not always installed; tests/docs/test_serve_with_onnxruntime.py exports"

NOT_RUN = MappingProxyType(
    {
        ("README.md", "train"): FULL_SIZE,
        ("README.md", "split"): FULL_SIZE,
        ("README.md", "patch"): FULL_SIZE,
        ("README.md", "evaluate"): FULL_SIZE,
        ("README.md", "run simcnn-cifar10"): "hours; tests/commands/test_runs.py runs a small one",
        ("docs/api.md", "import"): "one import, which all other blocks make",
        ("docs/follow-a-run.md", "run"): "hours; tests/test_tracking.py runs a small one",
        (
            "docs/many-machines.md",
            "split",
        ): "a cluster; tests/engines/test_cluster.py has one",
        ("docs/many-machines.md", "import"): "tests/engines/test_local.py starts such processes",
        ("docs/patching.md", "split"): FULL_SIZE,
        ("docs/patching.md", "patch weak.safetensors --with modules/cat.safetensors --with"): (
            "fine-tunes for half a minute; tests/commands/test_patching.py has the options"
        ),
        ("docs/quick-start.md", "export"): ELSEWHERE,
        (
            "docs/quick-start.md",
            "--install-completion",
        ): "writes to the settings of the shell; tests/test_cli.py completes",
        ("docs/quick-start.md", "run"): "half a minute; the recipe is read, the demo is a run",
        ("docs/quick-start.md", "report"): "needs the run; tests/report/test_page.py writes pages",
        ("docs/serve-with-onnxruntime.md", "inspect"): "tests/commands/test_exports.py does it",
        ("docs/share-on-the-hub.md", "bundle"): HUB,
        ("docs/share-on-the-hub.md", "push"): HUB,
        ("docs/share-on-the-hub.md", "pull"): HUB,
        ("docs/share-on-the-hub.md", "inspect"): HUB,
        ("docs/walk-through.md", "doctor"): MINUTES,
        ("docs/walk-through.md", "train"): MINUTES,
        ("docs/walk-through.md", "split"): MINUTES,
        ("docs/walk-through.md", "patch"): MINUTES,
        (
            "docs/walk-through.md",
            "class Shortcut",
        ): "the networks drawn by tests/strategies.py pad like it",
        ("docs/walk-through.md", "# my_mobilenet.py"): MINUTES,
        ("docs/zoo.md", "split"): MINUTES,
    }
)
"""(page, beginning of a command or Python block) to the reason why no test runs it as it stands."""


def things(page: Page) -> list[str]:
    return page.commands + page.python


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_everything_is_run_or_has_a_reason(page: Page) -> None:
    listed = [start for name, start in NOT_RUN if name == page.name]
    left = [thing for thing in things(page) if not thing.startswith(tuple(listed))]
    for thing in left:
        assert page.name in RUN_BY, f"no test runs {thing.splitlines()[0]!r}"
    if left:
        test = (ROOT / RUN_BY[page.name]).read_text()
        assert Path(page.name).name in test


def test_no_reason_is_left_over() -> None:
    known = {page.name: things(page) for page in PAGES}
    for name, start in NOT_RUN:
        assert any(thing.startswith(start) for thing in known[name]), (name, start)
    for name in RUN_BY:
        assert known[name], name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page: Page) -> None:
    group: Any = get_command(app)
    for name, *arguments in page.calls + page.mentioned:
        command = group if name.startswith("--") else group.commands[name]
        known = {"--help"}
        for parameter in command.params:
            known |= {*parameter.opts, *parameter.secondary_opts}
        used = [name, *arguments] if command is group else arguments
        assert {a.split("=")[0] for a in used if a.startswith("--")} <= known, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_is_python_and_its_names_exist(page: Page) -> None:
    for block in page.python:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cs":
                assert node.attr in cnnsplitter.__all__, node.attr

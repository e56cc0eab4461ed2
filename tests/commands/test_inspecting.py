"""``inspect`` shows any file of this package that is no model; models are in `test_chain`."""

import json
import shutil
from pathlib import Path

import pytest

from cnnsplitter.commands.inspecting import inspected, is_model
from cnnsplitter.errors import CnnSplitterError
from cnnsplitter.recipes import load_recipe
from shop import Shop, call, split, succeed

GOLDEN = Path(__file__).parents[1] / "golden/format-1/others"


@pytest.mark.parametrize(
    ("name", "kind", "key", "value"),
    [
        ("genetic.checkpoint", "genetic search checkpoint", "steps done", 2),
        ("gradient.checkpoint", "gradient search checkpoint", "steps done", 2),
        ("random.checkpoint", "checkpoint of tries", "search", None),
        ("training.checkpoint", "training checkpoint", "best_epoch", 2),
        ("importance.safetensors", "importance", "weights", None),
        ("sensitivity.json", "sensitivity curves", "ratios", [0.25, 0.5, 1.0]),
        ("split.json", "result of a split", "composed_accuracy", 0.75),
        ("recipe.toml", "recipe", "title", "Golden"),
        ("run/report.json", "report of a run", "title", "A run"),
        ("run/recipe.json", "recipe of a run", "seed", 7),
        ("run", "folder of a run", "told by", "report.json"),
    ],
)
def test_golden_files_are_told_apart(name: str, kind: str, key: str, value: object) -> None:
    path = GOLDEN / name
    assert not is_model(path)
    found, facts = inspected(path)
    assert found == kind
    assert key in facts
    assert value is None or facts[key] == value
    if "checkpoint" in kind and "accuracy" in facts.get("last step", {}):
        assert facts["best accuracy"] >= facts["last step"]["accuracy"]
    outcome = succeed("inspect", path)
    assert outcome.out.startswith(f"{path}: {kind}\n")
    assert succeed("inspect", path, "--json").json == {"kind": kind, **facts}


def test_what_commands_leave_is_known(shop: Shop, tmp_path: Path) -> None:
    budget = ("--search", "importance", "--search-images", 20)
    succeed(*split(shop, *budget, "--pareto", "0.9,0.7", "--out", tmp_path / "front"))
    succeed(
        *split(shop, *budget, "--subtask", "cat,dog", "--no-compare", "--out", tmp_path / "task")
    )
    for name, kind in {
        "front": "folder of splits at several budgets",
        "front/pareto.json": "front of splits",
        "front/keep-0.7": "folder of a split",
        "front/keep-0.7/events.jsonl": "events of a run",
        "task": "folder of a sub-task",
        "task/subtask.json": "result of a sub-task",
    }.items():
        assert succeed("inspect", tmp_path / name, "--json").json["kind"] == kind
    (tmp_path / "front/keep-0.7/split.json").unlink()
    unfinished = succeed("inspect", tmp_path / "front/keep-0.7", "--json").json
    assert unfinished["kind"] == "folder of an unfinished split"
    assert unfinished["stages"].keys() >= {"importance", "search"}
    shutil.copytree(shop / "modules", tmp_path / "modules", ignore=lambda *_: ["split.json"])
    (tmp_path / "modules" / "events.jsonl").unlink(missing_ok=True)
    models = succeed("inspect", tmp_path / "modules", "--json").json
    assert models["cat.safetensors"] == "class-module"


def test_long_values_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "pareto.json"
    deep: object = 1
    for _ in range(400):
        deep = {"a": deep}
    values = {"points": list(range(100)), "deep": deep, "matrix": [[1]], "text": "x" * 1000}
    path.write_text(json.dumps(values))
    facts = inspected(path)[1]
    assert facts["points"] == "100 entries"
    assert facts["matrix"] == "1 entries"
    assert len(facts["text"]) == 304
    assert len(json.dumps(facts["deep"])) < 200


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "{}", "is no JSON file that this package writes"),
        ("a.json", "[1]", "is no JSON file that this package writes"),
        ("a.json", "{", "is not valid JSON"),
        ("a.jsonl", "1\n{}\n", "holds no event of a run"),
        ("a.jsonl", "\udcff", "holds no event of a run"),
        ("a.toml", "=", "is not valid TOML"),
        ("a.html", "<p>", "a.json is not beside it"),
        (
            "a.jsonl",
            '{"stage": "a", "done": 1, "total": 1, "x": NaN}',
            "holds NaN or infinite numbers",
        ),
        ("a.toml", "a = inf", "holds NaN or infinite numbers"),
        ("a.checkpoint", "x", "truncated or no safetensors file"),
        ("photo.png", "\x89PNG", "is nothing that this package writes; inspect shows models"),
    ],
)
def test_what_is_not_ours_is_refused(tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / name).write_text(content, errors="surrogateescape")
    outcome = call("inspect", tmp_path / name)
    assert outcome.code == 2
    assert told in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_folder_of_others_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CnnSplitterError, match="holds nothing that this package writes"):
        inspected(tmp_path)
    (tmp_path / "no.jsonl").mkdir()
    outcome = call("inspect", tmp_path / "not.jsonl")
    assert "did you mean" in outcome.err
    assert outcome.code == 2


def test_settings_and_pages(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("seed = 3\n[gradient]\nkeep = 0.5\n")
    assert inspected(tmp_path / "s.toml") == ("settings", {"seed": 3, "gradient": {"keep": 0.5}})
    (tmp_path / "recipe.json").write_text(load_recipe("demo").model_dump_json())
    (tmp_path / "recipe.html").write_text("<p>")
    kind, facts = inspected(tmp_path / "recipe.html")
    assert kind == "page of a report; open it in a browser"
    assert facts["title"] == load_recipe("demo").title

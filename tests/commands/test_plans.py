"""``--dry-run`` tells what a command would do, and does nothing."""

from pathlib import Path

import pytest

from cnnsplitter.search import GeneticSearch, GradientSearch
from cnnsplitter.search.genes import GeneMap
from cnnsplitter.splitting import trace
from cnnsplitter.storage.saving import load
from shop import Outcome, Shop, call, files_in, succeed

SMALL = ("--population", 4, "--generations", 2, "--search-images", 20)


def dry(shop: Shop, command: str, *arguments: object) -> Outcome:
    """Plan a command; nothing may be written to the shop."""
    before = files_in(shop.folder)
    data = () if command in ("run", "demo") else ("--data", shop / "data.npz")
    outcome = succeed(command, *arguments, *data, "--dry-run", "--json")
    assert files_in(shop.folder) == before
    return outcome


def test_a_split_is_planned_with_its_genes(shop: Shop) -> None:
    folder = shop / "planned"
    plan = dry(shop, "split", shop / "strong.safetensors", *SMALL, "--out", folder).json
    assert plan["images"][0]["train"] == 168
    strong = load(shop / "strong.safetensors")
    channels = trace(strong)  # type: ignore[arg-type]
    genes = GeneMap.build(channels.groups, channels.kernels_per_unit.expand(4, -1).float())
    assert plan["genes"] == genes.gene_count == sum(row["genes"] for row in plan["layers"])
    assert plan["units"] == channels.unit_count == sum(row["units"] for row in plan["layers"])
    assert [step["step"] for step in plan["steps"]] == ["importance", "sensitivity", "search"]
    search = GeneticSearch(population=4, generations=2, elites=1, parents=2)
    candidates = 4 * (search.population + search.population - search.elites)
    assert plan["steps"][2]["work"] == f"{candidates} candidates on 20 images"
    assert plan["seconds"] == pytest.approx(sum(step["seconds"] for step in plan["steps"]))
    assert plan["memory"] > 50_000_000
    assert plan["writes"] == [str(folder)]


def test_each_share_of_a_front_is_a_search(shop: Shop) -> None:
    shares = ("--search", "importance", "--tries", 2, "--pareto", "0.5,0.8")
    plan = dry(shop, "split", shop / "strong.safetensors", *shares, "--out", shop / "front").json
    assert [Path(path).name for path in plan["writes"]] == ["keep-0.8", "keep-0.5"]
    assert [step["step"] for step in plan["steps"]] == ["importance", "search"] * 2
    assert plan["steps"][1]["work"].startswith("8 candidates")


def test_measured_curves_take_no_time(shop: Shop) -> None:
    known = ("--sensitivity", shop / "curves.json", *SMALL, "--out", shop / "planned")
    plan = dry(shop, "split", shop / "strong.safetensors", *known).json
    assert {step["step"]: step["seconds"] for step in plan["steps"]}["sensitivity"] == 0


def test_a_gradient_search_is_planned_by_its_steps(shop: Shop) -> None:
    plan = dry(shop, "split", shop / "strong.safetensors", "--out", shop / "planned").json
    assert plan["genes"] is None
    assert [set(row) for row in plan["layers"]] == [{"layer", "kernels", "units"}] * 2
    (step,) = plan["steps"]
    default = GradientSearch()
    steps = default.rounds * default.steps + default.start_pairs // default.pairs
    assert (step["step"], step["work"]) == ("search", f"{steps} steps of {default.pairs} pairs")
    assert 0 < step["seconds"] == plan["seconds"]


@pytest.mark.parametrize("compared", [True, False])
def test_a_subtask_searches_one_selection_for_all_its_classes(shop: Shop, compared: bool) -> None:
    folder = shop / "planned-subtask"
    wanted = ("--subtask", "cat,dog", *(() if compared else ("--no-compare",)), *SMALL)
    plan = dry(shop, "split", shop / "strong.safetensors", *wanted, "--out", folder).json
    assert plan["writes"] == [str(folder / "subtask.safetensors")]
    assert plan["images"][0]["classes"] == 2
    steps = {step["step"]: step["seconds"] for step in plan["steps"]}
    own = ["importance", "sensitivity", "search"]
    others = [f"class modules: {name}" for name in own]
    assert list(steps) == (own + others if compared else own)
    if compared:
        assert steps["search"] == pytest.approx(steps["class modules: search"] / 2)


def test_a_patch_is_planned(shop: Shop) -> None:
    module = shop / "modules" / "cat.safetensors"
    arguments = (shop / "weak.safetensors", "--with", module, "--out", shop / "planned.safetensors")
    plan = dry(shop, "patch", *arguments).json
    assert [row["network"] for row in plan["networks"]] == ["weak", "class module of cat"]
    assert plan["images"][0]["calibration"] == 36
    assert plan["layers"] == []
    assert all(step["seconds"] > 0 for step in plan["steps"])


def test_a_demo_is_planned_for_people(shop: Shop) -> None:
    outcome = succeed("demo", "--dry-run", "--out", shop / "demo")
    lines = outcome.out.splitlines()
    assert "626 units, each of which a class module keeps or drops." in lines
    assert "genes" not in outcome.out
    assert lines[-1] == f"Would write to {shop / 'demo'}. Nothing was written."
    assert not (shop / "demo").exists()


def test_what_a_run_has_done_is_not_planned_again(shop: Shop, tmp_path: Path) -> None:
    demo = ("run", "demo", "--population", 8, "--out", tmp_path)
    first = dry(shop, *demo).json
    for name in ("strong.safetensors", "sensitivity.json"):
        (tmp_path / name).touch()
    second = dry(shop, *demo).json
    gone = {step["step"] for step in first["steps"]} - {step["step"] for step in second["steps"]}
    assert gone == {"train strong"}
    steps = {step["step"]: step["seconds"] for step in second["steps"]}
    assert steps["sensitivity"] == 0
    (tmp_path / "report.json").touch()
    assert dry(shop, *demo).json["steps"] == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--out", "modules"), "exists already"),
        (("--subtask", "cat,dgo", "--out", "new"), "did you mean 'dog'"),
        (("--search", "genetik", "--out", "new"), "did you mean 'genetic'"),
    ],
)
def test_mistakes_are_told(
    shop: Shop, arguments: tuple[str, ...], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop.folder)
    outcome = call("split", "strong.safetensors", "--data", "data.npz", *arguments, "--dry-run")
    assert outcome.code == 2
    assert error in outcome.err

"""One folder with everything that the commands make, made once."""

import pytest

from shop import Shop, leave_undrawn, succeed, write_npz


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have no figures, and models are timed for a moment; `test_runs` has whole reports."""
    leave_undrawn(monkeypatch)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """data.npz, strong, weak, curves.json, modules/, composed and patched."""
    folder = tmp_path_factory.mktemp("shop")
    data = ("--data", write_npz(folder / "data.npz"), "--json")
    strong, weak = folder / "strong.safetensors", folder / "weak.safetensors"
    modules, small = folder / "modules", ("--epochs", 4, "--batch-size", 16)
    as_published = ("--calibration", "min-max", "--force-patch")
    calls = {
        "train": ("train", "lenet5", *small, "--kind", "overfit", "--learning-rate", 0.1),
        "weak": ("train", "lenet5", "--epochs", 1, "--seed", 1),
        "sensitivity": ("sensitivity", strong, "--search-images", 20),
        "split": ("split", strong, "--population", 6, "--generations", 2),
        "compose": ("compose", modules),
        "patch": ("patch", weak, "--with", modules / "cat.safetensors", *as_published),
    }
    outs = {
        "train": strong,
        "weak": weak,
        "sensitivity": folder / "curves.json",
        "split": modules,
        "compose": folder / "composed.safetensors",
        "patch": folder / "patched.safetensors",
    }
    more = {"split": ("--sensitivity", outs["sensitivity"], "--search-images", 20)}
    outcomes = {
        name: succeed(*call, *more.get(name, ()), *data, "--out", outs[name])
        for name, call in calls.items()
    }
    return Shop(folder, outcomes)

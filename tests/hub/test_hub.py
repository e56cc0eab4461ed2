"""Folders in the hub's layout, and what goes over the wire to a stand-in of the hub and back."""

import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import hub_server
import toys
from cnnsplitter import __version__
from cnnsplitter.calibration import RangeCalibration
from cnnsplitter.class_modules import ClassModule, ComposedModel
from cnnsplitter.cost import measure_cost
from cnnsplitter.errors import HubError, SettingsError, StorageError
from cnnsplitter.hub import load_folder, pull_from_hub, push_to_hub, save_folder
from cnnsplitter.hub.card import model_card
from cnnsplitter.patches.patching import Patch, PatchedModel
from cnnsplitter.storage.packing import Model
from cnnsplitter.storage.saving import describe, load, save
from shop import call, succeed

huggingface_hub = pytest.importorskip("huggingface_hub", reason="the hub needs the extra hub")
yaml = pytest.importorskip("yaml", reason="it comes with huggingface_hub")

# Of the way in which huggingface_hub hands a file to its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")

REPOSITORY = "zoo/lenet-birds"
FILES = ("README.md", "config.json", "model.safetensors")
DETAILS = {
    "seed": 7,
    "data": "photos/mine.npz[bird,cat,dog]",
    "metrics": {"test_accuracy": 0.75},
}
PUBLIC = {**DETAILS, "data": "mine.npz[bird,cat,dog]"}


def models() -> dict[str, Model]:
    strong = toys.classifier("lenet5")
    module = toys.class_module(strong, "cat")
    patches = [Patch("dog", module, RangeCalibration("min-max", -1.0, 2.0))]
    return {
        "classifier": strong,
        "class-module": module,
        "composed": ComposedModel([module, toys.class_module(strong, "bird")]),
        "patched": PatchedModel(toys.classifier("weak-simcnn"), patches),
    }


MODELS = models()
SMALL = toys.own_classifier(nn.Sequential(nn.Conv2d(3, 3, 3), nn.AvgPool2d(14), nn.Flatten()))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.Hub]:
    """A running stand-in that this process takes for the hub, with its owner logged in."""
    from huggingface_hub import constants

    with hub_server.serve() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        # The stand-in takes large files as the hub did before Xet, and as other servers do.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
        yield hub


def same(one: Model, two: Model) -> bool:
    images = toys.image_set(4).images.read(torch.arange(4))
    with torch.no_grad():
        return type(one) is type(two) and torch.equal(one.eval()(images), two.eval()(images))


class TestFolder:
    @pytest.mark.parametrize("kind", MODELS)
    def test_a_folder_gives_the_model_back(self, kind: str, tmp_path: Path) -> None:
        save_folder(MODELS[kind], tmp_path / "a" / "b", details=DETAILS)
        assert sorted(os.listdir(tmp_path / "a" / "b")) == sorted(FILES)
        assert same(load_folder(tmp_path / "a" / "b"), MODELS[kind])
        assert describe(tmp_path / "a" / "b" / "model.safetensors")["details"] == PUBLIC

    @pytest.mark.parametrize("kind", MODELS)
    def test_config_and_card_tell_what_it_is(self, kind: str, tmp_path: Path) -> None:
        model = MODELS[kind]
        save_folder(model, tmp_path, details=DETAILS, title="Birds & more", license="mit")
        config = json.loads((tmp_path / "config.json").read_text())
        assert (config["kind"], config["cnnsplitter_version"]) == (kind, __version__)
        card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
        assert card.data.license == "mit"
        assert card.data.library_name == "cnnsplitter"
        assert {"cnnsplitter", "image-classification", kind} <= set(card.data.tags)
        assert card.data.metrics == ["accuracy"]
        (result,) = card.data.eval_results
        assert (result.metric_type, result.metric_value) == ("accuracy", 0.75)
        assert result.dataset_name == "mine.npz[bird,cat,dog]"
        classes = ("cat",) if isinstance(model, ClassModule) else model.classes
        assert f"\n{', '.join(classes)}\n" in card.text
        cost = measure_cost(model, model.input_shape)
        figures = f"{cost.kernels} | {cost.parameters} | {cost.multiply_adds}"
        assert f"| whole model | {figures} |" in card.text
        assert "| test\\_accuracy | 0.75 |" in card.text
        assert "- seed: 7" in card.text
        assert "photos/" not in card.text

    def test_what_is_read_names_no_folder_of_images(self, tmp_path: Path) -> None:
        save_folder(MODELS["classifier"], tmp_path, details=DETAILS)
        told = json.loads((tmp_path / "config.json").read_text())["details"]
        assert told == PUBLIC
        for name in FILES:
            assert b"photos/" not in (tmp_path / name).read_bytes()

    def test_a_comparison_is_shown_as_its_rows(self, tmp_path: Path) -> None:
        rows = [{"target": "dog", "f1_before": 0.5, "f1_after": 0.625}]
        save_folder(MODELS["patched"], tmp_path, details={"metrics": rows})
        card = (tmp_path / "README.md").read_text()
        assert (
            "| target | f1\\_before | f1\\_after |\n| --- | --- | --- |\n| dog | 0.5 | 0.625 |"
            in card
        )
        assert "model-index" not in card
        assert 'license: "unknown"' in card

    def test_existing_files_are_kept(self, tmp_path: Path) -> None:
        for name in FILES:
            folder = tmp_path / name
            folder.mkdir()
            (folder / name).write_text("mine")
            with pytest.raises(StorageError, match=f"{name}: exists already"):
                save_folder(MODELS["classifier"], folder)
            assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, "mine")]
            (folder / "notes.txt").write_text("also mine")
            save_folder(MODELS["classifier"], folder, overwrite=True)
            assert (folder / "notes.txt").read_text() == "also mine"
            assert same(load_folder(folder), MODELS["classifier"])

    def test_nothing_is_loaded_from_the_config(self, tmp_path: Path) -> None:
        save_folder(MODELS["classifier"], tmp_path)
        (tmp_path / "config.json").write_text('{"kind": "patched", "classes": ["x"]}')
        (tmp_path / "README.md").unlink()
        assert same(load_folder(tmp_path), MODELS["classifier"])

    @settings(max_examples=10)
    @given(title=st.text(), name=st.text())
    def test_any_text_fits_in_a_card(self, title: str, name: str) -> None:
        details = {"data": name, "note": {name: title}, "metrics": {"test_accuracy": 0.5, name: 1}}
        manifest = {"kind": "classifier", "details": details}
        card = model_card(SMALL, manifest, "0", title=title, license=name)
        _, header, body = card.split("---\n", 2)
        values = yaml.safe_load(header)
        assert (values["license"], values["model-index"][0]["name"]) == (name, title)
        assert "<" not in body
        headings = [line for line in body.splitlines() if line.startswith("#")]
        assert headings[1:3] == ["## Classes", "## Input and output"]
        assert len(headings) == 8


class TestWire:
    @pytest.mark.parametrize("kind", ["classifier", "patched"])
    def test_what_is_pushed_is_pulled(self, kind: str, hub: hub_server.Hub, tmp_path: Path) -> None:
        save_folder(MODELS[kind], tmp_path / "folder", details=DETAILS)
        for name in ("model.onnx", "notes.txt", ".hidden"):
            (tmp_path / "folder" / name).write_text(name)
        pushed = push_to_hub(tmp_path / "folder", REPOSITORY)
        assert pushed.url == f"{hub.url}/{REPOSITORY}"
        assert pushed.files == (*FILES[:2], "model.onnx", FILES[2])
        repository = hub.repositories[REPOSITORY]
        assert set(repository.commits[pushed.commit]) == set(pushed.files)
        assert repository.branches == {"main": pushed.commit}
        assert not repository.private
        pulled = pull_from_hub(REPOSITORY, tmp_path / "new" / "pulled.safetensors")
        assert (pulled.commit, pulled.kind) == (pushed.commit, kind)
        assert pulled.path.read_bytes() == (tmp_path / "folder" / FILES[2]).read_bytes()
        assert same(load(pulled.path), MODELS[kind])
        assert os.listdir(pulled.path.parent) == ["pulled.safetensors"]

    def test_a_file_gets_its_card_on_the_way(self, hub: hub_server.Hub, tmp_path: Path) -> None:
        save(MODELS["class-module"], tmp_path / "cat.safetensors", details=DETAILS)
        pushed = push_to_hub(tmp_path / "cat.safetensors", REPOSITORY, private=True, license="mit")
        assert pushed.files == FILES
        repository = hub.repositories[REPOSITORY]
        assert repository.private
        files = repository.commits[pushed.commit]
        (tmp_path / "sent.safetensors").write_bytes(files[FILES[2]])
        assert describe(tmp_path / "sent.safetensors")["details"] == PUBLIC
        assert same(load(tmp_path / "sent.safetensors"), MODELS["class-module"])
        assert not [name for name, content in files.items() if b"photos/" in content]
        assert b"# lenet-birds" in files["README.md"]
        assert b'license: "mit"' in files["README.md"]

    def test_a_folder_whose_model_names_local_folders_is_not_sent(
        self, hub: hub_server.Hub, tmp_path: Path
    ) -> None:
        save(MODELS["classifier"], tmp_path / "model.safetensors", details=DETAILS)
        with pytest.raises(StorageError, match=r"in which folder the images lay \(photos/mine"):
            push_to_hub(tmp_path, REPOSITORY)
        assert REPOSITORY not in hub.repositories

    def test_branches_and_commits_are_revisions(self, hub: hub_server.Hub, tmp_path: Path) -> None:
        commits = {}
        for seed, revision in enumerate((None, "next", "next")):
            save(toys.classifier("lenet5", seed=seed), tmp_path / f"{seed}.safetensors")
            pushed = push_to_hub(tmp_path / f"{seed}.safetensors", REPOSITORY, revision=revision)
            commits[seed] = pushed.commit
        assert hub.repositories[REPOSITORY].branches == {"main": commits[0], "next": commits[2]}
        for seed, revision in ((0, None), (0, "main"), (1, commits[1]), (2, "next")):
            out = tmp_path / "out.safetensors"
            pulled = pull_from_hub(REPOSITORY, out, revision=revision, overwrite=True)
            assert pulled.commit == commits[seed]
            assert out.read_bytes() == (tmp_path / f"{seed}.safetensors").read_bytes()

    def test_private_ones_need_a_token(
        self, hub: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(MODELS["classifier"], tmp_path / "model.safetensors")
        push_to_hub(tmp_path / "model.safetensors", REPOSITORY, private=True)
        monkeypatch.setenv("HF_TOKEN", "hf_of_somebody")
        with pytest.raises(HubError, match=r"no such repository, or a private .*hf auth login"):
            pull_from_hub(REPOSITORY, tmp_path / "out")
        with pytest.raises(HubError, match=r"log in with `hf auth login`"):
            push_to_hub(tmp_path / "model.safetensors", "zoo/other")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (pickle.dumps({"model": 1}), "not a model of cnnsplitter: .*no safetensors file"),
            (None, "not a model of cnnsplitter: .*not written by cnnsplitter"),
        ],
    )
    def test_strangers_files_are_not_kept(
        self, content: bytes | None, message: str, hub: hub_server.Hub, tmp_path: Path
    ) -> None:
        if content is None:
            save_file({"weight": torch.zeros(1)}, tmp_path / "foreign")
            content = (tmp_path / "foreign").read_bytes()
        hub.new(REPOSITORY).add("main", "m", {"model.safetensors": content})
        with pytest.raises(StorageError, match=f"^.*{REPOSITORY}: {message}"):
            pull_from_hub(REPOSITORY, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        kept = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
        assert content not in [path.read_bytes() for path in kept]

    def test_only_the_model_is_fetched(self, hub: hub_server.Hub, tmp_path: Path) -> None:
        save(MODELS["classifier"], tmp_path / "model.safetensors")
        push_to_hub(tmp_path / "model.safetensors", REPOSITORY)
        hub.requests.clear()
        pull_from_hub(REPOSITORY, tmp_path / "out")
        assert {request.rpartition("/")[2] for request in hub.requests} == {"model.safetensors"}

    def test_what_is_not_there(self, hub: hub_server.Hub, tmp_path: Path) -> None:
        hub.new(REPOSITORY)
        out = tmp_path / "out"
        with pytest.raises(HubError, match=r"holds no model\.safetensors"):
            pull_from_hub(REPOSITORY, out)
        with pytest.raises(HubError, match="has no revision 'v9'"):
            pull_from_hub(REPOSITORY, out, revision="v9")
        with pytest.raises(HubError, match="zoo/nothing: no such repository"):
            pull_from_hub("zoo/nothing", out)
        with pytest.raises(SettingsError, match="give OWNER/NAME"):
            pull_from_hub("a/b/c", out)
        out.write_text("mine")
        with pytest.raises(StorageError, match="out: exists already"):
            pull_from_hub(REPOSITORY, out)
        with pytest.raises(StorageError, match="no such file"):
            push_to_hub(tmp_path / "none.safetensors", REPOSITORY)
        with pytest.raises(StorageError, match=r"model\.safetensors: no such file"):
            push_to_hub(tmp_path, REPOSITORY)
        assert out.read_text() == "mine"
        assert not hub.repositories[REPOSITORY].messages

    def test_a_hub_that_fails(self, hub: hub_server.Hub, tmp_path: Path) -> None:
        hub.broken = True
        save(MODELS["classifier"], tmp_path / "model.safetensors")
        with pytest.raises(HubError, match="refuses with status 500; try again later"):
            push_to_hub(tmp_path / "model.safetensors", REPOSITORY)

    def test_without_a_connection_the_cache_is_all_there_is(
        self, hub: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(MODELS["classifier"], tmp_path / "model.safetensors")
        pushed = push_to_hub(tmp_path / "model.safetensors", REPOSITORY)
        pull_from_hub(REPOSITORY, tmp_path / "out")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        hub.requests.clear()
        assert pull_from_hub(REPOSITORY, tmp_path / "again").commit == pushed.commit
        with pytest.raises(HubError, match="zoo/other: the hub cannot be used"):
            pull_from_hub("zoo/other", tmp_path / "other")
        assert not hub.requests

    def test_a_missing_extra_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(SettingsError, match=r"pip install 'cnnsplitter\[hub\]'"):
            push_to_hub(tmp_path, REPOSITORY)
        with pytest.raises(SettingsError, match=r"pip install 'cnnsplitter\[hub\]'"):
            pull_from_hub(REPOSITORY, tmp_path / "out")


class TestCommands:
    def test_bundle_push_pull(self, hub: hub_server.Hub, tmp_path: Path) -> None:
        save(MODELS["patched"], tmp_path / "patched.safetensors", details=DETAILS)
        folder, out = tmp_path / "birds", tmp_path / "out.safetensors"
        made = succeed("bundle", tmp_path / "patched.safetensors", "--out", folder, "--json")
        assert made.json == {"folder": str(folder), "files": sorted(FILES)}
        assert "# birds" in (folder / "README.md").read_text()
        pushed = succeed("push", folder, REPOSITORY, "--private", "--revision", "v1", "--json").json
        assert hub.repositories[REPOSITORY].private
        pull = ("pull", REPOSITORY, "--revision", "v1", "--out", out)
        assert succeed(*pull).out == f"Written to {out}: patched (commit {pushed['commit']})\n"
        assert out.read_bytes() == (folder / "model.safetensors").read_bytes()
        assert same(load(out), MODELS["patched"])
        again = call(*pull)
        assert (again.code, again.err.split(";")[0]) == (2, f"error: {out}: exists already")

    def test_endpoint_and_token_are_those_of_the_environment(self, tmp_path: Path) -> None:
        """In a process of its own, as huggingface_hub reads them when it is imported."""
        save(MODELS["classifier"], tmp_path / "model.safetensors")
        code = (
            "from shop import succeed\n"
            f"succeed('push', 'model.safetensors', {REPOSITORY!r}, '--public')\n"
            f"print(succeed('pull', {REPOSITORY!r}, '--out', 'out').out)"
        )
        with hub_server.serve() as hub:
            settings = {
                "HF_ENDPOINT": hub.url,
                "HF_TOKEN": hub_server.TOKEN,
                "HF_HOME": str(tmp_path / "home"),
                "HF_HUB_DISABLE_XET": "1",
                "PYTHONPATH": os.pathsep.join(sys.path),
            }
            result = subprocess.run(
                [sys.executable, "-c", code],
                env=os.environ | settings,
                cwd=tmp_path,
                capture_output=True,
                text=True,
            )
            assert result.returncode == 0, result.stderr
            assert hub.repositories[REPOSITORY].branches["main"] in result.stdout
        assert (tmp_path / "out").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_the_page_runs_as_it_stands(
    hub: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "share-on-the-hub.md").read_text()
    monkeypatch.chdir(tmp_path)
    save(MODELS["patched"], "patched.safetensors", details=DETAILS)
    commands = re.findall(r"^\$ cnnsplitter (.+)$", page, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["bundle", "push", "pull", "inspect"]
    for command in commands:
        succeed(*shlex.split(command))
    assert hub.repositories["OWNER/NAME"].private
    for made in ("birds/README.md", "birds/config.json", "birds/model.safetensors"):
        Path(made).unlink()
    Path("birds.safetensors").unlink()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"model": MODELS["class-module"]}
    exec(compile(code, "share-on-the-hub.md", "exec"), names)
    assert same(names["model"], MODELS["class-module"])

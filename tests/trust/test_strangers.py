"""Files from strangers: whatever they hold, a typed error in one line, soon, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cnnsplitter.errors import CnnSplitterError, StorageError
from cnnsplitter.files import read_tensors, write_tensors
from cnnsplitter.weights import load_weights
from shop import call, write_npz
from trust.bad_texts import wrong_values
from trust.corpus import RESULTS, cases
from trust.golden_others import LARGE
from trust.loaders import LOADERS, fresh
from trust.spoiling import MARKER, Poison

TENSORS = tuple(n for n in LOADERS if LOADERS[n].name in ("a", "a.safetensors"))
KINDS = ("genetic", "gradient", "training")
SAFETENSORS = [int(number) for number in safetensors.__version__.split(".")[:2]]
MAY_BE_SHORTER = {
    *("recipe", "settings", "jpeg", "png", "listed events.jsonl", "mlflow run"),
    *("inspected recipe.toml", "inspected events.jsonl"),
}
"""Kinds of which a part can be whole, or whose broken files are left out and listed."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("good")
    return {name: fresh(name, folder) for name in LOADERS}


@pytest.fixture(scope="module")
def scratch(good: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies to spoil."""
    folder = tmp_path_factory.mktemp("bad")
    places = {}
    for name, path in good.items():
        copied = shutil.copytree(path.parent.parent, folder / name)
        places[name] = copied / "class" / path.name
    return places


def outcome(name: str, path: Path) -> CnnSplitterError | None:
    """Read a file; any other error than a typed one fails the test."""
    refused = None
    try:
        LOADERS[name].read(path)
    except CnnSplitterError as error:
        refused = error
    assert "\n" not in str(refused)
    return refused


def rewrite(path: Path, content: bytes) -> None:
    """In a file of its own, as the last one may still be mapped."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize("name", LOADERS)
def test_truncated_at_every_hundredth(
    name: str, good: dict[str, Path], scratch: dict[str, Path]
) -> None:
    content = good[name].read_bytes()
    for percent in range(100):
        rewrite(scratch[name], content[: len(content) * percent // 100])
        refused = outcome(name, scratch[name])
        assert refused or name in MAY_BE_SHORTER, f"read {percent} %"
    rewrite(scratch[name], content)
    assert outcome(name, scratch[name]) is None


@pytest.mark.parametrize("name", LOADERS)
@settings(max_examples=25)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), head=st.booleans())
def test_a_flipped_bit_gives_a_typed_error_or_other_values(
    name: str,
    good: dict[str, Path],
    scratch: dict[str, Path],
    place: float,
    bit: int,
    head: bool,
) -> None:
    content = bytearray(good[name].read_bytes())
    content[int(place * min(len(content), 1000 if head else len(content)))] ^= 1 << bit
    rewrite(scratch[name], bytes(content))
    outcome(name, scratch[name])


def spoilt(tensor: Tensor) -> Iterator[Tensor]:
    """The same values in other types and shapes, and values that are no numbers."""
    yield tensor.to(torch.int8 if tensor.dtype != torch.int8 else torch.float32)
    # Older safetensors cannot write complex numbers.
    yield tensor.to(torch.complex64 if SAFETENSORS >= [0, 6] else torch.int16)
    yield tensor[None]
    yield torch.cat([tensor.reshape(-1)] * 2) if tensor.numel() else torch.zeros(3)
    yield torch.zeros(0, dtype=tensor.dtype)
    if tensor.is_floating_point():
        yield torch.full_like(tensor, torch.nan)
        yield torch.full_like(tensor, torch.inf)


@pytest.mark.parametrize("name", TENSORS)
def test_each_tensor_missing_or_of_another_type_or_shape(
    name: str, good: dict[str, Path], scratch: dict[str, Path]
) -> None:
    manifest: dict[str, Any] | None = None
    if name == "weights":
        tensors = load_file(good[name])
    else:
        tensors, manifest = read_tensors(good[name])

    def write(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if manifest is None:
            save_file(tensors, path)
        else:
            write_tensors(path, tensors, manifest)

    # Digests of known selections may be any.
    optional = {key for key in tensors if key.endswith(("num_batches_tracked", "seen"))}
    for key in sorted(tensors.keys() - optional)[:: max(1, len(tensors) // 12)]:
        others = {k: t for k, t in tensors.items() if k != key}
        made_of: list[dict[str, Tensor]] = [{}, *({key: value} for value in spoilt(tensors[key]))]
        for made in made_of:
            scratch[name].unlink()
            write({**others, **made}, scratch[name])
            changed = made.get(key, torch.zeros(0))
            assert outcome(name, scratch[name]), f"{key} as {changed.dtype} {changed.shape}"


@pytest.mark.parametrize("name", RESULTS)
def test_each_value_missing_or_of_another_type(
    name: str, good: dict[str, Path], scratch: dict[str, Path]
) -> None:
    content = json.loads(good[name].read_text())
    few = {key: content[key] for key in content.keys() - LARGE}
    for value in wrong_values(few):
        whole = {**content, **value} if isinstance(value, dict) else value
        rewrite(scratch[name], json.dumps(whole).encode())
        outcome(name, scratch[name])


def check_corpus(folder: Path, *arguments: str) -> None:
    """Read all files of the corpus in a program with little memory; all must be refused."""
    program = [sys.executable, "-m", "trust.corpus", str(folder), *arguments]
    places = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        program,
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(list(cases("quick" in arguments)))
    wrong = [
        (line["loader"], line["what"], line["outcome"])
        for line in lines
        if not line["outcome"].startswith("refused") or line["added"]
    ]
    odd = [w for w in wrong if w[:2] not in HARMLESS]
    assert not odd, "\n".join(map(str, odd))


HARMLESS = {
    ("classifier", "large images"),
    *((name, "tensor named twice") for name in LOADERS),
    # A checkpoint that is not there is no reason not to begin, a folder is no image.
    *((f"{kind} checkpoint", f"link to {end}") for kind in KINDS for end in ("itself", "nowhere")),
    *((f"{kind} checkpoint", "unknown key") for kind in KINDS),
    *((name, "folder") for name in ("png", "jpeg")),
    ("png", "wide"),
    # Refused when the network is built.
    ("recipe", "kernels without end"),
    # Nothing is set, or set to 1.
    ("settings", "empty"),
    ("settings", "device with nothing"),
    ("settings", "weight_decay as true"),
    # Any object is a report to the list of runs, which shows what figures it has.
    ("listed report.json", "no number"),
    # Passed over: what says what the file is comes behind.
    ("onnx", "nodes without end"),
}
"""What is odd, but can be used."""


def test_bad_files_are_refused_soon_and_in_little_memory(tmp_path: Path) -> None:
    check_corpus(tmp_path, "quick")


@pytest.mark.large
def test_all_bad_files_are_refused_soon_and_in_little_memory(tmp_path: Path) -> None:
    check_corpus(tmp_path)


class TestTrustPickle:
    """The one explicit way in."""

    @pytest.fixture
    def evil(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        write_npz(tmp_path / "data.npz")
        from cnnsplitter.models import build_model

        net, _ = build_model("lenet5", 4, (1, 8, 8))
        path = tmp_path / "evil.pt"
        torch.save({"state_dict": net.state_dict(), "more": Poison(path)}, path)
        return path

    def adopt(self, *arguments: object) -> Any:
        shape = ("--data", "data.npz", "--out", "out.safetensors")
        return call("adopt", "lenet5", "evil.pt", *shape, *arguments)

    def test_without_it_nothing_runs(self, evil: Path) -> None:
        refused = self.adopt()
        assert refused.code == 2
        assert "--trust-pickle" in refused.err
        assert not evil.with_name(MARKER).exists()

    def test_with_it_path_and_digest_are_shown(self, evil: Path) -> None:
        from hashlib import sha256

        done = self.adopt("--trust-pickle")
        assert done.code == 0, done.err
        assert f"evil.pt holds, SHA-256 {sha256(evil.read_bytes()).hexdigest()}" in done.err
        assert evil.with_name(MARKER).exists()

    def test_it_is_never_read_from_a_file(self, evil: Path) -> None:
        evil.with_name("s.toml").write_text("trust-pickle = true\n")
        refused = self.adopt("--settings", "s.toml")
        assert refused.code == 2
        assert "unknown key 'trust-pickle'" in refused.err
        assert not evil.with_name(MARKER).exists()

    def test_whole_networks_can_be_read(self, tmp_path: Path) -> None:
        net, told = nn.Linear(2, 1), []
        torch.save(net, tmp_path / "net.pt")
        with pytest.raises(StorageError, match="--trust-pickle"):
            load_weights(nn.Linear(2, 1), tmp_path / "net.pt")
        tell: Callable[[Path, str], None] = lambda path, digest: told.append(path)  # noqa: E731
        again = load_weights(nn.Linear(2, 1), tmp_path / "net.pt", trust_pickle=tell)
        assert torch.equal(again.weight, net.weight)  # type: ignore[arg-type]
        assert told == [tmp_path / "net.pt"]

    def test_what_is_no_pickle_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.pt").write_bytes(b"no pickle")
        with pytest.raises(StorageError, match=r"a\.pt: cannot be unpickled"):
            load_weights(nn.Linear(2, 1), tmp_path / "a.pt", trust_pickle=lambda *_: None)
        with pytest.raises(StorageError, match=r"b\.pt: no such file"):
            load_weights(nn.Linear(2, 1), tmp_path / "b.pt", trust_pickle=lambda *_: None)


def test_a_settings_file_cannot_name_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path / "data.npz")
    (tmp_path / "s.toml").write_text(f"model = 'os:mkdir'\nmodel-arg = ['path={MARKER}']\n")
    shape = ("--data", "data.npz", "--out", "out.safetensors")
    for command in (("adopt", *shape), ("evaluate", "a.safetensors", "--data", "data.npz")):
        refused = call(*command, "--settings", "s.toml")
        assert refused.code == 2
        assert "names code, 'os:mkdir'" in refused.err
        assert not (tmp_path / MARKER).exists()

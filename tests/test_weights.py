import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cnnsplitter.errors import ModelError, StorageError
from cnnsplitter.models import build_model
from cnnsplitter.weights import load_weights


@pytest.fixture
def source() -> nn.Module:
    return _net(1)


def _net(seed: int) -> nn.Module:
    return build_model("resnet20", 3, (3, 8, 8), width=0.1, seed=seed)[0]


def _same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "backbone.body."])
def test_loads_a_copy_and_leaves_the_net(
    tmp_path: Path, source: nn.Module, suffix: str, prefix: str
) -> None:
    path = tmp_path / f"w{suffix}"
    state = {prefix + k: v for k, v in source.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    net, before = _net(2), _net(2)
    loaded = load_weights(net, path)
    assert _same(loaded, source)
    assert _same(net, before)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("legacy", [False, True])
def test_sees_through_training_checkpoints(
    tmp_path: Path, source: nn.Module, key: str, legacy: bool
) -> None:
    content = {"epoch": 3, "best": 0.9, key: source.state_dict()}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    assert _same(load_weights(_net(2), tmp_path / "w.pt"), source)


def test_a_prefix_that_belongs_to_the_net_stays(tmp_path: Path) -> None:
    net = nn.ModuleDict({"net": nn.Linear(2, 2)})
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    loaded = load_weights(nn.ModuleDict({"net": nn.Linear(2, 2)}), tmp_path / "w.safetensors")
    assert _same(loaded, net)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_converts_float_types(tmp_path: Path, source: nn.Module, dtype: torch.dtype) -> None:
    save_file(copy.deepcopy(source).to(dtype).state_dict(), tmp_path / "w.safetensors")
    loaded = load_weights(_net(2), tmp_path / "w.safetensors")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert _same(loaded, copy.deepcopy(source).to(dtype).float())


def test_batch_counters_may_be_missing_but_nothing_else(tmp_path: Path, source: nn.Module) -> None:
    state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / "w.safetensors")
    assert _same(load_weights(_net(2), tmp_path / "w.safetensors"), source)
    del state["bn1.running_mean"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"ResNet: missing bn1.running_mean$"):
        load_weights(_net(2), tmp_path / "w.safetensors")


def test_lists_what_does_not_fit(tmp_path: Path, source: nn.Module) -> None:
    state: dict[str, Tensor] = source.state_dict()
    for i in range(5):
        state[f"extra{i}"] = torch.zeros(1)
    state["linear.bias"] = torch.zeros(7)
    del state["linear.weight"]
    save_file(state, tmp_path / "w.safetensors")
    expected = (
        r"missing linear.weight; unexpected extra0, extra1, extra2 and 2 more; "
        r"other shape: linear.bias is \[7\] but must be \[3\]"
    )
    with pytest.raises(ModelError, match=expected) as raised:
        load_weights(_net(2), tmp_path / "w.safetensors")
    assert "\n" not in str(raised.value)
    assert raised.value.__notes__ == ["unexpected extra3", "unexpected extra4"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, source: nn.Module, value: float
) -> None:
    source.state_dict()["linear.bias"][0] = value
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"'linear.bias' holds NaN or infinite"):
        load_weights(_net(2), tmp_path / "w.safetensors")


def test_a_value_beyond_the_nets_type_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.tensor([[1e300]]).double()}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="'weight' holds NaN or infinite"):
        load_weights(nn.Linear(1, 1, bias=False), tmp_path / "w.safetensors")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_numbers_of_another_kind_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {"weight": torch.ones(1, 1).to(dtype), "bias": torch.zeros(1)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=rf"'weight' is {dtype} but must be torch.float32"):
        load_weights(nn.Linear(1, 1), tmp_path / "w.pt")


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    net = nn.BatchNorm2d(2)
    net.register_buffer("places", torch.tensor([1, 0]))
    state = {**net.state_dict(), "num_batches_tracked": torch.tensor(3.0)}
    torch.save(state, tmp_path / "w.pt")
    loaded = load_weights(net, tmp_path / "w.pt").state_dict()
    assert loaded["num_batches_tracked"].tolist() == 3
    torch.save({**state, "places": torch.tensor([0.5, 0.0])}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"'places' is torch.float32 but must be torch.int64"):
        load_weights(net, tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_torchscript_archive_is_called_so(tmp_path: Path) -> None:
    net = nn.Linear(1, 1)
    script: Any = torch.jit
    script.trace(net, torch.zeros(1, 1)).save(str(tmp_path / "w.pt"))
    with pytest.raises(StorageError, match=r"w.pt: a TorchScript archive.*state_dict\(\)"):
        load_weights(net, tmp_path / "w.pt")
    torch.save(script.load(str(tmp_path / "w.pt")).state_dict(), tmp_path / "state.pt")
    assert _same(load_weights(nn.Linear(1, 1), tmp_path / "state.pt"), net)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"weight": Evil()}, tmp_path / "w.pt")
    with pytest.raises(StorageError, match=r"w.pt: holds more than tensors"):
        load_weights(nn.Linear(1, 1), tmp_path / "w.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_truncated_files_are_refused(
    tmp_path: Path, source: nn.Module, suffix: str, share: float
) -> None:
    path = tmp_path / f"w{suffix}"
    state = source.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(StorageError, match="truncated"):
        load_weights(_net(2), path)


def test_a_name_in_the_archive_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"weight": torch.ones(2)}, path)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"data.pkl")] = 0xF4
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"w.pt: truncated or no PyTorch file"):
        load_weights(nn.Linear(2, 1), path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    net = nn.Linear(1, 1)
    with pytest.raises(StorageError, match=r"w.pt: no such file"):
        load_weights(net, tmp_path / "w.pt")
    (tmp_path / "w.onnx").write_bytes(b"")
    with pytest.raises(StorageError, match=r"not .onnx"):
        load_weights(net, tmp_path / "w.onnx")
    for content in (torch.zeros(3), {"epoch": 1}, {}):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(StorageError, match="holds no weights by name"):
            load_weights(net, tmp_path / "w.pt")


SHARED = os.environ.get("CNNSPLITTER_SHARED")


@pytest.mark.skipif(SHARED is None, reason="CNNSPLITTER_SHARED does not name the shared folder")
@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("resnet20", "resnet20-12fca82f.th"),
        ("resnet32", "resnet32-d509ac18.th"),
        ("simcnn", "simcnn-cifar10.safetensors"),
    ],
)
def test_published_weights_load(model: str, file: str) -> None:
    net, _ = build_model(model, 10, (3, 32, 32))
    loaded = load_weights(net, Path(str(SHARED)) / "models" / file).eval()
    with torch.no_grad():
        assert loaded(torch.zeros(1, 3, 32, 32)).isfinite().all()

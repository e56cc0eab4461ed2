from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import StorageError
from cnnsplitter.storage.compact import SCALE, compress, expand
from cnnsplitter.storage.saving import load_as, save
from toys import classifier, image_set


@given(
    st.integers(0, 1000), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.floats(1e-30, 1e9)
)
def test_weights_move_by_at_most_half_a_step(seed: int, shape: list[int], size: float) -> None:
    tensor = size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    packed = compress({"net.w": tensor, "net.count": torch.tensor([3, 4])})
    found = expand(packed)
    assert found.keys() == {"net.w", "net.count"}
    assert torch.equal(found["net.count"], torch.tensor([3, 4]))
    if len(shape) == 1:
        assert torch.equal(found["net.w"], tensor)
        return
    assert packed["net.w"].dtype == torch.int8
    step = tensor.abs().amax(tuple(range(1, len(shape))), keepdim=True) / 127
    assert ((found["net.w"] - tensor).abs() <= 0.501 * step + 1e-38).all()
    assert torch.allclose(expand(compress(found))["net.w"], found["net.w"], atol=0, rtol=1e-5)


def test_channels_of_zeros_and_broken_weights_stay() -> None:
    zeros, broken = torch.zeros(2, 3), torch.tensor([[1.0, float("nan")]])
    found = expand(compress({"zeros": zeros, "broken": broken}))
    assert torch.equal(found["zeros"], zeros)
    assert found["broken"].isnan().any()


@pytest.mark.parametrize(
    ("tensor", "scale"),
    [
        (None, torch.ones(2, 1)),
        (torch.ones(2, 3), torch.ones(2, 1)),
        (torch.ones(2, 3, dtype=torch.int8), torch.ones(3, 1)),
        (torch.ones(2, 3, dtype=torch.int8), torch.ones(2)),
        (torch.ones(2, 3, dtype=torch.int8), torch.ones(2, 1, dtype=torch.int64)),
    ],
)
def test_scales_that_do_not_fit_are_refused(
    tensor: torch.Tensor | None, scale: torch.Tensor
) -> None:
    tensors = {f"w{SCALE}": scale} if tensor is None else {"w": tensor, f"w{SCALE}": scale}
    with pytest.raises(StorageError, match="save it anew"):
        expand(tensors)


def test_a_compact_file_is_a_quarter_and_nearly_the_same_model(tmp_path: Path) -> None:
    model = classifier("simcnn", width=0.25)
    save(model, tmp_path / "whole.safetensors")
    save(model, tmp_path / "compact.safetensors", compact=True)
    sizes = [(tmp_path / f"{n}.safetensors").stat().st_size for n in ("compact", "whole")]
    assert sizes[0] < 0.28 * sizes[1]
    again = load_as(Classifier, tmp_path / "compact.safetensors")
    images, _ = next(image_set().batches(30))
    with torch.no_grad():
        first, second = model.eval()(images), again(images)
    assert (first - second).norm() < 0.05 * first.norm()
    assert not torch.equal(first, second)

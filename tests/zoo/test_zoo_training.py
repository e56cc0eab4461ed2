import pytest
import torch
from experiments.zoo_training import FAMILIES, folded, short_of, with_norms

from toys import classifier, splits


@pytest.mark.parametrize("network", ["simcnn", "rescnn"])
def test_folded_norms_change_no_output(network: str) -> None:
    plain = classifier(network)
    normed = with_norms(plain)
    generator = torch.Generator().manual_seed(0)
    for tensor in normed.net.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    images = torch.rand(4, *plain.input_shape, generator=generator)
    found = folded(normed.double(), plain.double())
    assert found.net.state_dict().keys() == plain.net.state_dict().keys()
    with torch.no_grad():
        assert torch.allclose(found(images.double()), normed.eval()(images.double()), atol=1e-9)


def test_one_class_is_scarce_and_the_rest_is_kept() -> None:
    data = splits(60)
    few = short_of(data, "cat", 5, seed=0)
    assert few.train.counts().tolist() == [20, 5, 20]
    assert few.test is data.test


def test_names_tell_what_the_files_are() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert FAMILIES[0].weak_name == f"weak-{FAMILIES[0].module_name}"

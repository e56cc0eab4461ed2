"""CNNs of timm, at least one for each motif: exact, and how much of them can be selected."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from cnnsplitter.baking import bake
from cnnsplitter.channels import ChannelMap
from cnnsplitter.errors import UnsupportedModelError
from cnnsplitter.surgery import extract, masked_forward
from strategies import randomise

timm = pytest.importorskip("timm", reason="timm is not installed")


@dataclass(frozen=True)
class Case:
    """A network of timm.

    Attributes:
        name: Its name there.
        motif: What is special about it.
        least: Least share of its kernels that can be selected; None if it is refused.
        reason: Part of the reason why others are frozen, or of the refusal.
        size: Height and width of the images.
        quick: Whether it is in the default suite.
        baked: Whether it is baked first.
        options: Options of its constructor.
    """

    name: str
    motif: str
    least: float | None = 1.0
    reason: str = ""
    size: int = 64
    quick: bool = False
    baked: bool = False
    options: Mapping[str, object] = field(default_factory=dict)


GROUPS = {"norm_layer": partial(timm.layers.GroupNorm, num_groups=8)}
ECA = {"block_args": {"attn_layer": "eca"}}
CASES = [
    Case("seresnet18", "squeeze and excitation", size=32, quick=True),
    Case("ecaresnet26t", "convolution along the channels", 0.25, "runs along the channels"),
    Case("resnet10t", "ECA", 0.03, "runs along the channels", 32, quick=True, options=ECA),
    Case("gcresnext26ts", "global context", 0.7),
    Case("resnetblur18", "blur pool", size=32, quick=True),
    Case("tresnet_m", "blur pool, squeeze, space to depth"),
    Case("resnest14d", "split attention", size=32, quick=True),
    Case("resnest50d_4s2x40d", "split attention in groups"),
    Case("skresnet18", "selective kernel", size=32, quick=True),
    Case("ghostnet_050", "ghost", size=32, quick=True),
    Case("resnetv2_50", "norm before activation", 0.99),
    Case("resnet50_gn", "group norm"),
    Case("resnet10t", "group norm", size=32, quick=True, options=GROUPS),
    Case("convnext_atto", "layer norm", size=32, quick=True),
    Case("rdnet_tiny", "layer norm, dense"),
    Case("mixnet_s", "mixed convolutions", size=32, quick=True),
    Case("cspresnet50", "partial, halves of a counted whole"),
    Case("cs3darknet_s", "partial, halves of a counted whole", size=32, quick=True),
    Case("dpn48b", "dual path", 0.99),
    Case("dla34", "deep aggregation", 0.99),
    Case("hrnet_w18_small", "several resolutions"),
    Case("res2net50_26w_4s", "a cascade of groups"),
    Case("rexnet_100", "channels added to a part"),
    Case("nf_resnet26", "standardised weights", 0.0, "bake(model)", size=32),
    Case("nf_resnet26", "standardised weights, baked", size=32, baked=True),
    Case("dm_nfnet_f0", "standardised weights, baked", baked=True),
    Case("mobileone_s0", "branches that can be merged"),
    Case("repvgg_a0", "branches that can be merged"),
    Case("fastvit_t8", "large kernels, branches, attention"),
    Case("mobilenetv4_conv_small", "universal inverted bottleneck", size=32, quick=True),
    Case("starnet_s1", "products of branches"),
    Case("edgenext_xx_small", "attention", 0.05, "split by number"),
    Case("botnet26t_256", "attention", 0.78, "mixes channels", size=256),
    Case("lambda_resnet26t", "lambda layer", 0.85, "written into the forward", size=256),
    Case("bat_resnext26ts", "bilinear attention", 0.85, "split by a reshape", size=256),
    Case("inception_v4", "many branches", size=107),
    Case("xception41", "separable convolutions"),
    Case("convmixer_768_32", "patches"),
    Case("lcnet_050", "squeeze, hard swish", size=32, quick=True),
    Case("tf_efficientnet_b0", "padding as in TensorFlow"),
    Case("regnetz_005", "grouped convolutions and squeeze"),
    Case("regnety_002", "grouped convolutions and squeeze", size=32, quick=True),
    Case("ese_vovnet19b_dw", "one-shot aggregation"),
    Case("poolformer_s12", "norm over all channels and pixels", 0.75, "norm over all channels"),
    Case("convnextv2_atto", "global response norm", 0.36, "compared with each other"),
    Case("densenet121", "dense"),
    Case("selecsls42", "selective long skips"),
    Case("inception_next_atto", "depthwise branches"),
    Case("halonet26t", "local attention", 0.78, "split by a reshape", size=256),
]


def parameters() -> list[object]:
    def label(case: Case) -> str:
        return f"{case.name}, {case.motif}"

    return [
        pytest.param(case, id=label(case), marks=[] if case.quick else pytest.mark.large)
        for case in CASES
    ]


def calibrated(case: Case, x: Tensor) -> nn.Module:
    """Return the network with random weights and the statistics of ``x``, in float64."""
    net = timm.create_model(case.name, pretrained=False, num_classes=10, **case.options)
    net = net.double().eval()
    randomise(net, torch.Generator().manual_seed(1))
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        net(x)
        for norm in norms:
            # Channels that are off for these images would explode for others.
            assert norm.running_var is not None
            norm.running_var.clamp_(min=0.05)
    return bake(net.eval()) if case.baked else net.eval()


def share(channels: ChannelMap) -> float:
    """Return the share of kernels in groups of at least two units: one unit alone cannot go."""
    free = [group.units for group in channels.groups if len(group.units) > 1]
    return (
        sum(int(channels.kernels_per_unit[units].sum()) for units in free) / channels.kernel_count
    )


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("case", parameters())
def test_masked_equals_cut_or_the_network_is_refused(case: Case) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, case.size, case.size, dtype=torch.float64, generator=generator)
    net = calibrated(case, x)
    if case.least is None:
        with pytest.raises(UnsupportedModelError, match=case.reason):
            ChannelMap.trace(net, x, unknown="freeze")
        return
    channels = ChannelMap.trace(net, x, unknown="freeze")
    assert case.least <= share(channels) <= 1, channels.frozen
    assert not case.reason or any(case.reason in f.reason for f in channels.frozen)
    with torch.no_grad():
        whole = extract(net, channels, channels.full_selection())
        assert torch.equal(whole(x), net(x))
        for kept in (0.3, 0.6, 0.9):
            selection = channels.random_selection(kept, generator=generator)
            expected = masked_forward(net, channels, selection, x)
            narrow = extract(net, channels, selection)
            assert bool(expected.isfinite().all())
            assert relative_error(narrow(x), expected) < 1e-9


@pytest.mark.large
@pytest.mark.parametrize("name", ["starnet_s1", "nfnet_l0"])
def test_rounding_in_single_precision_freezes_nothing(name: str) -> None:
    net = timm.create_model(name, pretrained=False, num_classes=10)
    channels = ChannelMap.trace(net, torch.zeros(2, 3, 64, 64), unknown="freeze")
    assert not any("masked and cut" in f.reason for f in channels.frozen)

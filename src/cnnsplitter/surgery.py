"""Two ways to run a selection: mask what readers see, or cut a narrow copy. Both are equal."""

from torch import Tensor, nn

from cnnsplitter.authorship import place_of
from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.cutting import narrow_copy
from cnnsplitter.channels.masking import masked
from cnnsplitter.channels.shadow import RUN_ERRORS, run_shapes
from cnnsplitter.errors import UnsupportedModelError, first_line
from cnnsplitter.nets import eval_mode
from cnnsplitter.selection import Selection


def extract(model: nn.Module, channels: ChannelMap, selection: Selection) -> nn.Module:
    """Cut a narrow copy of ``model`` that holds only the selected units; the model is not touched.

    Raises:
        SelectionError: If the selection is another network's or would empty a layer.
        UnsupportedModelError: If the narrow copy does not run (a size written into a forward).
    """
    channels.check(selection)
    narrow = narrow_copy(model, channels, selection.keep)
    # Shapes tell whether it runs: no numbers are computed, and nothing more is held in memory.
    try:
        with eval_mode(narrow):
            run_shapes(narrow, (2, *channels.input_shape))
    except RUN_ERRORS as error:
        raise UnsupportedModelError(
            f"the cut {type(model).__name__} does not run, so its forward holds a number of "
            f"channels{place_of(error, narrow)}: {first_line(error)}"
        ) from error
    return narrow


def masked_forward(
    model: nn.Module, channels: ChannelMap, selection: Selection, x: Tensor
) -> Tensor:
    """Run ``model`` in evaluation mode as if only the selected units were there.

    Args:
        model: The network of ``channels``; left as it was.
        channels: Its channel map.
        selection: The units that count.
        x: Preprocessed images float[B, C, H, W].

    Returns:
        The same as ``extract(model, channels, selection)(x)``, up to rounding.
    """
    channels.check(selection)
    with eval_mode(model), masked(model, channels, selection.keep.to(x)):
        return model(x)  # type: ignore[no-any-return]

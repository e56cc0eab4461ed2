"""A trained CNN with what is needed to use it: class names, preprocessing, input shape."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cnnsplitter.errors import ModelError, SettingsError
from cnnsplitter.preprocessing import Preprocessing


@dataclass(frozen=True)
class Architecture:
    """How to build a network of this package again: its name and its arguments (JSON values)."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Classifier(nn.Module):
    """A CNN from images to one logit per class.

    Attributes:
        net: The network; takes preprocessed images float[B, C, H, W], returns logits [B, N].
        classes: The N class names, in the order of the logits.
        preprocessing: Applied to the images before ``net``.
        input_shape: (C, H, W) of one image.
        architecture: How to build ``net`` again, or None for a network brought by the user.
    """

    def __init__(
        self,
        net: nn.Module,
        classes: tuple[str, ...],
        input_shape: tuple[int, int, int],
        preprocessing: Preprocessing | None = None,
        architecture: Architecture | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.classes = tuple(classes)
        self.input_shape = input_shape
        self.preprocessing = preprocessing or Preprocessing()
        self.architecture = architecture

    def forward(self, images: Tensor) -> Tensor:
        """Map images uint8 or float [B, C, H, W] to logits [B, N]."""
        return self.net(self.preprocessing(images))  # type: ignore[no-any-return]

    def example(self, batch: int = 2) -> Tensor:
        """Return preprocessed zeros float[batch, C, H, W] that fit ``net``."""
        parameter = next(self.net.parameters())
        return torch.zeros(batch, *self.input_shape, dtype=parameter.dtype, device=parameter.device)

    def require_classes(self, classes: tuple[str, ...]) -> None:
        """Raise ``SettingsError`` unless ``classes`` are this model's, in the same order."""
        if tuple(classes) != self.classes:
            raise SettingsError(
                f"the images have the classes {', '.join(classes)} but the model has "
                f"{', '.join(self.classes)}; select or reorder the images' classes"
            )

    def check(self) -> None:
        """Raise ``ModelError`` unless weights are finite and the net gives one logit per class."""
        for name, tensor in self.net.state_dict().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ModelError(
                    f"weight {name!r} holds NaN or infinite values; train or load it anew"
                )
        training = {module: module.training for module in self.net.modules()}
        try:
            with torch.no_grad():
                shape = tuple(self.net.eval()(self.example()).shape)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(
                f"the network does not take images of shape {self.input_shape}: {reason}"
            ) from error
        finally:
            for module, flag in training.items():
                module.training = flag
        if shape != (2, len(self.classes)):
            raise ModelError(
                f"the network gives outputs of shape {shape[1:]} but {len(self.classes)} classes "
                f"are named ({', '.join(self.classes)})"
            )

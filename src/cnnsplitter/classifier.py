"""A trained CNN with what is needed to use it: class names, preprocessing, input shape."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cnnsplitter.authorship import class_of, place_of
from cnnsplitter.errors import ModelError, SettingsError, first_line
from cnnsplitter.nets import eval_mode, require_one_input
from cnnsplitter.preprocessing import Preprocessing


@dataclass(frozen=True)
class Architecture:
    """How to build a network again: its name or reference and its arguments (JSON values).

    Attributes:
        name: A network of this package, ``torchvision:NAME``, ``timm:NAME``, or for information
            the ``package.module:factory`` that built it.
        arguments: Of its builder.
        baked: Whether derived weights were baked to plain ones after building (``bake``).
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    baked: bool = False


def logits_of(output: Any) -> Tensor:
    """Return the logits among what a network gives.

    Args:
        output: A tensor, or an object with the attribute ``logits``, such as the outputs of the
            classifiers of transformers and of networks with auxiliary heads.

    Raises:
        ModelError: If it is neither.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"the network gives a {type(output).__name__}, but must give a tensor of logits or an "
            "object with the attribute logits; wrap it in a module that does"
        )
    return logits


def require_finite(net: nn.Module) -> None:
    """Raise ``ModelError`` unless all weights and buffers are finite."""
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"weight {name!r} holds NaN or infinite values; train or load it anew")


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
        return logits_of(self.net(self.preprocessing(images)))

    def weights_digest(self) -> str:
        """Return the SHA-256 of all weights and buffers, which tells two trained models apart."""
        digest = hashlib.sha256()
        for name, tensor in self.net.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def example(self, batch: int = 2) -> Tensor:
        """Return preprocessed zeros float[batch, C, H, W] that fit ``net``."""
        like = next(self.net.parameters(), torch.empty(0))
        return torch.zeros(batch, *self.input_shape, dtype=like.dtype, device=like.device)

    def require_classes(self, classes: tuple[str, ...]) -> None:
        """Raise ``SettingsError`` unless ``classes`` are this model's, in the same order."""
        if tuple(classes) != self.classes:
            raise SettingsError(
                f"the images have the classes {', '.join(classes)} but the model has "
                f"{', '.join(self.classes)}; select or reorder the images' classes"
            )

    def check(self, *, trial: bool = True) -> None:
        """Raise ``ModelError`` unless the model works on one image of its shape and all fits.

        Weights must be finite, the preprocessing must be for the image's channels, and the net must
        give one logit per class.

        Args:
            trial: Whether the net is run to find out.
        """
        require_finite(self.net)
        channels = self.input_shape[0]
        for values in (self.preprocessing.mean, self.preprocessing.std):
            if len(values) not in (1, channels):
                raise ModelError(
                    f"the preprocessing is for {len(values)} channels but the images have "
                    f"{channels}; give one mean and std, or one per channel"
                )
        require_one_input(self.net)
        if not trial:
            return
        output = self._try_out()
        if output.shape != (2, len(self.classes)):
            raise ModelError(
                f"the network gives outputs of shape {tuple(output.shape[1:])} but "
                f"{len(self.classes)} classes are named ({', '.join(self.classes)})"
            )

    def _try_out(self) -> Tensor:
        try:
            with torch.no_grad(), eval_mode(self.net):
                return logits_of(self.net(self.example()))
        except ModelError:
            raise
        except Exception as error:  # the network may be the user's own, with errors of any type
            reason = first_line(error)
            place = place_of(error, self.net)
            raise ModelError(
                f"{class_of(self.net)}: the network does not take images of shape "
                f"{self.input_shape}{place}: {reason}; mend its forward or give other images"
            ) from error

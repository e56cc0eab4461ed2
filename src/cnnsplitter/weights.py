"""Loading weights that others trained, without ever running what a file holds."""

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cnnsplitter.errors import ModelError, StorageError
from cnnsplitter.nets import copied
from cnnsplitter.reading import no_such_file, require_modest_header
from cnnsplitter.trusted import Told, load_trusted

_PICKLED = (".pt", ".pth", ".th")
_NESTED = ("state_dict", "model_state_dict", "model", "net")
_NAMED_AT_MOST = 3
_LISTED_AT_MOST = 100


@dataclass(frozen=True)
class Misfit:
    """Where weights and a network differ, by the network's names.

    Attributes:
        missing: Of the network but not among the weights; batch counters aside.
        unexpected: Among the weights only.
        other_shape: What has another shape, and which.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    other_shape: tuple[str, ...]

    def lines(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return a title and the keys of each kind of which there are some."""
        kinds = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("other shape:", self.other_shape),
        )
        return [(title, keys) for title, keys in kinds if keys]


def find_misfit(net: nn.Module, tensors: Mapping[str, Tensor]) -> Misfit:
    """Compare the names and shapes of weights with those of ``net``."""
    own = net.state_dict()
    return Misfit(
        tuple(k for k in own if k not in tensors and not k.endswith(".num_batches_tracked")),
        tuple(k for k in tensors if k not in own),
        tuple(
            f"{k} is {list(tensors[k].shape)} but must be {list(own[k].shape)}"
            for k in own
            if k in tensors and tensors[k].shape != own[k].shape
        ),
    )


def load_weights(
    net: nn.Module, path: str | Path, *, trust_pickle: Told | None = None
) -> nn.Module:
    """Return a copy of ``net`` with the weights of a file; ``net`` stays as it is.

    Dictionaries nested under ``state_dict``, ``model_state_dict``, ``model`` or ``net`` and the
    prefixes that all names share, as training wrappers leave them (``module.``, ``_orig_mod.``),
    are seen through, and float types are converted to those of ``net``. The batch counters of norms
    may be missing.

    Args:
        net: A network of the architecture that the weights belong to.
        path: ``.safetensors``, or ``.pt``, ``.pth`` or ``.th`` with nothing but tensors in it.
        trust_pickle: Lets a pickle that holds more than tensors run what it holds, so that whole
            pickled networks can be read, too; told its path and SHA-256 before that. None refuses.

    Raises:
        StorageError: The file is missing, broken, of another kind or holds more than tensors.
        ModelError: The weights do not fit ``net``, are not finite, or are whole or complex numbers
            where ``net`` has floats; names the first keys; the error's notes name the others.
    """
    path = Path(path)
    tensors = _without_prefixes(_read(path, trust_pickle), net.state_dict().keys())
    misfit = find_misfit(net, tensors)
    if misfit.lines():
        raise _misfit_error(f"{path}: the weights do not fit {type(net).__name__}", misfit)
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            raise ModelError(f"{path}: weight {name!r} is sparse or empty; save it as it is used")
    _require_kinds(path, net, tensors)
    loaded = copied(net)
    loaded.load_state_dict(tensors, strict=False)
    for name, tensor in loaded.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"{path}: weight {name!r} holds NaN or infinite values; get it anew")
    return loaded


def _require_kinds(path: Path, net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse whole or complex numbers where ``net`` has floats, and the other way round."""
    for name, own in net.state_dict().items():
        # Whoever converts a whole checkpoint to floats converts the batch counters, too.
        if name not in tensors or name.endswith("num_batches_tracked"):
            continue
        given = tensors[name].dtype
        if (given.is_floating_point, given.is_complex) != (
            own.dtype.is_floating_point,
            own.dtype.is_complex,
        ):
            raise ModelError(
                f"{path}: weight {name!r} is {given} but must be {own.dtype}; if it is quantised, "
                "save it as floats"
            )


def _read(path: Path, trust_pickle: Told | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise StorageError(no_such_file(path))
    if path.suffix == ".safetensors":
        try:
            require_modest_header(path)
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise StorageError(f"{path}: truncated or no safetensors file ({error})") from error
    if path.suffix not in _PICKLED:
        known = ", ".join((".safetensors", *_PICKLED))
        raise StorageError(f"{path}: weights are read from {known}, not {path.suffix or 'this'}")
    if trust_pickle is None:
        return _tensors(path, _unpickle(path))
    content = load_trusted(path, trust_pickle)
    return _tensors(path, content.state_dict() if isinstance(content, nn.Module) else content)


def _unpickle(path: Path) -> Any:
    if _is_torchscript(path):
        raise StorageError(
            f"{path}: a TorchScript archive, which holds a program; load it where you trust it, by "
            "torch.jit.load, and save its state_dict()"
        )
    try:
        _require_no_bomb(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise StorageError(
            f"{path}: holds more than tensors, and running what a file holds is refused; "
            "save the state_dict alone, best as .safetensors, or trust the file (--trust-pickle)"
        ) from error
    except (Exception, MemoryError) as error:  # PyTorch raises many types on damaged files
        raise StorageError(f"{path}: truncated or no PyTorch file; get it anew") from error


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # zipfile raises many types on damaged files
        return False


def _require_no_bomb(path: Path) -> None:
    """Refuse compressed members: PyTorch writes none, and they can unpack to any size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type for member in archive.infolist()):
                raise ValueError("compressed members")


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    for name in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    tensors = (
        {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise StorageError(f"{path}: holds no weights by name; save the network's state_dict")
    return tensors


def _without_prefixes(tensors: dict[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Strip shared prefixes one after the other and return the stage that matches best."""
    stages = [tensors]
    while shared := _shared_prefix(stages[-1]):
        stages.append({k.removeprefix(shared): v for k, v in stages[-1].items()})
    wanted = set(wanted)
    return max(stages, key=lambda stage: len(wanted & stage.keys()))


def _shared_prefix(names: Iterable[str]) -> str:
    """Return the first part of dotted names, with its dot, if all share it; else ""."""
    first = {name.partition(".")[0] if "." in name else "" for name in names}
    return f"{first.pop()}." if len(first) == 1 and "" not in first else ""


def _misfit_error(what: str, misfit: Misfit) -> ModelError:
    error = ModelError(f"{what}: {'; '.join(_first(*part) for part in misfit.lines())}")
    for title, keys in misfit.lines():
        for key in keys[_NAMED_AT_MOST:_LISTED_AT_MOST]:
            error.add_note(f"{title} {key}")
    return error


def _first(title: str, keys: tuple[str, ...]) -> str:
    more = len(keys) - _NAMED_AT_MOST
    rest = f" and {more} more" if more > 0 else ""
    return f"{title} {', '.join(keys[:_NAMED_AT_MOST])}{rest}"

"""Loading weights that others trained, without ever running what a file holds."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cnnsplitter.errors import ModelError, StorageError

_PICKLED = (".pt", ".pth", ".th")
_NESTED = ("state_dict", "model")
_PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
_NAMED_AT_MOST = 3


def load_weights(net: nn.Module, path: str | Path) -> nn.Module:
    """Return a copy of ``net`` with the weights of a file; ``net`` stays as it is.

    Dictionaries nested under ``state_dict`` or ``model`` and the prefixes that training wrappers
    leave (``module.``, ``model.``, ``net.``, ``_orig_mod.``) are seen through, and float types are
    converted to those of ``net``. The batch counters of norms may be missing.

    Args:
        net: A network of the architecture that the weights belong to.
        path: ``.safetensors``, or ``.pt``, ``.pth`` or ``.th`` with nothing but tensors in it.

    Raises:
        StorageError: The file is missing, broken, of another kind or holds more than tensors.
        ModelError: The weights do not fit ``net`` or are not finite; names the keys.
    """
    path = Path(path)
    tensors = _without_prefixes(_read(path), net.state_dict().keys())
    _require_fit(path, net, tensors)
    loaded = copy.deepcopy(net)
    loaded.load_state_dict(tensors, strict=False)
    for name, tensor in loaded.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"{path}: weight {name!r} holds NaN or infinite values; get it anew")
    return loaded


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise StorageError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise StorageError(f"{path}: truncated or no safetensors file ({error})") from error
    if path.suffix not in _PICKLED:
        known = ", ".join((".safetensors", *_PICKLED))
        raise StorageError(f"{path}: weights are read from {known}, not {path.suffix or 'this'}")
    return _tensors(path, _unpickle(path))


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise StorageError(
            f"{path}: holds more than tensors, and running what a file holds is refused; "
            "save the state_dict alone, best as .safetensors"
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError, KeyError, IndexError) as error:
        raise StorageError(f"{path}: truncated or no PyTorch file; get it anew") from error


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
    while shared := [p for p in _PREFIXES if all(name.startswith(p) for name in stages[-1])]:
        stages.append({k.removeprefix(shared[0]): v for k, v in stages[-1].items()})
    wanted = set(wanted)
    return max(stages, key=lambda stage: len(wanted & stage.keys()))


def _require_fit(path: Path, net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    own = net.state_dict()
    missing = [k for k in own if k not in tensors and not k.endswith(".num_batches_tracked")]
    unexpected = [k for k in tensors if k not in own]
    both = [k for k in own if k in tensors]
    other_shape = [
        f"{k} is {list(tensors[k].shape)} but must be {list(own[k].shape)}"
        for k in both
        if tensors[k].shape != own[k].shape
    ]
    problems = [
        f"{what} {_first(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("other shape:", other_shape),
        )
        if names
    ]
    if problems:
        raise ModelError(
            f"{path}: the weights do not fit {type(net).__name__}: {'; '.join(problems)}"
        )


def _first(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")

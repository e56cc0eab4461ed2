"""What is done with any network: copied, put in evaluation mode, asked what it takes."""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnsplitter.errors import UnsupportedModelError, defined_at, first_line

M = TypeVar("M", bound=nn.Module)


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Put ``modules`` in eval mode for the block; every training flag inside is then restored."""
    training = [(m, m.training) for module in modules for m in module.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, flag in training:
            part.training = flag


def copied(net: M, replaced: dict[int, Any] | None = None) -> M:
    """Return a deep copy of ``net``.

    Args:
        net: Any network; not touched.
        replaced: What takes the place of a part in the copy, by the part's ``id``.

    Raises:
        UnsupportedModelError: It keeps a tensor that was computed, which PyTorch does not copy;
            names the layer and the attribute, and says what to do.
    """
    try:
        return copy.deepcopy(net, replaced)
    except RuntimeError as error:
        reason = _kept_tensor(net) or first_line(error)
        raise UnsupportedModelError(f"{type(net).__name__} cannot be copied: {reason}") from error


def user_hooks(net: nn.Module) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the forward hooks that no library registered, with the path of their layer."""
    for path, module in net.named_modules():
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            made_in = getattr(hook, "__module__", None) or type(hook).__module__
            if made_in.partition(".")[0] not in _LIBRARIES:
                yield path, hook


_LIBRARIES = ("torch", "torchvision", "timm", "cnnsplitter")


def require_one_input(model: nn.Module) -> None:
    """Raise ``UnsupportedModelError`` unless ``model`` can be called with images alone."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a forward without a signature, as of some compiled modules
        return
    needed = [p.name for p in parameters if p.default is p.empty and p.kind in _POSITIONAL_OR_NAMED]
    if len(needed) > 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} needs several inputs ({', '.join(needed)}; "
            f"{defined_at(model.forward)}); wrap it in a module whose forward takes the images "
            "alone and fills in the others"
        )


_POSITIONAL_OR_NAMED = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)


def _kept_tensor(net: nn.Module) -> str | None:
    for path, module in net.named_modules():
        layer = f"layer {path!r}" if path else "it"
        for name, value in vars(module).items():
            if name.startswith("_") or all(map(_is_leaf, tree_leaves(value))):
                continue
            if name in _computed_by_hooks(module):
                return (
                    f"{layer} keeps its {name!r}, which is computed from other weights; "
                    "cnnsplitter.bake(model), or --bake, makes it plain"
                )
            return (
                f"{layer} keeps a computed tensor in its attribute {name!r}; "
                "let it keep x.detach(), or nothing"
            )
    return None


def _is_leaf(value: object) -> bool:
    return not isinstance(value, Tensor) or value.is_leaf


def _computed_by_hooks(module: nn.Module) -> set[str]:
    """Return the attributes that PyTorch's own hooks compute, as those of ``weight_norm`` do."""
    hooks = module._forward_pre_hooks.values()
    own = [hook for hook in hooks if type(hook).__module__.startswith("torch.nn.utils")]
    return {str(getattr(hook, "name", "")) for hook in own}

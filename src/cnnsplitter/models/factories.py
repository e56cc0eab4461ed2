"""Networks that a person's own code builds: ``package.module:factory``, imported and called.

Only for references that a person has given for this run; what a file says is never run.
"""

import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from cnnsplitter.errors import ModelError, SettingsError, defined_at, did_you_mean, require_known
from cnnsplitter.models.references import Scalar


def build_with_factory(
    reference: str, arguments: Mapping[str, Scalar], *, seed: int = 0
) -> nn.Module:
    """Import a factory, from the current folder too, and call it.

    Args:
        reference: ``package.module:factory``; the factory is anything that can be called.
        arguments: Keyword arguments of the call.
        seed: Of random weights; global random state stays as it was.

    Raises:
        SettingsError: No such module or factory, or it does not take the arguments.
        ModelError: The module or the factory raises, or gives no ``torch.nn.Module``; names the
            file and line.
    """
    with torch.random.fork_rng(devices=[]), _current_folder_first():
        torch.manual_seed(seed)
        factory = _find(reference)
        _require_takes(reference, factory, arguments)
        try:
            net = factory(**arguments)
        except (Exception, SystemExit) as error:
            raise ModelError(f"factory {reference} {_what_happened(error)}") from error
    if not isinstance(net, nn.Module):
        raise ModelError(
            f"factory {reference} ({defined_at(factory)}) returns {_a(net)}, "
            "but must return a torch.nn.Module"
        )
    return net


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Import from the current folder for the block, as ``python -m`` does."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        # What the module did to the path meanwhile is its own business.
        with suppress(ValueError):
            sys.path.remove(folder)


def _find(reference: str) -> Callable[..., Any]:
    module_name, _, path = reference.partition(":")
    found: Any = _import(module_name, reference)
    for name in path.split("."):
        if not hasattr(found, name):
            known = [n for n in dir(found) if n[0] != "_" and callable(getattr(found, n, None))]
            raise SettingsError(
                f"model {reference}: {module_name} ({_file_of(module_name)}) has no {name!r}; "
                f"{did_you_mean(name, known)}"
            )
        found = getattr(found, name)
    if not callable(found):
        raise SettingsError(
            f"model {reference}: {path!r} ({_file_of(module_name)}) is {_a(found)}; "
            "name a function or class that builds the network"
        )
    return found  # type: ignore[no-any-return]


def _import(module: str, reference: str) -> object:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            raise SettingsError(
                f"model {reference}: no module {missing!r} in {os.getcwd()} or among the "
                "installed packages; name it as in `import`"
            ) from error
        what = f"importing {module} {_what_happened(error)}"
        raise ModelError(f"model {reference}: {what}") from error


def _require_takes(
    reference: str, factory: Callable[..., Any], arguments: Mapping[str, Scalar]
) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return  # Some callables of C have no signature; the call itself tells.
    try:
        signature.bind(**arguments)
    except TypeError as error:
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            for name in arguments:
                kind = f"argument of factory {reference} ({defined_at(factory)}):"
                require_known(kind, name, signature.parameters)
        raise SettingsError(
            f"factory {reference} ({defined_at(factory)}): {error}; give it with --model-arg"
        ) from error


def _what_happened(error: BaseException) -> str:
    reason = " ".join(str(error).split())
    return f"raised {type(error).__name__}: {reason} ({_place(error)})"


def _place(error: BaseException) -> str:
    """Return file and line of the innermost frame of the user's own code."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<")
    ]
    libraries = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))
    own = [frame for frame in frames if not frame.filename.startswith(libraries)]
    last = (own or frames)[-1:]
    return f"{last[0].filename}:{last[0].lineno}" if last else "line unknown"


def _file_of(module: str) -> str:
    return getattr(sys.modules.get(module), "__file__", None) or "no file"


def _a(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"

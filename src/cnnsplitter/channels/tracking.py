"""Knowing which module of a network is running."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


class Tracker:
    """Knows which module is running and, on request, what went into and came out of each.

    Attributes:
        running: Paths of the modules that are running, the innermost last.
        values: (path, tensor) in order of time; what goes in counts as the module's own, because
            keeping its channels often mends it, and keeps less than those of the caller.
    """

    def __init__(self, *, record: bool) -> None:
        self.running = [""]
        self.record = record
        self.values: list[tuple[str, Tensor]] = []

    @property
    def innermost(self) -> str:
        """Path of the innermost module that is running, "" for the network's own forward."""
        return self.running[-1]

    def enter(self, path: str, args: object) -> None:
        """Note that a module starts."""
        self.running.append(path)
        self._note(args)

    def leave(self, result: object) -> None:
        """Note that the innermost module ends."""
        self._note(result)
        self.running.pop()

    def _note(self, value: object) -> None:
        if self.record:
            leaves = tree_leaves(value)
            self.values += [(self.innermost, v.clone()) for v in leaves if isinstance(v, Tensor)]


@contextmanager
def tracked(net: nn.Module, *, record: bool = False) -> Iterator[Tracker]:
    """Track the modules of ``net`` while it runs.

    Args:
        net: The network.
        record: Whether to keep what goes into and comes out of each module.
    """
    tracker = Tracker(record=record)
    handles = []
    for name, module in net.named_modules():
        if name:
            # First of the hooks before, last of those after: masks are a part of the module.
            before = module.register_forward_pre_hook(
                lambda _, args, name=name: tracker.enter(name, args), prepend=True
            )
            after = module.register_forward_hook(lambda _, __, result: tracker.leave(result))
            handles += [before, after]
    try:
        yield tracker
    finally:
        for handle in handles:
            handle.remove()

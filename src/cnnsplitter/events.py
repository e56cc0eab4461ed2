"""What becomes of the steps of a long run: all that listen, TensorBoard, and the clock."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cnnsplitter.extras import require_extra
from cnnsplitter.progress import Progress, Step


def together(*listeners: Progress) -> Progress:
    """Return a progress that passes every step to all ``listeners``, in their order."""

    def progress(step: Step, /) -> None:
        for listener in listeners:
            listener(step)

    return progress


@dataclass(eq=False)
class Muted:
    """Passes steps on unless it is muted.

    Attributes:
        progress: Where to.
        is_muted: Whether it is.
    """

    progress: Progress
    is_muted: bool = False

    def __call__(self, step: Step, /) -> None:
        """Pass the step on, or drop it."""
        if not self.is_muted:
            self.progress(step)


@dataclass(eq=False)
class TimeLeft:
    """Passes steps on with ``seconds_left``, once a stage has made two steps to judge by.

    Attributes:
        progress: Where to.
    """

    progress: Progress
    _begun: dict[str, tuple[float, int]] = field(default_factory=dict)
    _done: dict[str, int] = field(default_factory=dict)

    def __call__(self, step: Step, /) -> None:
        """Add the time that the steps still to do take at the pace of those seen so far."""
        now = time.monotonic()
        if step.done <= self._done.get(step.stage, step.done):
            # the stage begins again, such as the search of the next model
            self._begun[step.stage] = now, step.done
        self._done[step.stage] = step.done
        begun, first = self._begun[step.stage]
        if step.done > first:
            left = (now - begun) / (step.done - first) * (step.total - step.done)
            step = replace(step, values={**step.values, "seconds_left": left})
        self.progress(step)


@dataclass(eq=False)
class TensorBoard:
    """Writes the figures of every step to a folder that TensorBoard shows.

    Attributes:
        folder: The folder; a run that is continued adds to it.
    """

    folder: Path

    def __post_init__(self) -> None:
        """Open the folder when there is something to write, but fail at once without the library.

        Raises:
            SettingsError: TensorBoard is not installed.
        """
        self._writer: Any = None
        _summary_writer()

    def __call__(self, step: Step, /) -> None:
        """Write the figures under ``stage/name``."""
        if self._writer is None:
            self._writer = _summary_writer()(str(self.folder))
        for name, value in step.values.items():
            self._writer.add_scalar(f"{step.stage}/{name}", value, step.done)
        self._writer.flush()


def _summary_writer() -> Any:
    require_extra("tensorboard", "torch.utils.tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter

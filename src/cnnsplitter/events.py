"""What becomes of the steps of a long run: a log that machines read, TensorBoard, and the clock."""

import json
import os
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from cnnsplitter.errors import StorageError
from cnnsplitter.extras import require_extra
from cnnsplitter.progress import Progress, Step
from cnnsplitter.reading import open_plain


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
class EventLog:
    """Appends one JSON object per step to a file; a run that is continued continues the file.

    Attributes:
        path: The file, by custom ``events.jsonl``.
    """

    path: Path
    _begun: bool = False

    def __call__(self, step: Step, /) -> None:
        """Append the step with its time.

        Raises:
            StorageError: The file cannot be written.
        """
        event = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "stage": step.stage,
            "done": step.done,
            "total": step.total,
            **step.values,
        }
        try:
            self._append(json.dumps(event))
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written ({error.strerror})") from error

    def _append(self, line: str) -> None:
        if not self._begun:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with open_plain(self.path) as file:
            if not self._begun and not _ends_whole(file):
                line = f"\n{line}"  # a run that was killed may have left half a line
            self._begun = True
            file.write(f"{line}\n".encode())


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


def _ends_whole(file: IO[bytes]) -> bool:
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read() == b"\n"


def _summary_writer() -> Any:
    require_extra("tensorboard", "torch.utils.tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter

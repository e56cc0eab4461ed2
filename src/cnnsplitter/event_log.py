"""The log of a run's steps that machines read: how it is written, and how its end is read."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from cnnsplitter.errors import StorageError
from cnnsplitter.progress import Step
from cnnsplitter.reading import open_plain, parse_json, read_end

EVENTS = "events.jsonl"
_END = 2**16
"""Bytes among which the last events are looked for; a log may be as long as a run."""


class Event(BaseModel):
    """A step as the log tells of it; its time and its figures are further fields."""

    model_config = ConfigDict(frozen=True, extra="allow")

    stage: str
    done: int
    total: int


def last_events(path: Path) -> list[Event]:
    """Return the last events of a log; what is no event, such as half a line, is passed over.

    Raises:
        OSError: The file is missing or no regular one.
    """
    return list(_events(read_end(path, most=_END).splitlines()))


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


def _events(lines: list[str]) -> Iterator[Event]:
    for line in lines:
        try:
            yield Event.model_validate(parse_json(line))
        except (ValueError, ValidationError):  # a killed run leaves half a line
            continue


def _ends_whole(file: IO[bytes]) -> bool:
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read() == b"\n"

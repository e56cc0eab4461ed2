"""How long-running functions tell what they are doing; nothing here prints."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Step:
    """One step of a long-running stage.

    Attributes:
        stage: What is running, such as ``"train strong"`` or ``"search"``.
        done: Steps finished.
        total: Steps in all.
        values: The figures worth showing, such as ``{"accuracy": 0.91}``.
    """

    stage: str
    done: int
    total: int
    values: Mapping[str, float] = field(default_factory=dict)


class Progress(Protocol):
    """Called after every step of a stage."""

    def __call__(self, step: Step, /) -> None:
        """Take note of one finished step."""
        ...


def silent(step: Step, /) -> None:
    """Ignore the step: the default of every library function."""

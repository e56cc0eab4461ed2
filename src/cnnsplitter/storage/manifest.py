"""What the manifest of each kind of file holds; unknown keys and wrong types are refused."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Size = Annotated[int, Field(ge=1, le=65_536)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArchitecturePart(_Part):
    """How to build a network again; a factory's name is kept for information and never called."""

    name: str
    arguments: dict[str, bool | int | float | str | None]
    baked: bool = False


class NetPart(_Part):
    """A network; its tensors have the part's name as prefix.

    Attributes:
        classes: Names of its logits.
        input_shape: (C, H, W).
        mean: Of the preprocessing.
        std: Of the preprocessing.
        architecture: None for a network that the user brought.
    """

    classes: tuple[str, ...]
    input_shape: tuple[Size, Size, Size]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    architecture: ArchitecturePart | None


class SelectionPart(_Part):
    """A selection; its units are a tensor.

    Attributes:
        units: How many there are, kept or not.
        fingerprint: Of the strong model's channel map.
    """

    units: int
    fingerprint: str


class ClassModulePart(NetPart):
    """A narrow network that scores one class.

    Attributes:
        source_class: The class, by its name in the strong model.
        sized: Attributes that hold numbers of channels.
        selection: What it keeps of the strong model, if that is known.
    """

    source_class: str
    sized: dict[str, int | tuple[int, ...]]
    selection: SelectionPart | None


class SubtaskPart(NetPart):
    """A narrow network that tells some classes of a strong model apart; ``classes`` are these.

    Attributes:
        sized: Attributes that hold numbers of channels.
        selection: What it keeps of the strong model, if that is known.
    """

    sized: dict[str, int | tuple[int, ...]]
    selection: SelectionPart | None


class GatePart(_Part):
    """Where a class module is run."""

    doubt: str
    threshold: float


class PatchPart(_Part):
    """A class module attached to a class of a weak model."""

    target: str
    calibration: dict[str, Any]
    module: ClassModulePart
    gate: GatePart | None = None


class _File(_Part):
    details: dict[str, Any]


class ClassifierFile(_File):
    """A strong or weak model."""

    kind: Literal["classifier"] = "classifier"
    net: NetPart


class ClassModuleFile(_File):
    """A class module."""

    kind: Literal["class-module"] = "class-module"
    module: ClassModulePart


class SubtaskFile(_File):
    """The network of a sub-task."""

    kind: Literal["subtask"] = "subtask"
    net: SubtaskPart


class ComposedFile(_File):
    """Class modules side by side."""

    kind: Literal["composed"] = "composed"
    modules: tuple[ClassModulePart, ...]
    calibrations: tuple[dict[str, Any], ...] | None


class PatchedFile(_File):
    """A weak model with its patches.

    Attributes:
        weak: The weak model.
        patches: The patches.
        rule: How they are brought together.
        classes: Names of the outputs; None for those of the weak model.
    """

    kind: Literal["patched"] = "patched"
    weak: NetPart
    patches: tuple[PatchPart, ...]
    rule: str
    classes: tuple[str, ...] | None = None


AnyFile = Annotated[
    ClassifierFile | ClassModuleFile | SubtaskFile | ComposedFile | PatchedFile,
    Field(discriminator="kind"),
]

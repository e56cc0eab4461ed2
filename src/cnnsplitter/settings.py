"""Validation of settings that a person has written."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cnnsplitter.errors import SettingsError, did_you_mean

S = TypeVar("S", bound=BaseModel)


def parse_settings(kind: type[S], values: dict[str, Any], where: str) -> S:
    """Validate settings; a ``SettingsError`` names the key and, if unknown, the nearest match."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            hint = did_you_mean(str(first["loc"][-1]), _fields_at(kind, first["loc"][:-1]))
            raise SettingsError(f"{where}: unknown key {key!r}; {hint}") from error
        # An error raised by a check of ours has its own text.
        reason = first.get("ctx", {}).get("error", first["msg"])
        raise SettingsError(f"{where}: {key}: {reason}" if key else f"{where}: {reason}") from error


def _fields_at(kind: Any, place: tuple[int | str, ...]) -> tuple[str, ...]:
    """Return the keys known at ``place``; none where it leads through a choice of types."""
    for part in place:
        field = getattr(kind, "model_fields", {}).get(part)
        kind = field and field.annotation
    return tuple(getattr(kind, "model_fields", ()))

"""Libraries that only some functions need, and what to install when they are missing."""

from importlib import import_module

from cnnsplitter.errors import SettingsError, first_line


def require_extra(extra: str, *modules: str) -> None:
    """Raise ``SettingsError`` with what to install unless all ``modules`` can be imported.

    Args:
        extra: The extra of this package that brings them.
        modules: Names to import; they are loaded.
    """
    for name in modules:
        try:
            import_module(name)
        except (ImportError, RuntimeError, OSError) as error:
            reason = first_line(error)
            raise SettingsError(
                f"{name} cannot be imported ({reason}); pip install 'cnnsplitter[{extra}]'"
            ) from error

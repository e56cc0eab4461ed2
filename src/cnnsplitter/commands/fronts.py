"""``split --pareto``: the same search at several budgets, of whose results a person picks one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cnnsplitter.commands.options import require_free
from cnnsplitter.commands.searches import chosen_search, described, search_name
from cnnsplitter.errors import SettingsError, StorageError
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.search.registry import AnySearch

_TITLE = "Accuracy against cost"
_CAPTION = (
    "Composed model on the test images, against the share of the strong model's multiply-adds "
    "that a class module keeps on average."
)


def split_front(
    context: typer.Context,
    terminal: Terminal,
    split: "Callable[[Path, AnySearch], dict[str, Any]]",
) -> None:
    """Split once for each share of ``--pareto``, into a folder of its own, and plot the results.

    Args:
        context: Of ``split``.
        terminal: Shows the results.
        split: Writes class modules to a folder, found by a search, and returns its figures.
    """
    options = context.params
    shares, search, out = chosen_shares(options), chosen_search(context), options["out"]
    if "keep" not in type(search).model_fields:
        raise SettingsError(
            f"--pareto needs a search with the option 'keep', which {search_name(context)!r} has "
            "not; take another --search"
        )
    require_free(out / "pareto.json", options["force"])
    points = []
    for share in shares:
        folder, one = folder_of(out, share), search.model_copy(update={"keep": share})
        result = _finished(context, folder, one) or split(folder, one)
        points.append({"keep": share, "folder": folder.name, **_figures(result)})
    _write(out, points)
    terminal.table(f"{_TITLE}; each row's class modules are in its folder", points)
    terminal.line(f"Written to {out}")
    terminal.result({"points": points})


def folder_of(out: Path, share: float) -> Path:
    """Return where the class modules of one share are written."""
    return out / f"keep-{share:g}"


def chosen_shares(options: Mapping[str, Any]) -> list[float]:
    """Parse ``--pareto``."""
    text = options["pareto"]
    if options["keep"] is not None:
        raise SettingsError("--keep is one share and --pareto several; give one of the two")
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if not shares or not all(0 < share <= 1 for share in shares):
        raise SettingsError(f"--pareto {text!r} must be shares between 0 and 1, such as 0.8,0.6")
    return sorted(set(shares), reverse=True)


def _finished(context: typer.Context, folder: Path, search: "AnySearch") -> dict[str, Any] | None:
    """Return the result that the same command had in a folder before it was stopped."""
    from cnnsplitter.results import read_json
    from cnnsplitter.storage.saving import describe

    options, path = context.params, folder / "split.json"
    if options["force"] or not path.exists():
        return None
    result: dict[str, Any] = read_json(path)
    try:
        _figures(result)
        made = dict(describe(folder / Path(result["files"][0]).name)["details"])
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise StorageError(f"{path}: is no result of a split; remove it, or --force") from error
    same = {"seed": options["seed"], "data": options["data"], "strong": options["strong"].name}
    same["search"] = described(context, search)
    return result if made | same == made else None


def _figures(result: Mapping[str, Any]) -> dict[str, float]:
    figures = {"accuracy": _share(result["composed_accuracy"])}
    for name in ("kept_kernels", "kept_macs"):
        values = [_share(row[name]) for row in result["modules"]]
        figures[name] = sum(values) / len(values)
    return figures


def _share(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no share")
    return value


def _write(out: Path, points: list[dict[str, Any]]) -> None:
    from cnnsplitter import figures
    from cnnsplitter.files import replacing
    from cnnsplitter.report import find_reports
    from cnnsplitter.report.page import write_page
    from cnnsplitter.results import write_json

    figure = figures.pareto_front(
        [point["kept_macs"] for point in points], [point["accuracy"] for point in points]
    )
    with replacing(out / "pareto.svg") as temporary:
        temporary.write_text(figures.as_svg(figure, _TITLE, _CAPTION), encoding="utf-8")
    write_json(out / "pareto.json", {"points": points})
    write_page(out / "report.html", find_reports(out))

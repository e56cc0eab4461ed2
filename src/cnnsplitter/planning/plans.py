"""What ``split``, ``patch`` and whole runs would do; nothing long is done, nothing is written."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import Splits
from cnnsplitter.patches.fitting import Fitting
from cnnsplitter.patches.patching import require_classes
from cnnsplitter.pipeline import Run
from cnnsplitter.planning.base import Network, Plan, image_row, layer_rows, network_row
from cnnsplitter.planning.measured import fitting_seconds
from cnnsplitter.planning.memory import memory_of
from cnnsplitter.planning.steps import run_step, split_steps, step, train_step
from cnnsplitter.run_folder import file_name
from cnnsplitter.search.registry import AnySearch
from cnnsplitter.sensitivity import RATIOS
from cnnsplitter.splitting import Units, Unknown, require_usable, search_set, trace


def plan_split(
    strong: Classifier,
    data: Splits,
    search: AnySearch,
    search_images: int | None,
    out: Iterable[Path],
    *,
    units: Units = "conv",
    unknown: Unknown = "error",
    sensitivity_known: bool = False,
    seed: int = 0,
) -> Plan:
    """Return what a split would do; errors as for ``splitting.split``, before any long work.

    Args:
        strong: The strong model; the layout of its weights may change.
        data: Its images.
        search: How selections are searched.
        search_images: At most so many score them.
        out: Folders that are written, one search for each.
        units: See ``splitting.split``.
        unknown: Likewise.
        sensitivity_known: Whether the curves are measured already.
        seed: Of what is timed.
    """
    require_usable(strong, data, data.search)
    channels = trace(strong, units=units, unknown=unknown)
    count = len(search_set(search, data.search, search_images, seed))
    ratios = 0 if sensitivity_known else len(RATIOS)
    steps = split_steps(strong, channels, search, data, count, ratios=ratios, seed=seed)
    writes = tuple(out)
    return Plan(
        (image_row("the strong model", data),),
        (network_row("strong", strong),),
        layer_rows(channels, search),
        steps * len(writes),
        memory_of([strong], splits=(strong, search, count)),
        writes,
    )


def plan_patch(
    weak: Classifier,
    modules: Mapping[str, ClassModule],
    data: Splits,
    out: Path,
    fitting: Fitting | None = None,
) -> Plan:
    """Return what ``patch`` would do; the layout of the models' weights may change.

    Args:
        weak: The weak model.
        modules: Class modules by the classes that they are to patch.
        data: Images of the weak model's classes, and of those that are added.
        out: The file that is written.
        fitting: How patches are fitted.

    Raises:
        DataError: Data of other classes.
    """
    require_classes(weak, modules, data.classes)
    models: list[Network] = [weak, *modules.values()]
    rows = [network_row("weak", weak)]
    rows += [network_row(f"class module of {name}", part) for name, part in modules.items()]
    steps = (
        run_step("calibration images", models, len(data.calibration)),
        step(
            "fit, and judge on held-out images",
            f"{len(data.calibration):,} images",
            fitting_seconds(weak, modules, data.calibration, fitting or Fitting()),
        ),
        run_step("test images, before and after", [weak, *models], len(data.test)),
    )
    images = (image_row("the weak model", data),)
    return Plan(images, tuple(rows), (), steps, memory_of(models), (out,))


def plan_run(run: Run) -> Plan:
    """Return what a run has still to do; ``Run.check`` tells first whether it can be done."""
    recipe, targets = run.recipe, run.recipe.patch.targets
    images = {"strong": run.strong_data}
    images |= {f"weak-{file_name(target)}": run.weak_data(target) for target in targets}
    settings = {name: recipe.strong if name == "strong" else recipe.weak for name in images}
    models = {name: run.untrained(settings[name], data) for name, data in images.items()}
    channels = trace(models["strong"], units=recipe.search.units)
    steps = [
        train_step(name, models[name], data, settings[name].training.epochs)
        for name, data in images.items()
        if not (run.folder / f"{name}.safetensors").exists()
    ]
    search, count = recipe.search.search, len(run.search_images)
    ratios = 0 if (run.folder / "sensitivity.json").exists() else len(recipe.search.ratios)
    steps += split_steps(
        models["strong"], channels, search, run.strong_data, count, ratios=ratios, seed=recipe.seed
    )
    patched = targets[0] if len(targets) == 1 else f"{len(targets)} classes"
    steps.append(step("patches and report", f"of {patched}", None))
    return Plan(
        tuple(image_row(name, data) for name, data in images.items()),
        tuple(network_row(name, model) for name, model in models.items()),
        layer_rows(channels, search),
        () if (run.folder / "report.json").exists() else tuple(steps),
        memory_of(
            models.values(),
            trained=max(recipe.strong.training.batch_size, recipe.weak.training.batch_size),
            splits=(models["strong"], search, count),
        ),
        (run.folder,),
    )

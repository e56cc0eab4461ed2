"""Class modules, narrow CNNs that score one class each, and their composition."""

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from cnnsplitter.calibration import Calibration, fit_calibration
from cnnsplitter.channels.cutting import Sizes
from cnnsplitter.classifier import Architecture, Classifier, logits_of
from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError, SettingsError, require_known
from cnnsplitter.inference import predict
from cnnsplitter.preprocessing import Preprocessing
from cnnsplitter.selection import Selection
from cnnsplitter.summaries import Row, Summarised, Summary


class ClassModule(Summarised, nn.Module):
    """A narrow CNN cut out of a strong model; it scores one class. The net is put in eval mode.

    Attributes:
        net: The narrow network, from preprocessed images to all N logits of the strong model.
        source_class: The class it scores, by its name in the strong model.
        classes: The N class names of the strong model.
        index: Column of ``source_class`` in the logits.
        input_shape: (C, H, W) of one image.
        preprocessing: Applied to the images before ``net``.
        architecture: How to build the strong model's network, or None if it is the user's own.
        selection: The units kept of the strong model, or None for all of them.
        sized: Attributes of ``net`` that hold numbers of channels (``surgery.sized_values``).
    """

    def __init__(
        self,
        net: nn.Module,
        source_class: str,
        classes: tuple[str, ...],
        input_shape: tuple[int, int, int],
        preprocessing: Preprocessing | None = None,
        architecture: Architecture | None = None,
        selection: Selection | None = None,
        sized: Sizes | None = None,
    ) -> None:
        super().__init__()
        require_known("class of the strong model", source_class, classes)
        self.net = net
        self.source_class = source_class
        self.classes = tuple(classes)
        self.index = self.classes.index(source_class)
        self.input_shape = input_shape
        self.preprocessing = preprocessing or Preprocessing()
        self.architecture = architecture
        self.selection = selection
        self.sized = dict(sized or {})
        self.eval()

    @classmethod
    def of(
        cls,
        strong: Classifier,
        source_class: str,
        net: nn.Module | None = None,
        selection: Selection | None = None,
        sized: Sizes | None = None,
    ) -> "ClassModule":
        """Return the class module ``net`` with the metadata of ``strong``.

        Args:
            strong: The model that ``net`` was cut out of; left untouched.
            source_class: The class to score.
            net: The narrow network; None for a copy of the whole network, the ceiling of any patch.
            selection: The units that ``net`` keeps.
            sized: Its attributes that hold numbers of channels.
        """
        net = copy.deepcopy(strong.net) if net is None else net
        return cls(
            net,
            source_class,
            strong.classes,
            strong.input_shape,
            strong.preprocessing,
            strong.architecture,
            selection,
            sized,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images uint8 or float [B, C, H, W] to the raw score of the class, float[B]."""
        return logits_of(self.net(self.preprocessing(images)))[:, self.index]

    def extra_repr(self) -> str:
        """Name the class in the printed model."""
        return f"source_class={self.source_class!r}"

    def facts(self) -> Row:
        """Return what the narrow network is, as texts."""
        keep = None if self.selection is None else self.selection.keep
        return {
            "scores": self.source_class,
            "network": type(self.net).__name__,
            "kernels": f"{sum(m.out_channels for m in _convolutions(self.net)):,}",
            "parameters": f"{sum(p.numel() for p in self.net.parameters()):,}",
            "units kept": "all" if keep is None else f"{int(keep.sum()):,} of {len(keep):,}",
        }

    def summary(self) -> Summary:
        """Return what is worth seeing at a glance."""
        remark = f"Of a strong model for {len(self.classes)} classes; images {self.input_shape}."
        return Summary(f"Class module of {self.source_class}", [self.facts()], remark)


class ComposedModel(Summarised, nn.Module):
    """Class modules side by side; the argmax over their scores is the predicted class.

    They may score a part of a strong model's classes, and come from different strong models:
    each has its own preprocessing, and calibrations make their scores comparable.

    Attributes:
        modules_: The N class modules.
        calibrations: One per class module, or None to compare raw scores.
    """

    def __init__(
        self,
        modules: Iterable[ClassModule],
        calibrations: Iterable[Calibration] | None = None,
    ) -> None:
        super().__init__()
        self.modules_ = nn.ModuleList(modules)
        self.calibrations = None if calibrations is None else tuple(calibrations)
        _check_composition(self.class_modules)
        if self.calibrations is not None and len(self.calibrations) != len(self.modules_):
            raise SettingsError(
                f"{len(self.modules_)} class modules but {len(self.calibrations)} calibrations; "
                "give one for each"
            )
        self.eval()

    @property
    def class_modules(self) -> tuple[ClassModule, ...]:
        """The N class modules, in the order of the output columns."""
        return tuple(self.modules_)  # type: ignore[arg-type]

    @property
    def classes(self) -> tuple[str, ...]:
        """The N class names, in the order of the output columns."""
        return tuple(module.source_class for module in self.class_modules)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.class_modules[0].input_shape

    def summary(self) -> Summary:
        """Return what is worth seeing at a glance."""
        rows = [module.facts() for module in self.class_modules]
        return Summary(f"Composed model of {len(rows)} class modules", rows)

    def forward(self, images: Tensor) -> Tensor:
        """Map images uint8 or float [B, C, H, W] to one score per class, float[B, N]."""
        scores = [module(images) for module in self.modules_]
        if self.calibrations is not None:
            scores = [rule(s) for rule, s in zip(self.calibrations, scores, strict=True)]
        return torch.stack(scores, dim=1)


def compose(
    modules: Mapping[str, ClassModule] | Iterable[ClassModule],
    calibrations: Mapping[str, Calibration] | None = None,
) -> ComposedModel:
    """Put class modules side by side; they are shared with the composed model, not copied.

    Args:
        modules: Class modules, or a mapping to them from the names of their classes.
        calibrations: For every class its calibration, by class name. Fit them with ``clip=False``:
            clipped scores tie.

    Raises:
        SettingsError: No class module, two of one class, a key that is not the class's name, or
            calibrations of other classes.
        DataError: Class modules that take images of different shapes.
    """
    if isinstance(modules, Mapping):
        for name, module in modules.items():
            if name != module.source_class:
                raise SettingsError(
                    f"key {name!r} holds the class module of {module.source_class!r}; "
                    "use the class's own name"
                )
        modules = modules.values()
    modules = tuple(modules)
    if calibrations is None:
        return ComposedModel(modules)
    names = [module.source_class for module in modules]
    if set(names) != set(calibrations):
        raise SettingsError(
            f"calibrations of {sorted(calibrations)} for class modules of {sorted(names)}; "
            "give one for each"
        )
    return ComposedModel(modules, (calibrations[name] for name in names))


def calibrate(
    module: ClassModule, data: ImageSet, target: str, method: str, *, clip: bool = True
) -> Calibration:
    """Fit a named rule on the scores that ``module`` gives to the images of one class.

    Args:
        module: The class module; left untouched.
        data: Calibration images; only those of ``target`` are run.
        target: The class of ``data`` that ``module`` is to score; its name there may differ from
            the one in the strong model.
        method: One of ``calibration.METHODS``.
        clip: See ``fit_calibration``.

    Raises:
        SettingsError: ``target`` is not a class of ``data``, or the rule is unknown.
        DataError: No image of the class, images of another shape, or scores that cannot be scaled.
    """
    require_known("class", target, data.classes)
    images = data.only([target])
    if not len(images):
        raise DataError(
            f"class {target!r} has no calibration image in {data.images.name}; add some"
        )
    require_same_shape({_named(module): module.input_shape, data.images.name: data.images.shape})
    scores = predict(module, images)
    try:
        return fit_calibration(method, scores, torch.ones(len(scores), dtype=torch.bool), clip=clip)
    except DataError as error:
        raise DataError(f"class {target!r}: {error}") from error


def require_same_shape(shapes: Mapping[str, tuple[int, int, int]]) -> None:
    """Raise ``DataError`` unless the (C, H, W) of all the named models and images are equal."""
    (name, shape), *others = shapes.items()
    for other, other_shape in others:
        if tuple(shape) != tuple(other_shape):
            raise DataError(
                f"{name} has images of shape {tuple(shape)} but {other} of {tuple(other_shape)}; "
                "use models and images of one shape"
            )


def _check_composition(modules: tuple[ClassModule, ...]) -> None:
    if not modules:
        raise SettingsError("nothing to compose; give at least one class module")
    names = [module.source_class for module in modules]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"class {name!r} has {names.count(name)} class modules; keep one")
    require_same_shape({_named(module): module.input_shape for module in modules})


def _convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [module for module in net.modules() if isinstance(module, nn.Conv2d)]


def _named(module: ClassModule) -> str:
    return f"the class module of {module.source_class!r}"

"""Sub-tasks: one narrow network for some of the classes, whose units all of them share.

As many class modules side by side cost as many times; a sub-task's network costs once.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import or_

from torch import nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.cutting import Sizes, sized_values
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Architecture, Classifier
from cnnsplitter.errors import SettingsError, require_known
from cnnsplitter.heads import cut_head
from cnnsplitter.preprocessing import Preprocessing
from cnnsplitter.selection import Selection
from cnnsplitter.splitting import trace_of
from cnnsplitter.surgery import extract


class Subtask(Classifier):
    """A narrow network cut out of a strong model that tells some of its classes apart.

    Attributes:
        net: The narrow network, from preprocessed images to one logit for each class.
        classes: The K class names of the sub-task, in the order of the logits.
        selection: The units kept of the strong model, or None if they are not known.
        sized: Attributes of ``net`` that hold numbers of channels (``cutting.sized_values``).
    """

    def __init__(
        self,
        net: nn.Module,
        classes: tuple[str, ...],
        input_shape: tuple[int, int, int],
        preprocessing: Preprocessing | None = None,
        architecture: Architecture | None = None,
        selection: Selection | None = None,
        sized: Sizes | None = None,
    ) -> None:
        super().__init__(net, classes, input_shape, preprocessing, architecture)
        self.selection = selection
        self.sized = dict(sized or {})
        self.eval()

    @classmethod
    def of(
        cls,
        restricted: Classifier,
        net: nn.Module,
        selection: Selection | None = None,
        sized: Sizes | None = None,
    ) -> "Subtask":
        """Return the sub-task network ``net`` with the metadata of the model it was cut out of."""
        return cls(
            net,
            restricted.classes,
            restricted.input_shape,
            restricted.preprocessing,
            restricted.architecture,
            selection,
            sized,
        )


def restrict(strong: Classifier, classes: Iterable[str]) -> Classifier:
    """Return a copy of ``strong`` that knows some of its classes only, in the given order.

    The last layer keeps the rows of their logits, so these are as before.

    Raises:
        SettingsError: An unknown class, one that is named twice, or fewer than two.
        UnsupportedModelError: The logits are not the outputs of a last layer.
    """
    classes = tuple(classes)
    columns = _columns(strong, classes)
    strong.check()
    net = cut_head(strong.net, strong.example(), columns)
    return Classifier(
        net, classes, strong.input_shape, strong.preprocessing, strong.architecture
    ).train(strong.training)


def cut(restricted: Classifier, channels: ChannelMap, selection: Selection) -> Subtask:
    """Cut the sub-task network of one selection out of a restricted strong model."""
    net = extract(restricted.net, channels, selection)
    return Subtask.of(restricted, net, selection, sized_values(channels, selection.keep))


def unite(strong: Classifier, modules: Iterable[ClassModule]) -> Subtask:
    """Return one network that keeps every unit that one of the class modules keeps.

    It costs less than the class modules side by side as far as they keep the same units; its
    logits are other ones than theirs, as every class sees the units of all.

    Args:
        strong: The strong model that all the class modules were cut out of.
        modules: At least two; their classes are those of the result, in this order.

    Raises:
        SettingsError: Fewer than two class modules, two of one class, one of another strong
            model's class, or one that does not know its units.
        SelectionError: A class module of another strong model.
        UnsupportedModelError: See ``restrict``.
    """
    modules = tuple(modules)
    columns = _columns(strong, [module.source_class for module in modules])
    selections = []
    for module in modules:
        if module.selection is None:
            raise SettingsError(
                f"the class module of {module.source_class!r} does not know which units it keeps; "
                "unite those that a split gave"
            )
        selections.append(module.selection)
    union = reduce(or_, selections)
    channels = trace_of(strong, union)
    net = cut_head(extract(strong.net, channels, union), strong.example(), columns)
    classes = tuple(module.source_class for module in modules)
    restricted = Classifier(
        net, classes, strong.input_shape, strong.preprocessing, strong.architecture
    )
    return Subtask.of(restricted, net, union, sized_values(channels, union.keep))


def _columns(strong: Classifier, classes: Sequence[str]) -> list[int]:
    if len(classes) < 2:
        raise SettingsError(f"a sub-task has at least two classes, not ({', '.join(classes)})")
    for name in classes:
        require_known("class of the strong model", name, strong.classes)
        if classes.count(name) > 1:
            raise SettingsError(f"class {name!r} is named twice in ({', '.join(classes)})")
    return [strong.classes.index(name) for name in classes]

"""What a shell completes values with.

A shell asks while a person types, too soon for the import of PyTorch; so the names stand here, and
a test holds them to the ones that the package knows. Where none fits, the shell offers files.
"""

from collections.abc import Callable
from importlib.resources import files

from cnnsplitter.zoo import PREFIX, names

METHODS = ("min-max", "percentile", "outlier", "z-score")
CALIBRATIONS = ("learned", "auto", "temperature", "isotonic", "linear", *METHODS)
DATA = ("digits", "cifar10", "cifar100", "svhn", "mnist", "fashion-mnist")
ENGINES = ("local", "ray")
IMPORTANCES = ("feature-maps", "taylor")
INPUTS = ("uint8", "float32")
NETWORKS = (
    *("simcnn", "rescnn", "incecnn", "resnet20", "resnet32", "resnet44", "resnet56", "lenet5"),
    *("weak-simcnn", "weak-rescnn", "weak-simcnn-5", "weak-rescnn-5"),
)
LIBRARIES = ("torchvision:", "timm:")
OBJECTIVES = ("likelihood", "f1", "recall", "precision")
RULES = ("replace", "renormalise")
SEARCHES = ("genetic", "gradient", "importance", "random")
TARGETS = ("kernels", "multiply-adds")
UNITS = ("conv", "all")


def one_of(*names: str) -> Callable[[], list[str]]:
    """Return a completion with these names."""
    return lambda: list(names)


def recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    names = (file.name for file in files("cnnsplitter").joinpath("recipes").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def presets() -> list[str]:
    """Return the names of the published configurations, each of which has a recipe."""
    return [name for name in recipes() if name != "demo"]


def zoo_models() -> list[str]:
    """Return the models of the zoo, as they are named where a file is taken."""
    return [f"{PREFIX}{name}" for name in names()]

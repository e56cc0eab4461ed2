"""The names that shells complete with are those that the package knows."""

import subprocess
import sys
from typing import get_args

import pytest

from cnnsplitter import calibration, engines, recipes, splitting, zoo
from cnnsplitter.commands import completing
from cnnsplitter.data.named import NAMED_SETS
from cnnsplitter.exporting import InputType
from cnnsplitter.models import MODELS, build_model
from cnnsplitter.patches import combining, fitting, operating_point
from cnnsplitter.search import SEARCHES
from cnnsplitter.search.budget import Target
from cnnsplitter.search.presets import PRESETS


@pytest.mark.parametrize(
    ("offered", "known"),
    [
        (completing.METHODS, calibration.METHODS),
        (completing.CALIBRATIONS, fitting.CHOICES),
        (completing.DATA, NAMED_SETS),
        (completing.ENGINES, engines.ENGINES),
        (completing.IMPORTANCES, get_args(splitting.Measure)),
        (completing.INPUTS, get_args(InputType)),
        (completing.NETWORKS, MODELS),
        (completing.OBJECTIVES, operating_point.OBJECTIVES),
        (completing.RULES, combining.RULES),
        (completing.SEARCHES, SEARCHES),
        (completing.TARGETS, get_args(Target)),
        (completing.UNITS, get_args(splitting.Units)),
        (completing.presets(), PRESETS),
        (completing.zoo_models(), [f"zoo:{name}" for name in zoo.names()]),
    ],
)
def test_names_are_those_that_are_known(offered: list[str], known: list[str]) -> None:
    assert set(offered) == set(known)
    assert len(offered) == len(known)


def test_recipes_and_libraries_can_be_opened() -> None:
    for name in completing.recipes():
        assert recipes.load_recipe(name).patch.targets
    for prefix, name in zip(completing.LIBRARIES, ("resnet18", "resnet18"), strict=True):
        net, _ = build_model(f"{prefix}{name}", 2, (3, 32, 32))
        assert list(net.parameters())


def test_a_shell_does_not_wait_for_pytorch() -> None:
    code = (
        "import sys, cnnsplitter.commands.completing as c; c.recipes(); c.zoo_models(); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

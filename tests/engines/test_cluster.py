import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hazards
import toys
from cnnsplitter.engines import RayCluster
from cnnsplitter.errors import DataError, EngineError, SettingsError
from cnnsplitter.scoring import CutScorer


def scorer() -> CutScorer:
    strong = toys.classifier("lenet5", width=0.5)
    return CutScorer(strong, toys.traced(strong), toys.image_set(40), batch_size=16)


def candidates(scorer: CutScorer, count: int = 21) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    keep = [scorer.channels.random_selection(0.6, generator=generator).keep for _ in range(count)]
    return torch.arange(count) % 3, torch.stack(keep)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.MonkeyPatch.context() as patched:
        # Actors import what the tests put into their data.
        patched.setenv("PYTHONPATH", os.pathsep.join(place for place in sys.path if place))
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()


def test_a_cluster_that_does_not_answer_is_named() -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    with (
        pytest.raises(EngineError, match="no Ray at nowhere"),
        RayCluster(1, "nowhere").spread(scorer()),
    ):
        pass


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.large), None])
def test_actors_change_no_bit_and_end_with_the_block(ray: Any, workers: int | None) -> None:
    here = scorer()
    owner, keep = candidates(here)
    with RayCluster(workers).spread(here) as spread:
        assert torch.equal(spread(owner, keep), here(owner, keep))
        assert torch.equal(spread(owner[:2], keep[:2], 16), here(owner[:2], keep[:2], 16))
        with (
            pytest.raises(EngineError, match=r"has \d free CPUs for 4 workers"),
            RayCluster(4).spread(here),
        ):
            pass


def test_a_killed_actor_costs_only_its_own_work(ray: Any, tmp_path: Path) -> None:
    here = scorer()
    owner, keep = candidates(here)
    unsafe = replace(here, data=hazards.deadly(here.data, tmp_path, deaths=1))
    with RayCluster(2).spread(unsafe) as spread:
        assert torch.equal(spread(owner, keep), here(owner, keep))
        assert not list(tmp_path.iterdir())


def test_an_actor_out_of_memory_is_replaced(ray: Any, tmp_path: Path) -> None:
    here = scorer()
    owner, keep = candidates(here)
    unsafe = replace(here, data=hazards.starving(here.data, tmp_path, ["PyTorch"]))
    with RayCluster(2).spread(unsafe) as spread:
        assert torch.equal(spread(owner, keep), here(owner, keep))
        assert not list(tmp_path.iterdir())


@pytest.mark.large
def test_work_that_kills_every_actor_is_given_up(ray: Any, tmp_path: Path) -> None:
    here = scorer()
    unsafe = replace(here, data=hazards.deadly(here.data, tmp_path, deaths=50))
    with (
        pytest.raises(EngineError, match=r"^3 workers of the Ray cluster ended .* memory"),
        RayCluster(1).spread(unsafe) as spread,
    ):
        spread(*candidates(here))
    assert len(list(tmp_path.iterdir())) >= 50 - 3 * 2


def test_an_error_of_an_actor_keeps_its_type(ray: Any) -> None:
    here = scorer()
    broken = replace(here, data=hazards.raising(here.data, hazards.damaged()))
    with (
        RayCluster(1).spread(broken) as spread,
        pytest.raises(DataError, match=r"^bird.jpg: cannot be decoded"),
    ):
        spread(*candidates(here))


def test_without_ray_the_extra_is_named() -> None:
    """In a process of its own, because threads of Ray may still be running in this one."""
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from cnnsplitter.engines import RayCluster\n"
        "from cnnsplitter.errors import SettingsError\n"
        "try: RayCluster().spread(None).__enter__()\n"
        "except SettingsError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ray.util cannot be imported")
    assert done.stdout.endswith("; pip install 'cnnsplitter[ray]'\n")


def test_a_number_of_workers_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least 1"):
        RayCluster(0)

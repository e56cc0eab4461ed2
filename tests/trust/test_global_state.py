"""What a public call leaves of the state that all code shares: everything as it was."""

import decimal
import gc
import locale
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import cnnsplitter
import toys
from cnnsplitter.scoring import CutScorer
from shop import write_npz

cs: Any = cnnsplitter
sharing: Any = torch.multiprocessing

SEARCH: dict[str, Any] = {"population": 4, "parents": 2, "elites": 1, "generations": 1}
TRAINING = cs.Training(epochs=1, batch_size=8)


class Stage:
    """What the calls need, made before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.npz = write_npz(folder / "data.npz", each=6)
        self.strong, self.weak = toys.classifier(), toys.classifier("lenet5", seed=1)
        self.data = toys.splits(18)
        self.channels = toys.traced(self.strong)
        self.module, self.other = (toys.class_module(self.strong, n) for n in ("dog", "cat"))
        self.selection = self.channels.random_selection(0.5, generator=torch.Generator())
        self.importance = cs.measure_importance(self.strong, self.channels, self.data.train)
        torch.save(self.weak.net.state_dict(), folder / "weights.pt")
        cs.save(self.module, folder / "module.safetensors")
        cs.save_folder(self.module, folder / "hub")

    def split(self, search: Any) -> Any:
        return cs.split(self.strong, self.data, search=search, seed=0, importance=self.importance)


CALLS: dict[str, Callable[[Stage], Any]] = {
    "bake": lambda s: cs.bake(s.strong.net),
    "build_model": lambda s: cs.build_model("resnet20", 3, (3, 16, 16), width=0.1, seed=5),
    "build_model of a library": lambda s: cs.build_model(
        "torchvision:squeezenet1_1", 3, (3, 64, 64)
    ),
    "ChannelMap.trace": lambda s: cs.ChannelMap.trace(s.weak.net, s.weak.example()),
    "Classifier.check": lambda s: s.strong.check(),
    "compare": lambda s: cs.compare(s.strong, s.strong, s.data.test).to_json(),
    "compensate": lambda s: cs.compensate(
        {"dog": s.module}, s.strong, s.channels, s.data.train, seed=0
    ),
    "compose": lambda s: cs.compose([s.module])(s.data.test.images.read(s.data.test.rows)),
    "diagnose": lambda s: cs.diagnose(s.weak, s.data.calibration),
    "evaluate": lambda s: cs.evaluate(s.strong, s.data.test).to_json(),
    "export": lambda s: cs.export(s.module, s.folder / "a.pt2"),
    "extract": lambda s: cs.extract(s.strong.net, s.channels, s.selection),
    "fine_tune": lambda s: cs.fine_tune(
        {"dog": s.module}, s.strong, s.data.train, cs.FineTuning(batch_size=8), seed=0
    ),
    "fit_composition": lambda s: cs.fit_composition(
        [s.module, s.other], s.data.calibration, "learned"
    ),
    "judge": lambda s: cs.judge(s.weak, {"dog": s.module}, s.data.calibration),
    "load": lambda s: cs.load(s.folder / "module.safetensors"),
    "load_data": lambda s: cs.load_data(s.npz, seed=3),
    "load_data by name": lambda s: cs.load_data("digits", seed=3),
    "load_folder": lambda s: cs.load_folder(s.folder / "hub"),
    "load_weights": lambda s: cs.load_weights(s.weak.net, s.folder / "weights.pt"),
    "make_splits": lambda s: cs.make_splits(s.data.train, seed=0),
    "masked_forward": lambda s: cs.masked_forward(
        s.strong.net, s.channels, s.selection, s.strong.example()
    ),
    "measure_cost": lambda s: cs.measure_cost(s.strong, toys.SHAPE, latency=True),
    "measure_importance": lambda s: cs.measure_importance(s.strong, s.channels, s.data.train),
    "measure_sensitivity": lambda s: cs.measure_sensitivity(
        CutScorer(s.strong, s.channels, s.data.search), s.importance, s.data.search.labels
    ),
    "measure_taylor": lambda s: cs.measure_taylor(s.strong, s.channels, s.data.train),
    "patch": lambda s: cs.patch(s.weak, {"dog": s.module}, s.data),
    "patch and predict": lambda s: cs.patch(s.weak, {"dog": s.module}, s.data, gate=0.9)(
        s.data.test.images.read(s.data.test.rows)
    ),
    "recalibrate": lambda s: cs.recalibrate(s.module, s.data.train, seed=0),
    "restrict": lambda s: cs.restrict(s.weak, ("dog", "cat")),
    "save": lambda s: cs.save(s.module, s.folder / "b.safetensors"),
    "save_folder": lambda s: cs.save_folder(s.module, s.folder / "more"),
    "split genetic": lambda s: s.split(cs.GeneticSearch.model_validate(SEARCH)),
    "split gradient": lambda s: s.split(cs.GradientSearch(keep=0.5, rounds=1, steps=1, anneal=1)),
    "split importance": lambda s: s.split(cs.ThresholdSearch(tries=2)),
    "split in processes": lambda s: cs.split(
        s.strong,
        s.data,
        search=cs.RandomSearch(tries=1),
        seed=0,
        importance=s.importance,
        engine=cs.Processes(1),
    ),
    "split random": lambda s: s.split(cs.RandomSearch(tries=2)),
    "subtask": lambda s: cs.subtask(
        s.weak, ("dog", "cat"), s.data, search=cs.GeneticSearch.model_validate(SEARCH)
    ),
    "train": lambda s: cs.train(s.strong, s.data.train, s.data.search, TRAINING, seed=0),
    "unite": lambda s: cs.unite(s.strong, [s.module, s.other]),
}
FIRST = ("build_model of a library", "compare", "measure_cost")
"""Other libraries leave traces when they are imported, which these do."""
ELSEWHERE = {
    "pull_from_hub": "tests/hub talks to a hub of its own",
    "push_to_hub": "likewise",
    "RayCluster": "Ray itself is what it starts",
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    made = Stage(tmp_path_factory.mktemp("stage"))
    for name in FIRST:
        CALLS[name](made)
    return made


def shared() -> dict[str, Any]:
    """Everything of the process that a library could change for others."""
    return {
        "random of Python": random.getstate(),
        "random of NumPy": str(np.random.get_state(legacy=False)),
        "random of torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "default type": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "cuDNN": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "sharing": sharing.get_sharing_strategy(),
        "processes": {process.pid for process in multiprocessing.active_children()},
        "other threads": {t.name for t in threading.enumerate() if not t.daemon},
        "folder": Path.cwd(),
        "environment": dict(os.environ),
        "places of modules": list(sys.path),
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "last words": (sys.excepthook, threading.excepthook),
        "standard streams": (sys.stdin, sys.stdout, sys.stderr),
        "errors of NumPy": np.geterr(),
        "prints of NumPy": str(np.get_printoptions()),
        "warnings": list(warnings.filters),
        "log": (logging.root.level, list(logging.root.handlers)),
        "decimals": str(decimal.getcontext()),
        "locale": locale.setlocale(locale.LC_ALL),
        "depth": sys.getrecursionlimit(),
        "garbage": gc.isenabled(),
    }


def clear(folder: Path) -> None:
    """Remove what a call before has made."""
    for file in ("a.pt2", "b.safetensors", "more/model.safetensors", "more/config.json"):
        (folder / file).unlink(missing_ok=True)
    (folder / "more/README.md").unlink(missing_ok=True)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("gradients", [True, False], ids=["with gradients", "without"])
def test_shared_state_is_as_before(name: str, gradients: bool, stage: Stage) -> None:
    clear(stage.folder)
    with torch.set_grad_enabled(gradients):
        before = shared()
        CALLS[name](stage)
        after = shared()
    assert [key for key in before if before[key] != after[key]] == []


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("error", "number"), [(RuntimeError, 1), (KeyboardInterrupt, 3)], ids=["error", "interrupt"]
)
def test_shared_state_is_as_before_a_call_that_fails(
    name: str,
    error: type[BaseException],
    number: int,
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever a network is run: a convolution breaks, or a person stops it there."""
    clear(stage.folder)
    forward, left = nn.Conv2d.forward, [number]

    def broken(layer: nn.Conv2d, x: Any) -> Any:
        left[0] -= 1
        if left[0] <= 0:
            raise error("broken")
        return forward(layer, x)

    before = shared()
    with monkeypatch.context() as patched:
        patched.setattr(nn.Conv2d, "forward", broken)
        with suppress(Exception, KeyboardInterrupt):
            CALLS[name](stage)
            assert left[0] > 0, "an error that is not told"
    after = shared()
    assert [key for key in before if before[key] != after[key]] == []


def test_every_public_function_is_called() -> None:
    called = {name.split(" ")[0].split(".")[0] for name in CALLS} | ELSEWHERE.keys()
    functions = {
        name for name in cs.__all__ if name[0].islower() and callable(getattr(cs, name, None))
    }
    assert functions <= called

"""Facts of a made-up run with awkward class names, for tests of the report."""

import torch
from torch import Tensor

from cnnsplitter.report import Evidence, Report, Step
from cnnsplitter.report.evidence import Flip, Scores, png_of
from cnnsplitter.results import machine, versions

EVIL = "<script>document.title='ran'</script>"
CLASSES = [EVIL, "$x$", 'cat & "dog"', "Ünïcode", *(f"class {i}" for i in range(6))]
LAYERS = [f"layer{i}.conv" for i in range(12)]


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape)))


def flips(count: int) -> list[Flip]:
    images = (rand(count, 3, 8, 8) * 255).to(torch.uint8)
    return [Flip(png=png_of(i), truth=EVIL, before="$x$", after=EVIL) for i in images]


def evidence(target: str) -> Evidence:
    confusion = (rand(len(CLASSES), len(CLASSES)) * 50).long().tolist()
    scores = Scores(histogram=[[3, 1], [1, 5]], calibration=[[0.1, 0.9], [0.2, 0.8]])
    return Evidence(
        target=target,
        classes=CLASSES,
        confusion_before=confusion,
        confusion_after=confusion,
        scores_before=scores,
        scores_after=scores,
        won_count=30,
        lost_count=0,
        won=flips(3),
        lost=[],
    )


def facts(target: str = EVIL, title: str = "A run") -> Report:
    history = [
        Step(
            index=i,
            accuracy=0.5 + i / 10,
            difference=0.4,
            kept=0.8,
            measure=0.5 + i / 10,
            kept_macs=0.7 - i / 10,
        )
        for i in range(4)
    ]
    row: dict[str, str | int | float | bool | None] = {
        "target": target,
        "n_target": 35,
        "n_other": 324,
    }
    for name in ("precision", "recall", "f1", "other"):
        row |= {f"{name}_before": 0.5, f"{name}_after": 0.625}
    images = {"classes": 10, "train": 1000, "search": 200, "calibration": 200, "test": 359}
    curves = dict(zip(LAYERS, [[0.5, 0.9]] * len(LAYERS), strict=True))
    return Report(
        title=title,
        strong_model="rescnn",
        weak_model="lenet5",
        data=[
            {"of": "strong model", "source": "photos", **images},
            {"of": f"weak model, {target}", "source": "sketches", **images},
        ],
        search={"name": "gradient", "keep": 0.7, "compensated": True},
        strong_accuracy=0.9,
        composed_accuracy=0.875,
        classes=CLASSES,
        layers=LAYERS,
        kept=rand(len(CLASSES), len(LAYERS)).tolist(),
        modules=[
            {"class": name, "kernels": 10, "kept_kernels": 0.5, "kept_macs": 0.25}
            for name in CLASSES
        ],
        overlap=rand(len(CLASSES), len(CLASSES)).tolist(),
        history=history,
        sensitivity={"ratios": [0.5, 1.0], "accuracy": curves},
        start_ratios={name: [0.5, 0.75] for name in LAYERS[:2]},
        patches=[row],
        evidence=[evidence(target)],
        costs=[
            {"model": f"weak, {target}", "multiply_adds": 1000, "latency_ms": 1.5},
            {"model": f"patched, {target}", "multiply_adds": 3000, "latency_ms": 4.5},
        ],
        recipe={"title": title, "seed": 0},
        machine=machine(),
        versions=versions(),
        commands=["cnnsplitter run toy"],
    )


def subtask_facts(name: str = EVIL) -> Report:
    """The report of a sub-task of two classes, one with a name."""
    task = f"cat+{name}"
    kept = {"kernels": 10, "kept_kernels": 0.5, "kept_macs": 0.25}
    ways = [
        {"model": model, "accuracy": accuracy, "kernels": 10, "macs": 1000, "kept_macs": share}
        for model, accuracy, share in (
            *(("strong model", 0.9, 1.0), ("sub-task", 0.875, 0.25), ("class modules", 0.8, 2.0)),
        )
    ]
    whole = facts()
    changes = {
        "title": "A sub-task",
        "weak_model": "",
        "data": whole.data[:1],
        "classes": [task],
        "subtask": ["cat", name],
        "ways": ways,
        "kept": whole.kept[:1],
        "overlap": [[1.0]],
        "modules": [{"network of": task, **kept}],
        "patches": [],
        "evidence": [],
    }
    return Report.model_validate({**whole.model_dump(), **changes})

"""How seldom could a gate run a patch? Measures of doubt, fixed and learned, on the same images.

The whole strong model is the patch, so that nothing hangs on a search. Everything is fitted on
1,500 of the CIFAR-10 test images, which neither network was trained on; a gate's least share of
runs is then read off the other 8,500, with the threshold that is best there: it is the share that
no choice of the threshold could get below.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import load_data
from cnnsplitter.inference import predict
from cnnsplitter.patches.combining import Joint, Layout, Observations, outputs_of
from cnnsplitter.patches.fitting import Fitting, fit
from cnnsplitter.patches.gate_choice import least_opened
from cnnsplitter.patches.gating import DOUBTS
from cnnsplitter.results import write_results
from cnnsplitter.storage.saving import load_as
from experiments.patch_first import HERE
from experiments.score_cache import ScoreCache

FITTED, KEEP = 1500, 0.95
Doubt = Callable[[Observations], Tensor]


def main(
    weak: Annotated[list[Path], typer.Argument(help="Weak CIFAR-10 models.")],
    strong: Annotated[Path, typer.Option(help="The strong model.")],
    cifar10: Annotated[Path, typer.Option(help="CIFAR-10 as npz.")],
    runs: Annotated[Path, typer.Option(help="Folder of scores.")] = Path("runs/patch"),
) -> None:
    """Write ``results/patch-gates.json``: one row per weak model, target class and doubt."""
    torch.set_num_threads(1)
    model, images = load_as(Classifier, strong), load_data(cifar10, seed=0).test
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    rows: list[dict[str, str | float]] = []
    for path in weak:
        logits = predict(load_as(Classifier, path), images).detach().double()
        for target in images.classes:
            scores = ScoreCache(runs / "scores").scores(ClassModule.of(model, target), images)
            layout = Layout.of(images.classes, images.classes, (target,))
            seen = Observations(logits, scores[:, None], images.labels, layout)
            facts: dict[str, str | float] = {"weak": path.stem, "target": target, "seed": 0}
            found = rows_of(seen.take(order[:FITTED]), seen.take(order[FITTED:]))
            rows += [{**facts, **row} for row in found]
    command = (
        f"python -m experiments.patch_gates {' '.join(path.name for path in weak)} "
        f"--strong {strong.name} --cifar10 {cifar10.name}"
    )
    write_results(HERE / "results/patch-gates.json", rows, command)


def rows_of(fitted: Observations, test: Observations) -> Iterator[dict[str, str | float]]:
    """Yield the least share of runs that keeps ``KEEP`` of the gain in F1, for every doubt."""
    joint = fit(Fitting(), fitted)
    column = test.layout.patched[0]
    before, after = taken(joint, test)
    for name, doubt in doubts(joint, fitted).items():
        opened = least_opened(doubt(test), before, after, test.labels == column, KEEP)
        yield {"doubt": name, "run_share": 1.0 if opened is None else opened / len(test)}
    yield {"doubt": "changes (oracle)", "run_share": (before != after).double().mean().item()}


def doubts(joint: Joint, fitted: Observations) -> dict[str, Doubt]:
    """Return the package's doubts, and learned ones that predict where the patch changes much."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (column,) = fitted.layout.patched
    before, after = taken(joint, fitted)
    changes = (before != after).numpy()
    learners = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(C=0.1)),
        "boosted trees": HistGradientBoostingClassifier(max_depth=3, max_iter=80, random_state=0),
    }

    def learned(learner: object) -> Doubt:
        learner.fit(features(fitted, column).numpy(), changes)  # type: ignore[attr-defined]

        def doubt(seen: Observations) -> Tensor:
            values = learner.decision_function(features(seen, column).numpy())  # type: ignore[attr-defined]
            return torch.from_numpy(values)

        return doubt

    fixed: dict[str, Doubt] = {
        name: lambda seen, of=of: of(seen.logits, column).double()  # type: ignore[misc]
        for name, of in DOUBTS.items()
    }
    return fixed | {name: learned(learner) for name, learner in learners.items()}


def taken(joint: Joint, seen: Observations) -> tuple[Tensor, Tensor]:
    """Return which images are taken for the class without and with the patch."""
    (column,) = seen.layout.patched
    return seen.logits.argmax(1) == column, outputs_of(joint, seen).argmax(1) == column


def features(seen: Observations, column: int) -> Tensor:
    """Return log-probabilities of all classes, and margin and certainty of the class."""
    shares = seen.logits.log_softmax(1).clamp(min=-12)
    own, rest = shares[:, column], shares.clone()
    rest[:, column] = -torch.inf
    margin = own - rest.amax(1)
    return torch.cat([shares, torch.stack([own.exp(), margin, -margin.abs()], 1)], 1)


if __name__ == "__main__":
    typer.run(main)

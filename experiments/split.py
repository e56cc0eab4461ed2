"""Split CIFAR-10 networks by several searches, and test the composed models.

Every case gives a row for each treatment: the plain class modules, the same ones compensated, and
for the gradient search fine-tuned after that.

Run it again after a stop: what is finished is not done again, a search goes on at its checkpoint,
and every case is written at once. The test images are read for the finished case only.
"""

import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from cnnsplitter.class_modules import ClassModule, compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.compensation.compensating import compensate
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.data.npz import load_npz
from cnnsplitter.errors import CnnSplitterError, DataError
from cnnsplitter.finetuning import FineTuning, fine_tune
from cnnsplitter.importance import Importance, measure_importance
from cnnsplitter.inference import predict
from cnnsplitter.models import build_model
from cnnsplitter.preprocessing import IMAGENET
from cnnsplitter.progress import Step
from cnnsplitter.results import Row, read_json, write_json
from cnnsplitter.search import Search
from cnnsplitter.search.registry import make_search
from cnnsplitter.splitting import Split, limited, split, trace
from cnnsplitter.terminal import Terminal
from cnnsplitter.weights import load_weights
from experiments.result_rows import known_rows, write_rows

HERE = Path(__file__).parent
PLAIN, COMPENSATED = "no", "compensated"
UNSEEN_FROM, SEED_OF_UNSEEN = 40_000, 1009
"""The SimCNN was trained on the images before this place of that seed's permutation."""


class TimeIsUpError(Exception):
    """A search has used the time that it was given."""


@dataclass(frozen=True)
class Case:
    """One search on one network; ``keep`` is the share of the kernels that it may keep."""

    model: str
    search: str
    keep: float
    seed: int

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.model}-{self.search}-{self.keep:g}-{self.seed}"

    def of(self, rows: list[Row]) -> dict[str, Row]:
        """Return this case's rows by treatment."""
        return {str(row["tuned"]): row for row in rows if Case.read(row) == self}

    @classmethod
    def read(cls, row: Row) -> "Case":
        """Return the case of a row."""
        return cls(
            str(row["model"]), str(row["search"]), float(row["keep"] or 0), int(row["seed"] or 0)
        )


@dataclass
class Stopwatch:
    """Seconds on the clock and of the processor that a search took, over all its starts."""

    path: Path
    limit: float | None
    show: Any

    def __post_init__(self) -> None:
        saved = read_json(self.path) if self.path.exists() else {"seconds": 0.0, "cpu_seconds": 0.0}
        self.before: dict[str, float] = saved
        self.since = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Return the seconds so far."""
        now = time.perf_counter(), time.process_time()
        pairs = zip(self.before.items(), now, self.since, strict=True)
        return {name: before + end - start for (name, before), end, start in pairs}

    def __call__(self, step: Step, /) -> None:
        """Note the time after each step of the search, and stop it after the limit."""
        self.show(step)
        if step.stage == "search":
            write_json(self.path, self.read())
            if self.limit is not None and self.read()["cpu_seconds"] >= self.limit:
                raise TimeIsUpError


def main(
    cifar10: Annotated[Path, typer.Option(help="CIFAR-10 as npz.")],
    models: Annotated[Path, typer.Option(help="Folder of the weights.")],
    runs: Annotated[Path, typer.Option(help="Folder of checkpoints.")] = Path("runs/split"),
    out: Annotated[Path, typer.Option(help="Results file.")] = HERE / "results/split.json",
    search: Annotated[list[str] | None, typer.Option(help="Only these searches.")] = None,
    only: Annotated[str, typer.Option(help="Only this network.")] = "",
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 2,
    on: Annotated[str, typer.Option(help="To choose settings: 'calibration' images.")] = "test",
) -> None:
    """Run every case that is not in the results yet."""
    torch.set_num_threads(threads)
    settings = tomllib.loads((HERE / "split.toml").read_text())
    command = f"python -m experiments.split --cifar10 {cifar10.name} --models {models.name}"
    if on != "test":
        command += f" --on {on}"
    rows = known_rows(out, command)
    with Terminal() as terminal:
        for case in cases(settings, seeds):
            wanted = case.search in (search or [case.search]) and case.model == (only or case.model)
            more = settings["models"][case.model]["tuning"]
            if wanted and not case.of(rows).keys() >= {*treatments(case, settings)}:
                data, tuning = splits_of(cifar10, settings["images"] | {"tuning": more})
                strong = strong_model(case.model, models / weights_of(settings, case), data)
                trial = Trial(case, settings, strong, data, tuning, runs, terminal, on)
                for row in trial.rows(rows):
                    rows.append({**row, "threads": threads})
                    write_rows(out, rows, command)
    terminal.table("Splits", rows)


def cases(settings: dict[str, Any], seeds: int) -> Iterator[Case]:
    """Yield the cases, the gradient search's first: the genetic ones take as long as they did."""
    for model, own in settings["models"].items():
        for seed in range(seeds):
            for search in ("gradient", *settings["baselines"]):
                for keep in own["keep"]:
                    yield Case(model, search, keep, seed)


def treatments(case: Case, settings: dict[str, Any]) -> list[str]:
    """Return what is done to its class modules after the cut, by which rows are told apart."""
    if case.search != "gradient":
        return [PLAIN, COMPENSATED]
    rate = rate_of(settings, case)
    tuned = f"compensated, fine-tuned on {settings['models'][case.model]['tuning']:,} images"
    return [PLAIN, COMPENSATED, tuned + (f" at a rate of {rate:g}" if rate else "")]


def rate_of(settings: dict[str, Any], case: Case) -> float | None:
    """Return the learning rate of a case's fine-tuning, None for the default."""
    rates: dict[str, float] = settings["models"][case.model].get("rates", {})
    return rates.get(f"{case.keep:g}")


def weights_of(settings: dict[str, Any], case: Case) -> str:
    """Return the file name of a network's weights."""
    return str(settings["models"][case.model]["weights"])


def splits_of(cifar10: Path, sizes: dict[str, int]) -> tuple[Splits, ImageSet]:
    """Return images to learn from that the SimCNN has seen, and others to search and calibrate.

    The second are more of the seen ones, for fine-tuning.
    """
    train, test = load_npz(cifar10)
    if test is None:
        raise DataError(f"{cifar10}: has no test images; give all of CIFAR-10")
    order = torch.from_numpy(np.random.default_rng(SEED_OF_UNSEEN).permutation(len(train)))
    seen, unseen = train.take(order[:UNSEEN_FROM]), train.take(order[UNSEEN_FROM:])
    ends = sizes["search"], sizes["search"] + sizes["calibration"]
    parts = unseen.take(torch.arange(ends[0])), unseen.take(torch.arange(*ends))
    data = Splits(limited(seen, sizes["train"], 0), *parts, limited(test, sizes["test"], 0))
    return data, limited(seen, sizes["tuning"], 0)


def strong_model(name: str, weights: Path, data: Splits) -> Classifier:
    """Return a network with weights that others trained."""
    net, architecture = build_model(name, len(data.classes), data.input_shape)
    net = load_weights(net, weights)
    return Classifier(net, data.classes, data.input_shape, IMAGENET, architecture)


@dataclass(frozen=True)
class Trial:
    """What one case needs."""

    case: Case
    settings: dict[str, Any]
    strong: Classifier
    data: Splits
    tuning: ImageSet
    runs: Path
    terminal: Terminal
    on: str

    def rows(self, known: list[Row]) -> Iterator[Row]:
        """Search once, then treat, compose and test; yield the rows that are not known yet."""
        done = self.case.of(known)
        watch = Stopwatch(self._file("json"), self._limit(known), self.terminal.progress)
        found = self._split(self._search(), watch)
        facts = {**vars(self.case), "data": "cifar10", **self._facts(found)}
        seconds, modules = watch.read(), dict(found)
        for treatment in treatments(self.case, self.settings):
            start = time.perf_counter(), time.process_time()
            modules = self._treated(modules, treatment)
            seconds = {
                "seconds": seconds["seconds"] + time.perf_counter() - start[0],
                "cpu_seconds": seconds["cpu_seconds"] + time.process_time() - start[1],
            }
            if treatment not in done:
                yield {**facts, **seconds, "tuned": treatment, **self._accuracy(modules)}

    def _treated(self, modules: dict[str, ClassModule], treatment: str) -> dict[str, ClassModule]:
        """Return class modules that have had the treatment before, after this one."""
        if treatment == PLAIN:
            return modules
        seed, strong = self.case.seed, self.strong
        if treatment == COMPENSATED:
            return compensate(modules, strong, trace(strong), self.data.train, seed=seed)
        rate = rate_of(self.settings, self.case)
        settings = FineTuning(**self.settings["fine_tuning"], learning_rate=rate)
        return fine_tune(
            modules, strong, self.tuning, settings, seed=seed, progress=self.terminal.progress
        )

    def _facts(self, found: Split) -> dict[str, float]:
        costs = found.rows(self.strong)
        shared, images = found.overlap(), getattr(self.data, self.on)
        others = (shared.sum() - shared.trace()) / (len(found) * (len(found) - 1))
        return {
            "kept_kernels": float(np.mean([row["kept_kernels"] for row in costs])),
            "kept_macs": float(np.mean([row["kept_macs"] for row in costs])),
            "overlap": others.item(),
            "images": len(images),
            "accuracy_strong": accuracy(self.strong, images),
        }

    def _accuracy(self, modules: Mapping[str, ClassModule]) -> dict[str, float]:
        return {"accuracy_composed": accuracy(compose(modules), getattr(self.data, self.on))}

    def _search(self) -> Search:
        name, keep = self.case.search, self.case.keep
        own = {
            **self.settings.get(name, {}),
            **self.settings["models"][self.case.model].get(name, {}),
        }
        if name == "genetic":
            around = [min(1.0, max(0.1, keep + change)) for change in (-0.1, 0, 0.1)]
            ratios = {"sensitive": [], "sensitive_ratios": around, "other_ratios": around}
            return make_search(name, {**own, "start_ratios": ratios, "generations": 10**6})
        return make_search(name, {**own, "keep": keep})

    def _limit(self, rows: list[Row]) -> float | None:
        """Return the processor time that a genetic search has: as much as the gradient search.

        On a machine that does nothing else this is equal time on the clock.
        """
        if self.case.search != "genetic":
            return None
        case = Case(self.case.model, "gradient", self.case.keep, self.case.seed)
        row = case.of(rows).get(PLAIN)
        if row is None:
            raise DataError(f"the case {case.name} comes first: it sets the time for the others")
        return float(row["cpu_seconds"] or 0)

    def _split(self, search: Search, watch: Stopwatch) -> Split:
        options: dict[str, Any] = {
            "seed": self.case.seed,
            "importance": self._importance(),
            "checkpoint": self._file("safetensors"),
            "compensate": False,
        }
        try:
            return split(self.strong, self.data, search=search, progress=watch, **options)
        except TimeIsUpError:
            done = len(read_history(self._file("safetensors")))
            ended = search.model_copy(update={"generations": done})  # type: ignore[attr-defined]
            return split(self.strong, self.data, search=ended, **options)

    def _importance(self) -> Importance:
        """Measure once for all cases of a network."""
        path, channels = self.runs / f"{self.case.model}-importance", trace(self.strong)
        if path.exists():
            return Importance.load(path, channels)
        images = limited(self.data.train, 5000, 0)
        measured = measure_importance(self.strong, channels, images)
        measured.save(path)
        return measured

    def _file(self, suffix: str) -> Path:
        return self.runs / f"{self.case.name}.{suffix}"


def read_history(checkpoint: Path) -> list[dict[str, Any]]:
    """Return the generations that a checkpoint holds."""
    from cnnsplitter.files import read_tensors

    return list(read_tensors(checkpoint)[1]["history"])


def accuracy(model: torch.nn.Module, images: ImageSet) -> float:
    """Return the share of the images that ``model`` gets right."""
    return (predict(model, images).argmax(1) == images.labels).double().mean().item()


if __name__ == "__main__":
    try:
        typer.run(main)
    except CnnSplitterError as error:
        raise SystemExit(f"error: {error}") from error

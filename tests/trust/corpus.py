"""Bad files made by hand, and a program that reads them all with little memory and time.

``python -m trust.corpus FOLDER [quick]`` prints one JSON line per case: what became of it and the
processor seconds it took. No case may take more than ``MOST_MEMORY`` beyond what the program had
before.
"""

import json
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from cnnsplitter.errors import CnnSplitterError
from trust.bad_archives import ARRAYS, OLD_PICKLES, ONNX, PICKLES, PROGRAMS
from trust.bad_models import MANIFESTS, NETWORKS, SAFETENSORS
from trust.bad_pictures import PICTURES
from trust.bad_texts import EVENTS, IDS, JSONS, RECIPES, SETTINGS, TRAININGS
from trust.loaders import LOADERS, fresh
from trust.spoiling import EVERYWHERE, Spoil

MOST_MEMORY = 500 * 2**20
MOST_SECONDS = 2.0

SAFE = tuple(n for n in LOADERS if LOADERS[n].name in ("a", "a.safetensors", "model.safetensors"))
RESULTS = ("curves", "report", "run folder", "front", "listed recipe.json", "listed report.json")
QUICK = {"classifier", "training checkpoint", "weights", "npz", "png", "recipe", "run folder"} | {
    *("pickled weights", "old pickled weights", "settings", "front", "listed events.jsonl"),
    *("pt2", "onnx", "mlflow run"),
}


def cases(quick: bool = False) -> Iterator[tuple[str, str, Spoil]]:
    """Yield loader, what is wrong, and what makes it so; ``quick`` takes one loader of a kind."""
    tables: tuple[tuple[tuple[str, ...], dict[str, Spoil]], ...] = (
        (tuple(LOADERS), EVERYWHERE),
        (SAFE, SAFETENSORS),
        (tuple(name for name in SAFE if name != "weights"), MANIFESTS),
        (("classifier",), NETWORKS),
        (("npz", "compressed npz"), ARRAYS),
        (("png",), PICTURES),
        (("recipe", "settings"), SETTINGS),
        (("recipe",), RECIPES),
        (("settings",), TRAININGS),
        (RESULTS, JSONS),
        (("listed events.jsonl",), EVENTS),
        (("mlflow run",), IDS),
        (("pt2",), PROGRAMS),
        (("onnx",), ONNX),
        (("pickled weights",), PICKLES),
        (("old pickled weights",), OLD_PICKLES),
    )
    for names, table in tables:
        for name in QUICK.intersection(names) if quick else names:
            yield from ((name, what, spoil) for what, spoil in table.items())


def _outcome(name: str, path: Path) -> str:
    """Return "fine", the first line of a typed error, or what else went wrong."""
    try:
        found = LOADERS[name].read(path)
    except CnnSplitterError as error:
        return f"refused: {error}"
    except BaseException as error:
        return f"WRONG: {type(error).__name__}: {error}"
    broken = getattr(found, "broken", ())
    return f"refused: left out {broken}" if broken else "fine"


def _too_long(*_: object) -> None:
    raise TimeoutError("took too long")


def main(root: Path, *, quick: bool) -> None:
    """Make every case, read it, tell what became of it."""
    torch.set_num_threads(1)
    good = {name: fresh(name, root / "good") for name in LOADERS}
    for name, path in good.items():
        copied = shutil.copytree(path.parent.parent, root / "try" / name)
        assert _outcome(name, copied / "class" / path.name) == "fine", name
    signal.signal(signal.SIGALRM, _too_long)
    signal.signal(signal.SIGPROF, _too_long)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MOST_MEMORY
    around = set(root.rglob("*")) | {root / "bad"}
    for number, (name, what, spoil) in enumerate(cases(quick)):
        place = root / "bad" / str(number)
        shutil.copytree(good[name].parent.parent, place)
        path = place / "class" / good[name].name
        spoil(path)
        before = set(place.rglob("*"))
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_REAL, 60)
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        start = time.process_time()
        outcome = _outcome(name, path)
        seconds = time.process_time() - start
        if seconds > MOST_SECONDS:
            outcome = f"WRONG: {seconds:.1f} s: {outcome}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        added = sorted(str(p.relative_to(place)) for p in set(place.rglob("*")) - before)
        line = {"loader": name, "what": what, "outcome": outcome, "seconds": seconds}
        print(json.dumps({**line, "added": added}), flush=True)
        shutil.rmtree(place)
    assert set(root.rglob("*")) == around, "files outside the folders of the cases"


if __name__ == "__main__":
    main(Path(sys.argv[1]), quick="quick" in sys.argv[2:])

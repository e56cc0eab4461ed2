"""The page of the zoo, from the figures beside its files."""

from collections.abc import Iterable, Mapping
from typing import Any

INTRODUCTION = """# The zoo

Small trained models come with the package, so that patching can be tried in seconds: `zoo:NAME`
stands wherever a model file is taken; `cnnsplitter zoo` lists the names.

```console
$ cnnsplitter diagnose zoo:{weak} --data {data}
$ cnnsplitter patch zoo:{weak} --with zoo:{module} \\
    --data {data} --out patched.safetensors
$ cnnsplitter evaluate patched.safetensors --before zoo:{weak} \\
    --data {data}
```

The images are your own copy: `--data {data}` downloads them where the extra `torchvision` is
installed, and an npz file serves as well. With the default `--seed 0` the calibration and test
images are none that these models were trained on.

## What is in it

All networks have a quarter of the published width, and the strong ones a short training, far from
the best that they could reach: they are here to be tried, not to be deployed. Every weak network
has seen {scarce} images of one class. Weights are rounded to 8 bits; all figures are those of the
rounded files, on the test images.
"""

SHARING = """
## Making and sharing your own

A zoo is nothing but files. `cnnsplitter train`, `split` and `patch` write them,
`cnnsplitter bundle` and `push` put one with its card on a model hub ([how](share-on-the-hub.md)),
and whoever has the file can load it: no code in it is run. In Python,
`save(model, path, compact=True)` rounds weights to 8 bits, a quarter of the size; look at the
figures again afterwards.

The package holds one class module of each strong model: all forty would take 6 MB. Make the others
of a model, at the default 70 % of the kernels, by

```console
$ cnnsplitter split zoo:{strong} --data {data} --out modules
```

The whole zoo, or the part that is missing, is made by

```console
$ {command}
```

which also writes this page; `--only {strong}` makes one family. It goes on where it was stopped.
"""


def page(index: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page for what ``zoo/index.json`` holds."""
    weak = next(name for name, facts in index.items() if "patched" in facts)
    names = {"weak": weak, "module": index[weak]["patched"]["module"], "data": index[weak]["data"]}
    parts = [INTRODUCTION.format(scarce=50, **names), _models(index), _patches(index)]
    names["strong"] = weak.removeprefix("weak-").rpartition("-")[0]
    sharing = SHARING.lstrip("\n").format(command=index[weak]["command"], **names)
    return "\n".join([*parts, _making(index), sharing])


def _models(index: Mapping[str, Mapping[str, Any]]) -> str:
    rows = (
        (
            f"`zoo:{name}`",
            facts["kind"],
            f"{100 * facts['test_accuracy']:.1f} %" if "test_accuracy" in facts else "-",
            f"{facts['kernels']:,}",
            f"{facts['multiply_adds'] / 1e6:.2f} M",
            f"{facts['bytes'] / 1000:.0f} kB",
        )
        for name, facts in index.items()
    )
    titles = ("name", "kind", "accuracy", "kernels", "multiply-adds", "size")
    total = sum(facts["bytes"] for facts in index.values())
    return f"{_table(titles, rows)}\n\nTogether {total / 1e6:.2f} MB.\n"


def _patches(index: Mapping[str, Mapping[str, Any]]) -> str:
    found = ((name, facts["patched"]) for name, facts in index.items() if "patched" in facts)
    rows = (
        (
            f"`zoo:{name}`",
            f"`zoo:{row['module']}`",
            f"{100 * row['f1_before']:.1f} → {100 * row['f1_after']:.1f}",
            f"{100 * row['other_before']:.1f} → {100 * row['other_after']:.1f}",
        )
        for name, row in found
    )
    titles = ("weak", "class module", "F1 of the class", "accuracy on the others")
    text = "What the patches do, with the default settings (one run, seed 0, test images):"
    return f"{text}\n\n{_table(titles, rows)}\n"


def _making(index: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["## How they were made\n"]
    for name, facts in index.items():
        made = ", ".join(f"{part} {version}" for part, version in facts["versions"].items())
        how = _settings(facts.get("training", {}), facts.get("search", {}))
        how += ", compensated" if facts.get("compensated") else ""
        lines += [
            f"* `{name}`: seed {facts['seed']}; {how}; {made};",
            f"  SHA-256 `{facts['sha256']}`",
        ]
    return "\n".join(lines) + "\n"


def _settings(training: Mapping[str, Any], search: Mapping[str, Any]) -> str:
    shown = {
        **{key: training[key] for key in ("epochs", "learning_rate", "batch_size") if training},
        **{key: search[key] for key in ("keep", "rounds", "steps", "pairs") if search},
    }
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in shown.items())


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = tuple(titles)
    lines = [titles, tuple("---" for _ in titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

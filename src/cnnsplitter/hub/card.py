"""The model card: what a model is, what it costs, how good it is, how to use it, whence it is."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import singledispatch
from typing import Any

from cnnsplitter.class_modules import ClassModule, ComposedModel
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import measure_cost
from cnnsplitter.outlines import outline
from cnnsplitter.patches.cost import ungated
from cnnsplitter.patches.patching import PatchedModel
from cnnsplitter.storage.packing import Model

_USE = """\
```bash
pip install 'cnnsplitter[hub]'
cnnsplitter pull OWNER/NAME --out model.safetensors
cnnsplitter inspect model.safetensors
```

```python
import cnnsplitter as cs

model = cs.load("model.safetensors")
scores = model(images)  # uint8 [B, C, H, W], or floats in [0, 1]; preprocessing is part of it
```"""
_CITATION = """\
Made with CNNSplitter, after B. Qi, H. Sun, X. Gao, H. Zhang, *Patching Weak Convolutional Neural
Network Models through Modularization and Composition*, ASE 2022 (arXiv 2209.06116)."""


def model_card(
    model: Model, manifest: Mapping[str, Any], digest: str, *, title: str, license: str
) -> str:
    """Return the text of the card, Markdown with a YAML header.

    Args:
        model: The model, to measure what it costs.
        manifest: What its file tells, as ``describe`` gives it.
        digest: SHA-256 of its file, hexadecimal.
        title: Heading, and name of the model in the results.
        license: Identifier of the hub.
    """
    details = manifest["details"]
    sections = {
        "Classes": ", ".join(map(_plain, _classes(model))),
        "Input and output": _shapes(model),
        "Cost": _table([{"part": part} | _cost(net) for part, net in _parts(model)]),
        "Evaluation": _evaluation(details.get("metrics")),
        "How to use it": _USE,
        "How it was made": _made(details),
        "Provenance": f"{_CITATION}\n\nSHA-256 of `model.safetensors`: `{digest}`",
    }
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items() if text)
    header = "\n".join(_header(manifest, title, license))
    return f"---\n{header}\n---\n\n# {_plain(title)}\n\n{_what(model)}\n\n{body}\n"


def _header(manifest: Mapping[str, Any], title: str, license: str) -> Iterator[str]:
    """Yield lines of YAML."""
    values: dict[str, Any] = {
        "library_name": "cnnsplitter",
        "license": license,
        "pipeline_tag": "image-classification",
        "tags": ["cnnsplitter", "cnn", "image-classification", manifest["kind"]],
        "metrics": ["accuracy"],
    }
    details = manifest["details"]
    metrics = details.get("metrics")
    accuracy = metrics.get("test_accuracy") if isinstance(metrics, dict) else None
    if isinstance(accuracy, int | float):
        data = data_name(details.get("data"))
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": data, "type": data},
            "metrics": [{"type": "accuracy", "value": accuracy}],
        }
        values["model-index"] = [{"name": title, "results": [result]}]
    for key, value in values.items():
        yield f"{key}: {_yaml(value)}"


def _yaml(value: object) -> str:
    """Return JSON, which is YAML but for rare characters: JSON writes them as two numbers."""

    def as_one(pair: re.Match[str]) -> str:
        quoted = f'"{pair[0]}"'
        return f"\\U{ord(json.loads(quoted)):08x}"

    return re.sub(r"\\ud[89ab]..\\ud[c-f]..", as_one, json.dumps(value))


def data_name(data: object) -> str:
    """Return how images were named, without the folders that they lay in."""
    return re.sub(r"[^\[\]+,]*[/\\]", "", data) if isinstance(data, str) and data else "unnamed"


@singledispatch
def _what(model: Model) -> str:
    raise AssertionError(f"no card is written down for a {type(model).__name__}")


@_what.register
def _(model: Classifier) -> str:
    return f"A CNN that tells {len(model.classes)} classes of images apart."


@_what.register
def _(model: ClassModule) -> str:
    return (
        f"A class module: the narrow CNN that was cut out of a strong CNN to score one class, "
        f"**{_plain(model.source_class)}**. Attach it to a weak CNN as a patch, or compose it with "
        "others."
    )


@_what.register
def _(model: ComposedModel) -> str:
    return (
        f"A composed model: {len(model.classes)} class modules side by side, each a narrow CNN "
        "that scores one class; the largest score names the class."
    )


@_what.register
def _(model: PatchedModel) -> str:
    targets = ", ".join(f"**{_plain(target)}**" for target in model.targets) or "no class"
    return (
        f"A patched model: a weak CNN in which class modules of a strong CNN score {targets} "
        f"(rule: {model.rule})."
    )


def _classes(model: Model) -> tuple[str, ...]:
    return (model.source_class,) if isinstance(model, ClassModule) else model.classes


def _shapes(model: Model) -> str:
    channels, height, width = model.input_shape
    output = "B" if isinstance(model, ClassModule) else f"B, {len(_classes(model))}"
    return (
        f"Images uint8 [B, {channels}, {height}, {width}], or floats in [0, 1], to scores "
        f"float32 [{output}]. Preprocessing is part of the model."
    )


def _parts(model: Model) -> Iterator[tuple[str, Any]]:
    yield "whole model", model
    if isinstance(model, PatchedModel):
        yield "weak model", model.weak
    for module in getattr(model, "class_modules", ()):
        yield f"class module {module.source_class}", module


def _cost(net: Any) -> dict[str, Any]:
    # A gate would open or not for the one image that is counted.
    whole = ungated(net) if isinstance(net, PatchedModel) else net
    cost = measure_cost(whole, net.input_shape)
    return {
        "kernels": cost.kernels,
        "parameters": cost.parameters,
        "multiply-adds": cost.multiply_adds,
    }


def _evaluation(metrics: object) -> str:
    """Return a table of rows, or of names and values; empty if there is neither."""
    if isinstance(metrics, Mapping):
        return _table([{"figure": name, "value": value} for name, value in metrics.items()])
    rows = metrics if isinstance(metrics, list) else []
    return _table([row for row in rows if isinstance(row, Mapping)])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row.get(name, "") for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)


def _made(details: Mapping[str, Any]) -> str:
    """Return a nested list of all details but the metrics."""
    told = {key: details[key] for key in details if key != "metrics"}
    if "data" in told:
        told["data"] = data_name(told["data"])
    return "\n".join(
        f"{'  ' * depth}- {_plain(key)}:{'' if beside is None else f' {_plain(*beside)}'}"
        for depth, key, beside in outline(told)
    )


def _plain(value: object) -> str:
    """Return text that Markdown shows as it is, in one line: class names are anybody's."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|!#])", r"\\\1", text) if text != "---" else text

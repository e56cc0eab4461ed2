"""The two kinds of exported files: how each is written, run and asked what it holds."""

import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from cnnsplitter.data.npz import require_few_members
from cnnsplitter.errors import CnnSplitterError, ModelError, SettingsError, StorageError
from cnnsplitter.exporting.facts import BATCH, INPUT, KEY, OUTPUT
from cnnsplitter.exporting.metadata import read_metadata
from cnnsplitter.reading import no_such_file, parse_json

Run = Callable[[Tensor], Tensor]

_ONNX_AT_MOST = 2_000_000_000
_FACTS_AT_MOST = 16_000_000


@dataclass(frozen=True)
class Format:
    """A kind of exported file.

    Attributes:
        name: For messages.
        needs: Modules of the extra ``onnx`` without which it cannot be written.
        write: Writes a program with its metadata to a path.
        open: Returns what runs the file of a path.
        read: Returns the text of the metadata of a file, or None if it has none of ours.
    """

    name: str
    needs: tuple[str, ...]
    write: Callable[[ExportedProgram, Path, str], None]
    open: Callable[[Path], Run]
    read: Callable[[Path], str | None]


def format_of(path: Path) -> Format:
    """Return the format that a file's name asks for; ``SettingsError`` if there is none."""
    if not is_export(path):
        raise SettingsError(f"{path}: exported files end in {' or '.join(FORMATS)}")
    return FORMATS[path.suffix]


def is_export(path: Path) -> bool:
    """Tell by its name whether a file is an exported one."""
    return path.suffix in FORMATS


def describe_export(path: str | Path) -> dict[str, Any]:
    """Return the metadata of an exported file as JSON values; nothing in the file is run.

    Raises:
        SettingsError: Its name has another ending.
        StorageError: It is missing, broken, or was not exported by this package.
    """
    path = Path(path)
    kind = format_of(path)
    if not path.is_file():
        raise StorageError(no_such_file(path))
    try:
        facts = parse_json(kind.read(path) or "null")
    except CnnSplitterError:
        raise
    except Exception as error:  # each format's reader has errors of its own
        raise StorageError(f"{path}: broken or no {kind.name} file ({error})") from error
    if not isinstance(facts, dict):
        raise StorageError(f"{path}: not exported by cnnsplitter (no {KEY!r} in its metadata)")
    return facts


def _write_onnx(program: ExportedProgram, path: Path, facts: str) -> None:
    _require_one_file(program)
    made = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: BATCH},),
    )
    if made is None:
        raise ModelError("PyTorch gave no ONNX program")
    model = made.model_proto
    # What the exporter notes beside the graph is about its own work, and most of a small file.
    for part in (model.graph, *model.graph.node, *model.graph.value_info):
        part.ClearField("metadata_props")
    for part in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        part.ClearField("metadata_props")
    model.ClearField("metadata_props")
    model.metadata_props.add(key=KEY, value=facts)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _require_one_file(program: ExportedProgram) -> None:
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size > _ONNX_AT_MOST:
        raise ModelError(
            f"{size / 1e9:.1f} GB of weights are too much for one ONNX file; export to .pt2"
        )


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def _read_onnx(path: Path) -> str | None:
    return read_metadata(path, KEY)


def _write_pt2(program: ExportedProgram, path: Path, facts: str) -> None:
    # Given a path, PyTorch names the folder inside after it, so that equal models would differ.
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={f"{KEY}.json": facts})


def _open_pt2(path: Path) -> Run:
    with path.open("rb") as file, warnings.catch_warnings():
        # PyTorch 2.10 wraps bytes that it copies afterwards, and warns of them.
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        module = torch.export.load(file).module()
    return lambda images: module(images)


def _read_pt2(path: Path) -> str | None:
    require_few_members(path)
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(f"/extra/{KEY}.json"):
                if entry.file_size > _FACTS_AT_MOST:
                    raise StorageError(f"{path}: its metadata is too large to be ours")
                return archive.read(entry).decode()
    return None


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        ".onnx": Format(
            "ONNX", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _open_onnx, _read_onnx
        ),
        ".pt2": Format("PyTorch program", (), _write_pt2, _open_pt2, _read_pt2),
    }
)
"""By the ending of the file's name."""

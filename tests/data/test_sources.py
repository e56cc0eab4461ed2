import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cnnsplitter.data import SourcePart, SplitShares, load_data, parse_source
from cnnsplitter.errors import CnnSplitterError, DataError, SettingsError

WORD = st.text("abcxyz019-_./ ", min_size=1, max_size=8).filter(lambda word: word == word.strip())


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "set.npz"
    np.savez(
        path,
        x_train=np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8),
        y_train=np.arange(30) % 3,
        x_test=np.zeros((3, 8, 8), np.uint8),
        y_test=np.arange(3),
        classes=np.array(["ant", "bee", "cow"]),
    )
    return path


@given(
    st.lists(
        st.builds(SourcePart, WORD, st.none() | st.lists(WORD, min_size=1).map(tuple)), min_size=1
    )
)
def test_a_source_is_read_as_it_is_written(parts: list[SourcePart]) -> None:
    text = "+".join(
        part.base + ("" if part.items is None else f"[{','.join(part.items)}]") for part in parts
    )
    assert parse_source(text) == tuple(parts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "a+",
        "+a",
        "a++b",
        "a[",
        "a]",
        "a[b",
        "a[]",
        "a[b,]",
        "a[b]c",
        "a[b][c]",
        "[b]",
        " ",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="data source"):
        parse_source(text)


def test_ranges_are_for_digits_only() -> None:
    known = ("0", "1", "2", "3", "0-1")
    assert SourcePart("x", ("1-3", "0")).classes(known) == ("1", "2", "3", "0")
    assert SourcePart("x", ("0-1",)).classes(known) == ("0-1",), "a class of that very name"
    assert SourcePart("x").classes(known) == known
    with pytest.raises(SettingsError, match="range '3-1' runs backwards"):
        SourcePart("x", ("3-1",)).classes(known)
    with pytest.raises(SettingsError, match="unknown class '9999999999'"):
        SourcePart("x", ("0-9999999999",)).classes(known)


def test_digits_are_split_in_four() -> None:
    splits = load_data("digits")
    assert splits.input_shape == (1, 8, 8)
    assert sum(len(part) for part in splits.sets) == 1797
    assert [round(len(part) / 1797, 2) for part in splits.sets] == [0.56, 0.12, 0.12, 0.2]


def test_a_mixture_is_one_line_and_leaves_images_where_they_are() -> None:
    weak = load_data("digits[6-9]+digits[2]", seed=5)
    whole = load_data("digits", seed=5)
    assert weak.classes == ("6", "7", "8", "9", "2")
    for part, same in zip(weak.relabel("2").sets, whole.relabel("2").sets, strict=True):
        assert torch.equal(next(part.batches(999))[0], next(same.batches(999))[0])


def test_an_npz_file_by_path_and_by_text(npz: Path) -> None:
    for source in (npz, str(npz)):
        splits = load_data(source, shares=SplitShares(0.8, 0.2, 0))
        assert [len(part) for part in splits.sets] == [24, 6, 0, 3]
    assert load_data(f"{npz}[cow,ant]").classes == ("cow", "ant")
    mixed = load_data(f"{npz}[cow]+digits[3]+{npz}[ant]")
    assert mixed.classes == ("cow", "3", "ant")
    assert mixed.test.counts()[[0, 2]].tolist() == [1, 1]


def test_a_path_with_the_marks_of_a_source_is_taken_as_it_is(npz: Path) -> None:
    odd = npz.rename(npz.with_name("a+b[c].npz"))
    assert load_data(str(odd)).classes == load_data(odd).classes == ("ant", "bee", "cow")


def test_a_folder_is_resized(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(4):
            Image.new("L", (9, 5)).save(tmp_path / name / f"{index}.png")
    (tmp_path / "cat" / "broken.png").write_bytes(b"")
    assert load_data(tmp_path).input_shape == (3, 64, 64)
    assert load_data(tmp_path, folder_shape=(1, 8, 8)).input_shape == (1, 8, 8)
    assert load_data(tmp_path, folder_shape=(1, 8, 8), size=5).input_shape == (1, 5, 5)
    assert load_data("digits", folder_shape=(3, 9, 9)).input_shape == (1, 8, 8)
    splits = load_data(f"{tmp_path}[dog,cat]+digits[1]", size=8, channels=1)
    assert splits.input_shape == (1, 8, 8)
    assert splits.classes == ("dog", "cat", "1")
    assert splits.broken == (tmp_path / "cat" / "broken.png",)
    with pytest.raises(SettingsError, match="got size 0"):
        load_data(tmp_path, size=0)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("digist", "unknown data set 'digist'; did you mean 'digits'"),
        ("digits[3]", "images of 1 class"),
        ("digits[3,x]", "unknown class 'x'"),
        ("digits[3,3]", "given twice"),
        ("digits[0-4]+digits[4]", "both have class '4'"),
        ("nowhere.npz", r"nowhere\.npz: no such file"),
        ("no/where", r"no/where: no such file or folder"),
        ("", "data source"),
    ],
)
def test_sources_that_cannot_be_used_are_refused(source: str, words: str) -> None:
    with pytest.raises(CnnSplitterError, match=words) as caught:
        load_data(source)
    assert "\n" not in str(caught.value)


def test_a_path_never_means_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="unknown data set 'digits'"):
        load_data(Path("digits"))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"a\.csv: is neither an \.npz file nor a folder"):
        load_data(tmp_path / "a.csv")


def test_only_folders_are_resized() -> None:
    with pytest.raises(DataError, match=r"shape \(1, 8, 8\), not \(3, 32, 32\)"):
        load_data("digits", size=32, channels=3)


def test_nine_classes_and_one_of_another_real_set() -> None:
    folder = os.environ.get("CNNSPLITTER_DATA")
    if not folder:
        pytest.skip("CNNSPLITTER_DATA does not name a folder with the real npz files")
    nine = "apple,baby,bed,bicycle,bottle,bridge,camel,clock,rose"
    splits = load_data(f"{folder}/cifar100-12.npz[{nine}]+{folder}/cifar10.npz[bird]")
    assert splits.classes == (*nine.split(","), "bird")
    assert splits.test.counts().tolist() == [100] * 9 + [1000]
    assert splits.train.counts().tolist() == [350] * 9 + [3500]

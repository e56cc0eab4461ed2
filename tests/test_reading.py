"""Settings of files that nobody vouches for."""

from pathlib import Path

import pytest

from cnnsplitter.errors import SettingsError
from cnnsplitter.reading import read_toml
from shop import call, write_npz

HUGE = "0x" + "f" * 100_000


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"epochs = {HUGE}", "epochs"),
        (f"[training]\nepochs = {HUGE}", "training.epochs"),
        (f"epochs = [1, [{HUGE}]]", "epochs"),
        (f"seed = {2**63}", "seed"),
        (f"seed = {-(2**63) - 1}", "seed"),
    ],
)
def test_numbers_of_more_than_64_bits_are_named(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=rf"a\.toml: .*key '{key}' is a number of more than 64"):
        read_toml(path)


def test_numbers_of_64_bits_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f"a = [{2**63 - 1}, {-(2**63)}]\n[b]\nc = true\n")
    assert read_toml(tmp_path / "a.toml") == {"a": [2**63 - 1, -(2**63)], "b": {"c": True}}


def test_a_settings_file_with_one_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f"epochs = {HUGE}\n")
    data = write_npz(tmp_path / "d.npz", each=6)
    done = call("train", "lenet5", "--data", data, "--settings", tmp_path / "a.toml")
    assert done.code == 2
    assert "key 'epochs' is a number of more than 64 bits" in done.err

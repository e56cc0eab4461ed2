"""Settings of files that nobody vouches for."""

from pathlib import Path

import pytest

from cnnsplitter.errors import SettingsError
from cnnsplitter.reading import no_such_file, read_toml
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


class TestNoSuchFile:
    @pytest.mark.parametrize(
        ("asked", "nearest"),
        [
            ("strng.safetensors", "strong.safetensors"),
            ("module/cat.safetensors", "modules"),
            ("modules/ct.safetensors", "modules/cat.safetensors"),
            ("modules/no/cat.safetensors", None),
            ("zebra", None),
            ("x" * 300, None),
            ("strong\0", None),
        ],
    )
    def test_names_the_nearest(self, tmp_path: Path, asked: str, nearest: str | None) -> None:
        (tmp_path / "modules").mkdir()
        (tmp_path / "strong.safetensors").touch()
        (tmp_path / "modules" / "cat.safetensors").touch()
        path = tmp_path / asked
        hint = f"; did you mean {str(tmp_path / nearest)!r}?" if nearest else ""
        assert no_such_file(path) == f"{path}: no such file{hint}"

    def test_commands_tell_it(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        write_npz(tmp_path / "data.npz")
        (tmp_path / "s.toml").touch()
        for call_, what in [
            (("inspect", "dta.npz"), "dta.npz: no such file; did you mean 'data.npz'?"),
            (("train", "lenet5", "--data", "./dat.npz", "--out", "o"), "did you mean 'data.npz'?"),
            (
                ("export", "m", "--out", "o", "--settings", "t.toml"),
                "t.toml: no such file; did you mean 's.toml'?",
            ),
            (("run", "./r.toml"), "r.toml: no such recipe file; did you mean 's.toml'?"),
        ]:
            outcome = call(*call_)
            assert outcome.code == 2
            assert what in outcome.err

"""What lies in place of a file of ours: links, pipes and folders are not written through."""

import os
from pathlib import Path

import pytest

import toys
from cnnsplitter.errors import StorageError
from cnnsplitter.event_log import EventLog
from cnnsplitter.folder_lock import LOCK, held, held_file
from cnnsplitter.hub.folder import CARD, save_folder
from cnnsplitter.progress import Step
from cnnsplitter.results import write_json
from cnnsplitter.run_folder import RECIPE, claim_folder

KINDS = ("link", "broken link", "pipe", "folder")


def lay(kind: str, place: Path, victim: Path) -> None:
    """Put something that is no plain file in a place where one will be written."""
    place.parent.mkdir(parents=True, exist_ok=True)
    victim.write_bytes(b"mine")
    if kind == "link":
        place.symlink_to(victim)
    elif kind == "broken link":
        place.symlink_to(victim.with_name("new"))
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()


def assert_left_alone(victim: Path) -> None:
    assert victim.read_bytes() == b"mine"
    assert not victim.with_name("new").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_locks(kind: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    lay(kind, tmp_path / "run" / LOCK, victim)
    with pytest.raises(StorageError, match="cannot be written"), held(tmp_path / "run"):
        pass
    lay(kind, tmp_path / f".a.safetensors{LOCK}", victim)
    with pytest.raises(StorageError, match="cannot"), held_file(tmp_path / "a.safetensors"):
        pass
    assert_left_alone(victim)


@pytest.mark.parametrize("kind", KINDS)
def test_events(kind: str, tmp_path: Path) -> None:
    lay(kind, tmp_path / "events.jsonl", tmp_path / "victim")
    with pytest.raises(StorageError, match=r"events.jsonl: cannot be written"):
        EventLog(tmp_path / "events.jsonl")(Step("search", 1, 2))
    assert_left_alone(tmp_path / "victim")


@pytest.mark.parametrize("kind", KINDS)
def test_cards(kind: str, tmp_path: Path) -> None:
    """They take the place of what lies there, or say why they cannot."""
    card = tmp_path / "hub" / CARD
    lay(kind, card, tmp_path / "victim")
    if kind == "folder":
        with pytest.raises(StorageError, match=r"README.md: cannot be written"):
            save_folder(toys.classifier(), card.parent, overwrite=True)
    else:
        save_folder(toys.classifier(), card.parent, overwrite=True)
        assert card.is_file()
        assert not card.is_symlink()
    assert_left_alone(tmp_path / "victim")


def test_clearing_a_run_folder_leaves_what_a_link_leads_to(tmp_path: Path) -> None:
    recipe = {"title": "run"}
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "cat.safetensors").write_bytes(b"mine")
    write_json(folder / RECIPE, recipe)
    (folder / "modules").symlink_to(elsewhere)
    with pytest.raises(StorageError, match=r"modules: is a link"):
        claim_folder(folder, recipe, force=True)
    assert (elsewhere / "cat.safetensors").read_bytes() == b"mine"
    (folder / "modules").unlink()
    (folder / "report.json").mkdir()
    with pytest.raises(StorageError, match=r"report.json: is a folder"):
        claim_folder(folder, recipe, force=True)

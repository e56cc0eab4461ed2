"""MLflow hears the steps of a run; without it, and by default, nothing leaves the machine."""

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from cnnsplitter.errors import SettingsError, StorageError
from cnnsplitter.progress import Step
from cnnsplitter.tracking import RUN_FILE, MLflow, known_run
from shop import succeed, write_npz

RECIPE = """
title = "Toy"
strong_data = { source = "mine" }
weak_data = { source = "mine" }
strong = { model = "lenet5", training = { epochs = 2, batch_size = 16 } }
weak = { model = "lenet5", training = { epochs = 1 } }
search = { ratios = [0.5], genetic = { population = 4, generations = 1, parents = 2, elites = 1 } }
patch = { targets = ["cat"] }
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a new store of files, which is made the fastest."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return client_of((tmp_path / "mlruns").as_uri(), monkeypatch)


def client_of(place: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    from mlflow.tracking import MlflowClient

    return MlflowClient()


def runs_in(client: Any) -> list[Any]:
    experiment = client.get_experiment_by_name("cnnsplitter")
    return list(client.search_runs([experiment.experiment_id]))


def history(client: Any, run: Any, name: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]


def test_a_run_that_is_continued_goes_on_in_mlflow(store: Any, tmp_path: Path) -> None:
    for done in (1, 2):
        MLflow(tmp_path / "one")(Step("train weak-%2E", done, 2, {"accuracy": done / 4}))
    MLflow(tmp_path / "two")(Step("search", 1, 1, {"kept": 0.5}))
    runs = {run.info.run_name: run for run in runs_in(store)}
    assert runs.keys() == {"one", "two"}
    assert history(store, runs["one"], "train weak-_2E/accuracy") == [(1, 0.25), (2, 0.5)]
    assert (tmp_path / "one" / RUN_FILE).read_text().strip() == runs["one"].info.run_id


def continued(client: Any, folder: Path) -> list[tuple[int, float]]:
    """Log two steps, the second of a run that goes on; return what the store has then."""
    for done in (1, 2):
        MLflow(folder)(Step("search", done, 2, {"kept": done / 4}))
    (run,) = runs_in(client)
    return history(client, run, "search/kept")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own use of SQLAlchemy
def test_a_database_hears_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sqlalchemy", reason="needs the extra mlflow")
    pytest.importorskip("alembic", reason="needs the extra mlflow")
    client = client_of(f"sqlite:///{tmp_path / 'mlflow.db'}", monkeypatch)
    assert continued(client, tmp_path / "one") == [(1, 0.25), (2, 0.5)]


def test_a_failing_store_is_told_in_one_line(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("disk full\nand a second line")

    monkeypatch.setattr("mlflow.tracking.MlflowClient.log_metric", broken)
    with pytest.raises(SettingsError, match=r"^MLflow: disk full; see MLFLOW_TRACKING_URI$"):
        MLflow(tmp_path)(Step("search", 1, 1, {"kept": 0.5}))


def test_a_place_that_cannot_be_used_is_named(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "teapot://here")
    with pytest.raises(SettingsError, match="MLFLOW_TRACKING_URI"):
        MLflow(tmp_path)(Step("search", 1, 1, {"kept": 0.5}))


def test_without_mlflow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(SettingsError, match=r"pip install 'cnnsplitter\[mlflow\]'"):
        MLflow(tmp_path)


def test_by_default_a_run_opens_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        called.append(arguments)
        raise OSError("no network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    (tmp_path / "toy.toml").write_text(RECIPE)
    place = f"mine={write_npz(tmp_path / 'data.npz')}"
    succeed("run", tmp_path / "toy.toml", "--place", place, "--out", tmp_path / "out", "--quiet")
    assert (tmp_path / "out" / "report.html").is_file()
    assert called == []
    assert "mlflow" not in sys.modules or not (tmp_path / "out" / RUN_FILE).exists()


def test_a_run_tells_mlflow_if_it_is_asked(store: Any, tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(RECIPE)
    place = f"mine={write_npz(tmp_path / 'data.npz')}"
    out = tmp_path / "out"
    succeed("run", tmp_path / "toy.toml", "--place", place, "--out", out, "--mlflow", "--quiet")
    (run,) = runs_in(store)
    assert len(history(store, run, "train strong/loss")) == 2


@pytest.mark.parametrize("text", ["", "../../a", "a b", "a\nb", "a" * 300])
def test_a_broken_run_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / RUN_FILE
    path.write_text(text)
    with pytest.raises(StorageError, match=rf"{RUN_FILE}: .*; remove it"):
        known_run(path)


def test_a_broken_run_file_stops_a_run(store: Any, tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text("../../a")
    with pytest.raises(StorageError, match="holds no id"):
        MLflow(tmp_path)(Step("search", 1, 2, {"kept": 0.5}))

"""MLflow as a listener to the steps of a long run; nothing is sent unless a person asks for it."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnsplitter.errors import CnnSplitterError, SettingsError, StorageError
from cnnsplitter.extras import require_extra
from cnnsplitter.files import replacing
from cnnsplitter.progress import Step
from cnnsplitter.reading import read_text

EXPERIMENT = "cnnsplitter"
"""The experiment that runs belong to, unless ``MLFLOW_EXPERIMENT_NAME`` names another."""
RUN_FILE = "mlflow-run.txt"
_LONGEST_ID = 256


@dataclass(eq=False)
class MLflow:
    """Logs the figures of every step to MLflow, where ``MLFLOW_TRACKING_URI`` says.

    Attributes:
        folder: Of the run, after which the MLflow run is named; a file there keeps its id, so that
            a run that is continued goes on in MLflow, too.
    """

    folder: Path
    _run: str = ""
    _client: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Open a run when there is something to log, but fail at once without the library.

        Raises:
            SettingsError: MLflow is not installed.
        """
        # MLflow counts its users; a person who wants to be counted sets it to false
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        require_extra("mlflow", "mlflow")

    def __call__(self, step: Step, /) -> None:
        """Log the figures under ``stage/name``.

        Raises:
            SettingsError: MLflow cannot log to the place that it is told.
            StorageError: The file with the id of a run that is continued is broken.
        """
        try:
            self._log(step)
        except CnnSplitterError:
            raise
        except Exception as error:  # each kind of store lets the errors of its own library through
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SettingsError(f"MLflow: {reason}; see MLFLOW_TRACKING_URI") from error

    def _log(self, step: Step) -> None:
        if not self._run:
            self._open()
        for name, value in step.values.items():
            # MLflow takes no other signs in names
            key = re.sub(r"[^\w. :/-]", "_", f"{step.stage}/{name}", flags=re.ASCII)
            self._client.log_metric(self._run, key, value, step=step.done)

    def _open(self) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        path = self.folder / RUN_FILE
        if path.exists():
            self._run = known_run(path)
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        run = self._client.create_run(experiment, run_name=self.folder.name)
        self._run = run.info.run_id
        with replacing(path) as temporary:
            temporary.write_text(f"{self._run}\n")


def known_run(path: Path) -> str:
    """Return the id of an MLflow run that was kept in a file.

    Raises:
        StorageError: The file cannot be read, or holds none.
    """
    try:
        text = read_text(path, most=_LONGEST_ID).strip()
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: cannot be read ({error}); remove it") from error
    # An id becomes part of a path or an address.
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", text, re.ASCII):
        raise StorageError(f"{path}: holds no id of an MLflow run; remove it")
    return text

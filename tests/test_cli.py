"""The command line as a whole: help, errors that nobody foresaw, Ctrl-C, closed pipes."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

import cnnsplitter
from cnnsplitter import cli
from cnnsplitter.errors import CnnSplitterError
from cnnsplitter.progress import Step
from cnnsplitter.storage.saving import load
from cnnsplitter.terminal import Terminal
from shop import call, succeed, write_npz

COMMANDS = (
    *("demo", "run", "report", "runs", "train", "adopt", "doctor", "evaluate", "inspect"),
    *("sensitivity", "split", "compose", "diagnose", "patch", "unpatch"),
    *("export", "bundle", "push", "pull", "zoo"),
)
AT_WORK = {"demo", "run", "doctor", "adopt"}
"""Commands that take long, beside all that open images."""


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let ``inspect`` meet this error."""

    def load(path: Path, *, build: object) -> None:
        raise error

    monkeypatch.setattr("cnnsplitter.storage.saving.load", load)


def test_the_context_holds_paths_whatever_typer_makes_of_them() -> None:
    app, seen = typer.Typer(), dict[str, Any]()

    @app.command(cls=cli.ResultsAlone)
    def show(
        context: typer.Context,
        more: Annotated[list[Path], typer.Argument()],
        one: Annotated[Path, typer.Option()] = Path("a"),
        none: Annotated[Path | None, typer.Option()] = None,
    ) -> None:
        seen.update(context.params)

    for given, one in (([], Path("a")), (["--one", "d"], Path("d"))):
        CliRunner().invoke(app, ["b", "c", *given], catch_exceptions=False)
        assert seen == {"more": seen["more"], "one": one, "none": None}
        assert list(seen["more"]) == [Path("b"), Path("c")]


class TestHelp:
    def test_lists_all_commands(self) -> None:
        outcome = succeed("--help")
        listed = outcome.out.split("Commands:")[1].splitlines()
        assert [line.split()[0] for line in listed if line[:3].strip()] == list(COMMANDS)
        assert "..." not in "".join(listed)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_option_is_explained(self, command: str) -> None:
        outcome = succeed(command, "--help")
        assert "--json" in outcome.out
        options = [line for line in outcome.out.splitlines() if line.startswith("  --")]
        texts = [line.strip().split("  ", 1) for line in options]
        assert all(len(text) == 2 or "<" in text[0] for text in texts)

    def test_what_takes_long_can_be_quiet_and_verbose(self) -> None:
        shown = {command: succeed(command, "--help").out for command in COMMANDS}
        long = {name for name, text in shown.items() if "--data" in text or name in AT_WORK}
        assert long == {name for name, text in shown.items() if "--quiet" in text}
        assert long == {name for name, text in shown.items() if "--verbose" in text}

    def test_no_arguments_is_help(self) -> None:
        outcome = call()
        assert "Commands:" in outcome.out + outcome.err

    def test_version(self) -> None:
        assert succeed("--version").out == f"{cnnsplitter.__version__}\n"

    def test_main_runs_the_program(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["cnnsplitter", "--version"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (CnnSplitterError("a.npz: of\n two lines"), "a.npz: of two lines"),
            (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b: Permission denied"),
            (OSError("strange disk"), "strange disk"),
        ],
    )
    def test_one_line_and_exit_code_2(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
    ) -> None:
        fail_with(monkeypatch, error)
        outcome = call("inspect", "model.safetensors")
        assert (outcome.code, outcome.out, outcome.err) == (2, "", f"error: {text}\n")

    def test_a_bug_is_not_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fail_with(monkeypatch, ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            call("inspect", "model.safetensors")

    def test_a_closed_pipe_is_quiet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fail_with(monkeypatch, BrokenPipeError(errno.EPIPE, "Broken pipe"))
        outcome = call("inspect", "model.safetensors")
        assert (outcome.code, outcome.out, outcome.err) == (1, "", "")

    def test_a_pipe_closed_by_its_reader_is_quiet(self) -> None:
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "cnnsplitter", "--help"]
        result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
        os.close(write)
        assert result.stderr == b""
        assert result.returncode != 0


class TestCompletion:
    @staticmethod
    def complete(monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
        """Ask as bash does."""
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        monkeypatch.setenv("_CNNSPLITTER_COMPLETE", "complete_bash")
        result = CliRunner().invoke(cli.app, [], prog_name="cnnsplitter")
        assert result.exit_code == 0
        return result.stdout.split()

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("cnnsplitter sp", ["split"]),
            ("cnnsplitter patch --dr", ["--dry-run"]),
            ("cnnsplitter run simcnn-s", ["simcnn-svhn", "simcnn-svhn-5"]),
            ("cnnsplitter split m --search g", ["genetic", "gradient"]),
            ("cnnsplitter split m --data cifar", ["cifar10", "cifar100"]),
            ("cnnsplitter split m --preset simcnn-s", ["simcnn-svhn", "simcnn-svhn-5"]),
            ("cnnsplitter split m --engine r", ["ray"]),
            ("cnnsplitter patch w --calibration l", ["learned", "linear"]),
            ("cnnsplitter patch w --objective r", ["recall"]),
            ("cnnsplitter train resnet", ["resnet20", "resnet32", "resnet44", "resnet56"]),
        ],
    )
    def test_commands_options_and_values(
        self, monkeypatch: pytest.MonkeyPatch, line: str, words: list[str]
    ) -> None:
        assert self.complete(monkeypatch, line) == words

    def test_the_script_is_of_the_program_by_its_name(self) -> None:
        command = [sys.executable, "-m", "cnnsplitter", "--show-completion", "bash"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if "not supported" in result.stderr:
            pytest.skip("typer knows none of the shells above this process")
        assert "complete -o default -F _cnnsplitter_completion cnnsplitter" in result.stdout


class TestStop:
    def test_ctrl_c_says_how_to_go_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fail_with(monkeypatch, KeyboardInterrupt())
        outcome = call("inspect", "model.safetensors")
        assert outcome.code == 130
        assert outcome.err == "stopped; run the same command again to go on\n"

    def test_the_same_command_goes_on_where_training_stopped(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        data = write_npz(tmp_path / "data.npz")
        train = ("train", "lenet5", "--data", data, "--epochs", 2, "--out")
        succeed(*train, tmp_path / "whole.safetensors")

        out = tmp_path / "stopped.safetensors"
        with monkeypatch.context() as patched:
            patched.setattr(Terminal, "progress", _stop)
            assert call(*train, out).code == 130
        assert not out.exists()
        outcome = succeed(*train, out)
        assert outcome.err.startswith("train: 2/2")
        assert not list(tmp_path.glob("*.checkpoint"))

        whole, stopped = load(tmp_path / "whole.safetensors"), load(out)
        for name, tensor in whole.state_dict().items():
            assert tensor.equal(stopped.state_dict()[name])


def _stop(terminal: Terminal, step: Step) -> None:
    raise KeyboardInterrupt

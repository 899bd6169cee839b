"""Run `python -m mnistgen` as a user would, in a folder of its own, with the models of `tiny.py` installed."""

import contextlib
import io
import multiprocessing
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import load_file

TESTS = Path(__file__).parent
# A copy of this process has imported torch already, which takes a new one seconds; CUDA does not survive copying.
PROCESSES = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """The environment of a process that finds a distribution `tiny-models` with the entry points of `tiny.py`."""
    installed = folder / "site" / "tiny_models-1.0.dist-info"
    installed.mkdir(parents=True, exist_ok=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-models\nVersion: 1.0\n")
    models = "tiny = tiny:Tiny\nduel = tiny:Duel\nwalker = tiny:Walker\n"
    (installed / "entry_points.txt").write_text(f"[mnistgen.models]\n{models}")
    path = os.pathsep.join([str(installed.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **variables}


def mnistgen(folder: Path, *arguments: str, code: int | None = 0, script: str = "", **variables: str) -> str:
    """Run one command in `folder` and return what it printed.

    It runs in this process; in one of its own where there is a `script`, Python that runs before it. Asserts that it
    ends with `code` (None: whatever) and never with a traceback.
    """
    if script:
        text, ended = Process(folder, *arguments, script=script, **variables).wait()
    else:
        text, ended = _in_this_process(folder, list(arguments), environment(folder, **variables))
    assert code is None or ended == code, text
    assert "Traceback" not in text, text
    return text


def _in_this_process(folder: Path, arguments: list[str], variables: dict[str, str]) -> tuple[str, int]:
    from mnistgen.cli import main

    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    rng = torch.get_rng_state()
    try:
        with (
            _installed(folder, variables),
            contextlib.redirect_stdout(streams[0]),
            contextlib.redirect_stderr(streams[1]),
        ):
            ended = main(arguments)
    finally:
        torch.set_rng_state(rng)
    return "".join(stream.buffer.getvalue().decode("utf-8") for stream in streams), ended


@contextlib.contextmanager
def _installed(folder: Path, variables: dict[str, str]) -> Iterator[None]:
    """Python as it is when it starts in `folder` with these environment variables."""
    site = variables["PYTHONPATH"].split(os.pathsep)[0]
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, variables, clear=True),
        mock.patch.object(sys, "path", [site, *sys.path]),
    ):
        yield


class Process:
    """One command in a process of its own, which may be killed."""

    count = 0

    def __init__(self, folder: Path, *arguments: str, script: str = "", **variables: str) -> None:
        Process.count += 1
        name = f"{os.getpid()}-{Process.count}"
        given = environment(folder, **variables)
        self.written = [Path(given["PYTHONPATH"].split(os.pathsep)[0]) / f"{name}.{end}" for end in ("out", "err")]
        self.process: BaseProcess = PROCESSES.Process(
            target=_run, args=(folder, list(arguments), script, given, self.written)
        )
        self.process.start()

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self, seconds: float = 120) -> tuple[str, int]:
        """What it printed, and its exit code: the negative number of the signal that killed it, if any."""
        self.process.join(seconds)
        code = self.process.exitcode
        self.process.kill()
        text = "".join(path.read_text("utf-8") if path.exists() else "" for path in self.written)
        assert code is not None, f"it did not end within {seconds} seconds: {text}"
        return text, code


def _run(folder: Path, arguments: list[str], script: str, variables: dict[str, str], written: list[Path]) -> None:
    for number, (path, name) in enumerate(zip(written, ("stdout", "stderr"), strict=True), 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    code = 1
    try:
        with _installed(folder, variables):
            exec(script, {})
            from mnistgen.cli import main

            code = main(arguments)
    except BaseException:  # noqa: BLE001  nothing may go on in a copy of the tests' process
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):  # scripts close them and fill them
            stream.flush()
    os._exit(code)  # nothing of the tests' process is to be tidied up


def two_processes(folder: Path, *arguments: str) -> str:
    """Run one command on two processes that train together, as `torchrun` starts them; return what both printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [Process(folder, *arguments, **shared, RANK=rank, LOCAL_RANK=rank) for rank in "01"]
    texts = []
    for text, code in [rank.wait() for rank in ranks]:
        assert code == 0, text
        texts.append(text)
    return "".join(texts)


def torchrun(folder: Path, *arguments: str) -> str:
    """Run one command on two processes that `torchrun` starts, and return what it printed."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mnistgen"]
    done = subprocess.run(
        [sys.executable, *command, *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def same_weights(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold the same tensors, bit for bit."""
    left, right = load_file(a), load_file(b)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)

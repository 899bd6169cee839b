"""Run `python -m mnistgen` as a user would, in a folder of its own, with the models of `tiny.py` installed."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import load_file

TESTS = Path(__file__).parent


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

    It runs in this process, which takes a hundredth of the time that Python needs to start; in one of its own where
    there is a `script`, Python that runs before it. Asserts that it ends with `code` (None: whatever) and never with a
    traceback.
    """
    run = _in_a_process if script else _in_process
    text, ended = run(folder, list(arguments), script, environment(folder, **variables))
    assert code is None or ended == code, text
    assert "Traceback" not in text, text
    return text


def _in_a_process(folder: Path, arguments: list[str], script: str, variables: dict[str, str]) -> tuple[str, int]:
    start = f"{script}\nimport sys\nfrom mnistgen.cli import main\nsys.exit(main({arguments!r}))"
    done = subprocess.run(
        [sys.executable, "-c", start],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr, done.returncode


def _in_process(folder: Path, arguments: list[str], script: str, variables: dict[str, str]) -> tuple[str, int]:
    from mnistgen.cli import main

    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    site = variables["PYTHONPATH"].split(os.pathsep)[0]
    rng = torch.get_rng_state()
    try:
        with (
            contextlib.chdir(folder),
            mock.patch.dict(os.environ, variables, clear=True),
            mock.patch.object(sys, "path", [site, *sys.path]),
            contextlib.redirect_stdout(streams[0]),
            contextlib.redirect_stderr(streams[1]),
        ):
            ended = main(arguments)
    finally:
        torch.set_rng_state(rng)
    return "".join(stream.buffer.getvalue().decode("utf-8") for stream in streams), ended


def two_processes(folder: Path, *arguments: str) -> str:
    """Run one command on two processes that train together, and return what it printed."""
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

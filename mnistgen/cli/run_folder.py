"""The folder of a training run: which names in it the run has made, and who is at work in it.

Only what the run itself has made is ever replaced or removed: `manifest.json` lists those names, each before it is
first written. A new run in the place of an old one writes into a folder within until it has something to go on from.
Then it takes the old one's place; what a process that dies in the middle of that has left undone, the next one does.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from mnistgen.checkpoint import WEIGHTS, read_checkpoint
from mnistgen.curves import LOG as LOG
from mnistgen.curves import checked, read_log
from mnistgen.errors import CheckpointError, DamagedRunError, MnistgenError, UsageError
from mnistgen.files import atomic_file, clear_leftovers

STATE = "resume.pt"
OPTIONS = "run.json"
BEST = "best.safetensors"
KEPT = "step-{:08d}.safetensors"
FRAME = "frames/{:08d}.png"  # what a look at the samples saw
MANIFEST = "manifest.json"
EVENTS = "events.out.tfevents.*"  # TensorBoard's, with time and machine in the name
PICTURES = ("grid.png", "reconstructions.png", "curves.png", "training.gif")  # that runs make at their end

_CORE = (STATE, LOG, OPTIONS, BEST, WEIGHTS)
_FRAMES = "frames"
_NUMBERED = re.compile(rf"step-([0-9]{{8}})\.safetensors|{_FRAMES}/([0-9]{{8}})\.png")
_OURS = ".mnistgen"  # how names begin that are no part of a run: the lock, and what is being written
_LOCK = f"{_OURS}.lock"
_NEXT = f"{_OURS}-next"  # the new run, while the old one is still there
_READY = f"{_OURS}-ready"  # the new run, while it takes the old one's place
_HARMLESS = (".DS_Store", ".gitignore", ".gitkeep")  # a folder with these still counts as empty
_SHOWN = 3  # names in a sentence


class RunFolder:
    """The folder of a run; `place` is where the run's files are, a folder within while it has not replaced the old one.

    `names` are those that the run has made: relative to `place`, or absolute where a picture is elsewhere. Those are
    written to, and never removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = self.place = path
        self.names = _names(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, no other process trains into this folder. The lock ends with the process, however that ends.

        Raises `MnistgenError` where another one does, or the folder cannot be written.
        """
        lock = FileLock(self.path / _LOCK, timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise MnistgenError(
                f"{self.path}: another process is training into this folder. Wait until it ends, or give another --out."
            ) from None
        except OSError as error:
            raise MnistgenError(f"{self.path}: cannot be written: {error.strerror or error}.") from error
        try:
            if (self.path / _READY).is_dir():
                self._take_over()
            self.names = _names(self.path)
            yield
        finally:
            if self.place != self.path:
                self._discard(_NEXT)
            with suppress(OSError):
                (self.path / _LOCK).unlink(missing_ok=True)
            lock.release()

    def require_free(self, names: Iterable[str], *, overwrite: bool) -> None:
        """Raise `UsageError` where a new run, which makes `names` beside what every run does, must not begin."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: is not a folder. Give --out the path of one.")
        if not self.names:
            strange = [name for name in _entries(self.path) if not name.startswith(_OURS) and name not in _HARMLESS]
            if strange:
                shown = ", ".join(strange[:_SHOWN]) + ", ..." * (len(strange) > _SHOWN)
                raise UsageError(
                    f"{self.path}: holds what no training run has made ({shown}). A run has a folder of its own: give "
                    "another --out."
                )
        elif self.holds_checkpoint() and not overwrite:
            raise UsageError(
                f"{self.path}: holds a checkpoint already. Use --resume to continue it, --out FOLDER to train another "
                "beside it, or --overwrite to replace it."
            )
        self.require_own(names, overwrite=overwrite)

    def require_own(self, names: Iterable[str], *, overwrite: bool = False) -> None:
        """Raise `UsageError` where something is in the way of `names`, or of what every run makes, that is another's.

        `overwrite` lets a picture elsewhere replace that of another run.
        """
        known = self.names | ({MANIFEST} if self.names else set())
        for name in [*_CORE, MANIFEST, *_numbered(self.path), *names]:
            elsewhere = Path(name).is_absolute()
            if name not in known and (self.path / name).exists() and not (overwrite and elsewhere):
                flag = "--samples, or --overwrite" if elsewhere else "--out"
                raise UsageError(
                    f"{self.path / name}: is in the way, and not of this run. Move it, or give another {flag}."
                )

    def holds_checkpoint(self) -> bool:
        """Whether there are weights of the run, or a state to go on from."""
        return any(name == STATE or name.endswith(".safetensors") for name in self.names if (self.path / name).exists())

    def begin(self) -> None:
        """Begin a new run, in a folder within where there is an old one to replace."""
        self._discard(_NEXT)
        if self.names:
            self.place, self.names = self.path / _NEXT, set()
        self.claim(*_CORE)

    def go_on(self) -> None:
        """Take up the run that is here, and clear what killed processes have left."""
        self._discard(_NEXT)
        for folder in (self.path, self.path / _FRAMES):
            clear_leftovers(folder)
        self.names |= {*_CORE}
        self._write_manifest(self.path, self.names)  # a run of an earlier version has none

    def settle(self) -> None:
        """Take the old run's place, if there is one, now that there is something to put there."""
        if self.place != self.path:
            self.place.replace(self.path / _READY)
            self._take_over()

    def claim(self, *names: str) -> Path:
        """The path of the first of `names`, which are the run's from now on."""
        new = set(names) - self.names
        for name in new:
            if (self.place / name).exists() and not Path(name).is_absolute():
                raise MnistgenError(f"{self.place / name}: is in the way, and not of this run. Move it, and --resume.")
        if new:
            self._write_manifest(self.place, self.names | new)
            self.names |= new
        return self.place / names[0]

    def own(self, *names: str) -> None:
        """Take names into the manifest of files that the run has just made."""
        self.names |= set(names)
        self._write_manifest(self.place, self.names)

    def name_of(self, path: Path) -> str:
        """The name of a path in the manifest."""
        return _name_in(self.path, path)

    def numbered(self) -> list[tuple[int, str]]:
        """The steps and names of the kept checkpoints and the frames, in order."""
        there = [name for name in self.names if _NUMBERED.fullmatch(name) and (self.place / name).is_file()]
        return sorted((_step(name), name) for name in there)

    def frames(self) -> list[Path]:
        """The frames there are, in order."""
        return [self.place / name for _, name in self.numbered() if name.startswith(_FRAMES)]

    def forget(self, names: Iterable[str]) -> None:
        """Remove files that the run has made, in its folder."""
        gone = {name for name in names if name in self.names and not Path(name).is_absolute()}
        for name in gone:
            _remove(self.place / name)
        if gone:
            self.names -= gone
            self._write_manifest(self.place, self.names)

    def _take_over(self) -> None:
        """Put the new run in the old one's place; where that was begun before, do the rest."""
        ready = self.path / _READY
        old, new = _names(self.path), _names(ready)
        self._write_manifest(self.path, old | new)
        for name in new:
            if not Path(name).is_absolute() and (ready / name).is_file():
                (self.path / name).parent.mkdir(exist_ok=True)
                (ready / name).replace(self.path / name)
        for name in old - new:
            if not Path(name).is_absolute():
                _remove(self.path / name)
        self._write_manifest(self.path, new)
        ready.replace(self.path / _NEXT)  # at once, so that no half of it ever passes for the new run
        self._discard(_NEXT)
        self.place, self.names = self.path, new

    def _discard(self, name: str) -> None:
        if (self.path / name).is_dir():
            shutil.rmtree(self.path / name, ignore_errors=True)

    @staticmethod
    def _write_manifest(folder: Path, names: set[str]) -> None:
        with atomic_file(folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps({"format": 1, "files": sorted(names)}, indent=2) + "\n", "utf-8")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `DamagedRunError` where there is none."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DamagedRunError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise DamagedRunError(f"{path}: is damaged: it is not JSON.") from error
    if not isinstance(value, dict):
        raise DamagedRunError(f"{path}: is damaged: it holds no JSON object.")
    return value


def _names(folder: Path) -> set[str]:
    """The names that the run in a folder has made; none where there is no run."""
    with suppress(DamagedRunError):
        names = read_object(folder / MANIFEST).get("files")
        if isinstance(names, list):
            return {name for name in names if isinstance(name, str) and _is_safe(name)}
    return _names_without_manifest(folder)


def _names_without_manifest(folder: Path) -> set[str]:
    """Those of a run of an earlier version, which kept no list, or of weights that were saved here."""
    run: dict[str, Any] = {}
    with suppress(DamagedRunError):
        run = read_object(folder / OPTIONS)
    options = run.get("options")
    if not (isinstance(run.get("model"), str) and isinstance(options, dict) and isinstance(run.get("config"), dict)):
        with suppress(CheckpointError):
            read_checkpoint(folder / WEIGHTS)
            return {WEIGHTS}
        return set()
    names = {name for name in _CORE if (folder / name).is_file()}
    checks = {record["step"] for record in read_log(folder / LOG) if checked(record) is not None}
    every = options.get("keep_every")
    for name in _numbered(folder):
        step = _step(name)
        if step in checks if name.startswith(_FRAMES) else isinstance(every, int) and every > 0 and step % every == 0:
            names.add(name)
    if isinstance(options.get("samples"), str):
        pictures = [Path(options["samples"]) / name for name in PICTURES]
        names |= {_name_in(folder, path) for path in pictures if path.is_file()}
    return names


def _is_safe(name: str) -> bool:
    """Whether a name in a manifest can only be that of a file in the folder; absolute ones are never removed."""
    return ".." not in PurePosixPath(name).parts and name not in ("", ".")


def _name_in(folder: Path, path: Path) -> str:
    whole, home = path.resolve(), folder.resolve()
    return whole.relative_to(home).as_posix() if whole.is_relative_to(home) else str(whole)


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise MnistgenError(f"{folder}: cannot be read: {error.strerror or error}.") from error


def _numbered(folder: Path) -> list[str]:
    """List what looks like a kept checkpoint or a frame, whoever made it."""
    names = [*_entries(folder), *(f"{_FRAMES}/{name}" for name in _entries(folder / _FRAMES))]
    return [name for name in names if _NUMBERED.fullmatch(name)]


def _step(name: str) -> int:
    return int(re.sub(r"[^0-9]", "", name))


def _remove(path: Path) -> None:
    """Remove a file where there is one, and then its folder where that is empty and of the frames."""
    try:
        path.unlink(missing_ok=True)
        if path.parent.name == _FRAMES and not any(path.parent.iterdir()):
            path.parent.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        raise MnistgenError(f"{path}: cannot be removed: {error.strerror or error}.") from error

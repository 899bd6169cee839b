"""Score: a file of images, held against MNIST as `mnistgen score` does it, and shown as the report does."""

import queue
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from mnistgen.errors import UsageError
from mnistgen.report import read_scores, read_sources, table, write_page
from mnistgen.scoring import Score, Scorer, open_source, write_json
from mnistgen.scoring.sources import ImageSource

Progress = Callable[[str, float], None]


class Stopped(Exception):  # noqa: N818  it ends a thread, and nobody sees it
    """The person who asked has gone."""


class Done(NamedTuple):
    """How far it is, and the score at the end."""

    words: str
    share: float
    score: Score | None = None
    notes: tuple[str, ...] = ()  # what was done to the images while they were read


class Files(NamedTuple):
    """The files to take home."""

    page: Path
    json: Path


def score_file(path: str | Path, n: int, *, data_dir: Path | None = None) -> Iterator[Done]:
    """Score at most n images of a file, saying how far it is. Raises `DataError` where the file holds no images.

    Closing the iterator ends the work at its next step.
    """
    if not path:
        raise UsageError("There is no file: drop an NPZ of images, such as `mnistgen sample --count` writes.")
    source = open_source(path, data_dir=data_dir)
    if not isinstance(source, ImageSource):
        raise UsageError(f"{Path(path).name} is a checkpoint; the tab Draw draws from it, `mnistgen score` scores it.")

    def work(progress: Progress) -> Score:
        return scorer(data_dir).score(source, n=n, progress=progress)

    yield from (done._replace(notes=source.data.notes) for done in in_a_thread(work))


@lru_cache(1)
def scorer(data_dir: Path | None) -> Scorer:
    """Evaluators and reference, loaded once."""
    return Scorer("mnist", device="cpu", data_dir=data_dir)


def in_a_thread(work: Callable[[Progress], Score]) -> Iterator[Done]:
    """Run `work` in a thread and yield what it says. What it raises is raised here."""
    said: queue.Queue[Done | BaseException] = queue.Queue()
    stop = threading.Event()

    def progress(words: str, share: float) -> None:
        if stop.is_set():
            raise Stopped
        said.put(Done(words, share))

    def run() -> None:
        try:
            said.put(Done("done", 1.0, work(progress)))
        except BaseException as error:  # noqa: BLE001  it is raised again where it is heard
            said.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            found = said.get()
            if isinstance(found, BaseException):
                raise found
            yield found
            if found.score is not None:
                return
    finally:
        stop.set()


def told(done: Done, source: str | Path, folder: Path, *, data_dir: Path | None = None) -> tuple[str, Files]:
    """The table and the notes of a score as Markdown, and files with all of it: the report page and the JSON."""
    score = done.score
    assert score is not None
    files = Files(folder / "report.html", folder / "scores.json")
    write_json(files.json, [score])
    write_page(
        read_sources([str(source), str(files.json)], data_dir=data_dir), files.page, title=f"Score of {score.name}"
    )
    lines = [table(read_scores(files.json), "markdown"), *(f"- {note}" for note in (*done.notes, *score.notes))]
    lines += [f"- not measured: {part}: {why}" for part, why in score.not_measured.items()]
    return "\n".join([*lines, "", f"`{score.protocol_line}`"]), files

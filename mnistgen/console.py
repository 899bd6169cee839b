"""Terminal output: progress on standard error, results and pictures on standard output."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any

import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.style import Style
from rich.text import Text
from torch import Tensor

from mnistgen.text import printable, say

PLAIN_INTERVAL = 10.0  # seconds between lines where the output is not a terminal
NOTEBOOK_INTERVAL = 0.3  # seconds between pictures of a bar below a cell
MOST_SHRUNK = 4  # a digit of 28 pixels is still legible at 7


class SafeConsole(Console):
    """A console on which text, also that of tables, is shown as it is: it moves no cursor and changes no colours.

    Words are left to the terminal to fold, so that a command or a path is copied whole.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        if all(isinstance(item, str) for item in objects):  # tables fit themselves to the width
            options.setdefault("soft_wrap", True)
        super().print(*objects, **options)


def out(*, stderr: bool = False) -> Console:
    """Results, on standard output, or beside it; lines are not folded where it is a file or a pipe."""
    console = SafeConsole(stderr=stderr)
    return console if console.is_terminal else SafeConsole(stderr=stderr, width=10_000, soft_wrap=True)


def notes(lines: Iterable[str]) -> None:
    """Print notes, such as what was done to the data that a command reads: one per line, on standard error."""
    for line in lines:
        say(f"note: {line}", sys.stderr)


def picture(image: Tensor) -> Text:
    """A grey image (h, w) uint8 as half blocks, two pixels a character; shrunk to the terminal's width."""
    shrink = -(-image.shape[1] // out().width)
    pixels = F.avg_pool2d(image[None].float().cpu(), shrink, ceil_mode=True)[0] if shrink > 1 else image
    small = pixels.int().tolist()
    if len(small) % 2:
        small.append([0] * len(small[0]))
    text = Text()
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        for above, below in zip(upper, lower, strict=True):
            text.append("▀", Style(color=f"rgb({above},{above},{above})", bgcolor=f"rgb({below},{below},{below})"))
        text.append("\n")
    return text


def show(image: Tensor) -> None:
    """Print a picture where standard output is a terminal that can show one; otherwise nothing."""
    console = out()
    has_greys = console.is_terminal and console.color_system in ("256", "truecolor")
    if has_greys and not console.options.ascii_only and image.shape[1] <= MOST_SHRUNK * console.width:
        console.print(picture(image))


def duration(seconds: float) -> str:
    """`75.2` -> `1 min 15 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Display:
    """One line of progress: a bar in a terminal, a plain line every few seconds elsewhere, nothing when quiet."""

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self.title, self.quiet = printable(title), quiet
        self._start = time.monotonic()
        self._first: float | None = None
        self._last_line = -PLAIN_INTERVAL
        self._bar: Progress | None = None
        self._notebook: NotebookBar | None = None

    def update(self, progress: float, text: str, *, last: bool = False) -> None:
        """`progress` in [0, 1] of the whole command; `text` says what matters now."""
        if self.quiet:
            return
        now = time.monotonic()
        if self._first is None:
            self._first, self._start = progress, now  # a resumed run starts in the middle
        gained = progress - self._first
        eta = (now - self._start) / gained * (1 - progress) if gained > 0 else None
        ends = f"  {duration(eta)} left" if eta is not None and not last else ""
        if self._notebook is not None:
            self._notebook.show(progress, f"{text}{ends}", last=last)
        elif self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=progress, detail=printable(f"{text}{ends}"))
        elif last or now - self._last_line >= PLAIN_INTERVAL:
            self._last_line = now
            say(f"{self.title}  {progress:4.0%}  {text}{ends}", sys.stderr)

    def note(self, text: str) -> None:
        """A line of its own, for what must not scroll away."""
        if self._bar is not None:
            self._bar.console.print(text)
        elif not self.quiet:
            say(text, sys.stderr)

    @contextmanager
    def live(self) -> Iterator["Display"]:
        """Inside, a bar is shown where standard error is a terminal."""
        console = SafeConsole(stderr=True)
        if console.is_jupyter and not self.quiet:
            self._notebook = NotebookBar(self.title)
            try:
                yield self
            finally:
                self._notebook = None
            return
        if self.quiet or not console.is_terminal:
            yield self
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
        )
        with Progress(*columns, console=console) as bar:
            self._bar = bar
            bar.add_task(self.title, total=1.0, detail="")
            try:
                yield self
            finally:
                self._bar = None


class NotebookBar:
    """A bar below a cell of a notebook, which needs no widgets and stays as it was last."""

    def __init__(self, title: str) -> None:
        self.title, self._shown = title, -NOTEBOOK_INTERVAL
        self._handle: Any = None

    def show(self, progress: float, text: str, *, last: bool) -> None:
        """Draw it, if that is not too often."""
        from IPython.display import HTML, display

        now = time.monotonic()
        if not last and now - self._shown < NOTEBOOK_INTERVAL:
            return
        self._shown = now
        drawn = HTML(
            f'{escape(self.title)} <progress value="{progress:.4f}" max="1"></progress> {progress:.0%} {escape(text)}'
        )
        if self._handle is None:
            self._handle = display(drawn, display_id=True)
        else:
            self._handle.update(drawn)


def numbers(values: Mapping[str, Any]) -> str:
    """`{"loss": 3.14159}` -> `loss 3.142`."""
    return "  ".join(f"{name} {float(value):.4g}" for name, value in values.items())

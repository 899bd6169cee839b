"""Figures take longer to draw than the runs in the tests that they are of; most tests are content with the lines."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from matplotlib.figure import Figure

_savefig = Figure.savefig


@contextmanager
def bare() -> Iterator[None]:
    """Inside, PNGs are saved without axes and their ticks, and without a layout that makes room for them."""

    def savefig(figure: Figure, *arguments: Any, **options: Any) -> None:
        if options.get("format") == "png":
            figure.set_layout_engine("none")
            for axes in figure.axes:
                axes.set_axis_off()
        _savefig(figure, *arguments, **options)

    with mock.patch.object(Figure, "savefig", savefig):
        yield


@contextmanager
def whole() -> Iterator[None]:
    """Inside, figures are saved as users get them."""
    with mock.patch.object(Figure, "savefig", _savefig):
        yield

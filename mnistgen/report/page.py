"""The page: one file of HTML that needs no network and no server."""

from pathlib import Path
from typing import Any

from mnistgen.files import atomic_file
from mnistgen.report.figures import curves_svg
from mnistgen.report.inputs import VIEWS, Report
from mnistgen.report.table import Column, Scored, between, columns, merged, named, place, ranked, real_value, value
from mnistgen.text import rendered

EXPLAINED = (
    "A score is read on its scale: a floor of 1 is what other real images get. A bar is empty there, and full at what "
    "real images get under heavy noise; distances are placed by their logarithm."
)


def write_page(report: Report, path: Path, *, title: str = "mnistgen report", command: str = "") -> None:
    """Write the page into one file. `command` is what makes it again, and stands at its end."""
    with atomic_file(path) as temporary:
        temporary.write_text(render(report, title=title, command=command), "utf-8")


def render(report: Report, *, title: str, command: str) -> str:
    """The page as text. Whatever comes from files and models is escaped."""
    scores, rows = ranked(report.scores), ranked(merged(report.scores))
    labels = list(dict.fromkeys(strip.label for gallery in report.galleries for strip in gallery.strips if strip.label))
    return rendered(
        "mnistgen.report",
        "page.html",
        title=title,
        command=command,
        galleries=report.galleries,
        labels=labels,
        views=[view for view in VIEWS if any(s.view == view for gallery in report.galleries for s in gallery.strips)],
        columns=columns(scores),
        rows=[_row(score, rows) for score in rows],
        real=["" if (x := real_value(scores, c)) is None else format(x, c.form) for c in columns(scores)],
        scores=scores,
        explained=EXPLAINED,
        curves=curves_svg(report.runs) if report.runs else "",
        runs=report.runs,
        studies=report.studies,
        confused=_confused,
        named=named,
    )


def _row(score: Scored, scores: list[Scored]) -> dict[str, Any]:
    return {"name": score.name, "cells": [_cell(score, column, scores) for column in columns(scores)]}


def _cell(score: Scored, column: Column, scores: list[Scored]) -> dict[str, Any]:
    number, share = value(score, column), place(score, column, scores)
    text = "" if number is None else format(number, column.form)
    interval = ""
    if column.number == "floors" and score.interval is not None:
        interval = "{:.1f} to {:.1f}".format(*score.interval)
    if column.number in score.ranges:
        interval = between(score.ranges[column.number], column)
    return {"number": number, "text": text, "interval": interval, "bar": None if share is None else round(100 * share)}


def _confused(score: Scored, requested: int, predicted: int) -> int:
    """How dark a cell of the confusion matrix is, in percent: mistakes by the largest of them, what is right not."""
    worst = max((n for i, row in enumerate(score.confusion) for j, n in enumerate(row) if i != j), default=0)
    return 0 if requested == predicted or not worst else round(100 * score.confusion[requested][predicted] / worst)

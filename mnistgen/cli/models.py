"""`mnistgen models`: what can be trained, and which distribution it comes from. No torch, no plugin is imported."""

import re
import sys
from dataclasses import dataclass

from mnistgen.cli import arguments as flags
from mnistgen.errors import MnistgenError
from mnistgen.published import Published, published
from mnistgen.registry import claims, clash, entries, misnamed, misnomer, model_class, unreadable
from mnistgen.text import printable, say

EXAMPLES = """
mnistgen models
mnistgen models --load        import each one, and show which fail and why
mnistgen models | grep vae    one line per model, columns between tabs
"""
NUMBERS = ("weights", "training", "FID / floor", "an image")  # columns of `Published`
LEAST_WANTED = ("an image", "training", "weights", "year", "FID / floor", "family")  # what goes first for want of room
DESCRIPTION_WIDTH = 32  # below which a description is hard to read
GAP = 3  # between two columns


@dataclass(frozen=True, kw_only=True)
class Options(flags.Common):
    """List the models there are: name, family, description and the distribution each comes from.

    A terminal also shows what is published of the checkpoints that ship: the year of the first paper, weights, minutes
    of training, FID as a multiple of what real images get, and the time of an image, as far as there is room.
    """

    load: bool = False
    """Import each model; the exit code is 1 where one fails."""


def run(arguments: list[str], prog: str) -> int:
    # Without flags there is nothing to parse, and parsing takes as long as all of the listing.
    options = flags.parse(Options, arguments, prog=prog, examples=EXAMPLES) if arguments else Options()
    header = ["name", "family", "description", "distribution", *(["loads"] if options.load else [])]
    rows, failures = [], 0
    for entry in sorted(entries().values(), key=lambda entry: (entry.family, entry.name)):
        failure = _failure(entry.name) if options.load else ""
        row = [entry.name, entry.family, failure or entry.description, entry.source]
        rows.append([*row, "no" if failure else "yes"] if options.load else row)
        failures += bool(failure)
    for name, rivals in claims().items():
        if len(rivals) > 1:
            row = [name, "", clash(rivals), ", ".join(entry.source for entry in rivals)]
            rows.append([*row, "no"] if options.load else row)
            failures += options.load
    for entry in misnamed():
        row = [ascii(entry.name), "", misnomer(entry), entry.source]
        rows.append([*row, "no"] if options.load else row)
        failures += options.load
    for distribution, problem in unreadable().items():
        row = ["", "", problem, distribution]
        rows.append([*row, "no"] if options.load else row)
        failures += options.load
    if sys.stdout.isatty():
        _table(header, rows)
    else:
        for row in rows:
            say("\t".join(" ".join(cell.split()) for cell in row))
    return 1 if failures else 0


def _failure(name: str) -> str:
    """The reason why a model cannot be imported; empty where it can."""
    try:
        model_class(name)
    except MnistgenError as error:
        return str(error)
    return ""


def _table(header: list[str], rows: list[list[str]]) -> None:
    """Show the rows, with what is published beside them, and without the columns that there is no room for."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, known = Console(), published()
    titles = [*header[:3], "year", *NUMBERS, *header[3:]]
    cells = [titles, *([*row[:3], *_numbers(row[2], known.get(row[0])), *row[3:]] for row in rows)]
    widths = {title: max(map(len, column)) for title, column in zip(titles, zip(*cells, strict=True), strict=True)}
    widths["description"] = DESCRIPTION_WIDTH
    dispensable = [*(["distribution"] if len({row[3] for row in rows}) == 1 else []), *LEAST_WANTED]
    while dispensable and sum(width + GAP for width in widths.values()) > console.width:
        del widths[dispensable.pop(0)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in widths:
        number = title in ("year", *NUMBERS)
        table.add_column(title, overflow="fold", no_wrap=title == "name", justify="right" if number else "left")
    for row in cells[1:]:
        # Text: a description may hold square brackets, which are rich's markup.
        table.add_row(*(Text(printable(cell)) for title, cell in zip(titles, row, strict=True) if title in widths))
    console.print(table)


def _numbers(description: str, found: Published | None) -> list[str]:
    """The year of the paper, as the description has it, and what is published, in the order of `NUMBERS`."""
    year = re.search(r"\b(?:19|20)\d\d\b", description)
    return [year[0] if year else "", *(found.columns[title] if found else "" for title in NUMBERS)]

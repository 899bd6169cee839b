"""`mnistgen report SOURCE ...`."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mnistgen.cli.arguments import Common, parse
from mnistgen.console import notes, out
from mnistgen.errors import UsageError
from mnistgen.files import atomic_file
from mnistgen.report import read_sources, table, write_page
from mnistgen.training import resolve_device

STANDARD_OUTPUT = Path("-")
EXAMPLES = """
mnistgen report flow dcgan vae --out report.html       what they draw, side by side
mnistgen score flow dcgan mine.npz --json scores.json
mnistgen report flow dcgan mine.npz scores.json        their images and their scores
mnistgen report checkpoints/mine                       a training: its curves, and what its model draws
mnistgen report scores.json --format latex --out -     the table for a paper
"""


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Common):
    """Show models, images, scores and trainings on one page, an HTML file that needs no network and no server."""

    standard_output = ("out",)

    sources: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE ...", help_behavior_hint="")
    ] = ()
    """Checkpoints, images (.npz, .csv, a folder), files of `score --json`, folders of trainings and studies."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where to write; default: report.html, and for a table standard output (-)."""
    format: Literal["html", "markdown", "latex", "csv"] = "html"
    """A page, or the table of scores alone as markdown, latex or csv."""
    title: str = "mnistgen report"
    """Title of the page."""


def run(arguments: list[str], prog: str) -> int:
    options = parse(ReportOptions, arguments, prog=prog, examples=EXAMPLES)
    if not options.sources:
        raise UsageError(f"Name what the page is to show, as in {prog} flow vae scores.json; see {prog} --help.")
    report = read_sources(
        options.sources,
        seed=options.seed,
        device=resolve_device(options.device),
        data_dir=options.data_dir,
        progress=lambda source: notes([f"reading {source}"]),
    )
    if options.format != "html":
        if not report.scores:
            raise UsageError("A table needs scores: name a file that `mnistgen score SOURCE --json FILE` wrote.")
        text = table(report.scores, options.format)
        target = options.out or STANDARD_OUTPUT
        if target == STANDARD_OUTPUT:
            sys.stdout.write(text)
            return 0
        with atomic_file(target) as temporary:
            temporary.write_text(text, "utf-8")
    else:
        target = options.out or Path("report.html")
        if target == STANDARD_OUTPUT:
            raise UsageError("--out -: a page is not written to standard output; give a path.")
        write_page(report, target, title=options.title, command=shlex.join(["mnistgen", "report", *arguments]))
    out().print(f"report: {target}", markup=False)
    return 0

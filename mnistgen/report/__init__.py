"""One page about models: their images side by side, their scores on a scale, and how they were trained."""

from mnistgen.report.inputs import Gallery, Report, Run, Study, read_sources
from mnistgen.report.page import write_page
from mnistgen.report.table import FORMATS, Scored, read_scores, table

__all__ = [
    "FORMATS",
    "Gallery",
    "Report",
    "Run",
    "Scored",
    "Study",
    "read_scores",
    "read_sources",
    "table",
    "write_page",
]

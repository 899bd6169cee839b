"""Scores: what a set of images is worth, beside the best and the worst possible value.

`panel` are the networks that look, `reference` the real images they have seen, `measure` what is measured, `scale`
what real and corrupted images get, `sources` what can be scored, `result` what comes of it; `Scorer` puts them
together.
`classifiers` are the scores that train one, `fidelity` is torch-fidelity's side.
"""

from mnistgen.scoring.panel import NETWORKS, VIEWS, Panel, Seen, View
from mnistgen.scoring.reference import Reference, class_counts, draw, load_reference
from mnistgen.scoring.result import Difference, Score, difference, ranked, to_json, write_json
from mnistgen.scoring.scorer import N, Scorer, score
from mnistgen.scoring.sources import ImageSource, ModelSource, Scorable, Source, open_source

__all__ = [
    "NETWORKS",
    "VIEWS",
    "Difference",
    "ImageSource",
    "ModelSource",
    "N",
    "Panel",
    "Reference",
    "Scorable",
    "Score",
    "Scorer",
    "Seen",
    "Source",
    "View",
    "class_counts",
    "difference",
    "draw",
    "load_reference",
    "open_source",
    "ranked",
    "score",
    "to_json",
    "write_json",
]

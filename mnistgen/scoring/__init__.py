"""Scores: what a set of images is worth, beside the best and the worst possible value.

`panel` are the networks that look, `reference` the real images they have seen, `measure` what is measured, `scale`
what real and spoilt images get, `sources` what can be scored; `Scorer` puts them together. `classifiers` are the scores
that train one, `fidelity` is torch-fidelity's side.
"""

from mnistgen.scoring.panel import NETWORKS, VIEWS, Panel, Seen, View
from mnistgen.scoring.reference import Reference, class_counts, draw, load_reference
from mnistgen.scoring.scorer import N, Score, Scorer, ranked, score, write_json
from mnistgen.scoring.sources import ImageSource, ModelSource, Source, open_source

__all__ = [
    "NETWORKS",
    "VIEWS",
    "ImageSource",
    "ModelSource",
    "N",
    "Panel",
    "Reference",
    "Score",
    "Scorer",
    "Seen",
    "Source",
    "View",
    "class_counts",
    "draw",
    "load_reference",
    "open_source",
    "ranked",
    "score",
    "write_json",
]

"""Scores: what a set of images is worth, beside the best and the worst possible value.

`evaluators` are the networks and their features, `reference` the features of real images, `measure` what is measured,
`scale` what real and corrupted images get, `sources` what can be scored, `result` what comes of it; `Scorer` puts them
together. `classifiers` are the scores that train one, `monitor` measures samples during training, `fidelity` is
torch-fidelity's side.
"""

from mnistgen.scoring.evaluators import NETWORKS, VIEWS, Evaluators, Features, View
from mnistgen.scoring.reference import Reference, class_counts, load_reference, stratified_indices
from mnistgen.scoring.result import Difference, Score, difference, ranked, to_json, write_json
from mnistgen.scoring.scorer import N, Scorer, score
from mnistgen.scoring.sources import ImageSource, ModelSource, Scorable, Source, open_source

__all__ = [
    "NETWORKS",
    "VIEWS",
    "Difference",
    "Evaluators",
    "Features",
    "ImageSource",
    "ModelSource",
    "N",
    "Reference",
    "Scorable",
    "Score",
    "Scorer",
    "Source",
    "View",
    "class_counts",
    "difference",
    "load_reference",
    "open_source",
    "ranked",
    "score",
    "stratified_indices",
    "to_json",
    "write_json",
]

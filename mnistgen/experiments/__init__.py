"""Does synthetic data help? The augmentation study, with its controls, and the loop of models trained on models.

`arms` says what is compared and `recipe` everything that is fixed in advance. `design` turns that into `cells`, each of
which is done once by the `runner`, on one or several processes (`crew`), and recorded for good (`records`). `results`
and `statistics` say what it came to, `report` and `figures` show it. `subsets` holds every generator to its images.
"""

from mnistgen.experiments.arms import ARMS, DEFAULT_ARMS, Arm
from mnistgen.experiments.design import Design
from mnistgen.experiments.found import Study
from mnistgen.experiments.generations import Loop
from mnistgen.experiments.generations_run import loop
from mnistgen.experiments.results import Comparison, Outcome
from mnistgen.experiments.study import augment

__all__ = [
    "ARMS",
    "DEFAULT_ARMS",
    "Arm",
    "Comparison",
    "Design",
    "Loop",
    "Outcome",
    "Study",
    "augment",
    "loop",
]

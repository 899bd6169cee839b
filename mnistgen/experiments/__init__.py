"""Does synthetic data help? The augmentation study, with its controls, and self-consuming training.

`protocol` says what is compared and everything that is fixed in advance. `plan` turns that into `tasks`, each of which
is done once and recorded for good (`cache`). `analysis` says what it came to, `report` and `figures` show it, and `api`
runs it all. `subsets` holds every generator to its images.
"""

from mnistgen.experiments.analysis import Comparison, Loop, Outcome, Study
from mnistgen.experiments.api import augment, loop
from mnistgen.experiments.plan import Design, LoopDesign
from mnistgen.experiments.protocol import CONDITIONS, DEFAULT_CONDITIONS, Condition

__all__ = [
    "CONDITIONS",
    "DEFAULT_CONDITIONS",
    "Comparison",
    "Condition",
    "Design",
    "Loop",
    "LoopDesign",
    "Outcome",
    "Study",
    "augment",
    "loop",
]

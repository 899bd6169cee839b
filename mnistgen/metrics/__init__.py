"""The mathematics of the scores, on plain tensors: features in, numbers out.

`frechet` compares two Gaussians, `bootstrap` says how surely, `kernel` compares two sets by a kernel,
`precision_recall` by the balls around their points; `labels` asks whether the class that was requested is predicted,
`memorisation` whether the training set was copied. Features are (n, d), of any float type or uint8; samples come first,
what is real second. The same input gives the same number to the last digit; what is drawn at random is drawn by a seed.
"""

from mnistgen.metrics.bootstrap import GroupSums, Replicates, group_sums, replicate_fid
from mnistgen.metrics.features import pixels
from mnistgen.metrics.frechet import (
    ClassDistances,
    Moments,
    class_distance,
    class_weights,
    fid,
    fid_infinity,
    frechet_distance,
    moments,
    per_class_fid,
    relative_frechet_distance,
    weighted_moments,
)
from mnistgen.metrics.kernel import KernelDistance, kid
from mnistgen.metrics.labels import Agreement, Alarm, label_agreement
from mnistgen.metrics.memorisation import (
    CopyingTest,
    Memorisation,
    authentic,
    copying_test,
    mann_whitney,
    memorisation,
    stratified_halves,
)
from mnistgen.metrics.neighbours import Neighbours, nearest
from mnistgen.metrics.precision_recall import PRDC, prdc

__all__ = [
    "PRDC",
    "Agreement",
    "Alarm",
    "ClassDistances",
    "CopyingTest",
    "GroupSums",
    "KernelDistance",
    "Memorisation",
    "Moments",
    "Neighbours",
    "Replicates",
    "authentic",
    "class_distance",
    "class_weights",
    "copying_test",
    "fid",
    "fid_infinity",
    "frechet_distance",
    "group_sums",
    "kid",
    "label_agreement",
    "mann_whitney",
    "memorisation",
    "moments",
    "nearest",
    "per_class_fid",
    "pixels",
    "prdc",
    "relative_frechet_distance",
    "replicate_fid",
    "stratified_halves",
    "weighted_moments",
]

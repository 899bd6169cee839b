"""The mathematics of the scores, on plain tensors: features in, numbers out.

`frechet` compares two Gaussians, `kernel` two sets by a kernel, `manifold` by the balls around their points;
`labels` asks whether the digit that was asked for is there, `memorisation` whether the training set was copied.
Features are (n, d), of any float type or uint8; samples come first, what is real second. The same
input gives the same number to the last digit; what is drawn at random is drawn by a seed.
"""

from mnistgen.metrics.features import pixels
from mnistgen.metrics.frechet import (
    ClassDistances,
    Moments,
    fid,
    fid_infinity,
    frechet_distance,
    moments,
    per_class_fid,
    relative_frechet_distance,
)
from mnistgen.metrics.kernel import KernelDistance, kid
from mnistgen.metrics.labels import Agreement, Alarm, label_agreement
from mnistgen.metrics.manifold import ManifoldScores, manifold_scores
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

__all__ = [
    "Agreement",
    "Alarm",
    "ClassDistances",
    "CopyingTest",
    "KernelDistance",
    "ManifoldScores",
    "Memorisation",
    "Moments",
    "Neighbours",
    "authentic",
    "copying_test",
    "fid",
    "fid_infinity",
    "frechet_distance",
    "kid",
    "label_agreement",
    "manifold_scores",
    "mann_whitney",
    "memorisation",
    "moments",
    "nearest",
    "per_class_fid",
    "pixels",
    "relative_frechet_distance",
    "stratified_halves",
]

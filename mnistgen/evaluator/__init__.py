"""The evaluator: classifiers of MNIST-format images, whose features and verdicts the scores are made of.

`networks` are the ladder and the two evaluators' architectures, `weights` their files and the shipped pair,
`evaluation` says how good one is.
"""

from mnistgen.evaluator.evaluation import (
    LAYERS,
    Evaluation,
    calibration_error,
    class_scores,
    confusion_matrix,
    evaluate,
    extract,
    predict,
    wilson_interval,
)
from mnistgen.evaluator.networks import (
    CLASSIFIERS,
    CNN,
    MLP,
    Classifier,
    ClassifierConfig,
    LeNet5,
    Logistic,
    ResidualCNN,
)
from mnistgen.evaluator.weights import (
    SHIPPED,
    build_classifier,
    classifier_class,
    evaluator_hash,
    evaluator_path,
    load_classifier,
    load_evaluator,
    save_classifier,
)

__all__ = [
    "CLASSIFIERS",
    "CNN",
    "LAYERS",
    "MLP",
    "SHIPPED",
    "Classifier",
    "ClassifierConfig",
    "Evaluation",
    "LeNet5",
    "Logistic",
    "ResidualCNN",
    "build_classifier",
    "calibration_error",
    "class_scores",
    "classifier_class",
    "confusion_matrix",
    "evaluate",
    "evaluator_hash",
    "evaluator_path",
    "extract",
    "load_classifier",
    "load_evaluator",
    "predict",
    "save_classifier",
    "wilson_interval",
]

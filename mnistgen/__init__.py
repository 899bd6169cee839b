"""mnistgen: a workbench for generative models on MNIST-format images.

The names below are the public API. They are imported on first use, so that what does not need torch
(`mnistgen --help`, `mnistgen models`) does not wait for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnistgen.building import create_model
    from mnistgen.checkpoint import Checkpoint, load, read_checkpoint, save
    from mnistgen.data import Dataset, load_data, to_float, to_uint8, train_validation_split
    from mnistgen.errors import (
        CheckpointError,
        ContractError,
        DataError,
        LeakageError,
        MnistgenError,
        PluginError,
        TrainingError,
        UsageError,
    )
    from mnistgen.experiments import Study, augment
    from mnistgen.model import (
        BaseConfig,
        GenerativeModel,
        HasDecoder,
        HasEditing,
        HasLatents,
        HasLikelihood,
        HasReconstruction,
        HasTrajectory,
        Loss,
        Noise,
        Trainable,
    )
    from mnistgen.registry import list_models, model_class
    from mnistgen.sampling import (
        fixed_latent,
        grid,
        inpaint,
        interpolate,
        interpolate_images,
        log_likelihood,
        manifold,
        reconstruct,
        reconstructions,
        region,
        sample,
        sample_trajectory,
        save_gif,
        save_png,
        sweep,
        traverse,
        traverse_coordinate,
        vary,
    )
    from mnistgen.scoring import Score, Scorer, score
    from mnistgen.testing import check_model
    from mnistgen.training import Step, fit, train

_HOME = {
    "building": ("create_model",),
    "checkpoint": ("Checkpoint", "load", "read_checkpoint", "save"),
    "data": ("Dataset", "load_data", "to_float", "to_uint8", "train_validation_split"),
    "errors": (
        "CheckpointError",
        "ContractError",
        "DataError",
        "LeakageError",
        "MnistgenError",
        "PluginError",
        "TrainingError",
        "UsageError",
    ),
    "experiments": ("Study", "augment"),
    "model": (
        "BaseConfig",
        "GenerativeModel",
        "HasDecoder",
        "HasEditing",
        "HasLatents",
        "HasLikelihood",
        "HasTrajectory",
        "HasReconstruction",
        "Loss",
        "Noise",
        "Trainable",
    ),
    "registry": ("list_models", "model_class"),
    "sampling": (
        "grid",
        "inpaint",
        "interpolate",
        "interpolate_images",
        "log_likelihood",
        "manifold",
        "reconstruct",
        "reconstructions",
        "region",
        "fixed_latent",
        "sample",
        "sample_trajectory",
        "save_gif",
        "save_png",
        "sweep",
        "traverse",
        "traverse_coordinate",
        "vary",
    ),
    "scoring": ("Score", "Scorer", "score"),
    "testing": ("check_model",),
    "training": ("Step", "fit", "train"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "BaseConfig",
    "Checkpoint",
    "CheckpointError",
    "ContractError",
    "DataError",
    "Dataset",
    "GenerativeModel",
    "HasDecoder",
    "HasEditing",
    "HasLatents",
    "HasLikelihood",
    "HasReconstruction",
    "HasTrajectory",
    "LeakageError",
    "Loss",
    "MnistgenError",
    "Noise",
    "PluginError",
    "Score",
    "Scorer",
    "Step",
    "Study",
    "Trainable",
    "TrainingError",
    "UsageError",
    "augment",
    "check_model",
    "create_model",
    "fit",
    "fixed_latent",
    "grid",
    "inpaint",
    "interpolate",
    "interpolate_images",
    "list_models",
    "load",
    "load_data",
    "log_likelihood",
    "manifold",
    "model_class",
    "read_checkpoint",
    "reconstruct",
    "reconstructions",
    "region",
    "sample",
    "sample_trajectory",
    "save",
    "save_gif",
    "save_png",
    "score",
    "sweep",
    "to_float",
    "to_uint8",
    "train",
    "train_validation_split",
    "traverse",
    "traverse_coordinate",
    "vary",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'mnistgen' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"mnistgen.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

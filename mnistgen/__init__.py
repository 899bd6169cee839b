"""mnistgen: a workbench for generative models on MNIST-format images.

    data = mnistgen.load_data("mnist")
    model = mnistgen.train(mnistgen.create_model("vae"), data)
    images = mnistgen.sample(model, [2, 0, 2, 6])
    print(mnistgen.score(model))

`load_data` and `Dataset`; `list_models`, `create_model`, `train`, `fit`, `save`, `load`, `push`; `sample`, `score`,
`augment`; `load_evaluator`, `evaluate`; for authors of models `GenerativeModel`, `BaseConfig`, `Loss`, `Noise`; and the
errors. The rest is in `mnistgen.data`, `mnistgen.sampling`, `mnistgen.metrics`, `mnistgen.model` and the other
modules.

Names stand in `__init__.pyi` and are imported on first use, so that what does not need torch (`mnistgen --help`,
`mnistgen models`) does not wait for it.
"""

import importlib
import warnings
from typing import Any

import lazy_loader

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# Names that stood here in the last version, by the module that has them now.
_MOVED = {
    "checkpoint": ("Checkpoint", "read_checkpoint"),
    "data": ("to_float", "to_uint8", "train_validation_split"),
    "experiments": ("Study",),
    "model": ("HasDecoder", "HasEditing", "HasLatents", "HasLikelihood", "HasPath", "HasReconstruction", "Trainable"),
    "registry": ("model_class",),
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
        "same_noise",
        "sample_path",
        "save_gif",
        "save_png",
        "sweep",
        "traverse",
        "traverse_coordinate",
        "vary",
    ),
    "scoring": ("Score", "Scorer"),
    "testing": ("check_model",),
    "training": ("Step",),
}
_RENAMED = {"same_noise": "fixed_latent", "sample_path": "sample_trajectory"}


def __getattr__(name: str) -> Any:
    for module, names in _MOVED.items():
        if name in names:
            present = _RENAMED.get(name, name)
            warnings.warn(f"mnistgen.{name} is mnistgen.{module}.{present} now.", DeprecationWarning, stacklevel=2)
            return getattr(importlib.import_module(f"mnistgen.{module}"), present)
    return _public(name)

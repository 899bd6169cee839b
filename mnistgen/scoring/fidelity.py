"""The scores by torch-fidelity from end to end: the evaluator among its feature extractors, and the literature's FID.

Our own functions (`mnistgen.metrics`) take features; here torch-fidelity takes images, loads, batches and extracts
for itself. The two must agree, and tests hold them to it. torch-fidelity has a cache whose key knows neither the
weights nor the number of images. So an extractor's name carries the hash of its weights, and the cache stays off.
"""

import copy
import hashlib
import importlib
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mnistgen.data import import_torchvision
from mnistgen.data.dataset import check_images
from mnistgen.errors import DataError, UsageError, suggestion
from mnistgen.evaluator import Classifier, evaluator_hash, extract
from mnistgen.evaluator.evaluation import BATCH
from mnistgen.metrics.features import check_features
from mnistgen.metrics.kernel import SUBSET, SUBSETS
from mnistgen.metrics.precision_recall import PRECISION_K
from mnistgen.model import IMAGE_SHAPE

# The file that torch-fidelity and pytorch-fid both publish; its official names end in the first eight digits.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def register(model: Classifier) -> str:
    """Make a classifier a feature extractor of torch-fidelity; its name there, `mnistgen-HASH`, hash of the weights.

    For `torch_fidelity.calculate_metrics(feature_extractor=name, ...)`. It holds a frozen copy, for as long as the
    process lives: the classifier may change afterwards, and then gets another name. Registering twice is no error.
    The features are those of `extract`, with its rounding, of uint8 images (b, 1, 28, 28), or (b, 3, 28, 28) as
    torch-fidelity reads a folder of grey ones; others raise `UsageError`, features that are not finite `DataError`.
    """
    name = f"mnistgen-{evaluator_hash(model)}"
    registry = _torch_fidelity("registry")
    if name not in registry.FEATURE_EXTRACTORS_REGISTRY:
        registry.register_feature_extractor(name, _extractor(model))
    return name


def fidelity(
    samples: Tensor,
    reference: Tensor,
    model: Classifier,
    *,
    layer: str = "penultimate",
    kid: bool = False,
    precision_recall: bool = False,
    kid_subsets: int = SUBSETS,
    kid_subset_size: int = SUBSET,
    k: int = PRECISION_K,
    seed: int = 0,
) -> dict[str, float]:
    """torch-fidelity's scores of two sets of images, uint8 (n, 1, 28, 28), (m, 1, 28, 28), where the model is.

    "fid"; with `kid` also "kid_mean" and "kid_std", over subsets drawn by `seed`; with `precision_recall` also
    "precision" and "recall", by the `k`-th neighbours. It is what `metrics.fid`, `kid` and `prdc` make of
    the features of `extract`, but for torch-fidelity's float32. Raises `UsageError` for images of another kind, too
    few of them, or a layer that the classifier lacks; `DataError` where features are not finite.
    """
    _check_images(samples, reference, metric="FID", least=2)
    if kid:
        _check_images(samples, reference, metric="KID", least=kid_subset_size)
    if precision_recall:
        _check_images(samples, reference, metric="Precision and recall", least=k + 1)
    extractor = register(model)
    layers = _torch_fidelity("registry").FEATURE_EXTRACTORS_REGISTRY[extractor].get_provided_features_list()
    if layer not in layers:
        raise UsageError(f"{type(model).__name__} has no layer {layer!r}. {suggestion(layer, layers)}")
    theirs = _calculate(
        samples,
        reference,
        device=next(model.parameters()).device,
        feature_extractor=extractor,
        feature_layer_fid=layer,
        feature_layer_kid=layer,
        feature_layer_prc=layer,
        kid=kid,
        kid_subsets=kid_subsets,
        kid_subset_size=kid_subset_size,
        prc=precision_recall,
        prc_neighborhood=k,
        rng_seed=seed,
    )
    names = {
        "frechet_inception_distance": "fid",
        "kernel_inception_distance_mean": "kid_mean",
        "kernel_inception_distance_std": "kid_std",
        "precision": "precision",
        "recall": "recall",
    }
    return {ours: theirs[name] for name, ours in names.items() if name in theirs}


def inception_fid(
    samples: Tensor, reference: Tensor, *, weights: Path | None = None, device: str | torch.device = "cpu"
) -> float:
    """The literature's FID, in the 2,048 features of torch-fidelity's "inception-v3-compat".

    Of uint8 images (n, 1, 28, 28), (m, 1, 28, 28), grey repeated to three channels. Nothing is downloaded: `weights`
    is the file, by default the place in torch's hub folder where torch-fidelity would put it. Raises `DataError`
    where it is missing or not the official file, `UsageError` for images of another kind or fewer than two a side.
    """
    _check_images(samples, reference, metric="FID", least=2)
    return _inception_fid(samples, reference, check_inception_weights(weights), device=torch.device(device))


def _torch_fidelity(module: str) -> Any:
    import_torchvision()  # torch-fidelity imports it
    return importlib.import_module(f"torch_fidelity.{module}")


def _extractor(model: Classifier) -> type:
    """The class that torch-fidelity makes extractors of."""
    frozen = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    with torch.inference_mode():
        layers = tuple(frozen.features(torch.zeros(1, *IMAGE_SHAPE)))
    base: Any = _torch_fidelity("feature_extractor_base").FeatureExtractorBase

    class Extractor(base):  # type: ignore[misc]
        """The layers of one classifier."""

        def __init__(self, name: str, features_list: list[str], **_settings: Any) -> None:
            # The settings are all of calculate_metrics' arguments; none of them is for us.
            super().__init__(name, features_list)
            self.classifier = copy.deepcopy(frozen)  # torch-fidelity may move it to the GPU

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            """(b, 1 or 3, 28, 28) uint8 -> (b, d) float32 of each requested layer, in the order of the request."""
            found = extract(self.classifier, _grey(images), layers=self.features_list)
            return tuple(
                check_features(found[layer].float(), name="images", metric=self.name, least=1)
                for layer in self.features_list
            )

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return layers

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "penultimate"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

    return Extractor


def _grey(images: Tensor) -> Tensor:
    """(b, 1, 28, 28), or (b, 3, 28, 28) of equal channels -> (b, 1, 28, 28); uint8, else `UsageError`."""
    _, height, width = IMAGE_SHAPE
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] not in (IMAGE_SHAPE, (3, height, width)):
        raise UsageError(
            f"Images are {tuple(images.shape)} {_dtype(images)}; the evaluator takes (n, 1, 28, 28) uint8, "
            "or (n, 3, 28, 28) whose channels are equal."
        )
    grey = images[:, :1]
    if not torch.equal(images, grey.expand_as(images)):
        raise UsageError("Images are in colour; the evaluator takes grey ones, whose three channels are equal.")
    return grey.contiguous()


class _Images(Dataset[Tensor]):
    """A set of images as torch-fidelity takes it: (n, c, 28, 28) uint8."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.cpu()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


def _calculate(samples: Tensor, reference: Tensor, *, device: torch.device, **settings: Any) -> dict[str, float]:
    """torch-fidelity's metrics of (n, c, 28, 28), (m, c, 28, 28) uint8, FID among them, under its own names."""
    cuda = device.type == "cuda"
    calculate_metrics = _torch_fidelity("metrics").calculate_metrics
    # torch-fidelity knows the current GPU only, and its loader draws from the global generator.
    with torch.cuda.device(device if cuda else -1), torch.random.fork_rng(devices=[]):
        theirs: dict[str, float] = calculate_metrics(
            input1=_Images(samples),
            input2=_Images(reference),
            fid=True,
            cuda=cuda,
            batch_size=BATCH,
            cache=False,
            save_cpu_ram=True,  # no worker processes
            verbose=False,
            **settings,
        )
    return theirs


def _inception_fid(
    samples: Tensor, reference: Tensor, weights: Path, *, device: torch.device, layer: str = "2048"
) -> float:
    """FID in a layer of Inception. `weights` goes through an unrestricted unpickler: check the file first."""
    theirs = _calculate(
        samples.expand(-1, 3, -1, -1),
        reference.expand(-1, 3, -1, -1),
        device=device,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        feature_layer_fid=layer,
    )
    return theirs["frechet_inception_distance"]


def check_inception_weights(path: Path | None) -> Path:
    """The file of Inception's weights, checked. torch-fidelity unpickles it without restriction, so it must be the
    official one, and load with `weights_only` too. Raises `DataError` where it is missing or another.
    """
    url: str = _torch_fidelity("feature_extractor_inceptionv3").URL_INCEPTION_V3
    path = path or Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such file. FID in Inception's features needs {url}, which mnistgen does not "
            "download: fetch it to that place, or name yours with --inception-weights PATH."
        )
    again = f"Fetch it again from {url}, and never load the one that is there."
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != INCEPTION_SHA256:
            raise DataError(
                f"{path}: not the official weights of Inception: its SHA-256 is {digest}, theirs {INCEPTION_SHA256}. "
                f"{again}"
            )
        torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise DataError(f"{path}: holds more than weights, or is damaged. {again}") from error
    return path


def _check_images(samples: Tensor, reference: Tensor, *, metric: str, least: int) -> None:
    for images, name in ((samples, "samples"), (reference, "real images")):
        check_images(images, f"the {name}", where=f"{metric}: ", error=UsageError)
        check_features(images.flatten(1), name=name, metric=metric, least=least)


def _dtype(images: Tensor) -> str:
    return str(images.dtype).removeprefix("torch.")

"""Published facts of the models that ship: size, training, score and time. Reading it imports no torch.

Size and training are what the shipped checkpoint says of itself; score and time are the records in
`benchmarks/results`, which are in the package where it is installed from a wheel.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mnistgen import integrity
from mnistgen.errors import MnistgenError

# The starter checkpoints and the records: in the package where it is installed from a wheel, beside it in a clone.
SHIPPED = [folder / "checkpoints" for folder in Path(__file__).parents[:2]]
RECORDS = [Path(__file__).parent / "records", Path(__file__).parents[1] / "benchmarks" / "results"]


class Published(NamedTuple):
    """A model that ships, in numbers."""

    weights: int  # numbers in the checkpoint
    seconds: float  # of training
    steps: int  # of training
    floors: Mapping[str, float]  # FID as a multiple of the floor, by evaluator; empty without a record
    milliseconds: float | None  # for an image; None without a record

    @property
    def headline(self) -> float | None:
        """The larger multiple of the floor of evaluators A and B."""
        return max(self.floors.values(), default=None)

    @property
    def columns(self) -> dict[str, str]:
        """The cells of tables, by the title of the column; empty text where there is no record."""
        return {
            "weights": f"{self.weights / 1e6:.2f} M",
            "training": f"{self.seconds / 60:.0f} min",
            "FID / floor": "" if self.headline is None else f"{self.headline:.1f}",
            "an image": "" if self.milliseconds is None else f"{self.milliseconds:.2g} ms",
        }


def published() -> dict[str, Published]:
    """The models whose checkpoints for MNIST ship, by name. Raises `MnistgenError` where a file is damaged."""
    scores, times = record("scores-mnist"), record("times-mnist")
    return {
        name: _published(path, scores.get(name, {}), times.get(name, {}))
        for name, path in sorted(shipped_checkpoints().items())
    }


def shipped_checkpoints() -> dict[str, Path]:
    """The shipped checkpoints for MNIST, by model; a working folder's own runs are not among them."""
    paths = (path for folder in reversed(SHIPPED) for path in folder.glob("*-mnist.safetensors"))
    return {path.stem.removesuffix("-mnist"): path for path in paths}


def record(name: str) -> dict[str, Any]:
    """A record of measurements by model; empty where there is none. Raises `MnistgenError` where it is damaged."""
    path = next((path for folder in RECORDS if (path := folder / f"{name}.json").is_file()), None)
    if path is None:
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise MnistgenError(f"{path}: is damaged: {error}. Install mnistgen anew.") from error
    return found


def _published(path: Path, score: Mapping[str, Any], time: Mapping[str, Any]) -> Published:
    try:
        tensors = integrity.read_header(path)
    except integrity.DamagedError as error:
        raise MnistgenError(f"{path}: is damaged: {error}. Install mnistgen anew.") from error
    about = tensors.pop("__metadata__", {})
    weights = sum(math.prod(tensor["shape"]) for tensor in tensors.values() if "F" in tensor["dtype"])
    seconds, steps = float(about["seconds"]), int(about["steps"])
    return Published(weights, seconds, steps, score.get("floors", {}), time.get("milliseconds"))

"""The plugin contract: what a model is to the rest of mnistgen.

A model is a module with a frozen dataclass of hyperparameters and two methods: `losses`, a generator of the
quantities to minimise in the order the paper minimises them, and `sample`, from labels to images. Training,
checkpoints, sampling, scores and the command line follow from those. `Trainable` is the part that training needs
(a classifier is one too); `GenerativeModel` adds sampling. What only some models can do (`HasLikelihood`,
`HasDecoder`, `HasLatents`, `HasReconstruction`, `HasTrajectory`, `HasEditing`) is an abstract class of its own, never a
method that may or may not be there.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from mnistgen.errors import ContractError, UsageError
from mnistgen.fields import checked, require_type, types_of
from mnistgen.limits import checked_seed

M = TypeVar("M")
IMAGE_SHAPE = (1, 28, 28)
MOST_CLASSES = 65_536


class Loss(NamedTuple):
    """One quantity to minimise, and the part of the model that it trains."""

    value: Tensor  # scalar
    module: nn.Module  # its parameters, and no others, are updated
    logs: Mapping[str, Tensor] = {}  # scalars for the progress line and the curves


@dataclass(frozen=True)
class BaseConfig:
    """Hyperparameters that the host reads; a model's own `Config` derives from this and adds its architecture.

    Every field is a default, a command-line flag (its docstring is the help text) and an entry in the checkpoint.
    Fields are int, float, bool, str, Literal or tuples of those.
    """

    epochs: float = 10.0
    """Length of training in passes over the training images, where neither --steps nor --budget says otherwise."""
    batch_size: int = 128
    """Images in a step, over all processes together."""
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to zero after the warm-up; constant: not at all."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from zero."""
    ema_decay: float = 0.999
    """Decay a step of the averaged weights that are sampled and saved; 0 keeps no average."""
    clip_norm: float = 0.0
    """Largest gradient norm of a loss; 0 does not clip."""

    def __post_init__(self) -> None:
        for name, hint in types_of(type(self)).items():
            require_type(name, getattr(self, name), hint)
        self.require("epochs", "batch_size", "lr", above=0)
        self.require("weight_decay", "warmup_steps", "clip_norm", "ema_decay", least=0)
        self.require("ema_decay", below=1)

    def require(
        self, *names: str, least: float | None = None, above: float | None = None, below: float | None = None
    ) -> None:
        """Raise `UsageError` where one of these fields, or a number of a tuple, is out of bounds or not finite."""
        for name in names:
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if not math.isfinite(number):
                    raise UsageError(f"{name} is {value}; it must be finite.")
                if least is not None and not number >= least:
                    raise UsageError(f"{name} is {value}; it must be at least {least}.")
                if above is not None and not number > above:
                    raise UsageError(f"{name} is {value}; it must be above {above}.")
                if below is not None and not number < below:
                    raise UsageError(f"{name} is {value}; it must be below {below}.")

    def to_json(self) -> str:
        """The fields as a JSON object."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config with these fields, and defaults for the rest; the inverse of `to_dict`, also through JSON.

        Raises `UsageError` on a field that this class does not have, and on a value that is not of its type.
        """
        return cls(**checked(cls, values))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`. Raises as `from_dict`."""
        return cls.from_dict(json.loads(text))


class Noise:
    """The randomness of a sample: one stream for each image, so that an image depends on its own seed alone.

    Image i of a call with seed s draws from the counter-based generator Philox with the key (s, i) (Salmon et al.
    2011), whatever the batch it is in and whatever the device. A sampler asks for as much as it needs, in order.
    """

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu") -> None:
        """`seed` in [0, 2^63); `indices`: the place of each image of the batch in the whole call."""
        self.device, seed = torch.device(device), checked_seed(seed)
        self._streams = [np.random.Generator(np.random.Philox(key=np.array([seed, i], np.uint64))) for i in indices]

    def __len__(self) -> int:
        return len(self._streams)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal draws, (b, *shape) float32."""
        return self._stack([stream.standard_normal(shape, np.float32) for stream in self._streams], shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform draws in [0, 1), (b, *shape) float32."""
        return self._stack([stream.random(shape, np.float32) for stream in self._streams], shape)

    def categorical(self, logits: Tensor) -> Tensor:
        """One class for each row, (b, ..., k) -> (b, ...) int64, by the Gumbel-max trick."""
        uniform = self.uniform(*logits.shape[1:]).clamp(1e-20, 1 - 1e-7)
        return (logits - (-uniform.log()).log()).argmax(-1)

    def _stack(self, draws: list[Any], shape: tuple[int, ...]) -> Tensor:
        if not draws:
            return torch.empty(0, *shape, device=self.device)
        return torch.from_numpy(np.stack([np.asarray(draw) for draw in draws])).to(self.device)


class Trainable(nn.Module, ABC):
    """A module that `mnistgen.fit` can train: a generative model, or a classifier.

    A subclass takes `(config, num_classes)` and calls `super().__init__` with them, so that a checkpoint can
    rebuild it. Counters of its own (a warm-up, codebook usage) live in registered buffers, so that resuming is
    exact.
    """

    Config: ClassVar[type[BaseConfig]] = BaseConfig
    needs_labels: ClassVar[bool] = False  # is there nothing to learn from images without labels, as for a classifier?
    training_only: ClassVar[tuple[str, ...]] = ()  # submodules that are in the state to resume from, not in checkpoints
    # "float32": the loss is wrong in less (an exact likelihood, a matrix inverse), so that training uses no bfloat16.
    training_precision: ClassVar[Literal["any", "float32"]] = "any"

    def __init__(self, config: BaseConfig, num_classes: int = 10) -> None:
        super().__init__()
        if not isinstance(config, self.Config):
            raise ContractError(f"{type(self).__name__} needs a {self.Config.__qualname__}, not {config!r}.")
        self.config = config
        if not 1 <= num_classes <= MOST_CLASSES:
            raise UsageError(f"num_classes is {num_classes}; it must be from 1 to {MOST_CLASSES}.")
        self.num_classes = num_classes
        # The labels of the images that it was trained on, ascending: all, until `fit` or a checkpoint knows better;
        # none, where the images had no labels.
        self.trained_classes: tuple[int, ...] = tuple(range(num_classes))
        self.class_names: tuple[str, ...] = ()  # one for each of `num_classes`, or none

    def class_name(self, label: int) -> str:
        """The name of a class, or its number where the classes have no names."""
        return self.class_names[label] if self.class_names else str(label)

    def prepare(self, images: Tensor) -> None:
        """Look at the training images, (n, 1, 28, 28) uint8, once before the first step of a run.

        For what a model must know of its data before training: their mean, their grey levels, a codebook to begin with.
        It belongs into registered buffers, or into parameters; a resumed run has it from there.
        """

    @abstractmethod
    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        """Yield each loss of one step, in the order in which the parts are updated.

        `x`: (b, 1, 28, 28) in [-1, 1]; `y`: (b,) int64. The caller steps between two yields, so what follows a
        `yield` sees the updated weights. Never `yield` inside a `with`: its mode would leak into the caller.
        """

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        """One optimizer for each module that a loss names; their learning rates are the peaks of the schedule."""
        return {self: AdamW(self.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay, fused=True)}

    def validation_loss(self, x: Tensor, y: Tensor) -> Tensor | None:
        """The loss to compare on held-out images, lower is better, or None where there is no such thing (a GAN)."""
        losses = list(self.losses(x, y))
        return losses[0].value if len(losses) == 1 else None


def uncompiled(model: M) -> M:
    """The model itself, where it is wrapped by `torch.compile`."""
    return getattr(model, "_orig_mod", model)


class GenerativeModel(Trainable):
    """A model of images given labels. The class docstring's first line is what `mnistgen models` shows."""

    family: ClassVar[str] = ""  # a literal string: "vae", "gan", "diffusion", ...
    conditional: ClassVar[bool]  # does sample(y) respect y? If not, only len(y) counts.
    # Names that sampling options had in an earlier version, which still work, and what they are called now.
    former_options: ClassVar[Mapping[str, str]] = {}

    @property
    def respects_labels(self) -> bool:
        """Whether a sample is of the class that was requested: `conditional`, and trained with labels."""
        return self.conditional and bool(self.trained_classes)

    @abstractmethod
    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        """Sample one image for each label, (b,) int64 -> (b, 1, 28, 28) in [-1, 1].

        All randomness comes from `noise`. A subclass may add keyword-only sampling options with defaults.
        """


class HasLikelihood(ABC):
    """A model that says how probable an image is.

    A sum over 784 pixels of numbers with the eight bits of bfloat16 is nats off, so that `log_prob` and the validation
    loss of such a model leave autocast behind, whatever the model is trained in.
    """

    likelihood: ClassVar[Literal["exact", "lower bound", "estimate"]]
    likelihood_of: str  # of what data: "stochastically binarised pixels", "8-bit pixels", ...
    # What `log_prob` is computed in; "float64": `mnistgen.sampling.log_likelihood` takes a copy of the model in that;
    # "any": the model looks after it itself.
    likelihood_precision: ClassVar[Literal["any", "float32", "float64"]] = "float32"

    @abstractmethod
    def log_prob(self, x: Tensor, y: Tensor, *, noise: Noise | None = None) -> Tensor:
        """log p(x | y), or its bound, in nats an image: (b, 1, 28, 28) in [-1, 1] -> (b,).

        What is random in it comes from `noise`, and without one from torch's generator (`normal_like`).
        """

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "log_prob" in vars(cls) and cls.likelihood_precision != "any":
            cls.log_prob = _without_autocast(cls.log_prob)  # type: ignore[method-assign]


def _without_autocast(log_prob: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(log_prob)
    def exact(self: Any, x: Tensor, y: Tensor, **arguments: Any) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return log_prob(self, x, y, **arguments)

    return exact


def normal_like(x: Tensor, noise: Noise | None) -> Tensor:
    """Standard normal numbers in the shape of x, (b, ...), from `noise` or, without one, from torch's generator."""
    return torch.randn_like(x) if noise is None else noise.normal(*x.shape[1:]).to(x)


class HasReconstruction(ABC):
    """A model that makes an image again, of what it keeps of it."""

    @abstractmethod
    def reconstruct(self, x: Tensor, y: Tensor) -> Tensor:
        """Reconstruct each image, (b, 1, 28, 28) in [-1, 1] -> the same."""


class HasDecoder(ABC):
    """A model whose image is a function of a code of a known shape, standard normal where images are sampled."""

    latent_shape: tuple[int, ...]

    @abstractmethod
    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """The image of each code, (b, *latent_shape) -> (b, 1, 28, 28) in [-1, 1].

        `y` is (b,) int64, or (b, num_classes) float weights that sum to one, for images between classes.
        """


class HasLatents(HasDecoder, HasReconstruction):
    """A model with a code for each image, approximately standard normal, that can be decoded again."""

    def reconstruct(self, x: Tensor, y: Tensor) -> Tensor:
        """The image of each image's code."""
        return self.decode(self.encode(x, y), y)

    @abstractmethod
    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """The code of each image, (b, 1, 28, 28) in [-1, 1] -> (b, *latent_shape); the mean where it is random."""


class HasTrajectory(ABC):
    """A model whose samples come into being step by step."""

    @abstractmethod
    def sample_trajectory(self, y: Tensor, *, noise: Noise) -> Iterator[Tensor]:
        """Yield the images of `sample` as they form, each (b, 1, 28, 28) in [-1, 1], the last one the sample."""


class HasPath(HasTrajectory):
    """The name of `HasTrajectory` in the last version, whose method was called `sample_path`."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        warnings.warn(
            f"{cls.__name__}: HasPath and sample_path are called HasTrajectory and sample_trajectory now.",
            DeprecationWarning,
            stacklevel=2,
        )

    def sample_trajectory(self, y: Tensor, *, noise: Noise, **options: Any) -> Iterator[Tensor]:
        """The images of `sample_path`."""
        images: Iterator[Tensor] = self.sample_path(y, noise=noise, **options)  # type: ignore[attr-defined]
        return images


class HasEditing(ABC):
    """A model that makes new images of given ones."""

    @abstractmethod
    def inpaint(self, x: Tensor, known: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """Images that are x where `known` is true, and the model's own elsewhere.

        (b, 1, 28, 28) in [-1, 1], bool that broadcasts to it, (b,) int64 -> (b, 1, 28, 28) in [-1, 1].
        """

    @abstractmethod
    def vary(self, x: Tensor, y: Tensor, *, noise: Noise, strength: float = 0.5) -> Tensor:
        """Variations of x, (b, 1, 28, 28) in [-1, 1] -> the same: from x itself at `strength` 0 to a sample at 1."""

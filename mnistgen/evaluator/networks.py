"""The classifiers: the ladder that every MNIST course climbs, and the two networks that score generated images.

Each is trained by the host's loop (`mnistgen evaluator train NAME`): it minimises cross-entropy with smoothed labels
on images that `transforms.distort` has distorted, L = -sum_k q_k log p_k, q = (1 - s) onehot(y) + s / K.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from mnistgen.model import IMAGE_SHAPE, BaseConfig, Loss, Trainable
from mnistgen.transforms import Distortion, distort


@dataclass(frozen=True)
class ClassifierConfig(Distortion, BaseConfig):
    """The hyperparameters of every classifier beside its architecture: the recipe, and how it augments its training
    images."""

    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""

    def __post_init__(self) -> None:
        BaseConfig.__post_init__(self)
        Distortion.__post_init__(self)
        self.require("label_smoothing", least=0, below=1)


class Classifier(Trainable):
    """A model of labels given images."""

    Config = ClassifierConfig
    needs_labels = True
    config: ClassifierConfig
    steps: Tensor  # training steps so far

    def __init__(self, config: ClassifierConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the features of one pass, (b, 1, 28, 28) in [-1, 1] -> {layer: (b, d)}.

        "logits" (d = num_classes), "penultimate" (what they are linear in) and, from convolutional networks,
        "early" (an intermediate layer, averaged over the image).
        """

    def forward(self, x: Tensor) -> Tensor:
        """(b, 1, 28, 28) in [-1, 1] -> logits (b, num_classes)."""
        return self.features(x)["logits"]

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        if self.training:
            self._average_statistics()
            x = distort(x, self.config)
        logits = self(x).float()
        loss = F.cross_entropy(logits, y, label_smoothing=self.config.label_smoothing)
        yield Loss(loss, self, {"accuracy": (logits.argmax(1) == y).float().mean()})

    def validation_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy with the true labels, on the images as they are."""
        return F.cross_entropy(self(x).float(), y)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        """AdamW, whose decay is for the weights of layers and not for biases and normalisation."""
        matrices = [p for p in self.parameters() if p.ndim > 1]
        vectors = [p for p in self.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return {self: AdamW(groups, lr=self.config.lr, fused=True)}

    def _average_statistics(self) -> None:
        """Let running statistics be the moving average that the weights are.

        The host averages parameters and copies buffers. Statistics of the last few batches would belong to the last
        weights; averaged at the host's own rate, max(1 - ema_decay, 9 / (10 + t)) in step t, they belong to the
        averaged ones.
        """
        self.steps += 1
        t = int(self.steps)
        momentum = max(1 - self.config.ema_decay, 9 / (10 + t))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = momentum


@dataclass(frozen=True)
class LogisticConfig(ClassifierConfig):
    """Logistic regression's hyperparameters."""

    epochs: float = 10.0


class Logistic(Classifier):
    """Logistic regression: logits = W x + b."""

    Config = LogisticConfig

    def __init__(self, config: LogisticConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.head = nn.Linear(math.prod(IMAGE_SHAPE), num_classes)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        pixels = x.flatten(1)  # (b, 784)
        return {"penultimate": pixels, "logits": self.head(pixels)}


@dataclass(frozen=True)
class MLPConfig(ClassifierConfig):
    """The multilayer perceptron's hyperparameters."""

    hidden: int = 128
    """Units of the hidden layer."""
    epochs: float = 10.0


class MLP(Classifier):
    """A perceptron with one hidden layer of 128 units."""

    Config = MLPConfig

    def __init__(self, config: MLPConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.body = nn.Sequential(nn.Linear(math.prod(IMAGE_SHAPE), config.hidden), nn.ReLU())
        self.head = nn.Linear(config.hidden, num_classes)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x.flatten(1))  # (b, hidden)
        return {"penultimate": h, "logits": self.head(h)}


@dataclass(frozen=True)
class LeNet5Config(ClassifierConfig):
    """LeNet-5's hyperparameters."""

    epochs: float = 10.0


class LeNet5(Classifier):
    """LeNet-5 (LeCun et al. 1998, https://doi.org/10.1109/5.726791), with ReLU and maximum pooling."""

    Config = LeNet5Config

    def __init__(self, config: LeNet5Config, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.early = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
        self.late = nn.Sequential(
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        self.head = nn.Linear(84, num_classes)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        early = self.early(x)  # (b, 6, 14, 14)
        h = self.late(early)  # (b, 84)
        return {"early": early.mean((2, 3)), "penultimate": h, "logits": self.head(h)}


@dataclass(frozen=True)
class CNNConfig(ClassifierConfig):
    """The evaluators' hyperparameters: a schedule fixed in advance, the same for both networks.

    No label smoothing, which would leave of each class a point in the penultimate features, and of a Frechet distance
    the class counts.
    """

    epochs: float = 40.0
    lr: float = 3e-3
    weight_decay: float = 0.02
    warmup_steps: int = 1000
    ema_decay: float = 0.999
    dropout: float = 0.2
    """Share of the penultimate features that is dropped in training."""
    rotation: float = 12.0
    zoom: float = 0.15
    shear: float = 0.15
    translation: float = 2.0
    elastic: float = 1.2
    untouched: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("dropout", least=0, below=1)


class _Convolutional(Classifier):
    """Two stages of convolutions, the mean over what is left of the image, and a linear layer."""

    Config = CNNConfig
    config: CNNConfig
    channels: ClassVar[int]  # of the last stage

    def __init__(self, config: CNNConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.early, self.late = self._stages()
        self.head = nn.Linear(self.channels, num_classes)

    @abstractmethod
    def _stages(self) -> tuple[nn.Module, nn.Module]:
        """(b, 1, 28, 28) -> the early features (b, c, h, w) -> (b, channels, h', w')."""

    def features(self, x: Tensor) -> dict[str, Tensor]:
        early = self.early(x)  # (b, c, h, w)
        h = self.late(early).mean((2, 3))  # (b, channels)
        logits = self.head(F.dropout(h, self.config.dropout, self.training))
        return {"early": early.mean((2, 3)), "penultimate": h, "logits": logits}


class CNN(_Convolutional):
    """A deep batch-normalised CNN: the network of evaluator A, which scores.

    Seven convolutions of 32, 32, 64, 64, 112, 112 and 128 channels, with the most arithmetic at 24x24 and 12x12; the
    last one pools, with weights of its own for each place.
    """

    channels = 128

    def _stages(self) -> tuple[nn.Module, nn.Module]:
        early = nn.Sequential(
            _conv(1, 32, padding=0), _conv(32, 32, padding=0), nn.MaxPool2d(2), _conv(32, 64), _conv(64, 64)
        )  # 26x26, 24x24, 12x12
        late = nn.Sequential(
            nn.MaxPool2d(2), _conv(64, 112), _conv(112, 112, padding=0), _conv(112, 128, 4, padding=0)
        )  # 6x6, 4x4, 1x1
        return early, late


class ResidualCNN(_Convolutional):
    """A batch-normalised residual network (He et al. 2016): the network of evaluator B, the second one."""

    channels = 96

    def _stages(self) -> tuple[nn.Module, nn.Module]:
        early = nn.Sequential(_conv(1, 32), nn.MaxPool2d(2), _Residual(32), _conv(32, 64, stride=2))  # 7x7
        late = nn.Sequential(_Residual(64), _conv(64, 96), _Residual(96))  # 7x7
        return early, late


class _Residual(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x))))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(self.conv1(x))))


def _conv(channels: int, out: int, kernel: int = 3, *, stride: int = 1, padding: int | None = None) -> nn.Module:
    """relu(bn(conv(x)))."""
    padding = kernel // 2 if padding is None else padding
    return nn.Sequential(nn.Conv2d(channels, out, kernel, stride, padding, bias=False), nn.BatchNorm2d(out), nn.ReLU())


CLASSIFIERS: dict[str, type[Classifier]] = {
    "logistic": Logistic,
    "mlp": MLP,
    "lenet": LeNet5,
    "cnn": CNN,
    "resnet": ResidualCNN,
}

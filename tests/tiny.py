"""Models and data small enough to train in a blink, for the tests."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from mnistgen import BaseConfig, Dataset, GenerativeModel, Loss, Noise
from mnistgen.model import HasEditing, HasLatents, HasTrajectory


def blobs(n: int = 200, num_classes: int = 4, seed: int = 0, name: str = "blobs") -> Dataset:
    """Class k is a bright square whose place is k, on noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % num_classes
    images = torch.randint(0, 30, (n, 1, 28, 28), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = 4 + 12 * (label // 2 % 2), 4 + 12 * (label % 2)
        image[:, row : row + 8, column : column + 8] = 220
    return Dataset(images, labels, num_classes, name, "train")


def strokes(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 28, 28) uint8 of ten strokes that vary in place, width and strength, and their labels (n,)."""
    labels = torch.arange(n) % 10
    g = torch.Generator().manual_seed(seed)
    angle = labels * math.pi / 10
    dx, dy, width, level = (torch.rand(4, n, generator=g) * 2 - 1).unbind()
    axis = torch.arange(28.0) - 13.5
    x, y = axis[None, None, :] - 3 * dx[:, None, None], axis[None, :, None] - 3 * dy[:, None, None]
    c, s = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along, across = x * c + y * s, y * c - x * s
    w = (2 + 0.5 * width)[:, None, None]
    images = torch.exp(-((across / w) ** 2) - (along / 9) ** 4) * (225 + 30 * level)[:, None, None]
    return images[:, None].round().to(torch.uint8), labels


@dataclass(frozen=True)
class TinyConfig(BaseConfig):
    """A linear autoencoder's hyperparameters."""

    latent_dim: int = 3
    """Size of z."""
    batch_size: int = 16
    lr: float = 1e-2
    warmup_steps: int = 5
    ema_decay: float = 0.9


class Tiny(GenerativeModel, HasLatents):
    """A linear, noisy, class-conditional autoencoder."""

    Config = TinyConfig
    config: TinyConfig
    family = "test"
    conditional = True

    def __init__(self, config: TinyConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.latent_shape = (config.latent_dim,)
        self.encoder = nn.Linear(784, config.latent_dim)
        self.decoder = nn.Linear(config.latent_dim + num_classes, 784)
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        if self.training:
            self.seen += len(x)
        z = self.encode(x, y)
        error = self.decode(self.dropout(z + 0.1 * torch.randn_like(z)), y) - x
        yield Loss(error.square().mean(), self, {"size": z.square().mean()})

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return self.encoder(x.flatten(1))

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        weights = y if y.is_floating_point() else nn.functional.one_hot(y, self.num_classes).to(z.dtype)
        return self.decoder(torch.cat([z, weights], 1)).tanh().view(-1, 1, 28, 28)

    def sample(self, y: Tensor, *, noise: Noise, temperature: float = 1.0) -> Tensor:
        return self.decode(temperature * noise.normal(*self.latent_shape), y)


class Walker(Tiny, HasTrajectory, HasEditing):
    """Comes to the image of its code in steps of equal length, and edits by its code's image."""

    def sample(self, y: Tensor, *, noise: Noise, steps: int = 4, bright: bool = False) -> Tensor:
        *_, last = self.sample_trajectory(y, noise=noise, steps=steps, bright=bright)
        return last

    def sample_trajectory(self, y: Tensor, *, noise: Noise, steps: int = 4, bright: bool = False) -> Iterator[Tensor]:
        start, end = 2 * noise.uniform(1, 28, 28) - 1, self.decode(noise.normal(*self.latent_shape), y)
        for step in range(1, steps + 1):
            way = torch.lerp(start, end, step / steps)
            yield way.clamp_min(0) if bright else way

    def inpaint(self, x: Tensor, known: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        return torch.where(known, x, self.sample(y, noise=noise))

    def vary(self, x: Tensor, y: Tensor, *, noise: Noise, strength: float = 0.5) -> Tensor:
        return torch.lerp(x, self.sample(y, noise=noise), strength)


class Duel(GenerativeModel):
    """Two parts trained in turn, as a GAN's are; remembers what its second loss saw of the first part."""

    Config = TinyConfig
    family = "test"
    conditional = False

    def __init__(self, config: TinyConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.critic = nn.Linear(784, 1)
        self.generator = nn.Linear(2, 784)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        before = self.critic.weight.detach().clone()
        fake = self.generator(torch.randn(len(y), 2))
        yield Loss(self.critic(fake.detach()).mean() - self.critic(x.flatten(1)).mean(), self.critic)
        self.seen.append((before, self.critic.weight.detach().clone()))
        yield Loss(-self.critic(fake).mean(), self.generator, {"fake": fake.mean()})

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return {
            self.critic: Adam(self.critic.parameters(), lr=1e-3),
            self.generator: Adam(self.generator.parameters(), lr=1e-3),
        }

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return self.generator(noise.normal(2)).tanh().view(-1, 1, 28, 28)

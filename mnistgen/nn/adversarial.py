"""Networks of adversarial models without normalisation: a generator, a discriminator, and its gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mnistgen.nn.blocks import ClassEmbedding

CLASS_DIM = 32  # of the generator's class embedding
SLOPE = 0.2  # of the leaky ReLU


class ResidualGenerator(nn.Module):
    """G(z, y): z and the class seed a 7x7 map, which grows to 14x14 through residual blocks.

    The last layer gives the four pixels of each place at once: a layer at 28x28 costs four times one at 14x14.
    """

    def __init__(self, latent_dim: int, num_classes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.embedding = ClassEmbedding(num_classes, CLASS_DIM)
        self.seed = nn.Linear(latent_dim + CLASS_DIM, 2 * width * 7 * 7)
        self.blocks7 = nn.Sequential(*(_Block(2 * width) for _ in range(blocks)))
        self.to14 = nn.Conv2d(2 * width, 4 * width, 1)
        self.blocks14 = nn.Sequential(*(_Block(width) for _ in range(blocks)))
        self.out = nn.Conv2d(width, 4, 3, padding=1)
        _initialise(self)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """(b, latent_dim), labels or class weights -> (b, 1, 28, 28) float32 in [-1, 1].

        The tanh makes exact black easy, which most pixels are: without it a discriminator long sees little else.
        """
        h = self.seed(torch.cat([z, self.embedding(y)], 1))
        h = rearrange(h, "b (c h w) -> b c h w", h=7, w=7).contiguous(memory_format=torch.channels_last)
        h = self.to14(_activate(self.blocks7(h)))
        h = self.blocks14(F.pixel_shuffle(h, 2))  # (b, width, 14, 14)
        return torch.tanh(F.pixel_shuffle(self.out(_activate(h)).float(), 2))


class ResidualDiscriminator(nn.Module):
    """D(x, y) = w.h(x) + e_y.h(x), the projection of Miyato & Koyama (2018): the generator's blocks backwards."""

    def __init__(self, num_classes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.into = nn.Conv2d(4, width, 3, padding=1)
        self.blocks14 = nn.Sequential(*(_Block(width) for _ in range(blocks)))
        self.to7 = nn.Conv2d(4 * width, 2 * width, 1)
        self.blocks7 = nn.Sequential(*(_Block(2 * width) for _ in range(blocks)))
        self.to4 = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.head = Projection(4 * width * 4 * 4, num_classes)
        _initialise(self)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(b, 1, 28, 28), (b,) -> (b,) float32."""
        h = self.blocks14(self.into(F.pixel_unshuffle(x, 2)))  # (b, width, 14, 14)
        h = self.blocks7(self.to7(F.pixel_unshuffle(_activate(h), 2)))  # (b, 2 width, 7, 7)
        h = _activate(self.to4(_activate(h)))  # (b, 4 width, 4, 4)
        score: Tensor = self.head(rearrange(h, "b c h w -> b (c h w)").float(), y)
        return score


class Projection(nn.Module):
    """(w + e_y).h + b over features h (Miyato & Koyama 2018); it begins with weights that keep the variance of h."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features))
        self.bias = nn.Parameter(torch.zeros(()))
        self.embedding = ClassEmbedding(num_classes, features)
        with torch.no_grad():  # in the weights, not a factor in front of them, which would slow their learning
            self.weight.mul_((2 * features) ** -0.5)
            self.embedding.weight.mul_((2 * features) ** -0.5)

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        """(b, features) float32, (b,) -> (b,)."""
        score: Tensor = (h * (self.weight + self.embedding(y))).sum(1) + self.bias
        return score


def score_and_gradient(discriminator: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """D(x, y), (b,), and its gradient by x, (b, 1, 28, 28) float32, through which one can differentiate again."""
    x = x.detach().requires_grad_()
    score = discriminator(x, y)
    (gradient,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    return score, gradient.float()


class _Block(nn.Module):
    """x + conv(act(conv(act(x)))), whose last convolution begins at zero (Zhang et al. 2019, Fixup)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) -> (b, channels, h, w)."""
        out: Tensor = x + self.conv2(_activate(self.conv1(_activate(x))))
        return out


def _activate(h: Tensor) -> Tensor:
    return F.leaky_relu(h, SLOPE)


def _initialise(network: nn.Module) -> None:
    """Weights that keep the variance of what comes in (He et al. 2015); nothing else would, without normalisation.

    torch's own pass on a third of the variance in each layer, so that z hardly reaches the image.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, SLOPE)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in network.modules():
        if isinstance(layer, _Block):
            nn.init.zeros_(layer.conv2.weight)

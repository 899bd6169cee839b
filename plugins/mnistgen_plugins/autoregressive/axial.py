"""An autoregressive model of 8-bit pixels: a transformer over rows, and a small network within the row.

The image is read in raster order, and its probability is a product over pixels, exact:

    log p(x | y) = sum_i log p(x_i | x_1 .. x_(i-1), y)

It is factored twice, as in Ho et al., "Axial Attention in Multidimensional Transformers" (2019),
https://arxiv.org/abs/1912.12180: an outer decoder sees all complete rows above, and an inner one continues its row.

- The outer decoder is a causal transformer (Vaswani et al. 2017) whose 28 tokens are rows: from the rows above, it
  gives a vector for each pixel of the next row. It costs 28 steps, not 784, and keeps a digit in one piece.
- The inner decoder takes that vector and the known pixels around, those of the `reach` columns to the left and of a
  window in the rows above, as the masked convolutions of van den Oord et al., "Conditional Image Generation with
  PixelCNN Decoders" (2016), https://arxiv.org/abs/1606.05328, do in their first layer; the residual layers that follow
  see no other pixel, so that nothing but the known pixels has to be remembered while an image is drawn.

A pixel is ink with probability sigmoid(a), and ink has one of 255 grey levels by a softmax: 81 % of real pixels are
black, and only the others pay for the softmax.

What is not the papers': training begins at the frequencies of the training images, of ink by place and of its grey
levels, and hidden weights are trained by Muon.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.optim import Optimizer

from mnistgen import BaseConfig, GenerativeModel, Loss, Noise
from mnistgen.errors import UsageError
from mnistgen.model import HasEditing, HasLikelihood, HasTrajectory
from mnistgen.nn import CausalBlock, ClassEmbedding, KeyValueCache, Muon

SIDE = 28
INK_LEVELS = 255  # grey levels that are not black


@dataclass(frozen=True)
class AxialConfig(BaseConfig):
    """Hyperparameters of `Axial`."""

    epochs: float = 4.0
    """Length of training in passes over the training images, where neither --steps nor --budget says otherwise."""
    batch_size: int = 32
    """Images in a step, over all processes together."""
    lr: float = 6e-3
    """Peak learning rate of embeddings, first and last layers, gains and biases (Adam)."""
    matrix_lr: float = 0.02
    """Peak learning rate of the hidden layers' weights (Muon)."""
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    """How the learning rate falls to zero after the warm-up: cosine, linear, or constant, which is not at all."""
    ema_decay: float = 0.998
    """Decay a step of the averaged weights that are sampled and saved; 0 keeps no average."""
    width: int = 128
    """Width of the transformer over rows."""
    layers: int = 4
    """Layers of the transformer."""
    heads: int = 4
    """Attention heads of a layer."""
    channels: int = 96
    """Width of the network within a row."""
    inner_layers: int = 2
    """Residual layers of the network within a row."""
    above: int = 4
    """Rows above a pixel that the network within a row sees."""
    side: int = 6
    """Columns to either side of a pixel that it sees in the rows above."""
    reach: int = 10
    """Columns to the left of a pixel that it sees in the pixel's own row."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("width", "layers", "heads", "channels", "above", "reach", least=1)
        self.require("side", "inner_layers", least=0)
        self.require("matrix_lr", above=0)
        if self.width % self.heads:
            raise UsageError(
                f"width is {self.width} and heads {self.heads}; the width must be a multiple of the heads."
            )


class Axial(GenerativeModel, HasLikelihood, HasTrajectory, HasEditing):
    """Pixel after pixel with an exact likelihood: a transformer over rows, class-conditional (Ho et al. 2019)."""

    Config = AxialConfig
    config: AxialConfig
    family = "autoregressive"
    conditional = True
    likelihood = "exact"
    likelihood_of = "8-bit pixels"
    training_precision = "float32"  # a sum over 784 pixels

    def __init__(self, config: AxialConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.outer = RowTransformer(num_classes, config)
        self.inner = RowDecoder(config)

    def prepare(self, images: Tensor) -> None:
        """Begin at the frequencies of the training images, (n, 1, 28, 28) uint8."""
        self.inner.begin_at(images)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        """Muon for the hidden layers, Adam for the rest."""
        hidden = [weight for part in (self.outer.blocks, self.inner.layers) for weight in part.parameters()]
        hidden = [weight for weight in hidden if weight.ndim == 2]
        chosen = {id(weight) for weight in hidden}
        others = [parameter for parameter in self.parameters() if id(parameter) not in chosen]
        config = self.config
        return {self: Muon(hidden, others, lr=config.lr, matrix_lr=config.matrix_lr, weight_decay=config.weight_decay)}

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        """-log p(x | y), in nats an image."""
        yield Loss(-self.log_prob(x, y).mean(), self)

    def log_prob(self, x: Tensor, y: Tensor, *, noise: Noise | None = None) -> Tensor:  # noqa: ARG002  it has none
        """log p(x | y), exact, of the nearest grey levels."""
        levels = levels_of(x)
        return self.inner.log_prob(self.hidden(levels, y), levels).sum((1, 2))

    def hidden(self, levels: Tensor, y: Tensor) -> Tensor:
        """What is known of each pixel from those before it: (b, 28, 28) int64, (b,) -> (b, 28, 28, channels)."""
        hidden: Tensor = self.inner(levels, self.outer(levels, y))
        return hidden

    def sample(self, y: Tensor, *, noise: Noise, temperature: float = 1.0) -> Tensor:
        """Draw one pixel after the other.

        Args:
            temperature: Divides the logits of each pixel; below 1 for likelier and more alike images.
        """
        image: Tensor
        *_, image = self.sample_trajectory(y, noise=noise, temperature=temperature)
        return image

    def sample_trajectory(self, y: Tensor, *, noise: Noise, temperature: float = 1.0) -> Iterator[Tensor]:
        """The image after each row."""
        nothing = torch.zeros(y.shape[0], SIDE, SIDE, dtype=torch.int64, device=y.device)
        for levels in self.complete(nothing, torch.zeros_like(nothing, dtype=torch.bool), y, noise, temperature):
            yield image_of(levels)

    def inpaint(self, x: Tensor, known: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """The unknown pixels in raster order, each given those before it, drawn or known.

        This is a draw from p(unknown | known) where all known pixels come before all unknown ones, as where the top is
        known. Otherwise a pixel does not look ahead to the known ones after it; the rows after them do.
        """
        *_, levels = self.complete(levels_of(x), known.expand_as(x)[:, 0], y, noise)
        return torch.where(known, x, image_of(levels))

    def vary(self, x: Tensor, y: Tensor, *, noise: Noise, strength: float = 0.5) -> Tensor:
        """The part `strength` of the pixels, the last in raster order, is drawn anew."""
        if not 0 <= strength <= 1:
            raise UsageError(f"strength is {strength}; it must be from 0 to 1.")
        places = torch.arange(SIDE * SIDE, device=x.device).view(1, 1, SIDE, SIDE)
        return self.inpaint(x, places < round((1 - strength) * SIDE * SIDE), y, noise=noise)

    def complete(
        self, levels: Tensor, known: Tensor, y: Tensor, noise: Noise, temperature: float = 1.0
    ) -> Iterator[Tensor]:
        """Draw what is not `known` of grey levels, (b, 28, 28) each; yields them after each row, black below it.

        Keys and values of the rows above are computed once, and what the rows above tell of a row once for the row.
        """
        if not temperature > 0:
            raise UsageError(f"temperature is {temperature}; it must be above 0.")
        levels = levels.clone()
        uniform = noise.uniform(SIDE, SIDE, 2)
        caches = [KeyValueCache(SIDE) for _ in self.outer.blocks]
        below = torch.arange(SIDE, device=y.device)[:, None]
        for row in range(SIDE):
            context = self.outer.next_row(levels, row, y, caches)
            if not known[:, row].all():
                from_above = context + self.inner.from_above(levels, row)
                for column in range(SIDE):
                    h = self.inner.at(from_above[:, column], levels[:, row, :column])
                    drawn = self.inner.draw(h, row, column, uniform[:, row, column], temperature)
                    levels[:, row, column] = torch.where(known[:, row, column], levels[:, row, column], drawn)
            yield torch.where(below > row, 0, levels)


class RowTransformer(nn.Module):
    """Causal attention over rows: a vector for each pixel of a row, of the class and all rows above it."""

    def __init__(self, num_classes: int, config: AxialConfig) -> None:
        super().__init__()
        self.embedding = ClassEmbedding(num_classes, config.width)
        self.positions = nn.Parameter(0.02 * torch.randn(SIDE, config.width))
        self.enter = nn.Linear(2 * SIDE, config.width)
        self.blocks = nn.ModuleList(CausalBlock(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, SIDE * config.channels)

    def forward(self, levels: Tensor, y: Tensor) -> Tensor:
        """(b, 28, 28) int64 -> (b, 28, 28, channels): a row sees the rows above it."""
        rows = self.enter(rearrange(features(levels, self.positions), "b f h w -> b h (f w)"))
        return self._finish(F.pad(rows, (0, 0, 1, 0))[:, :-1] + self.positions + self.embedding(y)[:, None])

    def next_row(self, levels: Tensor, row: int, y: Tensor, caches: list[KeyValueCache]) -> Tensor:
        """`forward` for one row alone, (b, 28, channels), where the caches have seen those above."""
        h = self.positions[row] + self.embedding(y)
        if row:
            h = h + self.enter(rearrange(features(levels[:, row - 1, None], h), "b f 1 w -> b (f w)"))
        return self._finish(h[:, None], caches)[:, 0]

    def _finish(self, h: Tensor, caches: list[KeyValueCache] | None = None) -> Tensor:
        for i, block in enumerate(self.blocks):
            h = block(h, caches[i] if caches else None)
        out: Tensor = rearrange(self.out(self.norm(h)), "b h (w c) -> b h w c", w=SIDE)
        return out


class RowDecoder(nn.Module):
    """p(pixel | context of its row, pixels of a window that come before it)."""

    def __init__(self, config: AxialConfig) -> None:
        super().__init__()
        self.rows, self.side, self.reach = config.above, config.side, config.reach
        self.above = nn.Conv2d(2, config.channels, (self.rows, 2 * self.side + 1))
        self.left = nn.Conv2d(2, config.channels, (1, self.reach), bias=False)
        self.layers = nn.ModuleList(Residual(config.channels) for _ in range(config.inner_layers))
        self.norm = nn.LayerNorm(config.channels)
        self.ink = nn.Linear(config.channels, 1)
        self.level = nn.Linear(config.channels, INK_LEVELS)
        self.place = nn.Parameter(torch.zeros(SIDE, SIDE))  # of a place, added to the logit of ink
        for layer in (self.ink, self.level):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def begin_at(self, images: Tensor) -> None:
        """Make the frequencies of images, (n, 1, 28, 28) uint8, the probabilities at the start; none is 0."""
        ink = ((images > 0).double().sum((0, 1)) + 1) / (len(images) + 2)
        self.place.copy_(ink.logit())
        counts = torch.bincount(images.flatten().long(), minlength=INK_LEVELS + 1)[1:].double() + 1
        self.level.bias.copy_((counts / counts.sum()).log())

    def forward(self, levels: Tensor, context: Tensor) -> Tensor:
        """(b, 28, 28) int64, (b, 28, 28, channels) -> the same as the latter."""
        known = features(levels, context).contiguous(memory_format=torch.channels_last)
        above = self.above(F.pad(known, (self.side, self.side, self.rows, 0))[:, :, :-1])
        left = self.left(F.pad(known, (self.reach, 0, 0, 0))[:, :, :, :-1])
        return self._finish(context + rearrange(above + left, "b c h w -> b h w c"))

    def from_above(self, levels: Tensor, row: int) -> Tensor:
        """What the rows above add to a row, (b, 28, channels)."""
        known = features(levels[:, max(0, row - self.rows) : row], self.place)
        known = F.pad(known, (self.side, self.side, self.rows - known.shape[2], 0))
        out: Tensor = rearrange(self.above(known), "b c 1 w -> b w c")
        return out

    def at(self, from_above: Tensor, before: Tensor) -> Tensor:
        """`forward` at one pixel, (b, channels), of what is above and the pixels before it in its row, (b, n)."""
        known = features(before[:, None, -self.reach :], from_above)
        known = F.pad(known, (self.reach - known.shape[3], 0))
        return self._finish(from_above + F.linear(known.flatten(1), self.left.weight.flatten(1)))

    def _finish(self, h: Tensor) -> Tensor:
        h = F.relu(h)
        for layer in self.layers:
            h = layer(h)
        out: Tensor = self.norm(h)
        return out

    def log_prob(self, h: Tensor, levels: Tensor) -> Tensor:
        """log p of each pixel, (b, 28, 28, channels), (b, 28, 28) int64 -> (b, 28, 28)."""
        ink = levels > 0
        log_ink = -F.binary_cross_entropy_with_logits(self.ink(h)[..., 0] + self.place, ink.to(h), reduction="none")
        log_level = -F.cross_entropy(self.level(h[ink]), levels[ink] - 1, reduction="none")
        return log_ink.index_put((ink,), log_level, accumulate=True)

    def draw(self, h: Tensor, row: int, column: int, uniform: Tensor, temperature: float) -> Tensor:
        """The grey level of one pixel, (b, channels) -> (b,) int64, by the inverse cdf of ink and of its level."""
        logit = self.ink(h)[:, 0] + self.place[row, column]
        ink = uniform[:, 0] < (logit / temperature).sigmoid()
        below = (self.level(h[ink]) / temperature).softmax(-1).cumsum(-1)
        level = 1 + (uniform[ink, 1:] >= below).sum(1).clamp(max=INK_LEVELS - 1)
        return torch.zeros_like(ink, dtype=torch.int64).index_put((ink,), level)


class Residual(nn.Module):
    """h + W relu(V norm(h)); W begins at zero, so that it begins as the identity."""

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.widen, self.narrow = nn.Linear(channels, expansion * channels), nn.Linear(expansion * channels, channels)
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def forward(self, h: Tensor) -> Tensor:
        """(..., channels) -> the same."""
        out: Tensor = h + self.narrow(F.relu(self.widen(self.norm(h))))
        return out


def levels_of(x: Tensor) -> Tensor:
    """The grey levels of images, (b, 1, 28, 28) in [-1, 1] -> (b, 28, 28) int64 in 0..255."""
    return ((x[:, 0] + 1) * 127.5).round().clamp(0, INK_LEVELS).long()


def image_of(levels: Tensor) -> Tensor:
    """The inverse of `levels_of`, in float32."""
    return levels[:, None] / 127.5 - 1


def features(levels: Tensor, like: Tensor) -> Tensor:
    """What a network is given of pixels, (b, h, w) int64 -> (b, 2, h, w) as `like`: whether they are ink, and how grey.

    Both are 0 for black, as for what is outside of the image.
    """
    ink = levels > 0
    return torch.stack([ink.to(like), levels.to(like) / INK_LEVELS], 1)

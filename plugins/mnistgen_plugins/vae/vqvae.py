"""VQ-VAE: an image as 7x7 discrete codes, and a transformer that draws them.

van den Oord et al., "Neural Discrete Representation Learning" (2017), https://arxiv.org/abs/1711.00937. The codes are
those of finite scalar quantization (Mentzer et al. 2024, https://arxiv.org/abs/2309.15505): each of a few bounded
numbers is rounded to one of its levels, and the gradient passes the rounding as if it were not there. So there is no
codebook to learn, to collapse or to restart, and no commitment loss. Each step minimises two losses in nats an image:

    -log p(x | c),  c = codes(x)                                            for the encoder and the decoder
    -log p(c | y) = -sum_i log p(c_i | c_1, ..., c_{i-1}, y)                for the prior, a causal transformer

Their sum bounds -log p(x | y) from above, because c is one of the codes from which x could have come.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from mnistgen import BaseConfig, GenerativeModel, HasLikelihood, Loss, Noise, UsageError
from mnistgen.nn import LIKELIHOODS, ClassEmbedding, ResidualBlock

SIDE = 7  # the codes are a map of 7x7
NEIGHBOURS = ((0, -1), (-1, -1), (-1, 0), (-1, 1))  # (down, right) of a place; drawn before it


@dataclass(frozen=True)
class VQVAEConfig(BaseConfig):
    """Hyperparameters of `VQVAE`."""

    epochs: float = 15.0
    """Length of training in passes over the training images, where neither --steps nor --budget says otherwise."""
    batch_size: int = 64
    """Images in a step, over all processes together."""
    lr: float = 2e-3
    """Peak learning rate."""
    weight_decay: float = 0.01
    """Decoupled weight decay (AdamW)."""
    ema_decay: float = 0.998
    """Decay a step of the averaged weights that are sampled and saved; 0 keeps no average."""
    clip_norm: float = 1.0
    """Largest gradient norm of a loss; 0 does not clip."""
    likelihood: Literal["zero_inflated", "bernoulli", "continuous_bernoulli", "gaussian", "logistic", "categorical"] = (
        "zero_inflated"
    )
    """Distribution of a pixel given the codes."""
    levels: tuple[int, ...] = (4, 4, 4)
    """Levels of each number that is rounded; their product is the number of codes."""
    width: int = 32
    """Channels at 14x14; there are three times as many at 7x7."""
    blocks: int = 1
    """Residual blocks of the encoder at 7x7, and of the decoder at each of 7x7 and 14x14."""
    prior_width: int = 128
    """Width of the transformer."""
    prior_layers: int = 3
    """Layers of the transformer."""
    prior_heads: int = 4
    """Attention heads of the transformer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "blocks", "prior_width", "prior_layers", "prior_heads"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not self.levels or min(self.levels) < 2:
            raise UsageError(f"levels is {self.levels}; give one or more numbers of at least 2.")
        if self.prior_width % self.prior_heads:
            raise UsageError(f"prior_width {self.prior_width} is no multiple of prior_heads {self.prior_heads}.")


class VQVAE(GenerativeModel, HasLikelihood):
    """7x7 discrete codes with a class-conditional transformer prior (van den Oord et al. 2017; Mentzer et al. 2024)."""

    Config = VQVAEConfig
    config: VQVAEConfig
    family = "vae"
    conditional = True
    likelihood = "lower bound"
    likelihood_of = "8-bit pixels"  # an instance says what its own likelihood is of

    def __init__(self, config: VQVAEConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.autoencoder = Autoencoder(config)
        self.likelihood_of = self.autoencoder.pixels.of
        self.prior = Transformer(
            self.autoencoder.quantizer.codes, num_classes, config.prior_width, config.prior_layers, config.prior_heads
        )

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        """The autoencoder's loss, then the prior's, in nats an image."""
        c, reconstruction = self.autoencoder.terms(x)
        yield Loss(reconstruction.mean(), self.autoencoder, usage(c, self.autoencoder.quantizer.codes))

        yield Loss(-self.prior.log_prob(c, y).mean(), self.prior)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        parts, decay = (self.autoencoder, self.prior), self.config.weight_decay
        return {part: AdamW(part.parameters(), self.config.lr, weight_decay=decay, fused=True) for part in parts}

    def validation_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of both, a bound of -log p(x | y) in nats an image."""
        return -self.log_prob(x, y).mean()

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(x | c) + log p(c | y) with c = codes(x), below log p(x | y)."""
        c, reconstruction = self.autoencoder.terms(x)
        return self.prior.log_prob(c, y) - reconstruction

    def sample(self, y: Tensor, *, noise: Noise, temperature: float = 1.0) -> Tensor:
        """The image of codes from the prior, whose logits are divided by `temperature`."""
        if temperature <= 0:
            raise UsageError(f"temperature is {temperature}; it must be above 0.")
        return self.autoencoder.image(self.prior.sample(y, noise, temperature))


class Autoencoder(nn.Module):
    """c = codes(x) and p(x | c)."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        width, blocks = config.width, config.blocks
        self.quantizer = FSQ(config.levels)
        self.pixels = LIKELIHOODS[config.likelihood]()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),  # (b, width, 14, 14)
            nn.SiLU(),
            nn.Conv2d(width, 3 * width, 4, stride=2, padding=1),  # (b, 3 width, 7, 7)
            *(ResidualBlock(3 * width) for _ in range(blocks)),
            nn.SiLU(),
            nn.Conv2d(3 * width, len(config.levels), 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(len(config.levels), 3 * width, 3, padding=1),  # (b, 3 width, 7, 7)
            *(ResidualBlock(3 * width) for _ in range(blocks)),
            nn.SiLU(),
            nn.Conv2d(3 * width, 4 * width, 1),
            nn.PixelShuffle(2),  # (b, width, 14, 14)
            *(ResidualBlock(width) for _ in range(blocks)),
            nn.SiLU(),
            nn.Conv2d(width, 4 * 16, 3, padding=1),
            nn.PixelShuffle(2),  # (b, 16, 28, 28)
            nn.SiLU(),
            nn.Conv2d(16, self.pixels.channels, 3, padding=1),
        )

    def terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of each image, (b, 49) int64, and -log p(x | c), (b,) nats."""
        z = self.quantizer(self.encoder(x).float())
        c = rearrange(self.quantizer.codes_of(z.detach()), "b h w -> b (h w)")
        return c, -self.pixels.log_prob(self.decoder(z).float(), x)

    def image(self, c: Tensor) -> Tensor:
        """(b, 49) int64 -> (b, 1, 28, 28) in [-1, 1]."""
        z = self.quantizer.values_of(rearrange(c, "b (h w) -> b h w", h=SIDE))
        return self.pixels.image(self.decoder(z.contiguous(memory_format=torch.channels_last)).float())


class FSQ(nn.Module):
    """Finite scalar quantization: number i of a place takes one of levels[i] values, evenly spaced from -1 to 1."""

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.codes = math.prod(levels)  # how many there are
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("basis", torch.tensor(basis).view(1, -1, 1, 1), persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        """Any numbers (b, d, h, w) -> their levels, as values in [-1, 1]; the gradient is that before the rounding.

        The numbers of an image are brought to mean 0 and variance 1 first: else early steps can drive them to where
        tanh has no gradient, and every image to one code.
        """
        steps = (self.levels - 1) / 2
        z = torch.tanh(F.layer_norm(h, h.shape[1:]))
        return z + (((z + 1) * steps).round() / steps - 1 - z).detach()

    def codes_of(self, z: Tensor) -> Tensor:
        """Values as `forward` gives them, (b, d, h, w) -> (b, h, w) int64 in [0, codes)."""
        digits = ((z + 1) * (self.levels - 1) / 2).round().long()
        return (digits * self.basis).sum(1)

    def values_of(self, c: Tensor) -> Tensor:
        """The inverse of `codes_of`: (b, h, w) int64 -> (b, d, h, w) in [-1, 1]."""
        digits = c[:, None] // self.basis % self.levels
        return digits * 2 / (self.levels - 1) - 1


class Transformer(nn.Module):
    """p(c | y): causal self-attention over the codes, row by row from the top.

    What enters at a place is the class, the place, and the neighbours that are known there (to the left, and the three
    above): attention need not find them first, which a short training has no time for.
    """

    def __init__(self, codes: int, num_classes: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embedding = ClassEmbedding(num_classes, width)
        self.positions = nn.Parameter(0.1 * torch.randn(SIDE * SIDE, width))
        self.neighbours = nn.ModuleList(nn.Embedding(codes + 1, width) for _ in NEIGHBOURS)  # the last one: none there
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, codes)
        self.nowhere = codes
        for table in self.neighbours:
            nn.init.normal_(table.weight, std=0.5)  # type: ignore[arg-type]
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        places = torch.arange(SIDE * SIDE).view(SIDE, SIDE)
        padded = F.pad(places, (1, 1, 1, 0), value=SIDE * SIDE)  # (8, 9), with a place for none around
        where = [padded[1 + up : 1 + up + SIDE, 1 + left : 1 + left + SIDE].flatten() for up, left in NEIGHBOURS]
        self.register_buffer("where", torch.stack(where), persistent=False)  # (4, 49), places of the neighbours

    where: Tensor

    def log_prob(self, c: Tensor, y: Tensor) -> Tensor:
        """log p(c | y) in nats: (b, 49) int64, (b,) -> (b,)."""
        h = self._enter(c, y, slice(None))
        for layer in self.layers:
            h = layer(h)
        logits = self.out(self.norm(h)).float()
        return -F.cross_entropy(logits.transpose(1, 2), c, reduction="none").sum(1)

    def sample(self, y: Tensor, noise: Noise, temperature: float) -> Tensor:
        """Codes one after the other, (b,) -> (b, 49); each layer remembers the keys and values of those before."""
        memories: list[tuple[Tensor, Tensor] | None] = [None] * len(self.layers)
        c = torch.full((len(y), SIDE * SIDE), self.nowhere, device=y.device)
        for place in range(SIDE * SIDE):
            h = self._enter(c, y, slice(place, place + 1))
            for i, layer in enumerate(self.layers):
                assert isinstance(layer, _Layer)
                h, memories[i] = layer.extend(h, memories[i])
            logits = self.out(self.norm(h[:, 0])).float()
            c[:, place] = noise.categorical(logits / temperature)
        return c

    def _enter(self, c: Tensor, y: Tensor, places: slice) -> Tensor:
        """What the first layer sees at some places, (b, n, width)."""
        known = F.pad(c, (0, 1), value=self.nowhere)[:, self.where[:, places]]  # (b, 4, n)
        h: Tensor = self.embedding(y)[:, None] + self.positions[places]
        for i, table in enumerate(self.neighbours):
            h = h + table(known[:, i])
        return h


class _Layer(nn.Module):
    """h + attention(norm(h)), then h + mlp(norm(h))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        for layer in (self.project, self.mlp[2]):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]

    def forward(self, h: Tensor) -> Tensor:
        """(b, n, width) -> (b, n, width), each place seeing itself and those before it."""
        q, k, v = self._split(self.norm1(h))
        mask = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device).triu(1)
        return self._finish(h, _attend(q, k, v, mask))

    def extend(self, h: Tensor, memory: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`forward` for the next place alone, (b, 1, width), given the keys and values of those before it."""
        q, k, v = self._split(self.norm1(h))
        if memory is not None:
            k, v = torch.cat([memory[0], k], 2), torch.cat([memory[1], v], 2)
        return self._finish(h, _attend(q, k, v, None)), (k, v)

    def _split(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rearrange(self.qkv(h), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads)
        return q, k, v

    def _finish(self, h: Tensor, attended: Tensor) -> Tensor:
        h = h + self.project(rearrange(attended, "b heads n d -> b n (heads d)"))
        out: Tensor = h + self.mlp(self.norm2(h))
        return out


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(d)) v, without what is masked; on a CPU, faster than the fused one on 49 places."""
    weights = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        weights = weights.masked_fill(mask, -math.inf)
    return weights.float().softmax(-1).to(v.dtype) @ v


def usage(c: Tensor, codes: int) -> dict[str, Tensor]:
    """How many codes a batch uses: the share that occurs, and the perplexity of their frequencies."""
    frequencies = torch.bincount(c.flatten(), minlength=codes) / c.numel()
    perplexity = torch.exp(-(frequencies * (frequencies + 1e-12).log()).sum())
    return {"codes_used": (frequencies > 0).float().mean(), "perplexity": perplexity}

"""VQ-VAE: an image as 7x7 discrete codes, and a transformer that draws them.

van den Oord et al., "Neural Discrete Representation Learning" (2017), https://arxiv.org/abs/1711.00937. The codes are
those of finite scalar quantization (Mentzer et al. 2024, https://arxiv.org/abs/2309.15505): each of a few bounded
numbers is rounded to one of its levels, and the gradient passes the rounding as if it were not there. So there is no
codebook to learn, to collapse or to restart, and no commitment loss. Each step minimises two losses in nats an image:

    -log p(x | c, y) + rate * E_q[-log p(c | y)],  c = codes(x)             for the encoder and the decoder
    -log p(c | y) = -sum_i log p(c_i | c_1, ..., c_{i-1}, y)                for the prior, a causal transformer

The second term of the first, which the paper leaves out, asks the encoder for codes that the prior can foretell, as
entropy-constrained quantizers do (Chou et al. 1989); q softens the rounding, so that the encoder has a gradient. What
both minimise, -log p(x | c, y) - log p(c | y), bounds -log p(x | y) from above, because c is one of the codes from
which x could have come.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from mnistgen import BaseConfig, GenerativeModel, Loss, Noise, UsageError
from mnistgen.model import HasLikelihood, HasReconstruction
from mnistgen.nn import LIKELIHOODS, ClassEmbedding, LikelihoodName, ResidualBlock, Upsampler

CLASS_DIM = 64  # of the decoder's class embedding
SIDE = 7  # the codes are a map of 7x7
NEIGHBOURS = 4  # the code before a place, and those above it: to the left, straight and to the right


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
    likelihood: LikelihoodName = "zero_inflated"
    """Distribution of a pixel given the codes."""
    rate: float = 0.5
    """Weight of the codes' nats under the prior in the encoder's loss; 0, as in the paper, lets it ignore the prior."""
    levels: tuple[int, ...] = (4, 4)
    """Levels of each number that is rounded; their product is the number of codes."""
    width: int = 32
    """Channels at 14x14; there are three times as many at 7x7."""
    blocks: int = 1
    """Residual blocks of the encoder at 7x7, and of the decoder at each of 7x7 and 14x14."""
    prior_width: int = 120
    """Width of the transformer."""
    prior_layers: int = 3
    """Layers of the transformer."""
    prior_heads: int = 4
    """Attention heads of the transformer."""
    label_dropout: float = 0.1
    """Share of the images whose class the prior is not told in training, for classifier-free guidance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("width", "blocks", "prior_width", "prior_layers", "prior_heads", least=1)
        self.require("rate", "label_dropout", least=0)
        self.require("label_dropout", below=1)
        self.require("levels", least=2)
        if not self.levels:
            raise UsageError("levels is empty; give one or more numbers of at least 2.")
        if self.prior_width % self.prior_heads:
            raise UsageError(f"prior_width {self.prior_width} is no multiple of prior_heads {self.prior_heads}.")


class VQVAE(GenerativeModel, HasLikelihood, HasReconstruction):
    """7x7 discrete codes with a class-conditional transformer prior (van den Oord et al. 2017; Mentzer et al. 2024)."""

    Config = VQVAEConfig
    config: VQVAEConfig
    family = "vae"
    conditional = True
    likelihood = "lower bound"
    likelihood_of = "8-bit pixels"  # an instance says what its own likelihood is of

    def __init__(self, config: VQVAEConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.autoencoder = Autoencoder(config, num_classes)
        self.likelihood_of = self.autoencoder.pixels.of
        self.prior = Transformer(
            self.autoencoder.quantizer.codes, num_classes, config.prior_width, config.prior_layers, config.prior_heads
        )

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        """The autoencoder's loss, then the prior's, in nats an image."""
        c, q, reconstruction = self.autoencoder.terms(x, y)
        logits = self.prior(c, self.some_labels(y))
        rate = -(q * logits.detach().log_softmax(-1)).sum((1, 2))
        loss = reconstruction.mean() + self.config.rate * rate.mean()
        logs = {"reconstruction": reconstruction.mean(), **usage(c, self.autoencoder.quantizer.codes)}
        yield Loss(loss, self.autoencoder, logs)

        yield Loss(nll(logits, c).mean(), self.prior)

    def some_labels(self, y: Tensor) -> Tensor:
        """The labels as class weights, (b, classes); in training mode, a share of them is replaced by no class."""
        weights = F.one_hot(y, self.prior.num_classes).float()
        if self.training:
            weights = weights * (torch.rand(len(y), 1, device=y.device) >= self.config.label_dropout)
        return weights

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        parts, decay = (self.autoencoder, self.prior), self.config.weight_decay
        return {part: AdamW(part.parameters(), self.config.lr, weight_decay=decay, fused=True) for part in parts}

    def validation_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The bound of -log p(x | y) in nats an image."""
        return -self.log_prob(x, y).mean()

    def log_prob(self, x: Tensor, y: Tensor, *, noise: Noise | None = None) -> Tensor:  # noqa: ARG002  it has none
        """log p(x | c, y) + log p(c | y) with c = codes(x), below log p(x | y)."""
        c, _, reconstruction = self.autoencoder.terms(x, y)
        return -nll(self.prior(c, y), c) - reconstruction

    def reconstruct(self, x: Tensor, y: Tensor) -> Tensor:
        """The image of the codes of x."""
        c, _, _ = self.autoencoder.terms(x, y)
        return self.autoencoder.image(c, y)

    def sample(
        self, y: Tensor, *, noise: Noise, guidance_scale: float = 1.35, top_p: float = 0.99, temperature: float = 1.0
    ) -> Tensor:
        """The image of codes from the prior, drawn one after the other.

        1, 1 and 1 draw from the prior itself.

        Args:
            guidance_scale: Factor on what the class adds to log p(c_i | ...) without it (Ho & Salimans 2022); 1 is no
                guidance.
            top_p: Share of the probability that the likeliest codes have together, the others are not drawn (Holtzman
                et al. 2020); 1 keeps all.
            temperature: Divides the logits of the codes; below 1 for likelier ones.
        """
        if temperature <= 0:
            raise UsageError(f"temperature is {temperature}; it must be above 0.")
        if not 0 < top_p <= 1:
            raise UsageError(f"top_p is {top_p}; it must be above 0 and at most 1.")
        if guidance_scale < 1:
            raise UsageError(f"guidance_scale is {guidance_scale}; it must be at least 1.")
        return self.autoencoder.image(self.prior.sample(y, noise, guidance_scale, top_p, temperature), y)


class Autoencoder(nn.Module):
    """c = codes(x) and p(x | c, y)."""

    def __init__(self, config: VQVAEConfig, num_classes: int) -> None:
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
        self.embedding = ClassEmbedding(num_classes, CLASS_DIM)
        self.decoder = Decoder(len(config.levels), width, blocks, self.pixels.channels)

    def terms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The codes (b, 49) int64 of each image, the softened choice of them (b, 49, codes), -log p(x | c, y) (b,)."""
        h = self.encoder(x).float()
        z = self.quantizer(h)
        c = rearrange(self.quantizer.codes_of(z.detach()), "b h w -> b (h w)")
        q = rearrange(self.quantizer.nearness(h), "b h w k -> b (h w) k")
        return c, q, -self.pixels.log_prob(self.decoder(z, self.embedding(y)).float(), x)

    def image(self, c: Tensor, y: Tensor) -> Tensor:
        """(b, 49) int64, (b,) -> (b, 1, 28, 28) in [-1, 1]."""
        z = self.quantizer.values_of(rearrange(c, "b (h w) -> b h w", h=SIDE))
        return self.pixels.image(
            self.decoder(z.contiguous(memory_format=torch.channels_last), self.embedding(y)).float()
        )


class Decoder(Upsampler):
    """The parameters of p(x | c, y)."""

    def __init__(self, dim: int, width: int, blocks: int, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(dim, 3 * width, 3, padding=1)
        self.build(width, blocks, channels, CLASS_DIM)

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        """Values of codes (b, dim, 7, 7), (b, class) -> (b, channels, 28, 28)."""
        return self.grow(self.expand(z), e)


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
        z = self._bounded(h)
        return z + (((z + 1) * steps).round() / steps - 1 - z).detach()

    def nearness(self, h: Tensor) -> Tensor:
        """A softened choice of the code, (b, d, h, w) -> (b, h, w, codes), rows adding up to 1.

        For each number, softmax of -2 (distance to a level / step between levels)^2; the product over the numbers.
        """
        z, q = self._bounded(h), h.new_ones(1, 1, 1, 1)
        for i, count in enumerate(self.levels.flatten().tolist()):
            values = torch.linspace(-1, 1, count, device=h.device)
            distance = (z[:, i, ..., None] - values) * (count - 1) / 2  # (b, h, w, count), in steps
            q = rearrange((-2 * distance.square()).softmax(-1)[..., None] * q[..., None, :], "b h w n k -> b h w (n k)")
        return q

    def _bounded(self, h: Tensor) -> Tensor:
        return torch.tanh(F.layer_norm(h, h.shape[1:]))

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

    What enters at a place is the class, the place, the code before and the three above: attention need not find them
    first, which a short training has no time for.
    """

    def __init__(self, codes: int, num_classes: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embedding = ClassEmbedding(num_classes, width)
        self.positions = nn.Parameter(0.1 * torch.randn(SIDE * SIDE, width))
        self.neighbours = nn.ModuleList(
            nn.Embedding(codes + 1, width) for _ in range(NEIGHBOURS)
        )  # the last one: none there
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
        above = [padded[:SIDE, 1 + right : 1 + right + SIDE].flatten() for right in (-1, 0, 1)]
        before = (places.flatten() - 1) % (SIDE * SIDE + 1)
        self.register_buffer("where", torch.stack([before, *above]), persistent=False)  # (4, 49)

    where: Tensor

    def forward(self, c: Tensor, y: Tensor) -> Tensor:
        """Logits of the code at each place given those before: (b, 49) int64, (b,) -> (b, 49, codes) float32.

        y may be class weights, (b, classes); none at all stand for no class.
        """
        h = self._enter(c, y, slice(None))
        for layer in self.layers:
            h = layer(h)
        logits: Tensor = self.out(self.norm(h)).float()
        return logits

    def sample(self, y: Tensor, noise: Noise, guidance_scale: float, top_p: float, temperature: float) -> Tensor:
        """Codes one after the other, (b,) -> (b, 49); each layer remembers the keys and values of those before."""
        memories: list[tuple[Tensor, Tensor] | None] = [None] * len(self.layers)
        classes = F.one_hot(y, self.num_classes).float()
        copies = 1
        if guidance_scale != 1:  # every image twice: with its class, then without
            copies, classes = 2, torch.cat([classes, torch.zeros_like(classes)])
        c = torch.full((y.shape[0], SIDE * SIDE), self.nowhere, device=y.device)
        for place in range(SIDE * SIDE):
            h = self._enter(c.repeat(copies, 1), classes, slice(place, place + 1))
            for i, layer in enumerate(self.layers):
                assert isinstance(layer, _Layer)
                h, memories[i] = layer.extend(h, memories[i])
            logits = self.out(self.norm(h[:, 0])).float()
            if guidance_scale != 1:
                given, free = logits.log_softmax(-1).chunk(2)
                logits = free + guidance_scale * (given - free)
            c[:, place] = noise.categorical(likeliest(logits / temperature, top_p))
        return c

    def _enter(self, c: Tensor, y: Tensor, places: slice) -> Tensor:
        """The input of the first layer at some places, (b, n, width)."""
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


def likeliest(logits: Tensor, top_p: float) -> Tensor:
    """The logits, (b, codes), without the least likely codes: the fewest stay that together have `top_p`."""
    if top_p >= 1:
        return logits
    ordered, order = logits.sort(-1, descending=True)
    p = ordered.softmax(-1)
    ordered = ordered.masked_fill(p.cumsum(-1) - p >= top_p, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(-1, order, ordered)


def nll(logits: Tensor, c: Tensor) -> Tensor:
    """-sum_i log p(c_i), (b, 49, codes), (b, 49) -> (b,) nats."""
    return F.cross_entropy(logits.transpose(1, 2), c, reduction="none").sum(1)


def usage(c: Tensor, codes: int) -> dict[str, Tensor]:
    """Usage of the codes by a batch: the share that occurs, and the perplexity of their frequencies."""
    frequencies = torch.bincount(c.flatten(), minlength=codes) / c.numel()
    perplexity = torch.exp(-(frequencies * (frequencies + 1e-12).log()).sum())
    return {"codes_used": (frequencies > 0).float().mean(), "perplexity": perplexity}

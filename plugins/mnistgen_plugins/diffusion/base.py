"""The base of diffusion and flow models: a denoiser, the path it belongs to, and what follows from both."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from mnistgen import BaseConfig, GenerativeModel, Noise, UsageError, load
from mnistgen.model import HasEditing, HasLatents, HasLikelihood, HasTrajectory, normal_like
from mnistgen.nn import Muon, computes_in_bfloat16
from mnistgen_plugins.diffusion.pixels import PixelSpace
from mnistgen_plugins.diffusion.solvers import Denoiser, ProbabilityPath, guide, inpaint, last, log_likelihood, rk4
from mnistgen_plugins.diffusion.unet import UNet

IMAGE = (1, 28, 28)
ODE_STEPS = 32  # where an image and its noise are to lead to each other
MIDDLE = (1.2, 2.4)  # sigma / alpha between which an image settles on its class
LEAST_NOISE = 0.025  # relative to the data, where grey levels take over from the density of the ODE


@dataclass(frozen=True)
class DiffusionConfig(BaseConfig):
    """Hyperparameters that all of them have."""

    epochs: float = 32.0
    """Length of training in passes over the training images, where neither --steps nor --budget says otherwise."""
    batch_size: int = 64
    """Images in a step, over all processes together."""
    lr: float = 2e-3
    """Peak learning rate of all but the hidden layers' weights (Adam)."""
    matrix_lr: float = 0.02
    """Peak learning rate of the hidden layers' weights (Muon)."""
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    """How the learning rate falls to zero, after the warm-up."""
    ema_decay: float = 0.9995
    """Decay a step of the averaged weights that are sampled and saved; 0 keeps no average."""
    clip_norm: float = 1.0
    """Largest gradient norm of a loss; 0 does not clip."""
    pixels: Literal["plain", "ranked"] = "ranked"
    """The space the network works in: [-1, 1], or with black apart and ink by rank; then centred and scaled."""
    label_dropout: float = 0.1
    """Share of the images whose class the network is not told in training, for classifier-free guidance."""
    learnt_guidance: float = 1.25
    """Guidance scale that is learnt in training, so that sampling needs no guidance; 1 learns the data as they are."""
    middle_guidance: float = 1.9
    """The same where the class is decided, if it is more: the noise is 1.2 to 2.4 times as strong as the image."""
    guided_share: float = 0.25
    """Share of the images of a step that guidance is learnt from."""
    width: int = 64
    """Channels at 14x14; there are twice as many at 7x7."""
    blocks: int = 1
    """Residual blocks of the network at each resolution, on the way down and on the way up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("width", "blocks", least=1)
        self.require("matrix_lr", above=0)
        self.require("label_dropout", least=0, below=1)
        self.require("learnt_guidance", "middle_guidance", least=1)
        self.require("guided_share", above=0, below=1)
        if self.width % 2:
            raise UsageError(f"width is {self.width}; it must be even, for four heads of attention at twice as many.")


def ends(path: Callable[..., Iterator[Tensor]]) -> Callable[..., Tensor]:
    """`sample`, made of `sample_trajectory`: the same options, and the last of its images."""

    @functools.wraps(path)
    def sample(self: Diffusion, y: Tensor, *, noise: Noise, **options: Any) -> Tensor:
        return last(path(self, y, noise=noise, **options))

    return sample


class Diffusion(GenerativeModel, HasTrajectory, HasLatents, HasEditing, HasLikelihood):
    """A model of x_t = alpha(t) x + sigma(t) eps by its denoiser; `path` says what alpha and sigma are."""

    family = "diffusion"
    conditional = True
    latent_shape = IMAGE
    Config: ClassVar[type[BaseConfig]] = DiffusionConfig
    config: DiffusionConfig
    former_options: ClassVar[Mapping[str, str]] = {"weak": "autoguidance_model"}
    path: ProbabilityPath
    likelihood = "lower bound"
    likelihood_of = "8-bit pixels"

    def __init__(self, config: DiffusionConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.pixels = PixelSpace(ranked=config.pixels == "ranked")
        self.network = UNet(num_classes, config.width, config.blocks)

    def prepare(self, images: Tensor) -> None:
        """Learn the space of pixels from the training images, (n, 1, 28, 28) uint8."""
        self.pixels.prepare(images)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        """Muon for the hidden layers, Adam for the rest."""
        hidden = self.network.hidden()
        chosen = {id(weight) for weight in hidden}
        others = [parameter for parameter in self.parameters() if id(parameter) not in chosen]
        config = self.config
        return {self: Muon(hidden, others, lr=config.lr, matrix_lr=config.matrix_lr, weight_decay=config.weight_decay)}

    @abstractmethod
    def denoise(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """D(x_t, t, y) = E[x | x_t, y] in the space of pixels: (b, 1, 28, 28), (b,), labels -> (b, 1, 28, 28).

        y may be class weights, (b, classes); weights that are all zero stand for no class.
        """

    def denoiser(
        self,
        y: Tensor,
        *,
        guidance_scale: float = 1.0,
        start: float = -math.inf,
        end: float = math.inf,
        autoguidance_model: str = "",
    ) -> Denoiser:
        """D(x_t, t) of given labels, or class weights, guided while t is in [start, end].

        Classifier-free, or, where `autoguidance_model` names the checkpoint of a smaller or less trained model of the
        same kind, away from what that one makes of the same class (autoguidance).
        """

        def main(x_t: Tensor, t: Tensor) -> Tensor:
            return self.denoise(x_t, t, y)

        if guidance_scale == 1:
            return main
        if autoguidance_model:
            guiding = self.guiding_model(autoguidance_model).denoiser(y)
        else:
            no_class = torch.zeros(y.shape[0], self.num_classes, device=y.device)
            guiding = functools.partial(self.denoise, y=no_class)
        return guide(main, guiding, guidance_scale, (start, end))

    def guiding_model(self, name: str) -> Diffusion:
        """Load the model of another checkpoint, in the same space of pixels and on the same device."""
        model = loaded(name)
        if not isinstance(model, type(self)) or model.num_classes != self.num_classes:
            raise UsageError(
                f"autoguidance_model is {name}, which is no {type(self).__name__} of {self.num_classes} classes."
            )
        if not torch.equal(model.pixels.values.cpu(), self.pixels.values.cpu()):
            raise UsageError(
                f"autoguidance_model is {name}, whose space of pixels is another; train both on the same images."
            )
        return model.to(self.pixels.values.device)

    def some_labels(self, y: Tensor) -> Tensor:
        """The labels as class weights, (b, classes); in training mode, a share of them is replaced by no class."""
        weights = F.one_hot(y, self.num_classes).float()
        if self.training:
            weights = weights * (torch.rand(len(y), 1, device=y.device) >= self.config.label_dropout)
        return weights

    @torch.no_grad()
    def guidance_correction(
        self, predict: Callable[[Tensor, Tensor, Tensor], Tensor], x_t: Tensor, t: Tensor, y: Tensor
    ) -> Tensor:
        """The term added to a training target, so that f(y) is learnt guided: w f0(y) + (1 - w) f0(no class).

        f0 is what the target alone would teach, f = `predict` is the network as it stands, without a gradient, and w is
        `learnt_guidance`, or `middle_guidance` where it is more and the noise as strong as MIDDLE says (Tang et al.,
        "Diffusion Models without Classifier-free Guidance", 2025, https://arxiv.org/abs/2502.12154; an interval:
        Kynkaanniemi et al. 2024, https://arxiv.org/abs/2404.07724). Of the images, a share s gets c (f(y) - f(no
        class)), the others nothing; on average f(y) = f0(y) + s c (f(y) - f(no class)), so that s c = 1 - 1 / w. It is
        nothing for an image whose class is not told, and outside training.
        """
        correction, config = torch.zeros_like(x_t), self.config
        n = math.ceil(config.guided_share * len(x_t))
        if self.training and max(config.learnt_guidance, config.middle_guidance) > 1:
            x_t, t, y = (torch.cat([part[:n], part[:n]]) for part in (x_t, t, y))
            y[n:] = 0
            guided, unguided = predict(x_t, t, y).chunk(2)
            strength = self.path.sigma(t[:n]) / self.path.alpha(t[:n])
            w = torch.full_like(strength, config.learnt_guidance)
            middle = (strength >= MIDDLE[0]) & (strength <= MIDDLE[1])
            w = torch.where(middle, w.clamp_min(config.middle_guidance), w)
            correction[:n] = ((1 - 1 / w) * len(correction) / n)[:, None, None, None] * (guided - unguided)
        return correction

    @property
    def prior_std(self) -> float:
        """The standard deviation of x_t where the path begins."""
        return self.path.sigma(torch.tensor([self.path.noisy], dtype=torch.float64)).item()

    def begin(self, z: Tensor) -> Tensor:
        """x_t where the path begins, of standard normal z, (b, 1, 28, 28)."""
        return (self.prior_std * z).contiguous(memory_format=torch.channels_last)

    def prior_sample(self, noise: Noise) -> Tensor:
        """x_t where the path begins, (b, 1, 28, 28)."""
        return self.begin(noise.normal(*IMAGE))

    @abstractmethod
    def times(self, steps: int, start: float = 0.0) -> Tensor:
        """(steps + 1,) times from the part `start` of the path, 0 where it begins in noise, to the data."""

    @abstractmethod
    def follow(self, denoiser: Denoiser, state: Tensor, times: Tensor) -> Iterator[Tensor]:
        """The states of the deterministic trajectory along `times`, in either direction."""

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """The image to which the ODE leads from z."""
        return self.pixels.decode(last(self.follow(self.denoiser(y), self.begin(z), self.times(ODE_STEPS))))

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        """The noise from which the ODE leads to x."""
        times = self.times(ODE_STEPS).flip(0)
        return last(self.follow(self.denoiser(y), self.pixels.encode(x), times)) / self.prior_std

    def inpaint(self, x: Tensor, known: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        """The ODE of a denoiser that is told the data where they are known."""
        denoiser = inpaint(self.denoiser(y), self.pixels.encode(x), known)
        images = self.pixels.decode(last(self.follow(denoiser, self.prior_sample(noise), self.times(ODE_STEPS))))
        return torch.where(known, x, images)

    def vary(self, x: Tensor, y: Tensor, *, noise: Noise, strength: float = 0.5) -> Tensor:
        """Noise is added as it is at the part 1 - strength of the path, and the ODE leads back (Meng et al. 2022)."""
        if not 0 <= strength <= 1:
            raise UsageError(f"strength is {strength}; it must be from 0 to 1.")
        if strength == 0:
            return x
        times = self.times(ODE_STEPS, 1 - strength)
        eps = noise.normal(*IMAGE)
        state = self.path.at(self.pixels.encode(x), eps, times[:1].to(eps).expand(len(x)))
        return self.pixels.decode(last(self.follow(self.denoiser(y), state, times)))

    def log_prob(self, x: Tensor, y: Tensor, *, noise: Noise | None = None) -> Tensor:
        """A lower bound on the log-probability of the grey levels, in nats an image, on average over its own draws.

        With x_s a little short of the data, E_q(x_s|x) [log p(x_s) + log P(x | x_s) - log q(x_s | x)]: p(x_s) is the
        density of the probability-flow ODE, its divergence estimated by Hutchinson's trick, and P(x | x_s) takes the
        pixels one by one, by Bayes' rule and the frequencies of grey levels (as in Kingma et al. 2021, eq. 11).
        """
        u = self.pixels.encode(x)
        ends = torch.tensor([self.path.time_at(LEAST_NOISE)], dtype=torch.float64)
        alpha, sigma = self.path.alpha(ends).item(), self.path.sigma(ends).item()
        eps = normal_like(u, noise)
        x_s = alpha * u + sigma * eps
        log_q = (-0.5 * eps.square() - 0.5 * math.log(2 * math.pi) - math.log(sigma)).flatten(1).sum(1)
        log_levels = self.pixels.log_prob(x, x_s / alpha, sigma / alpha).flatten(1).sum(1)
        times = self.times(ODE_STEPS).flip(0)
        noisier = self.path.sigma(times) > LEAST_NOISE * self.path.alpha(times)
        times = torch.cat([ends, times[noisier]])
        signs = torch.randint(0, 2, u.shape, device=u.device) if noise is None else noise.uniform(*IMAGE).round()
        probe = signs.to(u) * 2 - 1
        field = self.path.field(self.denoiser(y))
        return log_likelihood(field, x_s, times, rk4, prior_std=self.prior_std, probe=probe) + log_levels - log_q

    def images(self, states: Iterator[Tensor]) -> Iterator[Tensor]:
        """States of a solver as images in [-1, 1]."""
        for state in states:
            yield self.pixels.decode(state)

    def evaluate(self, *inputs: Tensor) -> Tensor:
        """The network: in bfloat16 where that is faster and nothing is being trained."""
        if self.training or torch.is_grad_enabled():
            out: Tensor = self.network(*inputs)
            return out
        device = inputs[0].device
        with torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bfloat16(device)):
            out = self.network(*inputs)
        return out.float()


@functools.lru_cache(maxsize=2)
def loaded(name: str) -> GenerativeModel:
    """The model of a checkpoint, once for all batches of a sample."""
    return load(name)

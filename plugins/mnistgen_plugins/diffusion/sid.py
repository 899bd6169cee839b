"""One-step generation by score identity distillation of a flow.

Zhou et al., "Score identity Distillation: Exponentially Fast Distillation of Pretrained Diffusion Models for One-Step
Generation" (2024), https://arxiv.org/abs/2404.04057. The generator is a flow's network, asked once:

    G(z, y) = D(sigma(t0) z, t0, y),    z ~ N(0, I),    sigma(t0) / alpha(t0) = 2.5

the teacher's denoiser of pure noise, to begin with. With x = G(z, y) and x_t = t x + (1 - t) eps, the distance of its
samples from the teacher's is the Fisher divergence E |D(x_t) - D_G(x_t)|^2 at all times t, where D is the teacher's
denoiser and D_G that of the generator's own samples. The latter is learnt beside it, by a flow (`critic`) that is
trained on the samples of the moment. Since E D_G'g(x_t) = E x'g(x_t) for any g, the divergence is also

    E (D - D_G)'(D - x),   and the loss is   E w (D - D_G)'((D - x) - a (D - D_G)),   w = 1 / mean |x - D| (no gradient)

with a = 0 for that and a = 1.2, the paper's, because neither form knows how D_G changes with the generator. The
gradient goes through x_t into both denoisers. Times are those of a flow, spread wider, in place of EDM's noise levels.

No images are needed but for the teacher. Without one, it is trained in the same steps (the paper has none of this), so
that a single run makes all three; the generator then follows what that flow knows by then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from mnistgen import GenerativeModel, Loss, Noise
from mnistgen.model import HasDecoder
from mnistgen_plugins.diffusion.base import IMAGE
from mnistgen_plugins.diffusion.flow import Flow, FlowConfig, teacher

LEAST, MOST = 0.02, 0.98  # times at which the denoisers are compared
SMALL = 1e-3  # mean |x - D| that is divided by, at least


@dataclass(frozen=True)
class SiDConfig(FlowConfig):
    """Hyperparameters of `SiD`; those of a flow are the ones of the teacher that is trained beside it."""

    epochs: float = 5.0
    """Length of training in passes over the training images, where neither --steps nor --budget says otherwise."""
    ema_decay: float = 0.998
    """Decay a step of the averaged weights that are sampled and saved; 0 keeps no average."""
    teacher: str = ""
    """Checkpoint of a flow to distill; without one, a flow is trained in the same steps."""
    generator_lr: float = 2e-4
    """Peak learning rate of the generator (Adam)."""
    critic_lr: float = 4e-4
    """Peak learning rate of the flow of the generator's samples (Adam)."""
    alpha: float = 1.2
    """a, the weight of the divergence that is taken off the loss."""
    start_noise: float = 2.5
    """sigma / alpha of the time t0 at which the generator denoises."""
    compared_std: float = 1.5
    """Standard deviation of the normal variable whose sigmoid is the time at which denoisers are compared."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("generator_lr", "critic_lr", "start_noise", above=0)
        self.require("alpha", "compared_std", least=0)

    def flow(self) -> FlowConfig:
        """The part that is a flow's."""
        return FlowConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(FlowConfig)})


class SiD(GenerativeModel, HasDecoder):
    """One-step generator, distilled from a flow by score identities, class-conditional (Zhou et al. 2024)."""

    family = "diffusion"
    conditional = True
    latent_shape = IMAGE
    Config = SiDConfig
    config: SiDConfig
    training_only = ("critic", "data")

    def __init__(self, config: SiDConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.generator = Flow(config.flow(), num_classes)
        self.critic = Flow(config.flow(), num_classes)
        self.data = None if config.teacher else Flow(config.flow(), num_classes)
        self.start = self.generator.path.time_at(config.start_noise)

    def prepare(self, images: Tensor) -> None:
        """Begin as the teacher; without one, learn the space of pixels from the training images."""
        if self.config.teacher:
            begin = self.teacher().state_dict()
            self.critic.load_state_dict(begin)
        else:
            assert self.data is not None
            self.data.prepare(images)
            begin = self.data.state_dict()
        self.generator.load_state_dict(begin)

    def teacher(self) -> Flow:
        """The flow that is distilled."""
        return self.data or teacher(self.config.teacher, self.generator)

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        config, betas = self.config, (0.0, 0.99)
        optimizers: dict[nn.Module, Optimizer] = {} if self.data is None else self.data.optimizers()
        optimizers[self.critic] = Adam(self.critic.parameters(), config.critic_lr, betas, fused=True)
        optimizers[self.generator] = Adam(self.generator.parameters(), config.generator_lr, betas, fused=True)
        return optimizers

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        """That of the teacher, if it is being trained; that of the critic, a flow's; and the generator's."""
        if self.data is not None:
            yield from self.data.losses(x, y)
        y = F.one_hot(y, self.num_classes).float()
        fake = self.generate(torch.randn_like(x), y)

        x_t, t, eps = self.perturb(fake.detach())
        error = self.critic.velocity(x_t, t, y) - (fake.detach() - eps)
        yield Loss(error.square().mean(), self.critic)

        x_t, t, _ = self.perturb(fake)
        of_teacher, of_critic = (flow.denoise(x_t, t, y) for flow in (self.teacher(), self.critic))
        yield Loss(self.divergence(fake, of_teacher, of_critic), self.generator)

    def perturb(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x_t, t and eps, at random times."""
        t = (self.config.compared_std * torch.randn(len(x), device=x.device)).sigmoid().clamp(LEAST, MOST)
        eps = torch.randn_like(x)
        return self.generator.path.at(x, eps, t), t, eps

    def divergence(self, x: Tensor, of_teacher: Tensor, of_critic: Tensor) -> Tensor:
        """E w (D - D_G)'((D - x) - a (D - D_G)), a pixel."""
        apart, off = of_teacher - of_critic, of_teacher - x
        weight = 1 / off.detach().abs().mean((1, 2, 3), keepdim=True).clamp_min(SMALL)
        return (weight * apart * (off - self.config.alpha * apart)).mean()

    def validation_loss(self, x: Tensor, y: Tensor) -> Tensor | None:  # noqa: ARG002
        """None: what the generator minimises is no measure of its samples."""
        return None

    def generate(self, z: Tensor, y: Tensor) -> Tensor:
        """G(z, y) in the space of pixels: (b, 1, 28, 28), labels or class weights -> (b, 1, 28, 28)."""
        t = z.new_full(z.shape[:1], self.start)
        noise = self.generator.path.at(torch.zeros_like(z), z, t)
        return self.generator.denoise(noise.contiguous(memory_format=torch.channels_last), t, y)

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        """The image of z ~ N(0, I), by one evaluation of the network."""
        return self.decode(noise.normal(*IMAGE), y)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """G(z, y) as an image."""
        return self.generator.pixels.decode(self.generate(z, y))

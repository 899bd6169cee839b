"""The contract test passes models that keep the contract, and names the rule that a model breaks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from mnistgen import BaseConfig, ContractError, GenerativeModel, Loss, Noise
from mnistgen.model import HasLatents, HasLikelihood, HasReconstruction, HasTrajectory
from mnistgen.testing import Outcome, abilities_of, check_model, check_rules, rules_of, synthetic_digits


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, and much slower where other work wants them too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class SmallConfig(BaseConfig):
    """A narrow network."""

    latent_dim: int = 4
    lr: float = 3e-3


class Coder(GenerativeModel, HasLikelihood, HasLatents, HasTrajectory):
    """A conditional VAE of linear layers, with every optional ability."""

    Config = SmallConfig
    config: SmallConfig
    family = "test"
    conditional = True
    likelihood = "lower bound"
    likelihood_of = "pixels as probabilities"

    def __init__(self, config: SmallConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.latent_shape = (config.latent_dim,)
        self.embedding = nn.Parameter(torch.randn(num_classes, 16))
        self.encoder = nn.Sequential(nn.Linear(784 + 16, 64), nn.ReLU(), nn.Linear(64, 2 * config.latent_dim))
        self.decoder = nn.Sequential(nn.Linear(config.latent_dim + 16, 64), nn.ReLU(), nn.Linear(64, 784))
        self.register_buffer("steps", torch.zeros(()))

    def embed(self, y: Tensor) -> Tensor:
        return y @ self.embedding if y.is_floating_point() else self.embedding[y]

    def bound(self, x: Tensor, y: Tensor) -> Tensor:
        mean, log_var = self.encoder(torch.cat([x.flatten(1), self.embed(y)], 1)).chunk(2, 1)
        logits = self.decoder(torch.cat([mean + (log_var / 2).exp() * torch.randn_like(mean), self.embed(y)], 1))
        nll = F.binary_cross_entropy_with_logits(logits, (x.flatten(1) + 1) / 2, reduction="none").sum(1)
        return -nll - 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        self.steps += self.training
        yield Loss(-self.bound(x, y).mean(), self, {"steps": self.steps})

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return self.decode(noise.normal(*self.latent_shape), y)

    def sample_trajectory(self, y: Tensor, *, noise: Noise) -> Iterator[Tensor]:
        z = noise.normal(*self.latent_shape)
        for t in (0.0, 0.5, 1.0):
            yield self.decode(t * z, y)

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        return self.bound(x, y)

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return self.encoder(torch.cat([x.flatten(1), self.embed(y)], 1)).chunk(2, 1)[0]

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return self.decoder(torch.cat([z, self.embed(y)], 1)).sigmoid().mul(2).sub(1).view(-1, 1, 28, 28)


class Duel(GenerativeModel):
    """A GAN of linear layers with a projection critic and R1: two losses a step, and no validation loss."""

    Config = SmallConfig
    config: SmallConfig
    family = "test"
    conditional = True

    def __init__(self, config: SmallConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.register_buffer("codes", torch.randn(num_classes, 32))
        self.generator = nn.Sequential(nn.Linear(8 + 32, 128), nn.ReLU(), nn.Linear(128, 784), nn.Tanh())
        self.critic = nn.Sequential(nn.Linear(784, 128), nn.LeakyReLU(0.2), nn.Linear(128, num_classes))

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return {part: Adam(part.parameters(), lr=2e-3, betas=(0.0, 0.99)) for part in (self.critic, self.generator)}

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        def logit(image: Tensor) -> Tensor:
            return self.critic(image.flatten(1)).gather(1, y[:, None])

        fake = self.generate(torch.randn(len(y), 8, device=x.device), y)
        real = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(logit(real).sum(), real, create_graph=True)
        r1 = 0.3 * slope.square().sum((1, 2, 3)).mean()
        yield Loss(F.softplus(-logit(real)).mean() + F.softplus(logit(fake.detach())).mean() + r1, self.critic)
        yield Loss(F.softplus(-logit(fake)).mean(), self.generator)

    def validation_loss(self, x: Tensor, y: Tensor) -> None:
        return None  # R1 needs gradients, and there is nothing to compare

    def generate(self, z: Tensor, y: Tensor) -> Tensor:
        return self.generator(torch.cat([z, self.codes[y]], 1)).view(-1, 1, 28, 28)

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return self.generate(noise.normal(8), y)


class Flow(GenerativeModel, HasTrajectory):
    """Flow matching without labels: a velocity field of linear layers."""

    Config = SmallConfig
    config: SmallConfig
    family = "test"
    conditional = False

    def __init__(self, config: SmallConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.velocity = nn.Sequential(nn.Linear(785, 256), nn.SiLU(), nn.Linear(256, 784))

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        t, eps = torch.rand(len(x), 1, device=x.device), torch.randn_like(x.flatten(1))
        x_t = torch.lerp(eps, x.flatten(1), t)
        yield Loss((self.velocity(torch.cat([x_t, t], 1)) - (x.flatten(1) - eps)).square().mean(), self)

    def sample_trajectory(self, y: Tensor, *, noise: Noise) -> Iterator[Tensor]:
        x, steps = noise.normal(784), 10
        for step in range(steps):
            x = x + self.velocity(F.pad(x, (0, 1), value=step / steps)) / steps
            yield x.clamp(-1, 1).view(-1, 1, 28, 28)

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return list(self.sample_trajectory(y, noise=noise))[-1]


@pytest.mark.parametrize("cls", [Coder, Duel, Flow])
def test_models_that_keep_the_contract_pass(cls: type[GenerativeModel]) -> None:
    check_model(cls)


# Models that each break one rule.


class NoDocstring(Coder):
    pass


class NoFamily(Coder):
    """Is of no family."""

    family = ""


class NoConditional(GenerativeModel):
    """Does not say whether it is conditional."""

    family = "test"
    losses = Coder.losses
    sample = Coder.sample


class Abstract(GenerativeModel):
    """Cannot sample."""

    family = "test"
    conditional = True
    losses = Coder.losses


@dataclass(frozen=True)
class SetConfig(SmallConfig):
    digits: set[int] = field(default_factory=lambda: {1, 2})


class ConfigOutsideJson(Coder):
    """Has a field that JSON cannot hold."""

    Config = SetConfig


@dataclass(frozen=True)
class DictConfig(SmallConfig):
    widths: dict[int, int] = field(default_factory=lambda: {1: 2})


class ConfigChangedByJson(Coder):
    """Has a field that comes back with other keys."""

    Config = DictConfig


class UndecoratedConfig(SmallConfig):
    width: int = 3


class ConfigWithoutDecorator(Coder):
    """Has a field that no dataclass knows."""

    Config = UndecoratedConfig


class ForgetsClasses(Coder):
    """Does not pass num_classes on."""

    def __init__(self, config: SmallConfig, num_classes: int = 10) -> None:
        super().__init__(config)


class TenClasses(Coder):
    """Has ten classes whatever it is asked for."""

    def __init__(self, config: SmallConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.embedding = nn.Parameter(torch.randn(3, 16))


class NanOnBlank(Coder):
    """Divides by the spread of an image."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        yield Loss(-self.bound(x / x.std((1, 2, 3), correction=0, keepdim=True), y).mean(), self)


class VectorLoss(Coder):
    """Yields one loss an image."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        yield Loss(-self.bound(x, y), self)


class NoGradLoss(Coder):
    """Computes its loss without gradients."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        with torch.no_grad():
            loss = -self.bound(x, y).mean()
        yield Loss(loss, self)


class NoOptimizer(Coder):
    """Names a module that it has no optimizer for."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        yield Loss(-self.bound(x, y).mean(), self.decoder)


class WritesX(Coder):
    """Dequantises in place."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        yield Loss(-self.bound(x.mul_(0.5), y).mean(), self)


class WritesY(Coder):
    """Drops labels in place."""

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return super().sample(y.zero_(), noise=noise)


class YieldsInNoGrad(Coder):
    """Yields where gradients are off."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        loss = -self.bound(x, y).mean()
        with torch.no_grad():
            yield Loss(loss, self)


class YieldsInAutocast(Coder):
    """Yields where autocast is on."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        with torch.autocast(x.device.type, torch.bfloat16):
            yield Loss(-self.bound(x, y).mean(), self)


class YieldsOutOfAutocast(Coder):
    """Yields where the host's autocast is off."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        with torch.autocast(x.device.type, enabled=False):
            yield Loss(-self.bound(x, y).mean(), self)


class SetsDefaultDtype(Coder):
    """Computes in double precision from now on, for everybody."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        loss = -self.bound(x, y).mean()
        torch.set_default_dtype(torch.float64)
        yield Loss(loss, self)


class UnusedParameter(Coder):
    """Has a layer that no loss uses."""

    def __init__(self, config: SmallConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.spare = nn.Linear(2, 2)


class CallsBackward(Coder):
    """Adds gradients of its own."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        (-self.bound(x, y).mean()).backward()
        yield Loss(-self.bound(x, y).mean(), self)


class StepsItself(Coder):
    """Trains its decoder behind the host's back."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        SGD(self.decoder.parameters(), lr=0.1).step()
        yield Loss(-self.bound(x, y).mean(), self)


class MovesOthers(Duel):
    """Changes the generator while it trains the critic."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        self.generator[0].bias.data.add_(0.1)
        yield from super().losses(x, y)


class PartialOptimizer(Coder):
    """Trains its decoder only."""

    def optimizers(self) -> dict[nn.Module, Optimizer]:
        return {self: Adam(self.decoder.parameters())}


class ValidationNeedsGradients(Coder):
    """Differentiates in its validation loss."""

    def validation_loss(self, x: Tensor, y: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(self.bound(x, y).sum(), x)[0].norm()


class Diverges(Coder):
    """Counts to infinity."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        yield Loss(-self.bound(x, y).mean(), self)
        self.steps += torch.inf


class WrongShape(Coder):
    """Samples rows of pixels."""

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return super().sample(y, noise=noise).flatten(1)


class WrongRange(Coder):
    """Samples pixels in [-2, 2]."""

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return 2 * super().sample(y, noise=noise)


class GlobalNoise(Coder):
    """Samples from torch's generator."""

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return self.decode(torch.randn(len(y), *self.latent_shape), y)


class NumpyNoise(Coder):
    """Samples from NumPy's generator."""

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return self.decode(torch.from_numpy(np.random.randn(len(y), *self.latent_shape)).float(), y)


class NoNoise(Coder):
    """Samples the mean."""

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return self.decode(torch.zeros(len(y), *self.latent_shape), y)


class CountsSamples(Coder):
    """Counts what it has drawn."""

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        self.steps += 1
        return super().sample(y, noise=noise)


class BatchStatistics(Coder):
    """Normalises codes over the batch."""

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        z = noise.normal(*self.latent_shape)
        return self.decode((z - z.mean(0)) / (1 + z.std(0, correction=0)) * 5, y)


class SharedDraw(Coder):
    """Gives a batch one code."""

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return self.decode(10 * noise.normal(*self.latent_shape)[:1].expand(len(y), -1), y)


class CountsInPython(Coder):
    """Warms its loss up by a counter that no checkpoint holds."""

    count = 0

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        self.count += 1
        yield Loss(-self.bound(x, y).mean() * self.count, self)


class RemembersOutsideBuffers(Coder):
    """Samples around a mean image that no checkpoint holds."""

    mean: Tensor | float = 0.0

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        self.mean = x.mean(0)
        yield Loss(-self.bound(x, y).mean(), self)

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return (super().sample(y, noise=noise) + self.mean) / 2


class NumpyTraining(Coder):
    """Trains on NumPy's random numbers."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        yield Loss(-self.bound(x, y).mean() * np.random.rand(), self)


class MeanLikelihood(Coder):
    """Gives one likelihood for a batch."""

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        return self.bound(x, y).mean()


class LikelihoodOfWhat(Coder):
    """Does not say what its likelihood is of."""

    likelihood_of = ""


class WrongLatentShape(Coder):
    """Says another shape than it gives."""

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return super().encode(x, y)[:, :2]


class RandomCode(Coder):
    """Encodes at random."""

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return super().encode(x, y) + torch.randn(len(x), 1)


class WeightsAreNotLabels(Coder):
    """Decodes weights of classes as something else."""

    def embed(self, y: Tensor) -> Tensor:
        return super().embed(y) * (100 if y.is_floating_point() else 1)


class PathEndsElsewhere(Coder):
    """Stops half way."""

    def sample_trajectory(self, y: Tensor, *, noise: Noise) -> Iterator[Tensor]:
        yield self.decode(0 * noise.normal(*self.latent_shape), y)


class PathLeaks(Coder):
    """Yields images where gradients are on."""

    def sample_trajectory(self, y: Tensor, *, noise: Noise) -> Iterator[Tensor]:
        with torch.enable_grad():
            yield self.sample(y, noise=noise)


class DoesNotLearn(Coder):
    """Fits noise instead of the image."""

    def bound(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self.decoder(torch.cat([self.encode(x, y), self.embed(y)], 1))
        return -(logits.sigmoid() - torch.rand_like(logits)).square().mean(1)


class IgnoresLabels(Coder):
    """Says it is conditional, and never looks at y."""

    def embed(self, y: Tensor) -> Tensor:
        return self.embedding[:1].expand(len(y), -1)


class ShiftsLabels(Coder):
    """Draws the class after the one it is asked for."""

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return super().sample((y + 1) % self.num_classes, noise=noise)

    def sample_trajectory(self, y: Tensor, *, noise: Noise) -> Iterator[Tensor]:
        yield self.sample(y, noise=noise)


class SecretlyConditional(Coder):
    """Says that labels do not count, and they do."""

    conditional = False


class ReservedNames(Coder):
    """Its hyperparameters are called as flags are."""

    @dataclass(frozen=True)
    class Config(SmallConfig):
        """A flow of steps."""

        steps: int = 12
        seed: int = 0

    def sample(self, y: Tensor, *, noise: Noise, count: int = 1) -> Tensor:
        return super().sample(y, noise=noise)


class Undeclared(Flow):
    """Has codes and a density, and nobody knows."""

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return x

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        return x.sum((1, 2, 3))


class NotExact(Coder):
    """Calls its bound exact."""

    likelihood = "exact"


class IgnoresNoise(Coder):
    """Takes a noise for its bound, and draws from torch's generator."""

    def log_prob(self, x: Tensor, y: Tensor, *, noise: Noise | None = None) -> Tensor:
        return self.bound(x, y)


class UndeclaredReconstruction(Flow):
    """Reconstructs, and nobody knows."""

    def reconstruct(self, x: Tensor, y: Tensor) -> Tensor:
        return x


class Keeper(Flow, HasReconstruction):
    """Reconstructs without a code of its own."""

    def reconstruct(self, x: Tensor, y: Tensor) -> Tensor:
        return x.round()


class RandomReconstruction(Keeper):
    """Draws its code."""

    def reconstruct(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.rand_like(x)


class FlatReconstruction(Keeper):
    """Forgets the shape of an image."""

    def reconstruct(self, x: Tensor, y: Tensor) -> Tensor:
        return x.flatten(1)


class BrightReconstruction(Keeper):
    """Is not in [-1, 1]."""

    def reconstruct(self, x: Tensor, y: Tensor) -> Tensor:
        return x + 1


class WritesReconstruction(Keeper):
    """Reconstructs in place."""

    def reconstruct(self, x: Tensor, y: Tensor) -> Tensor:
        return x.mul_(0.5)


class SharedReconstruction(Keeper):
    """Gives each image the mean of its batch."""

    def reconstruct(self, x: Tensor, y: Tensor) -> Tensor:
        return x.mean(0, keepdim=True).expand_as(x)


BROKEN = [
    (
        ReservedNames,
        "its flags",
        "Config has seed, steps, a flag of `train` and sample.. has count, a flag",
    ),
    (Undeclared, "its abilities", r"log_prob, encode is defined, .* mnistgen.model.HasLatents, HasLikelihood"),
    (UndeclaredReconstruction, "its abilities", r"reconstruct is defined, .* mnistgen.model.HasReconstruction"),
    (RandomReconstruction, "reconstructions are", "another image each time"),
    (FlatReconstruction, "reconstructions are", r"\(5, 784\)"),
    (BrightReconstruction, "reconstructions are", "pixels from"),
    (WritesReconstruction, "reconstructions are", "writes into its x"),
    (SharedReconstruction, "reconstructions are", "alone"),
    (NotExact, "log-likelihood", "'exact', but two calls"),
    (IgnoresNoise, "log-likelihood", "same noise differs"),
    (NoDocstring, "has a docstring", "docstring"),
    (NoFamily, "has a docstring", "family"),
    (NoConditional, "has a docstring", "conditional"),
    (Abstract, "has a docstring", "sample is still abstract"),
    (ConfigOutsideJson, "its config", "JSON"),
    (ConfigChangedByJson, "its config", "comes back from JSON"),
    (ConfigWithoutDecorator, "its config", "UndecoratedConfig is no dataclass"),
    (ForgetsClasses, "builds", "num_classes"),
    (TenClasses, "losses are", "fails on a batch of 5.*IndexError.*test_testing.py:[0-9]"),
    (NanOnBlank, "losses are", "nan"),
    (VectorLoss, "losses are", "scalar"),
    (NoGradLoss, "losses are", "no gradient"),
    (NoOptimizer, "losses are", "optimizers"),
    (WritesX, "leaves its inputs", "losses"),
    (WritesY, "leaves its inputs", "sample"),
    (YieldsInNoGrad, "leaves grad mode", "grad mode is False and was True"),
    (YieldsInAutocast, "leaves grad mode", "autocast is torch.bfloat16 and was False"),
    (YieldsOutOfAutocast, "leaves grad mode", "autocast is False and was torch.bfloat16"),
    (SetsDefaultDtype, "leaves grad mode", "default dtype"),
    (UnusedParameter, "gradients reach", "spare.weight, spare.bias"),
    (CallsBackward, "gradients reach", "calls backward"),
    (StepsItself, "gradients reach", "steps an optimizer"),
    (MovesOthers, "gradients reach", "changes generator.0.bias"),
    (PartialOptimizer, "its optimizers", "encoder.0.weight"),
    (ValidationNeedsGradients, "validation", "without gradients"),
    (Diverges, "losses are|weights", "not finite|inf"),
    (WrongShape, "samples are", r"\(5, 784\)"),
    (WrongRange, "samples are", "tanh"),
    (GlobalNoise, "samples depend", "noise"),
    (NumpyNoise, "samples depend", "noise"),
    (NoNoise, "samples depend", "another seed"),
    (CountsSamples, "samples depend", "sample.. changes steps"),
    (BatchStatistics, "a sample does not", "batch"),
    (SharedDraw, "a sample does not", "batch"),
    (CountsInPython, "comes back", "registered buffer"),
    (RemembersOutsideBuffers, "comes back", "draws other images"),
    (NumpyTraining, "comes back", "generator"),
    (MeanLikelihood, "log-likelihood", "log_prob"),
    (LikelihoodOfWhat, "log-likelihood", "likelihood_of"),
    (WrongLatentShape, "latents", "latent_shape"),
    (RandomCode, "latents", "another code each time"),
    (WeightsAreNotLabels, "codes", "one-hot"),
    (PathEndsElsewhere, "the sampling trajectory", "last frame"),
    (PathLeaks, "the sampling trajectory", "grad mode"),
    (DoesNotLearn, "overfits", "the loss went from"),
    (IgnoresLabels, "labels", "chance is 10%"),
    (ShiftsLabels, "labels", "feed y"),
    (SecretlyConditional, "labels", "conditional is False"),
]


@pytest.mark.parametrize(("cls", "rule", "message"), BROKEN, ids=[cls.__name__ for cls, _, _ in BROKEN])
def test_a_broken_rule_is_named(cls: type[GenerativeModel], rule: str, message: str) -> None:
    """The rule is the first that the model breaks, so that none before it has false alarms."""
    modes = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_default_dtype()
    first = next(outcome for outcome in check_rules(cls, overfit_steps=160) if outcome.problem is not None)
    assert re.match(rule, first.rule), first
    assert re.search(message, str(first.problem)), first
    assert modes == (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_default_dtype())


def test_an_honest_reconstruction_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnistgen.testing.QUICK_SECONDS", 600)
    outcomes = list(check_rules(Keeper, quick=True))
    assert "reconstructions are images, the same each time" in [outcome.rule for outcome in outcomes]
    assert not [outcome for outcome in outcomes if outcome.problem]


class LateCoder(Coder):
    """A VAE whose images are black, whatever the seed, for the first twenty steps."""

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        images = super().decode(z, y)
        return images if float(self.steps) > 20 else torch.full_like(images, -1)


def test_images_that_come_late_are_waited_for() -> None:
    check_model(LateCoder)


def test_all_broken_rules_are_told_at_once() -> None:
    class Two(WrongRange, UnusedParameter):
        """Breaks two rules."""

    with pytest.raises(ContractError, match="Two breaks the plugin contract") as caught:
        check_model(Two, overfit_steps=160)
    assert "\n- gradients reach" in str(caught.value)
    assert "\n- samples are images" in str(caught.value)


def test_what_cannot_be_tried_is_left_out() -> None:
    outcomes = list(check_rules(VectorLoss))
    assert outcomes[-1].problem is not None
    assert len(outcomes) < len(rules_of(VectorLoss))


def test_abilities_are_asked_only_of_models_that_have_them() -> None:
    assert len(rules_of(Coder)) == len(rules_of(Duel)) + 5 == len(rules_of(Flow)) + 4


def test_a_config_can_be_given() -> None:
    problems = [
        outcome for outcome in check_rules(Coder, config=SmallConfig(lr=1e-9), overfit_steps=40) if outcome.problem
    ]
    assert [outcome.rule for outcome in problems] == ["overfits 64 images", "labels are respected, or do not matter"]


def test_the_random_state_of_the_caller_is_kept() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert isinstance(next(check_rules(Duel)), Outcome)
    list(check_rules(VectorLoss))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("num_classes", [1, 2, 7, 10, 47])
def test_synthetic_classes_differ(num_classes: int) -> None:
    data = synthetic_digits(2 * num_classes, num_classes)
    places = data.images[:num_classes].flatten(1) > 0
    assert places.any(1).all()
    assert places.sum(0).max() == 1  # no pixel belongs to two classes
    assert torch.equal(data.images, synthetic_digits(2 * num_classes, num_classes).images)


def test_all_that_a_class_lacks_is_told_at_once() -> None:
    class Bare(Coder):
        family = ""
        conditional = None
        likelihood = "?"

    Bare.__doc__ = None
    first = next(check_rules(Bare))
    for word in ("docstring", "family", "conditional", "likelihood"):
        assert word in str(first.problem)


def test_a_quick_check_does_not_train_and_tells_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnistgen.testing.QUICK_SECONDS", 600)
    outcomes = [outcome.rule for outcome in check_rules(Coder, quick=True)]
    assert "overfits 64 images" not in outcomes
    assert len(outcomes) == len(rules_of(Coder)) - 2
    monkeypatch.setattr("mnistgen.testing.QUICK_SECONDS", -1)
    assert not list(check_rules(Coder, quick=True))


def test_abilities_are_named() -> None:
    assert abilities_of(Coder) == [
        "likelihood (lower bound, of pixels as probabilities)",
        "latent codes",
        "reconstruction",
        "sampling trajectory",
    ]
    assert abilities_of(Duel) == []

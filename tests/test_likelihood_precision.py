"""Likelihoods are in float32 or better, whatever a model is trained in."""

from collections.abc import Iterator

import pytest
import torch
from tiny import Tiny, TinyConfig, blobs
from torch import Tensor, nn

from mnistgen import GenerativeModel, Loss, Noise, UsageError, fit
from mnistgen.data import to_float, train_validation_split
from mnistgen.model import HasLikelihood
from mnistgen.nn import log_normal
from mnistgen.sampling import log_likelihood


class Linear(GenerativeModel, HasLikelihood):
    """An exact density: z = 3 A x + b is standard normal, up to a constant."""

    Config = TinyConfig
    family = "test"
    conditional = False
    likelihood = "exact"
    likelihood_of = "numbers"

    def __init__(self, config: TinyConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        generator = torch.Generator().manual_seed(0)
        self.linear = nn.Linear(784, 784)
        self.linear.weight.data = torch.eye(784) + torch.randn(784, 784, generator=generator) / 280

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        yield Loss(-self.density(x).mean(), self)

    def density(self, x: Tensor) -> Tensor:
        return log_normal(self.linear(3 * x.flatten(1))) + torch.linalg.slogdet(self.linear.weight).logabsdet

    def log_prob(self, x: Tensor, y: Tensor, *, noise: Noise | None = None) -> Tensor:
        return self.density(x)

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return noise.normal(1, 28, 28).clamp(-1, 1)


class Float64(Linear):
    likelihood_precision = "float64"


class Any(Linear):
    """Looks after its precision itself, and does not."""

    likelihood_precision = "any"

    def log_prob(self, x: Tensor, y: Tensor, *, noise: Noise | None = None) -> Tensor:
        return self.density(x)


class Drawn(Linear):
    likelihood = "estimate"

    def log_prob(self, x: Tensor, y: Tensor, *, noise: Noise | None = None) -> Tensor:
        u = torch.rand_like(x) if noise is None else noise.uniform(1, 28, 28)
        return self.density(x + u / 100)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    data = blobs(6)
    return to_float(data.images), data.labels


@torch.no_grad()
@pytest.mark.parametrize("cls", [Linear, Float64])
def test_autocast_outside_changes_no_likelihood(cls: type[Linear], batch: tuple[Tensor, Tensor]) -> None:
    model = cls(TinyConfig())
    exact = model.double().density(batch[0].double())
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert float((model.density(batch[0]).double() - exact).abs().max()) > 0.5  # what it would be
        torch.testing.assert_close(model.log_prob(*batch).double(), exact, rtol=1e-6, atol=1e-2)
        atol = 1e-9 if cls is Float64 else 1e-2
        torch.testing.assert_close(log_likelihood(model, *batch), exact, rtol=1e-12 if atol < 1e-3 else 1e-6, atol=atol)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_a_model_may_look_after_its_precision_itself(batch: tuple[Tensor, Tensor]) -> None:
    model = Any(TinyConfig())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.log_prob(*batch), model.density(batch[0]))


def test_a_validation_loss_in_nats_is_that_of_float32() -> None:
    train, validation = train_validation_split(blobs(60), 20)
    model = Linear(TinyConfig(lr=1e-9), 4)
    *_, last = fit(model, train, validation=validation, steps=1, precision="bf16")
    exact = -log_likelihood(last.ema, to_float(validation.images), validation.labels).mean()
    assert last.validation == pytest.approx(float(exact), abs=1e-2)


def test_a_model_that_needs_float32_is_trained_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    class Exact(Tiny):
        training_precision = "float32"

        def losses(self, x, y):
            modes.append(torch.is_autocast_enabled("cpu"))
            return super().losses(x, y)

    monkeypatch.setattr("mnistgen.training.device.computes_in_bfloat16", lambda device: True)
    list(fit(Exact(TinyConfig(), 4), blobs(), steps=1, device="cpu"))
    assert modes == [False]
    with pytest.raises(UsageError, match="Exact needs float32"):
        list(fit(Exact(TinyConfig(), 4), blobs(), steps=1, device="cpu", precision="bf16"))


def test_the_noise_of_an_image_is_its_own(batch: tuple[Tensor, Tensor]) -> None:
    model = Drawn(TinyConfig())
    whole = log_likelihood(model, *batch, seed=3)
    torch.testing.assert_close(log_likelihood(model, *batch, seed=3, batch_size=4), whole)
    assert not torch.equal(log_likelihood(model, *batch, seed=4), whole)
    with pytest.raises(UsageError, match="Tiny has no likelihood"):
        log_likelihood(Tiny(TinyConfig()), *batch)

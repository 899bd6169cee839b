"""`fit` against mathematics: hand-written loops, closed forms, and itself interrupted."""

import copy
import itertools
import math
import re
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from tiny import Duel, Tiny, TinyConfig, blobs
from torch.optim import AdamW

from mnistgen import CheckpointError, ContractError, Loss, PluginError, TrainingError, UsageError, fit
from mnistgen.data import to_float, train_validation_split
from mnistgen.training import Part, autocast_dtype, resolve_device
from mnistgen.training.batches import Mixture, Order
from mnistgen.training.device import seeded
from mnistgen.training.distributed import WholeBatch, _is_random
from mnistgen.training.schedule import schedule


def make(seed: int = 0, cls: type = Tiny, **fields: object):
    torch.manual_seed(seed)
    return cls(TinyConfig(**fields), num_classes=4)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_fit_is_the_loop_one_would_write_by_hand() -> None:
    data, steps = blobs(50), 12
    hand = make(clip_norm=0.5, weight_decay=0.01)
    average = copy.deepcopy(hand)
    optimizer = AdamW(hand.parameters(), lr=hand.config.lr, weight_decay=0.01)
    for t in range(1, steps + 1):
        for group in optimizer.param_groups:
            progress = (t - 1) / steps
            warmup = min(1.0, max(t / 5, progress / 0.1))
            group["lr"] = 1e-2 * warmup * 0.5 * (1 + math.cos(math.pi * progress))
        rows = Order(50, 0, 16).batch(t - 1)
        with seeded(0, t - 1, torch.device("cpu")):
            loss = next(hand.losses(to_float(data.images[rows]), data.labels[rows]))
        optimizer.zero_grad()
        loss.value.backward()
        norm = torch.stack([p.grad.square().sum() for p in hand.parameters()]).sum().sqrt()
        for p in hand.parameters():
            p.grad *= min(1.0, 0.5 / (float(norm) + 1e-6))
        optimizer.step()
        decay = min(0.9, (1 + t) / (10 + t))
        with torch.no_grad():
            for a, p in zip(average.parameters(), hand.parameters(), strict=True):
                a.copy_(decay * a + (1 - decay) * p)
    ours = make(clip_norm=0.5, weight_decay=0.01)
    *_, last = fit(ours, data, steps=steps, precision="fp32")
    assert last.number == last.total == steps
    assert last.progress == 1
    for name, parameter in hand.named_parameters():
        torch.testing.assert_close(dict(ours.named_parameters())[name], parameter, rtol=1e-4, atol=1e-6)
    for name, parameter in average.named_parameters():
        torch.testing.assert_close(dict(last.ema.named_parameters())[name], parameter, rtol=1e-4, atol=1e-6)
    assert int(last.ema.seen) == int(ours.seen) == steps * 16


def test_every_epoch_shows_every_image_once() -> None:
    order = Order(10, seed=3, batch=4)
    stream = torch.cat([order.batch(step) for step in range(10)])
    epochs = stream.view(4, 10)
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4
    assert torch.equal(Order(10, seed=3, batch=4).batch(7), order.batch(7))
    assert not torch.equal(Order(10, seed=4, batch=4).batch(7), order.batch(7))
    small = Order(3, seed=0, batch=8).batch(1)  # a batch of more images than there are
    assert len(small) == 8
    assert set(small.tolist()) == {0, 1, 2}


def test_every_batch_has_its_share_of_each_part() -> None:
    parts = [Part(images=6, batch=4), Part(images=20, batch=2)]
    mixture = Mixture(parts, seed=3)
    batches = torch.stack([mixture.batch(step) for step in range(30)])
    first, second = batches[:, :4].flatten(), batches[:, 4:].flatten()
    alone = Order(6, seed=3, batch=4)
    assert torch.equal(first, torch.cat([alone.batch(step) for step in range(30)]))
    assert torch.bincount(first).tolist() == [20] * 6
    assert torch.bincount(second, minlength=26).tolist() == [0] * 6 + [3] * 20


def test_parts_are_what_is_trained_on_and_part_of_a_runs_identity() -> None:
    data, seen = blobs(26), []

    class Watching(Tiny):
        def losses(self, x, y):
            seen.append(x)
            return super().losses(x, y)

    parts = [Part(6, 12), Part(20, 4)]
    (step,) = fit(make(cls=Watching), data, steps=1, parts=parts, precision="fp32")
    assert torch.equal(seen[0].contiguous(), to_float(data.images[Mixture(parts, 0).batch(0)]))
    with pytest.raises(CheckpointError, match="parts"):
        next(fit(make(), data, steps=2, state=step.run.state_dict()))
    for wrong in ([Part(6, 12), Part(19, 4)], [Part(6, 12), Part(20, 5)], [Part(6, 16), Part(20, 0)]):
        with pytest.raises(UsageError, match="there are 26 images in batches of 16"):
            next(fit(make(), data, steps=1, parts=wrong))


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_schedule_warms_up_and_ends_at_zero(kind: str) -> None:
    factors = [schedule(kind, k / 1000, k + 1, 50) for k in range(1000)]
    assert factors[0] == pytest.approx(1 / 50, rel=1e-3)
    assert max(factors) > 0.95
    assert all(a <= b for a, b in itertools.pairwise(factors[:45]))
    assert factors[-1] == pytest.approx(1.0 if kind == "constant" else 0.0, abs=2e-3)
    # A run shorter than its warm-up still reaches the peak: the warm-up takes a tenth of it at most.
    assert max(schedule("constant", k / 20, k + 1, 1000) for k in range(20)) == 1.0


def test_the_schedule_fits_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: next(ticks) / 100)  # each look at the clock takes 10 ms
    steps = list(fit(make(), blobs(), budget=1, precision="fp32"))
    assert steps[-1].last
    assert steps[-1].progress == 1
    a_step = steps[-1].seconds - steps[-2].seconds
    assert steps[-1].seconds == pytest.approx(1, abs=a_step)
    assert steps[-1].lr < 0.05 < max(step.lr for step in steps)


def test_a_budget_that_runs_out_between_two_steps_still_has_a_last_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    run = fit(make(), blobs(), budget=10, precision="fp32")
    first = next(run)
    now = 11.0  # a caller that saves, or draws pictures
    rest = list(run)
    assert not first.last
    assert [step.last for step in rest] == [True]
    assert rest[0].lr == 0


@pytest.mark.parametrize("interrupted_at", [1, 7, 24])
def test_resuming_is_exact(interrupted_at: int) -> None:
    train, validation = train_validation_split(blobs(60), 20)
    arguments = {"validation": validation, "steps": 25, "validate_every": 4, "seed": 5}
    whole = list(fit(make(), train, **arguments))
    for step in fit(make(), train, **arguments):
        if step.number == interrupted_at:
            state = copy.deepcopy(step.run.state_dict())
            break
    torch.manual_seed(99)  # whatever else the process did with its random state
    rest = list(fit(make(seed=1), train, state=state, **arguments))
    assert [step.number for step in rest] == list(range(interrupted_at + 1, 26))
    assert_same(weights(rest[-1].run.model), weights(whole[-1].run.model))
    assert_same(weights(rest[-1].ema), weights(whole[-1].ema))
    for step, same in zip(rest, whole[interrupted_at:], strict=True):
        assert (step.validation, step.best, step.lr) == (same.validation, same.best, same.lr)
        assert {k: float(v) for k, v in step.losses.items()} == {k: float(v) for k, v in same.losses.items()}


def test_a_foreign_state_is_refused() -> None:
    *_, last = fit(make(), blobs(), steps=3)
    state = last.run.state_dict()
    for change in ({"seed": 1}, {"steps": 4}, {"data": blobs(seed=1)}):
        arguments = {"data": blobs(), "steps": 3, "seed": 0} | change
        with pytest.raises(CheckpointError, match="to resume was started with"):
            list(fit(make(), state=state, **arguments))
    with pytest.raises(CheckpointError, match=r"lr 0\.01"):
        list(fit(make(lr=0.5), blobs(), steps=3, state=state))
    assert list(fit(make(), blobs(), steps=3, state=state)) == []  # finished already


def test_fit_leaves_the_callers_random_state_alone() -> None:
    model = make()
    before = torch.get_rng_state()
    list(fit(model, blobs(), steps=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_that_is_not_finite_ends_with_its_name_and_the_weights_before_it() -> None:
    class VEPath(Tiny):
        def losses(self, x, y):
            for loss in super().losses(x, y):
                yield loss._replace(value=loss.value * (math.nan if int(self.seen) == 16 * 4 else 1.0))

    model = make(cls=VEPath)
    seen: list[dict[str, torch.Tensor]] = []
    with pytest.raises(TrainingError, match=r"Loss 'loss' is not finite at step 4"):
        seen.extend(weights(step.run.model) for step in fit(model, blobs(), steps=10))
    assert len(seen) == 3
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, seen[-1][name])


def test_a_gradient_that_is_not_finite_is_caught_too() -> None:
    class Steep(Tiny):
        def losses(self, x, y):
            for loss in super().losses(x, y):
                yield loss._replace(value=loss.value + 0 * self.decoder.bias.sub(self.decoder.bias).sum().sqrt())

    with pytest.raises(TrainingError, match="gradient of loss 'loss' is not finite at step 1"):
        list(fit(make(cls=Steep, clip_norm=1), blobs(), steps=2))
    # Without clipping nobody looks at gradients; the weights that come of it are never handed out for a checkpoint.
    step = next(fit(make(cls=Steep, clip_norm=0), blobs(), steps=2))
    with pytest.raises(TrainingError, match=r"Weight .*decoder\.bias is not finite after step 1"):
        step.run.state_dict()


def test_losses_are_minimised_in_order_and_only_where_they_say() -> None:
    model = make(cls=Duel)
    steps = list(fit(model, blobs(), steps=3))
    for before, after in model.seen:
        assert not torch.equal(before, after)  # the generator's loss was computed after the critic's step
    assert set(steps[0].losses) == {"critic", "generator", "fake"}

    class Leaky(Duel):
        def losses(self, x, y):
            critic, generator = super().losses(x, y), None
            yield next(critic)
            generator = self.generator.weight.detach().clone()
            yield next(critic)
            assert not torch.equal(generator, self.generator.weight)
            assert self.critic.weight.grad is not None
            self.kept = self.critic.weight.grad.clone()

    leaky = make(cls=Leaky)
    list(fit(leaky, blobs(), steps=1))
    assert torch.equal(leaky.kept, leaky.critic.weight.grad)  # the generator's loss put no gradient there


def test_a_loss_for_a_module_without_optimizer_is_refused() -> None:
    class Lost(Tiny):
        def losses(self, x, y):
            for loss in super().losses(x, y):
                yield loss._replace(module=self.encoder)

    with pytest.raises(ContractError, match="no optimizer"):
        list(fit(make(cls=Lost), blobs(), steps=1))


def _endless(model, x, y):
    while True:
        yield Loss(model.encoder.bias.sum(), model)


def _fails(model, x, y):
    yield 1 / 0


def _loss(value=lambda model: model.encoder.bias.sum(), **fields):
    return lambda model, x, y: iter([Loss(value(model), **({"module": model} | fields))])


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (lambda model, x, y: None, "losses.. returns None; it must be a generator"),
        (lambda model, x, y: x.mean(), r"returns a tensor \(\) float32"),
        (lambda model, x, y: Loss(x.mean(), model), "returns an object of type Loss"),
        (lambda model, x, y: iter(()), "yields nothing"),
        (lambda model, x, y: iter([x.mean()]), r"Loss 1 of Broken is a tensor \(\) float32; yield mnistgen.Loss"),
        (lambda model, x, y: iter([0.5]), "is 0.5; yield"),
        (lambda model, x, y: iter([None]), "is None; yield"),
        (_loss(lambda model: 0.5), "as value 0.5; it must be a scalar float tensor"),
        (_loss(lambda model: model.encoder.bias), r"as value a tensor \(3,\) float32"),
        (_loss(lambda model: torch.zeros(())), "no gradient"),
        (_loss(lambda model: torch.zeros((), dtype=torch.int64)), "int64; it must be a scalar float"),
        (_loss(module="decoder"), "type str as its module"),
        (_loss(module=torch.nn.Linear(2, 2)), "for Linear, for which optimizers.. has no optimizer"),
        (_loss(logs={"kl": 1.0}), "logs 'kl': 1.0; logs are finite scalar tensors"),
        (_loss(logs={"kl": torch.zeros(3)}), r"logs 'kl': a tensor \(3,\)"),
        (_loss(logs=[1]), "as logs an object of type list"),
        (_endless, "1,000 losses in one step and goes on"),
        (_fails, r"losses\(\) of Broken fails: ZeroDivisionError: division by zero \(.*test_training.py:\d+\)"),
    ],
)
def test_a_plugin_that_breaks_the_contract_is_told_in_a_sentence(losses, message: str) -> None:
    class Broken(Tiny):
        def losses(self, x, y):
            return losses(self, x, y)

    with pytest.raises((ContractError, PluginError), match=message):
        list(fit(make(cls=Broken), blobs(), steps=1, precision="fp32"))

    class BrokenLater(Tiny):
        def losses(self, x, y):
            self.steps = getattr(self, "steps", 0) + 1
            return losses(self, x, y) if self.steps == 2 else super().losses(x, y)

    if "logs" not in message:  # of a later step, only what stops it is looked at
        with pytest.raises((ContractError, PluginError), match=message.replace("Broken", "BrokenLater")):
            list(fit(make(cls=BrokenLater), blobs(), steps=3, precision="fp32"))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("prepare", "prepare.. of Broken fails: ZeroDivisionError"),
        ("optimizers", "optimizers.. of Broken fails: ZeroDivisionError"),
        ("validation_loss", "validation_loss.. of Broken fails: ZeroDivisionError"),
    ],
)
def test_an_error_of_a_plugins_method_names_it(method: str, message: str) -> None:
    class Broken(Tiny):
        pass

    setattr(Broken, method, lambda *_: 1 / 0)
    train, validation = train_validation_split(blobs(60), 20)
    with pytest.raises(PluginError, match=message):
        list(fit(make(cls=Broken), train, validation=validation, steps=1))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda model: None, "returns None"),
        (lambda model: AdamW(model.parameters()), "returns an object of type AdamW"),
        (lambda model: {}, "returns an object of type dict"),
        (lambda model: {"encoder": AdamW(model.parameters())}, "for an object of type str"),
        (lambda model: {torch.nn.Linear(2, 2): AdamW(model.parameters())}, "Linear that is no part of the model"),
    ],
)
def test_optimizers_are_held_to_the_contract(found, message: str) -> None:
    class Broken(Tiny):
        def optimizers(self):
            return found(self)

    with pytest.raises(ContractError, match=message):
        list(fit(make(cls=Broken), blobs(), steps=1))


def test_autocast_is_around_the_loss_alone() -> None:
    modes: list[tuple[str, bool]] = []

    class Watching(Tiny):
        def losses(self, x, y):
            modes.append(("loss", torch.is_autocast_enabled("cpu")))
            yield from super().losses(x, y)

    class Optimizer(AdamW):
        def step(self, closure=None):
            modes.append(("step", torch.is_autocast_enabled("cpu")))
            return super().step(closure)

    model = make(cls=Watching)
    model.optimizers = lambda: {model: Optimizer(model.parameters())}
    for _ in fit(model, blobs(), steps=1, precision="bf16", device="cpu"):
        modes.append(("caller", torch.is_autocast_enabled("cpu")))
    assert modes == [("loss", True), ("step", False), ("caller", False)]
    modes.clear()
    list(fit(make(cls=Watching), blobs(), steps=1, precision="fp32"))
    assert modes == [("loss", False)]


def test_validation_is_the_averaged_models_and_repeatable() -> None:
    train, validation = train_validation_split(blobs(60), 20)
    steps = list(fit(make(), train, validation=validation, steps=20, validate_every=5, precision="fp32"))
    taken = [step for step in steps if step.validation is not None]
    assert [step.number for step in taken] == [5, 10, 15, 20]
    assert taken[-1].validation < taken[0].validation
    ema = steps[-1].ema
    assert not ema.training
    with seeded(0, -1, torch.device("cpu")), torch.no_grad():
        again = ema.validation_loss(to_float(validation.images), validation.labels)
    assert float(again) == pytest.approx(taken[-1].validation, rel=1e-6)
    best = min(range(4), key=lambda i: taken[i].validation)
    assert taken[best].best
    assert steps[-1].run.best_step == taken[best].number


def test_a_model_without_a_validation_loss_has_none() -> None:
    train, validation = train_validation_split(blobs(60), 20)
    assert all(
        s.validation is None for s in fit(make(cls=Duel), train, validation=validation, steps=3, validate_every=1)
    )


def test_patience_stops_and_stop_stops() -> None:
    train, validation = train_validation_split(blobs(60), 20)
    frozen = make(lr=1e-12)
    steps = list(fit(frozen, train, validation=validation, steps=100, validate_every=1, patience=3, precision="fp32"))
    assert steps[-1].last
    assert not steps[-1].stopped
    assert steps[-1].number == steps[-1].run.best_step + 3 < 100
    count = itertools.count()
    steps = list(fit(make(), train, steps=100, stop=lambda: next(count) == 4))
    assert (len(steps), steps[-1].last, steps[-1].stopped) == (5, True, True)


def test_contradictions_are_refused() -> None:
    with pytest.raises(UsageError, match="one length"):
        next(fit(make(), blobs(), steps=1, epochs=1))
    with pytest.raises(UsageError, match="steps is 0"):
        next(fit(make(), blobs(), steps=0))
    with pytest.raises(UsageError, match="4 classes"):
        next(fit(Tiny(TinyConfig(), 3), blobs(), steps=1))
    with pytest.raises(UsageError, match="nonsense"):
        resolve_device("nonsense")
    with pytest.raises(UsageError, match="int8"):
        autocast_dtype(torch.device("cpu"), "int8")


ATTENTION = torch.nn.MultiheadAttention(4, 2, dropout=0.3, batch_first=True)
ENCODER = torch.nn.TransformerEncoderLayer(4, 2, 8, dropout=0.3, batch_first=True)
LSTM = torch.nn.LSTM(2, 3, 2, dropout=0.5, batch_first=True)


def attend(x: torch.Tensor, **arguments: bool) -> torch.Tensor:
    rows = x.flatten(2).transpose(1, 2)
    return ATTENTION(rows, rows, rows, **arguments)[0].detach()


class TestWholeBatch:
    """What each of several processes draws, put together, is what one process draws."""

    @staticmethod
    def draw(f, batch: int = 6, size: int = 3) -> tuple[torch.Tensor, list[torch.Tensor]]:
        x = torch.linspace(0.1, 0.9, batch * 4 * 2 * 2).view(batch, 4, 2, 2).to(memory_format=torch.channels_last)
        torch.manual_seed(0)
        one = f(x)
        parts = []
        for rank, mine in enumerate(x.chunk(size)):
            torch.manual_seed(0)
            with WholeBatch(batch // size, rank, size):
                parts.append(f(mine))
        return one, parts

    ROWS: ClassVar = {
        "randn_like": torch.randn_like,
        "rand_like": torch.rand_like,
        "randint_like": lambda x: torch.randint_like(x, 9),
        "randn": lambda x: torch.randn(len(x), 5),
        "randn of a size": lambda x: torch.randn((len(x), 5)),
        "rand": lambda x: torch.rand(size=(len(x), 5)),
        "rand of rows": lambda x: torch.rand(len(x)),
        "randint": lambda x: torch.randint(10, (len(x),)),
        "randint from": lambda x: torch.randint(3, 10, (len(x), 2)),
        "bernoulli": torch.bernoulli,
        "bernoulli of p": lambda x: torch.bernoulli(x, 0.3),
        "normal": lambda x: torch.normal(x, x),
        "normal of a mean": lambda x: torch.normal(x, 0.1),
        "normal of a deviation": lambda x: torch.normal(0.1, x),
        "normal of a size": lambda x: torch.normal(0.0, 1.0, (len(x), 3)),
        "multinomial": lambda x: torch.multinomial(x.flatten(1), 3),
        "multinomial with replacement": lambda x: torch.multinomial(x.flatten(1), 3, replacement=True),
        "multinomial of one row": lambda x: torch.multinomial(torch.tensor([0.1, 0.9]), len(x), replacement=True),
        "normal_": lambda x: torch.empty(len(x), 3).normal_(),
        "uniform_": lambda x: torch.empty(len(x), 3).uniform_(-1, 1),
        "exponential_": lambda x: torch.empty_like(x).exponential_(),
        "cauchy_": lambda x: torch.empty_like(x).cauchy_(),
        "log_normal_": lambda x: torch.empty_like(x).log_normal_(),
        "geometric_": lambda x: torch.empty_like(x).geometric_(0.3),
        "random_": lambda x: torch.empty_like(x).random_(10),
        "bernoulli_": lambda x: torch.empty_like(x).bernoulli_(0.3),
        "bernoulli_ of p": lambda x: torch.empty_like(x).bernoulli_(x),
        "dropout": lambda x: F.dropout(x, 0.4),
        "Dropout": torch.nn.Dropout(0.4),
        "Dropout1d": lambda x: F.dropout1d(x.flatten(2), 0.4),
        "Dropout2d": torch.nn.Dropout2d(0.4),
        "Dropout3d": lambda x: F.dropout3d(x[:, :, None], 0.4),
        "alpha_dropout": lambda x: F.alpha_dropout(x, 0.4, True),
        "feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, 0.4, True),
        "native_dropout": lambda x: torch.native_dropout(x, 0.4, True)[0],
        "gumbel_softmax": F.gumbel_softmax,
        "attention": lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.3),
        "MultiheadAttention": attend,
        "MultiheadAttention without weights": lambda x: attend(x, need_weights=False),
        "TransformerEncoderLayer": lambda x: ENCODER(x.flatten(2).transpose(1, 2)).detach(),
        "fractional_max_pool2d": lambda x: F.fractional_max_pool2d(x, 1, output_size=1),
        "Normal": lambda x: torch.distributions.Normal(x, 1).sample(),
        "Categorical": lambda x: torch.distributions.Categorical(x.flatten(1)).sample(),
        "Laplace": lambda x: torch.distributions.Laplace(x, 1).sample(),
        "randn into": lambda x: torch.randn(len(x), 2, out=torch.empty(len(x), 2)),
        "two": lambda x: torch.randn_like(x) + torch.rand(len(x), 1, 1, 1),
    }
    REFUSED: ClassVar = {
        "poisson": torch.poisson,
        "binomial": lambda x: torch.binomial(torch.full_like(x, 5), x),
        "_standard_gamma": torch._standard_gamma,
        "_sample_dirichlet": torch._sample_dirichlet,
        "rrelu_with_noise": lambda x: F.rrelu(x - 0.5, training=True),
        "randperm": lambda x: torch.randperm(len(x)),
        "multinomial": lambda x: torch.multinomial(torch.ones(9), len(x)),
    }

    @pytest.mark.parametrize("name", ROWS)
    def test_rows(self, name: str) -> None:
        one, parts = self.draw(self.ROWS[name])
        torch.testing.assert_close(one, torch.cat(parts), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("name", REFUSED)
    def test_what_cannot_be_drawn_by_rows_is_refused_by_name(self, name: str) -> None:
        with pytest.raises(ContractError, match=f"torch's {name}, whose random numbers"):
            self.draw(self.REFUSED[name])

    @pytest.mark.parametrize(
        "f",
        [
            lambda x: LSTM(x.flatten(1, 2))[0].detach(),
            lambda x: F.dropout(x.flatten(1).T.contiguous(), 0.5),
        ],
    )
    def test_dropout_where_the_sequence_comes_first_differs_between_processes(self, f) -> None:
        _, parts = self.draw(lambda x: f(torch.ones_like(x)))
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(parts, 2))

    def test_every_random_operator_of_torch_is_drawn_by_rows_or_refused(self) -> None:
        """Those made of others need no answer of their own; what torch adds one day fails here until it has one."""
        operators = (getattr(torch.ops.aten, name) for name in dir(torch.ops.aten))
        overloads = [getattr(op, name) for op in operators if hasattr(op, "overloads") for name in op.overloads()]
        random = {op._schema.name.removeprefix("aten::") for op in overloads if _is_random(op)}
        dropouts = {f"{kind}dropout{end}" for kind in ("", "alpha_", "feature_", "feature_alpha_") for end in ("", "_")}
        composed = dropouts | {"gru", "lstm", "rnn_relu", "rnn_tanh", "rrelu", "rrelu_"}
        ours = set(WholeBatch._BY_ROW) | set(self.REFUSED) | composed
        rest = {name for name in random - ours if not re.search("attention|rnn|rrelu_with_noise", name)}
        assert rest == set()

    def test_what_has_no_row_an_image_is_the_same_everywhere(self) -> None:
        one, parts = self.draw(lambda x: x.new_zeros(len(x), 3) + torch.randn(3) + F.dropout(torch.ones(3), 0.0))
        torch.testing.assert_close(one, torch.cat(parts), rtol=1e-6, atol=0)

    def test_gradients_pass_through_dropout(self) -> None:
        def slope(x: torch.Tensor) -> torch.Tensor:
            x = x.clone().requires_grad_()
            return torch.autograd.grad(F.dropout(x, 0.4).square().sum(), x)[0]

        one, parts = self.draw(slope)
        torch.testing.assert_close(one, torch.cat(parts), rtol=1e-6, atol=0)


def test_loss_defaults() -> None:
    assert Loss(torch.zeros(()), torch.nn.Identity()).logs == {}


def test_the_average_of_a_long_run_is_taken_every_few_steps_and_nearly_the_same() -> None:
    decay, steps = 0.99, 300
    hand = None
    for step in fit(make(ema_decay=decay, lr=1e-3), blobs(), steps=steps, precision="fp32"):
        raw = weights(step.run.model)
        if hand is None:
            hand = weights(make(ema_decay=decay))
        d = min(decay, (1 + step.number) / (10 + step.number))
        hand = {name: d * hand[name] + (1 - d) * raw[name] for name in hand}
    average = weights(step.ema)
    for name in ("encoder.weight", "decoder.weight"):
        assert (average[name] - hand[name]).norm() < 0.02 * (hand[name] - raw[name]).norm()
    assert step.run.averaged_step == steps
    assert int(step.ema.seen) == int(step.run.model.seen)

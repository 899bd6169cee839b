"""The plugin contract as a test, for any model, registered or not.

    def test_contract():
        check_model(MyModel)

Each rule is one function that raises `ContractError` with what is broken and what to do. The data are made up on
the spot: class k is a bright square in place k, so easy that any family learns it within seconds.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from math import ceil, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mnistgen import checkpoint
from mnistgen.checkpoint import is_training_only
from mnistgen.contract import (
    check_loss,
    check_losses,
    check_optimizers,
    check_output,
    check_validation_loss,
    optimizer_of,
    place,
)
from mnistgen.data import Dataset, to_float
from mnistgen.errors import ContractError, MnistgenError, described
from mnistgen.model import (
    IMAGE_SHAPE,
    BaseConfig,
    GenerativeModel,
    HasDecoder,
    HasEditing,
    HasLatents,
    HasLikelihood,
    HasReconstruction,
    HasTrajectory,
    Loss,
    Noise,
)
from mnistgen.registry import entry_of
from mnistgen.text import docstring
from mnistgen.training import fit, resolve_device

CLASSES = 10
OVERFIT_IMAGES = 64
OVERFIT_STEPS = 2400  # most models are done after a sixteenth of these, GANs after an eighth to a half
PREPARED = 200  # images that a model is prepared with
SAMPLES = 5  # images in a batch where one needs several
QUICK_SECONDS = 10  # after which a quick check begins no other rule
STEPS = 8  # of training before the rules on sampling: layers that begin at zero have left it by then
METHODS = {  # of the abilities, by which the host asks for them
    "log_prob": HasLikelihood,
    "encode": HasLatents,
    "decode": HasDecoder,
    "reconstruct": HasReconstruction,
    "sample_trajectory": HasTrajectory,
    "inpaint": HasEditing,
    "vary": HasEditing,
}
WARM_STEPS = (STEPS, 64, 256)  # the later ones only while all images are alike


class Outcome(NamedTuple):
    """The result of one rule."""

    rule: str
    problem: ContractError | None  # None: the rule is kept


def check_model(
    cls: type[GenerativeModel],
    *,
    config: BaseConfig | None = None,
    seed: int = 0,
    overfit_steps: int = OVERFIT_STEPS,
    device: str = "cpu",
    quick: bool = False,
) -> None:
    """Hold `cls` to every rule of the plugin contract; a test of a plugin is this one call.

    `config` defaults to the model's own; `overfit_steps` is the most that training on 64 images may take; `quick`
    leaves out that training, and what it has no time for. Raises `ContractError` that lists every broken rule, what is
    wrong and what to do.
    """
    outcomes = check_rules(cls, config=config, seed=seed, overfit_steps=overfit_steps, device=device, quick=quick)
    problems = [(rule, problem) for rule, problem in outcomes if problem is not None]
    if problems:
        lines = "".join(f"\n- {rule}: {problem}" for rule, problem in problems)
        raise ContractError(f"{cls.__qualname__} breaks the plugin contract:{lines}") from problems[0][1]


def check_rules(
    cls: type[GenerativeModel],
    *,
    config: BaseConfig | None = None,
    seed: int = 0,
    overfit_steps: int = OVERFIT_STEPS,
    device: str = "cpu",
    quick: bool = False,
) -> Iterator[Outcome]:
    """Try the rules that apply to `cls`, one at a time, ending early where the rest cannot be tried.

    `quick` leaves out those that train, and begins none after `QUICK_SECONDS`.
    """
    subject = Subject(cls, config, seed, overfit_steps, resolve_device(device))
    start = time.monotonic()
    for rule in rules_of(cls):
        if quick and (rule.slow or time.monotonic() - start > QUICK_SECONDS):
            continue
        problem = _problem(rule, subject)
        yield Outcome(rule.name, problem)
        if problem is not None and rule.basic:
            return


def rules_of(cls: type[GenerativeModel]) -> list[Rule]:
    """The rules that apply to a model; likelihood, latents and trajectory are asked only of models that have them."""
    return [rule for rule in RULES if issubclass(cls, rule.ability)]


def abilities_of(cls: type[GenerativeModel]) -> list[str]:
    """Name what a model can do beside sampling."""
    latents = "latent codes" if issubclass(cls, HasLatents) else "decoded codes"
    likelihood = f"likelihood ({getattr(cls, 'likelihood', '?')}, of {getattr(cls, 'likelihood_of', '?')})"
    words = {
        HasLikelihood: likelihood,
        HasDecoder: latents,
        HasReconstruction: "reconstruction",
        HasTrajectory: "sampling trajectory",
        HasEditing: "editing",
    }
    return [word for ability, word in words.items() if issubclass(cls, ability)]


def synthetic_digits(n: int = OVERFIT_IMAGES, num_classes: int = CLASSES, seed: int = 0) -> Dataset:
    """Black images with one bright square: the class is its place, and its brightness varies."""
    side = ceil(sqrt(num_classes))
    cell = 28 // side
    brightness = torch.randint(160, 256, (n,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    labels = torch.arange(n) % num_classes
    images = torch.zeros(n, *IMAGE_SHAPE, dtype=torch.uint8)
    for image, label, value in zip(images, labels.tolist(), brightness, strict=True):
        row, column = label // side * cell, label % side * cell
        image[:, row : row + cell, column : column + cell] = value
    return Dataset(images, labels, num_classes, name="synthetic", split="train")


class Subject:
    """The class under test, and what several rules need of it."""

    def __init__(
        self,
        cls: type[GenerativeModel],
        config: BaseConfig | None,
        seed: int,
        overfit_steps: int,
        device: torch.device,
    ) -> None:
        self.cls, self.seed, self.overfit_steps, self.device = cls, seed, overfit_steps, device
        self._config = config

    @cached_property
    def config(self) -> BaseConfig:
        return self._config if self._config is not None else self.cls.Config()

    def build(self, num_classes: int = CLASSES, **changes: Any) -> GenerativeModel:
        """A fresh model in train mode, prepared for synthetic digits, the same one each time."""
        torch.manual_seed(self.seed)
        model = self.cls(dataclasses.replace(self.config, **changes), num_classes).to(self.device).train()
        model.prepare(synthetic_digits(PREPARED, num_classes).images)
        return model

    def batch(self, size: int, num_classes: int = CLASSES, seed: int = 0) -> tuple[Tensor, Tensor]:
        data = synthetic_digits(size, num_classes, seed)
        return to_float(data.images).to(self.device), data.y.to(self.device)

    def labels(self, n: int = SAMPLES, num_classes: int = CLASSES) -> Tensor:
        return torch.arange(n, device=self.device) % num_classes

    def sample(self, model: GenerativeModel, y: Tensor, indices: list[int], seed: int | None = None) -> Tensor:
        """`model.sample` as the host calls it, with the global random state elsewhere each time."""
        torch.seed()
        with torch.no_grad():
            return model.eval().sample(y, noise=Noise(self.seed if seed is None else seed, indices, self.device))

    @cached_property
    def warm(self) -> GenerativeModel:
        """A model after a few steps, in eval mode; not to be changed.

        As few as give images that differ from seed to seed: what shows the likeliest value of each pixel is black at
        first. Where none do, the rules will say so.
        """
        model = self.build()
        optimizers, done = model.optimizers(), 0
        for steps in WARM_STEPS:
            torch.manual_seed(self.seed + done)  # drawing has left the global state elsewhere
            model.train()
            with torch.enable_grad():  # the first rule to ask for it may sit inside a no_grad
                for step in range(done, steps):
                    for loss in model.losses(*self.batch(16, seed=step)):
                        _step(optimizers, loss)
            done = steps
            one, other = (self.sample(model, self.labels(), list(range(SAMPLES)), seed) for seed in (0, 1))
            if not torch.equal(one, other):
                break
        return model.eval()

    @cached_property
    def samples(self) -> Tensor:
        """Samples of the warm model for the labels 0, 1, ..., in one batch."""
        return self.sample(self.warm, self.labels(), list(range(SAMPLES)))

    @cached_property
    def overfitted(self) -> Overfitted:
        """Train on 64 images, until all that the rules ask for is there."""
        data = synthetic_digits(seed=self.seed)
        model = self.build(batch_size=OVERFIT_IMAGES // 2, schedule="constant", ema_decay=0.0)
        before = self._loss(model, data)
        milestones = {max(1, self.overfit_steps // part) for part in (64, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)}
        for step in fit(model, data, steps=self.overfit_steps, seed=self.seed, device=self.device, precision="fp32"):
            if step.number not in milestones:
                continue
            assert isinstance(step.ema, GenerativeModel)
            images = self._every_label(step.ema)
            result = Overfitted(
                step.number,
                before,
                self._loss(step.ema, data),
                _distance(images.flatten(0, 1), data),
                _obedience(images, data),
            )
            if result.learned and (result.respects_labels or not self.cls.conditional):
                break
        return result

    def _every_label(self, model: GenerativeModel, draws: int = 3) -> Tensor:
        """Samples of all labels from one latent, (draws, classes, 1, 28, 28) on the CPU."""
        indices = [draw for draw in range(draws) for _ in range(CLASSES)]
        images = self.sample(model, self.labels(draws * CLASSES), indices)
        return images.cpu().reshape(draws, CLASSES, *IMAGE_SHAPE)

    def _loss(self, model: GenerativeModel, data: Dataset) -> float | None:
        """The validation loss on all of the data, with the same random draws each time."""
        torch.manual_seed(self.seed)
        training = model.training
        with torch.no_grad():
            loss = model.eval().validation_loss(to_float(data.images).to(self.device), data.y.to(self.device))
        model.train(training)
        return None if loss is None else float(loss)


class Overfitted(NamedTuple):
    """A model after some steps on 64 images."""

    steps: int
    before: float | None  # validation loss; None where the model has none, as a GAN
    after: float | None
    distance: float  # of samples from the nearest image, where that of the mean image is 1
    obedience: float  # how often, of images of one latent, the one with label k shows most of class k

    @property
    def learned(self) -> bool:
        """A loss that fell by half; where there is none, or it is no measure, samples that are nearer to the images."""
        fell = self.before is not None and self.after is not None and self.before - self.after >= abs(self.before) / 2
        return fell or self.distance <= 0.75

    @property
    def respects_labels(self) -> bool:
        return self.obedience >= 0.5


def _distance(images: Tensor, data: Dataset) -> float:
    real = to_float(data.images).flatten(1)
    trivial = (real - real.mean(0)).norm(dim=1).mean()
    return float(torch.cdist(images.flatten(1), real).min(1).values.mean() / trivial)


def _obedience(images: Tensor, data: Dataset) -> float:
    """The share of images, of those from one latent, of which the one with label k shows most of class k.

    (draws, classes, 1, 28, 28) -> 1 where the label always has its way, 1 / classes where it has none. Which class an
    image shows by itself would be no measure: a young VAE has the class in its code too.
    """
    real = to_float(data.images)
    means = torch.stack([real[data.labels == k].mean(0) for k in range(data.num_classes)]).flatten(1)
    shown = images.flatten(2) @ (means - means.mean(0)).T  # (draws, label, class)
    return float((shown.argmax(1) == torch.arange(data.num_classes)).float().mean())


# The rules, in the order in which they are tried.


def _described(subject: Subject) -> None:
    cls = subject.cls
    if inspect.isabstract(cls):
        raise ContractError(f"{_join(sorted(cls.__abstractmethods__))} is still abstract; define it.")
    missing = []
    if not docstring(cls):
        missing.append("The class has no docstring; its first line is what `mnistgen models` shows.")
    if not isinstance(cls.family, str) or not cls.family:
        missing.append('The class has no family; set it to a literal string, as in family = "vae".')
    if not isinstance(getattr(cls, "conditional", None), bool):
        missing.append("conditional is not set; it is True where sample(y) respects y, and False where not.")
    if issubclass(cls, HasLikelihood):
        if getattr(cls, "likelihood", None) not in ("exact", "lower bound", "estimate"):
            missing.append("likelihood is not set; it is 'exact', 'lower bound' or 'estimate'.")
        if cls.likelihood_precision not in ("any", "float32", "float64"):
            missing.append("likelihood_precision is 'any', 'float32' or 'float64'.")
    if missing:
        raise ContractError(" ".join(missing))
    entry = entry_of(cls)
    if entry is not None and entry.family != cls.family:
        raise ContractError(
            f"family is {cls.family!r}, but its source reads {entry.family!r}; write it as a literal string in the "
            "class, where `mnistgen models` finds it without importing anything."
        )


def _config(subject: Subject) -> None:
    Config = subject.cls.Config
    if not (isinstance(Config, type) and issubclass(Config, BaseConfig)):
        raise ContractError(f"Config is {Config!r}; it must be a class that derives from mnistgen.BaseConfig.")
    if inspect.get_annotations(Config) and "__dataclass_params__" not in vars(Config):
        raise ContractError(f"{Config.__name__} is no dataclass; decorate it with @dataclass(frozen=True).")
    required = [
        field.name
        for field in dataclasses.fields(Config)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if required:
        raise ContractError(f"Config field {_join(required)} has no default; give every hyperparameter one.")
    try:
        again = Config.from_json(subject.config.to_json())
    except TypeError as error:
        raise ContractError(
            f"The config does not survive JSON: {error}. Fields are int, float, bool, str, Literal or tuples of those."
        ) from error
    if again != subject.config:
        raise ContractError(
            f"The config comes back from JSON as {again}, and was {subject.config}. "
            "Fields are int, float, bool, str, Literal or tuples of those."
        )


def _names(subject: Subject) -> None:
    """No field of the config and no option of `sample` is called as a flag of the command is."""
    fields = {field.name for field in dataclasses.fields(subject.cls.Config)}
    options = {
        name
        for name, parameter in inspect.signature(subject.cls.sample).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    clashes = [
        f"{what} {_join(sorted(found))}, a flag of `{command}`"
        for what, found, command in (
            ("Config has", fields & _flags("mnistgen.cli.train", "GeneratorOptions"), "train"),
            ("sample() has", options & _flags("mnistgen.cli.sample_pictures", "SampleOptions"), "sample"),
        )
        if found
    ]
    if clashes:
        raise ContractError(f"{' and '.join(clashes)}; rename it.")


def _flags(module: str, name: str) -> set[str]:
    # The command line is a layer above; its flags are written down there, and nowhere else.
    return {field.name for field in dataclasses.fields(getattr(importlib.import_module(module), name))}


def _abilities(subject: Subject) -> None:
    """Check that the host knows what is defined: a method of an ability without its base class is never called."""
    cls = subject.cls
    unknown = {
        method: ability.__name__
        for method, ability in METHODS.items()
        if callable(getattr(cls, method, None)) and not issubclass(cls, ability)
    }
    if "encode" in unknown:  # HasLatents is all three
        for method in ("decode", "reconstruct"):
            unknown.pop(method, None)
    if unknown:
        bases = _join(sorted(set(unknown.values())))
        raise ContractError(
            f"{_join(list(unknown))} is defined, and {cls.__name__} does not derive from mnistgen.model.{bases}, so "
            "that nothing calls it; derive from it, or give the method another name."
        )


def _builds(subject: Subject) -> None:
    for num_classes in (CLASSES, 7):
        model = subject.build(num_classes)
        if model.config != subject.config or model.num_classes != num_classes:
            raise ContractError("The model lost its config or num_classes; give both to super().__init__.")
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ContractError("The model has no parameters to train; register its layers as attributes of a module.")
        _finite_state(model, "as built")


def _losses(subject: Subject) -> None:
    for num_classes, sizes in ((CLASSES, (2, 3, 5)), (7, (7,)), (1, (2,))):  # one class: images without labels
        for size in sizes:
            model = subject.build(num_classes)
            optimizers = check_optimizers(model.optimizers(), model)
            x, y = subject.batch(size, num_classes)
            x[-1] = -1.0  # a blank image
            with _told(f"losses() fails on a batch of {size} with {num_classes} classes", subject):
                for count, loss in enumerate(check_losses(model.losses(x, y)), 1):
                    check_loss(loss, f"Loss {count} of a batch of {size} with {num_classes} classes")
                    _step(optimizers, loss)


def _inputs(subject: Subject) -> None:
    model = subject.build()
    optimizers = model.optimizers()
    x, y = subject.batch(SAMPLES)
    copies = x.clone(), y.clone()
    for loss in model.losses(x, y):
        _step(optimizers, loss)
    if not torch.equal(x, copies[0]) or not torch.equal(y, copies[1]):
        raise ContractError("losses() writes into its x or y; clone them before an in-place operation.")
    given = subject.labels()
    subject.sample(model, given, list(range(SAMPLES)))
    if not torch.equal(given, subject.labels()):
        raise ContractError("sample() writes into its y; clone it before an in-place operation.")


def _modes(subject: Subject) -> None:
    kind = subject.device.type
    for autocast in (False, True):  # once as the host runs in float32, once as it runs in bfloat16
        model = subject.build()
        optimizers = model.optimizers()
        losses = iter(model.losses(*subject.batch(SAMPLES)))
        try:
            number = 0
            while True:
                number += 1
                outside = _state(kind)
                with torch.autocast(kind, torch.bfloat16) if autocast else nullcontext():
                    inside = _state(kind)
                    loss = next(losses, None)
                    _same_state(inside, _state(kind), f"yield {number} of losses()")
                _same_state(outside, _state(kind), f"yield {number} of losses()")
                if loss is None:
                    break
                _step(optimizers, loss)
        finally:
            _close(losses)


def _state(device: str) -> dict[str, object]:
    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        "the default dtype": torch.get_default_dtype(),
    }


def _same_state(before: dict[str, object], after: dict[str, object], where: str) -> None:
    for name, value in before.items():
        if after[name] != value:
            raise ContractError(
                f"At {where}, {name} is {after[name]} and was {value}: a mode leaks into the host. "
                "End every `with` before a yield."
            )


def _gradients(subject: Subject) -> None:
    model = subject.build()
    optimizers = model.optimizers()
    names = {parameter: name for name, parameter in model.named_parameters()}
    reached: dict[nn.Module, set[nn.Parameter]] = {}
    stepping = False

    def only_the_host(*_: object) -> None:
        if not stepping:
            raise ContractError("losses() steps an optimizer itself; yield the loss, and the host steps.")

    hook = register_optimizer_step_pre_hook(only_the_host)
    try:
        for step in range(STEPS):
            for parameter in names:
                parameter.grad = None
            weights = {parameter: parameter.detach().clone() for parameter in names if parameter.requires_grad}
            stepped: set[nn.Parameter] = set()
            for loss in model.losses(*subject.batch(16, seed=step)):
                own = set(loss.module.parameters())
                touched = [names[p] for p in names if p.grad is not None]
                if touched:
                    raise ContractError(
                        f"{_join(touched)} has a gradient before the host's backward: losses() calls backward() "
                        "itself. Yield the loss, or use torch.autograd.grad."
                    )
                # A model may clip or normalise the weights of the part just trained, or of the one to be trained.
                changed = [names[p] for p, was in weights.items() if p not in own | stepped and not torch.equal(p, was)]
                if changed:
                    raise ContractError(
                        f"losses() changes {_join(changed)}, which is no part of the {type(loss.module).__name__} that "
                        "it trains; leave updates to the host, or freeze what is not trained by gradients."
                    )
                stepping = True
                _step(optimizers, loss)
                stepping = False
                reached.setdefault(loss.module, set()).update(p for p in own if p.grad is not None)
                for parameter in names:
                    parameter.grad = None
                weights = {p: p.detach().clone() for p in weights}
                stepped = own
    finally:
        hook.remove()
    for module, parameters in reached.items():
        missing = [names[p] for p in module.parameters() if p.requires_grad and p not in parameters]
        if missing:
            raise ContractError(
                f"No gradient of the loss for {type(module).__name__} reaches {_join(missing)}; use it in the loss, "
                "remove it, or yield the loss for the part that it trains."
            )


def _optimizers(subject: Subject) -> None:
    model = subject.build()
    optimizers = model.optimizers()
    names = {parameter: name for name, parameter in model.named_parameters()}
    for loss in model.losses(*subject.batch(SAMPLES)):
        optimizer = optimizer_of(optimizers, loss)
        held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        left = [names[p] for p in loss.module.parameters() if p.requires_grad and p not in held]
        if left:
            raise ContractError(
                f"The optimizer of {type(loss.module).__name__} does not hold {_join(left)}, which stays untrained; "
                "give it all parameters of its module, or set requires_grad_(False)."
            )
        _step(optimizers, loss)


def _validation(subject: Subject) -> None:
    x, y = subject.batch(SAMPLES)
    torch.manual_seed(subject.seed)
    with torch.no_grad(), _told("validation_loss() fails without gradients, in eval mode", subject):
        loss = subject.warm.validation_loss(x, y)
    check_validation_loss(loss)
    if loss is not None and not loss.isfinite():
        raise ContractError(f"validation_loss() gives {loss}; it must be a finite scalar, or None where there is none.")


def _finite(subject: Subject) -> None:
    _finite_state(subject.warm, "after a few steps")


def _finite_state(model: GenerativeModel, when: str) -> None:
    bad = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if bad:
        raise ContractError(f"{_join(bad)} is not finite {when}; check its initialisation and the loss's range.")


def _sample_images(subject: Subject) -> None:
    _check_images(subject.samples, SAMPLES, "sample()")
    model = subject.build(7)
    _check_images(
        subject.sample(model, subject.labels(7, 7), list(range(7))), 7, "sample() of a new model of 7 classes"
    )


def _check_images(images: Any, n: int, what: str) -> None:
    check_output(images, n, what)
    low, high = float(images.min()), float(images.max())
    if low < -1 - 1e-5 or high > 1 + 1e-5:
        raise ContractError(f"{what} returns pixels from {low:.3g} to {high:.3g}; end with tanh or clamp(-1, 1).")


def _sample_seed(subject: Subject) -> None:
    indices = list(range(SAMPLES))
    before = {name: tensor.clone() for name, tensor in subject.warm.state_dict().items()}
    if not _equal(subject.sample(subject.warm, subject.labels(), indices), subject.samples):
        raise ContractError(
            "Two calls of sample() with the same labels and noise differ; draw from `noise` alone, and not from "
            "torch's or NumPy's global generators, and keep dropout to training."
        )
    changed = [name for name, tensor in subject.warm.state_dict().items() if not torch.equal(tensor, before[name])]
    if changed:
        raise ContractError(f"sample() changes {_join(changed)}; a model that is sampled must stay as it is.")
    if torch.equal(subject.sample(subject.warm, subject.labels(), indices, seed=subject.seed + 1), subject.samples):
        raise ContractError("sample() gives the same images for another seed; draw from `noise`.")


def _sample_batches(subject: Subject) -> None:
    for indices in ([3], [4, 1]):
        alone = subject.sample(subject.warm, subject.labels()[indices], indices)
        if not _equal(alone, subject.samples[indices]):
            raise ContractError(
                f"Image {indices[0]} differs when it is drawn in a batch of {len(indices)} instead of {SAMPLES}; make "
                "an image depend on its own noise and label alone (no batch statistics, no draw shared by a batch)."
            )


def _overfits(subject: Subject) -> None:
    result = subject.overfitted
    if not result.learned:
        loss = ""
        if result.before is not None and result.after is not None:
            loss = f"the loss went from {result.before:.4g} to {result.after:.4g} (half would do), and "
        raise ContractError(
            f"After {result.steps} steps on {OVERFIT_IMAGES} simple images, {loss}samples are {result.distance:.2f} "
            "times as far from the images as their mean is (0.75 would do). Check the loss's sign, the learning rate "
            "and that sample() undoes what losses() does."
        )


def _labels(subject: Subject) -> None:
    if subject.cls.conditional:
        result = subject.overfitted
        if not result.respects_labels:
            raise ContractError(
                f"After {result.steps} steps on {OVERFIT_IMAGES} simple images, a label brings its class out in "
                f"{result.obedience:.0%} of samples (chance is {1 / CLASSES:.0%}, and 50% would do); feed y to the "
                "network, in losses() and in sample(), or set conditional = False."
            )
        return
    others = subject.sample(subject.warm, (subject.labels() + 1) % CLASSES, list(range(SAMPLES)))
    if not _equal(others, subject.samples):
        raise ContractError("conditional is False, but other labels give other images; set it to True.")


def _resumes(subject: Subject) -> None:
    x, y = subject.batch(SAMPLES)
    mine = _loss_values(copy.deepcopy(subject.warm), x, y, subject.seed)
    if not _near(mine, _loss_values(copy.deepcopy(subject.warm), x, y, subject.seed)):
        raise ContractError(
            "Two runs of losses() after torch.manual_seed with one seed differ, so training cannot be repeated; draw "
            "from torch's generator alone."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        checkpoint.save(path, subject.warm)
        again = checkpoint.load(path, device=subject.device, model_class=subject.cls)
        assert isinstance(again, GenerativeModel)
    if not _equal(subject.sample(again, subject.labels(), list(range(SAMPLES))), subject.samples):
        raise ContractError(
            "A model read back from its checkpoint draws other images; keep what sample() needs in parameters, "
            "buffers or the config."
        )
    # What a run resumes from has the rest, too.
    rest = {name: tensor for name, tensor in subject.warm.state_dict().items() if is_training_only(again, name)}
    again.load_state_dict(again.state_dict() | rest)
    theirs = _loss_values(again, x, y, subject.seed)
    if not _near(mine, theirs):
        raise ContractError(
            f"A model read back from its checkpoint has the losses {theirs}, and had {mine}; keep whatever it counts "
            "in a registered buffer, so that a resumed run is the same run."
        )


def _loss_values(model: GenerativeModel, x: Tensor, y: Tensor, seed: int) -> list[float]:
    optimizers = model.train().optimizers()
    torch.manual_seed(seed)
    values = []
    for loss in model.losses(x, y):
        values.append(float(loss.value.detach()))
        _step(optimizers, loss)
    return values


def _likelihood(subject: Subject) -> None:
    model = subject.warm
    assert isinstance(model, HasLikelihood)
    if not getattr(model, "likelihood_of", ""):
        raise ContractError("likelihood_of is not set; it says of what data, as in '8-bit pixels'.")
    x, y = subject.batch(SAMPLES)
    with torch.no_grad():
        value, again = model.log_prob(x, y), model.log_prob(x, y)
    if not isinstance(value, Tensor) or value.shape != (SAMPLES,) or not value.isfinite().all():
        raise ContractError(f"log_prob() gives {value} for {SAMPLES} images; it must be ({SAMPLES},) finite nats.")
    if model.likelihood == "exact" and not torch.allclose(value, again, rtol=1e-5, atol=1e-3):
        raise ContractError(
            f"likelihood is 'exact', but two calls of log_prob() differ by {float((value - again).abs().max()):.3g} "
            "nats; call it a 'lower bound' or an 'estimate', or draw nothing in it."
        )
    if "noise" in inspect.signature(model.log_prob).parameters:
        noise = partial(Noise, subject.seed, range(SAMPLES), subject.device)
        with torch.no_grad():
            value, again = model.log_prob(x, y, noise=noise()), model.log_prob(x, y, noise=noise())
        if not torch.allclose(value, again, rtol=1e-5, atol=1e-3):
            raise ContractError("log_prob() with the same noise differs from call to call; draw from `noise` alone.")


def _latents(subject: Subject) -> None:
    model = subject.warm
    assert isinstance(model, HasLatents)
    x, y = subject.batch(SAMPLES)
    with torch.no_grad():
        z, again = model.encode(x, y), model.encode(x, y)
        if z.shape != (SAMPLES, *model.latent_shape) or not z.isfinite().all():
            raise ContractError(
                f"encode() gives {tuple(z.shape)} for {SAMPLES} images; it must be ({SAMPLES}, *latent_shape), here "
                f"{(SAMPLES, *model.latent_shape)}, and finite."
            )
        if not _equal(z, again):
            raise ContractError("encode() gives another code each time; return the mean where the code is random.")
        _check_images(model.decode(z, y), SAMPLES, "decode() of what encode() gives")


def _decodes(subject: Subject) -> None:
    model = subject.warm
    assert isinstance(model, HasDecoder)
    z = Noise(subject.seed, range(SAMPLES), subject.device).normal(*model.latent_shape)
    y = subject.labels()
    with torch.no_grad():
        images = model.decode(z, y)
        _check_images(images, SAMPLES, "decode()")
        weights = torch.eye(CLASSES, device=subject.device)[y]
        if not _equal(model.decode(z, weights), images):
            raise ContractError("decode() gives other images for one-hot weights than for the labels they stand for.")
        _check_images(model.decode(z, weights.roll(1, 0) / 2 + weights / 2), SAMPLES, "decode() between two classes")


def _reconstructs(subject: Subject) -> None:
    model = subject.warm
    assert isinstance(model, HasReconstruction)
    x, y = subject.batch(SAMPLES)
    given = x.clone()
    with torch.no_grad():
        images, again = model.reconstruct(x, y), model.reconstruct(x, y)
        _check_images(images, SAMPLES, "reconstruct()")
        if not torch.equal(x, given):
            raise ContractError("reconstruct() writes into its x; clone it before an in-place operation.")
        if not _equal(images, again):
            raise ContractError("reconstruct() gives another image each time; take the mean where the code is random.")
        if not _equal(model.reconstruct(x[1:2], y[1:2]), images[1:2]):
            raise ContractError(
                f"An image is reconstructed otherwise alone than in a batch of {SAMPLES}; make it depend on its own "
                "image and label alone (no batch statistics)."
            )


def _trajectory(subject: Subject) -> None:
    model = subject.warm
    assert isinstance(model, HasTrajectory)
    kind = subject.device.type
    with torch.no_grad():
        frames = iter(
            model.sample_trajectory(subject.labels(), noise=Noise(subject.seed, range(SAMPLES), subject.device))
        )
        last = None
        try:
            before = _state(kind)
            for number, frame in enumerate(frames):
                _same_state(before, _state(kind), f"yield {number + 1} of sample_trajectory()")
                _check_images(frame, SAMPLES, f"Frame {number} of sample_trajectory()")
                last = frame.clone()
        finally:
            _close(frames)
    if last is None or not _equal(last, subject.samples):
        raise ContractError("The last frame of sample_trajectory() is not what sample() gives for the same noise.")


def _edits(subject: Subject) -> None:
    model = subject.warm
    assert isinstance(model, HasEditing)
    x, y = subject.batch(SAMPLES)
    known = (torch.arange(28, device=x.device) < 14).view(1, 1, 28, 1)
    noise = partial(Noise, subject.seed, range(SAMPLES), subject.device)
    with torch.no_grad():
        filled = model.inpaint(x, known, y, noise=noise())
        _check_images(filled, SAMPLES, "inpaint()")
        if not _equal(filled[:, :, :14], x[:, :, :14]):
            raise ContractError("inpaint() changes pixels that are known.")
        _check_images(model.vary(x, y, noise=noise()), SAMPLES, "vary()")
        if not _equal(model.vary(x, y, noise=noise(), strength=0.0), x):
            raise ContractError("vary() with strength 0 does not give the images that it is given.")


class Rule(NamedTuple):
    """One rule of the contract."""

    name: str
    check: Callable[[Subject], None]
    basic: bool = False  # where it is broken, the rest cannot be tried
    slow: bool = False  # it trains for long
    ability: type = object  # it is asked of models that have this


RULES = [
    Rule("has a docstring, a family and says whether it is conditional", _described),
    Rule("its config is a frozen dataclass and survives JSON", _config, basic=True),
    Rule("its flags are no flags of `train` and `sample`", _names),
    Rule("its abilities are declared by their base classes", _abilities),
    Rule("builds for any number of classes", _builds, basic=True),
    Rule("losses are finite scalars for any batch size", _losses, basic=True),
    Rule("leaves its inputs as they are", _inputs),
    Rule("leaves grad mode and autocast as they are at each yield", _modes),
    Rule("gradients reach every parameter of the yielded module and no other", _gradients),
    Rule("its optimizers hold what it trains", _optimizers),
    Rule("validation loss is finite, or None", _validation),
    Rule("weights stay finite", _finite),
    Rule("samples are images in [-1, 1]", _sample_images),
    Rule("samples depend on the seed alone", _sample_seed),
    Rule("a sample does not depend on its batch", _sample_batches),
    Rule("comes back from a checkpoint as it was", _resumes),
    Rule("log-likelihood is one finite number an image", _likelihood, ability=HasLikelihood),
    Rule("codes decode for labels and weights", _decodes, ability=HasDecoder),
    Rule("latents have their shape, and decode again", _latents, ability=HasLatents),
    Rule("reconstructions are images, the same each time", _reconstructs, ability=HasReconstruction),
    Rule("the sampling trajectory ends in the sample", _trajectory, ability=HasTrajectory),
    Rule("edits keep what is known", _edits, ability=HasEditing),
    Rule(f"overfits {OVERFIT_IMAGES} images", _overfits, slow=True),
    Rule("labels are respected, or do not matter", _labels, slow=True),
]


# What the rules share.


def _step(optimizers: dict[nn.Module, Optimizer], loss: Loss) -> None:
    """The host's step."""
    optimizer = optimizer_of(optimizers, loss)
    optimizer.zero_grad()
    trained = [parameter for parameter in loss.module.parameters() if parameter.requires_grad]
    torch.autograd.backward(loss.value, inputs=trained)
    optimizer.step()


def _equal(a: Tensor, b: Tensor) -> bool:
    # Batches of another size take other kernels, whose rounding differs in the last bits.
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-2)


def _near(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(abs(p - q) <= 1e-4 * max(1.0, abs(p)) for p, q in zip(a, b, strict=True))


def _close(iterator: Iterator[object]) -> None:
    """End a generator now, so that a `with` it hangs in undoes itself before the modes are set right."""
    if isinstance(iterator, Generator):
        iterator.close()


def _join(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _problem(rule: Rule, subject: Subject) -> ContractError | None:
    """Try one rule, and leave random state and modes as they were whatever the model does to them."""
    kind = subject.device.type
    autocast, dtype = torch.is_autocast_enabled(kind), torch.get_default_dtype()
    try:
        with torch.random.fork_rng(), torch.enable_grad(), _told("", subject):
            rule.check(subject)
    except ContractError as problem:
        return problem
    finally:
        torch.set_autocast_enabled(kind, autocast)
        torch.set_default_dtype(dtype)
    return None


@contextmanager
def _told(what: str, subject: Subject) -> Iterator[None]:
    """Whatever a model raises inside is a broken rule, told with its place in the model's source."""
    try:
        yield
    except ContractError:
        raise
    except Exception as error:
        text = str(error) if isinstance(error, MnistgenError) else described(error)
        raise ContractError(f"{what}{': ' if what else ''}{text} ({place(error, subject.cls)})") from error

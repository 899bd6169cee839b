"""The tasks of a study: labellers, generators, their images, classifiers, and generations of self-consuming training.

Generation 0 sees the subset. What the next ones see is the mode's: only what the one before drew (replace; Shumailov et
al. 2024), the subset and all that has been drawn since (accumulate; Gerstgrasser et al. 2024), or what the one before
drew and as many real images that no generation has seen (fresh; Alemohammad et al. 2024). A generation starts from
weights of its own and is trained for the same number of steps.
"""

import json
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from mnistgen.building import build
from mnistgen.checkpoint import load, save
from mnistgen.data import Dataset
from mnistgen.data.dataset import joined
from mnistgen.errors import LeakageError, MnistgenError, UsageError
from mnistgen.evaluator import (
    Classifier,
    build_classifier,
    evaluate,
    extract,
    load_classifier,
    predict,
    save_classifier,
)
from mnistgen.experiments import protocol
from mnistgen.experiments.cache import Cache, Task
from mnistgen.experiments.protocol import Mode, sampling_options
from mnistgen.experiments.subsets import Subsets, check_exactly, check_trained_on, check_within, seed_of
from mnistgen.files import atomic_file
from mnistgen.limits import checked_seed
from mnistgen.metrics import nearest, pixels
from mnistgen.model import GenerativeModel, Trainable
from mnistgen.sampling import sample, sample_batches
from mnistgen.scoring import Scorer
from mnistgen.scoring.classifiers import RECIPE, learn
from mnistgen.scoring.evaluators import PENULTIMATE
from mnistgen.scoring.scale import FLOOR
from mnistgen.training import Part, autocast_dtype, fit, train
from mnistgen.transforms import shifts

Regime = Literal["subset", "pool", "everything"]
Network = TypeVar("Network", bound=Trainable)
SCORES = {"fid": f"fid.{PENULTIMATE}", "coverage": f"coverage.{PENULTIMATE}"}  # by the names of a score
WARM, STEPS, IMAGES = 3, 8, 100  # of a trial: the first steps set things up, and are not counted


@dataclass(frozen=True)
class Subset:
    """A balanced part of the training split."""

    repetition: int
    per_class: int | None  # None: all of the training split, as it is
    images: int
    hash: str

    @property
    def size(self) -> str:
        """The number of images per class, or all."""
        return str(self.per_class or "all")

    @property
    def name(self) -> str:
        return f"r{self.repetition}-n{self.size}"


class StudyContext:
    """What the tasks of a study work with: its data, models, device, and the records of what is done.

    `test` is looked at by the last line of a task that classifies, and by nothing else. `scorer` scores the generations
    of self-consuming training.
    """

    def __init__(
        self,
        train: Dataset,
        test: Dataset,
        models: Mapping[str, type[GenerativeModel]],
        *,
        folder: Path,
        seed: int,
        device: torch.device,
        precision: str = "auto",
        scorer: Scorer | None = None,
    ) -> None:
        if train.num_classes != test.num_classes:
            raise UsageError(
                f"{train.name} has {train.num_classes} classes to train on and {test.num_classes} to test with; take "
                "both splits from one dataset."
            )
        for name, model in models.items():
            if not model.conditional:
                raise UsageError(
                    f"{name} draws images without regard to labels, so a classifier cannot learn from them. Choose a "
                    "conditional model."
                )
        self.train, self.test, self.models = train, test, models
        self.seed, self.device, self.precision, self.scorer = checked_seed(seed), device, precision, scorer
        self.frame = {  # what all tasks have in common, and what is part of every specification
            "dataset": train.name,
            "train": train.hash,
            "test": test.hash,
            "seed": seed,
            "precision": "bf16" if autocast_dtype(device, precision) is torch.bfloat16 else "fp32",
        }
        self.cache = Cache(folder, self.frame)
        self.progress: Callable[[float], None] = lambda _: None  # gets the share of a task that is done
        self.subsets = cache(lambda repetition: Subsets(train, seed_of(seed, repetition, "subsets")))  # by repetition

    def subset(self, repetition: int, per_class: int | None) -> Subset:
        """Describe a subset."""
        data = self.subsets(repetition).take(per_class)
        return Subset(repetition, per_class, len(data), data.hash)

    def images(self, subset: Subset) -> Dataset:
        """The images of a subset, whose content is what the description says."""
        data = self.subsets(subset.repetition).take(subset.per_class)
        if data.hash != subset.hash:
            raise LeakageError(f"The subset {subset.name} has other images than when the study was planned.")
        return data

    def fit(self, model: Network, data: Dataset, task: "Trains", parts: Sequence[Part] | None = None) -> Network:
        """Train to the end and return the averaged model: no step is chosen, and nothing is validated."""
        how: Any = {"device": self.device, "precision": self.precision, "parts": parts}
        return train(
            model, data, steps=task.steps, seed=task.seed, progress=lambda x: self.progress(task.share * x), **how
        )

    def cas(self, data: Dataset, steps: int) -> float:
        """The classification accuracy score of images: of a classifier trained on them alone."""
        return learn(data, self.test, seed=self.seed, device=self.device, steps=steps).accuracy

    def step_seconds(self, model: Trainable) -> float:
        """Measure the seconds of a training step."""
        data = self.train.subset(torch.arange(min(len(self.train), 1000)))
        steps = fit(model, data, steps=WARM + STEPS, device=self.device, precision=self.precision)
        seconds = [step.seconds for step in steps]
        return (seconds[-1] - seconds[WARM - 1]) / STEPS

    def sample_seconds(self, model: GenerativeModel) -> float:
        """Measure the seconds of a sample, the second time that there are some."""
        labels, start = torch.arange(IMAGES) % model.num_classes, 0.0
        for _ in range(2):
            start = time.perf_counter()
            sample(model.to(self.device), labels)
        return (time.perf_counter() - start) / IMAGES


@dataclass(frozen=True)
class Trains(Task):
    """A task that trains a network for a number of steps."""

    trainings = 1
    share: ClassVar[float] = 1.0  # of its progress, that the training is
    config: str
    steps: int
    seed: int

    @abstractmethod
    def network(self, context: StudyContext) -> Trainable:
        """Build the network that it trains."""

    def trial(self, context: StudyContext) -> float:
        return context.step_seconds(self.network(context))


@dataclass(frozen=True)
class TrainsClassifier(Trains):
    """A task that trains a classifier beside a subset."""

    subset: Subset
    classifier: str

    def network(self, context: StudyContext) -> Classifier:
        config = json.loads(self.config)
        return build_classifier(self.classifier, context.train.num_classes, seed=self.seed, **config)

    def cost(self) -> tuple[str, float]:
        return f"{self.kind} {self.classifier}", self.steps


@dataclass(frozen=True)
class TrainsModel(Trains):
    """A task that trains a generative model."""

    model: str

    def network(self, context: StudyContext) -> GenerativeModel:
        cls = context.models[self.model]
        return build(cls, cls.Config.from_json(self.config), context.train.num_classes, seed=self.seed)

    def cost(self) -> tuple[str, float]:
        return f"{self.kind} {self.model}", self.steps


@dataclass(frozen=True)
class TrainLabeller(TrainsClassifier):
    """A classifier trained on a subset with the classical augmentation, which labels and filters other images."""

    kind = "labeller"
    suffix = ".safetensors"
    holds: ClassVar = {"trained_on": str}

    @property
    def name(self) -> str:
        return f"{self.subset.name}-labeller"

    def run(self, context: StudyContext) -> dict[str, Any]:
        data = context.images(self.subset)
        model = context.fit(self.network(context), data, self)
        save_classifier(context.cache.made(self), model, dataset=data, steps=self.steps, seed=self.seed)
        return {"trained_on": check_exactly(data, data, self.name)}

    def model(self, context: StudyContext) -> Classifier:
        """Load the trained classifier; that it has seen this subset alone is checked."""
        trained_on = context.cache[self].result["trained_on"]
        check_trained_on(trained_on, context.images(self.subset), f"The {self.name}")
        return load_classifier(context.cache.made(self), device=context.device)


@dataclass(frozen=True)
class Pool:
    """Training images beside a subset, of which the true labels are not used."""

    labeller: TrainLabeller
    images: int  # at most; fewer where there are no more
    confident: float  # the least confidence at which the labeller's label is believed

    def labelled(self, context: StudyContext) -> tuple[Dataset, dict[str, Any]]:
        """Return the images that the labeller is confident of, with its labels; and how many, for the record."""
        subset = self.labeller.subset
        subsets = context.subsets(subset.repetition)
        pool = context.train.subset(subsets.pool(subsets.places(subset.per_class), self.images))
        confidence, labels = predict(self.labeller.model(context), pool).max(1)
        sure = confidence >= self.confident
        believed = Dataset(pool.images[sure], labels[sure], pool.num_classes, pool.name, "train")
        right = labels[sure] == pool.y[sure].cpu()  # said in the report, and used for nothing
        share = float(right.double().mean()) if len(right) else None
        return believed, {"pool": len(pool), "pool_believed": len(believed), "pool_labels_right": share}


@dataclass(frozen=True)
class TrainGenerator(TrainsModel):
    """A generator trained on the images that it may see."""

    kind = "generator"
    suffix = ".safetensors"
    holds: ClassVar = {"images": float, "trained_on": str}
    regime: Regime
    subset: Subset | None  # None: of no subset, where everything may be seen
    pool: Pool | None = None

    @property
    def name(self) -> str:
        return f"{self.subset.name if self.subset else 'all'}-{self.model}-{self.regime}"

    def run(self, context: StudyContext) -> dict[str, Any]:
        data, about = self.training_images(context)
        trained_on = self.check(context, data)
        model = context.fit(self.network(context), data, self)
        save(context.cache.made(self), model, dataset=data, steps=self.steps, seed=self.seed)
        return {"trained_on": trained_on, "images": len(data), **about}

    def training_images(self, context: StudyContext) -> tuple[Dataset, dict[str, Any]]:
        """Return what the generator is to be trained on, and what the record should say of it."""
        data = context.images(self.subset) if self.subset else context.train
        if self.pool is None:
            return data, {}
        pool, about = self.pool.labelled(context)
        return joined([data, pool], "train"), about

    def check(self, context: StudyContext, data: Dataset) -> str:
        """Return the content of what it is trained on. Raises `LeakageError` where it may not see that."""
        who = f"The generator {self.name}"
        if self.subset:
            subset = context.images(self.subset)
            labelled = data if self.regime == "subset" else data.subset(torch.arange(len(subset)))
            content = check_exactly(labelled, subset, who)
            if self.regime == "subset":
                return content
        return check_within(data, context.train, who)


class MakesImages(Task):
    """A task that makes images for a subset, which are in a file beside its record."""

    suffix = ".npz"
    subset: Subset

    def write(self, context: StudyContext, images: Tensor, labels: Tensor) -> None:
        """Write (n, 1, 28, 28) uint8 and (n,) int64."""
        with atomic_file(context.cache.made(self)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, images=images.numpy(), labels=labels.numpy())

    def images(self, context: StudyContext, count: int | None = None) -> Dataset:
        """Read the first `count` of the images, or all there are. Raises `MnistgenError` where they are damaged."""
        path = context.cache.made(self)
        try:
            with np.load(path, allow_pickle=False) as file:
                images, labels = (torch.from_numpy(file[name])[:count] for name in ("images", "labels"))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise MnistgenError(
                f"{path}: these images are damaged: {error}. Remove the file to draw them again."
            ) from error
        return Dataset(images, labels, context.train.num_classes, self.name, "synthetic")


@dataclass(frozen=True)
class SampleImages(MakesImages):
    """Synthetic images for a subset, the same number of each class in turn, and filtered where that is asked for."""

    kind = "images"
    holds: ClassVar = dict.fromkeys(("images", "drawn", "kept"), float)
    generator: TrainGenerator
    subset: Subset  # for whose classifiers
    count: int  # for the largest ratio; fewer are the beginning of more
    seed: int
    draws: float  # at most as many for each image that is kept
    least: float = 0.0  # confidence of the labeller in the label that was asked for; 0 keeps all
    labeller: TrainLabeller | None = None

    @property
    def name(self) -> str:
        return f"{self.subset.name}-{self.generator.model}-{self.generator.regime}-images"

    def cost(self) -> tuple[str, float]:
        return f"{self.kind} {self.generator.model}", self.count

    def trial(self, context: StudyContext) -> float:
        return context.sample_seconds(self.generator.network(context))

    def run(self, context: StudyContext) -> dict[str, Any]:
        cls = context.models[self.generator.model]
        model = load(context.cache.made(self.generator), device=context.device, model_class=cls)
        judge = self.labeller.model(context) if self.labeller else None
        classes = model.num_classes
        each, drawn = -(-self.count // classes), 0  # wanted of each class, and drawn in all
        counts = torch.zeros(classes, dtype=torch.int64)  # of those that are kept
        labels = torch.arange(round(each * classes * (self.draws if self.labeller else 1))) % classes
        kept: list[Tensor] = []
        right: list[Tensor] = []  # the labels of those that are kept
        for images in sample_batches(model, labels, seed=self.seed, **sampling_options(self.generator.model, cls)):
            asked = labels[drawn : drawn + len(images)]
            drawn += len(images)
            if judge is not None:
                probabilities = extract(judge, images, layers=["logits"])["logits"].softmax(1)
                passes = probabilities[torch.arange(len(asked)), asked] >= self.least
                images, asked = images[passes], asked[passes]
            kept.append(images)
            right.append(asked)
            counts += asked.bincount(minlength=classes)
            context.progress(min(1.0, int(counts.min()) / each))
            if counts.min() >= each:
                break
        if not (fewest := min(each, int(counts.min()))):
            raise MnistgenError(
                f"{self.name}: of {drawn} images, none of class {int(counts.argmin())} is seen as such with a "
                f"confidence of {self.least}. Ask for less with --filter."
            )
        places = [(torch.cat(right) == label).nonzero().flatten()[:fewest] for label in range(classes)]
        images = torch.cat(kept)[torch.stack(places, 1).flatten()]
        self.write(context, images, torch.arange(len(images)) % classes)
        return {"images": len(images), "drawn": drawn, "kept": len(images) / drawn}


@dataclass(frozen=True)
class Classify(TrainsClassifier):
    """A classifier of one condition, and its accuracy on the test split."""

    kind = "accuracy"
    holds: ClassVar = dict.fromkeys(("accuracy", "errors", "images", "other_images"), float)
    condition: str
    batch: int
    real: int  # images of a batch that are the subset's
    ratio: float = 0.0  # other images for each of the subset's; 0: none, or as many as there are
    samples: SampleImages | None = None
    pool: Pool | None = None
    further: int = 0  # further real images of each class

    @property
    def model(self) -> str:
        """The generator of its images; empty where there is none."""
        return self.samples.generator.model if self.samples else ""

    @property
    def name(self) -> str:
        ratio = f"x{self.ratio:g}" if self.ratio else ""
        return "-".join(filter(None, [self.subset.name, self.classifier, self.condition, self.model, ratio]))

    def spec(self) -> dict[str, Any]:
        spec = asdict(self)
        spec["arm"], spec["draw"] = spec.pop("condition"), spec.pop("samples")  # as records have called them
        if spec["draw"]:  # more images for a larger ratio change nothing here
            del spec["draw"]["count"]
        return spec

    def run(self, context: StudyContext) -> dict[str, Any]:
        subset = context.images(self.subset)
        other, about = self._other(context, subset)
        data, parts = subset, None
        if other is not None and not self.real:
            data = other
        elif other is not None and len(other):
            data = joined([subset, other], "train")
            parts = [Part(len(subset), self.real), Part(len(other), self.batch - self.real)]
        model = context.fit(self.network(context), data, self, parts)
        found = evaluate(model, context.test)
        return {
            "accuracy": found.accuracy,
            "errors": len(found.labels) - found.correct,
            "images": len(subset) if self.real else 0,
            "other_images": 0 if other is None else len(other),
            **about,
        }

    def _other(self, context: StudyContext, subset: Dataset) -> tuple[Dataset | None, dict[str, Any]]:
        """The images beside the subset's, and what the record should say of them."""
        if self.samples:
            generator = self.samples.generator
            if generator.regime == "subset":
                trained_on = context.cache[generator].result["trained_on"]
                check_trained_on(trained_on, subset, f"The generator {generator.name}")
            return self.samples.images(context, round(self.ratio * len(subset))), {}
        if self.pool:
            return self.pool.labelled(context)
        if self.further:
            subsets = context.subsets(self.subset.repetition)
            return subsets.take(self.further, skip=self.subset.per_class or 0), {}
        return None, {}


@dataclass(frozen=True)
class NearestNeighbour(Task):
    """The nearest neighbour in pixels, among the subset or among its nine shifts: its accuracy is published."""

    kind = "nearest neighbour"
    holds: ClassVar = dict.fromkeys(("accuracy", "errors", "images"), float)
    subset: Subset
    shifted: bool

    @property
    def name(self) -> str:
        return f"{self.subset.name}-nearest{'-shifted' if self.shifted else ''}"

    def cost(self) -> tuple[str, float]:
        # With 1,000 points, finding candidates for nearest neighbours takes as long as ranking them.
        return self.kind, 1000 + self.subset.images * (9 if self.shifted else 1)

    def run(self, context: StudyContext) -> dict[str, Any]:
        data = context.images(self.subset)
        images, labels = data.images, data.y
        if self.shifted:
            images, labels = shifts(images), labels.repeat(9)
        test = context.test
        found = nearest(pixels(test.images), pixels(images)).indices[:, 0]
        right = int((labels[found] == test.y).sum())
        return {"accuracy": right / len(test), "errors": len(test) - right, "images": len(images)}


@dataclass(frozen=True)
class Generation(TrainsModel, MakesImages):
    """One generation of self-consuming training: trained, sampled, and scored."""

    kind = "generation"
    trainings = 2  # the generator, and the classifier of its images that gives the classification accuracy score
    holds: ClassVar = {"images": float, "cas": float, "protocol": str}
    share = 0.4
    mode: Mode
    guidance: tuple[tuple[str, float], ...]  # the sampling parameter and its value; none: the model has no such one
    number: int
    subset: Subset
    scored: int
    cas_steps: int
    judges: str  # the hashes of the evaluators
    previous: "Generation | None"

    @property
    def name(self) -> str:
        return f"{self.subset.name}-{self.chain}-generation-{self.number}"

    @property
    def chain(self) -> str:
        """What all generations are called together, whatever the subset."""
        return f"{self.model}-{self.mode}" + "".join(f"-{option}-{value:g}" for option, value in self.guidance)

    @property
    def guided(self) -> str:
        """The guidance, in words."""
        off = protocol.GUIDANCE_OFF
        return ", ".join(
            "without guidance" if value == off[name] else f"{name} {value:g}" for name, value in self.guidance
        )

    @property
    def count(self) -> int:
        """Samples that are drawn."""
        return max(self.scored, self.subset.images)

    def cost(self) -> tuple[str, float]:
        return f"{self.kind} {self.model}, {self.subset.size} per class", 1.0

    def trial(self, context: StudyContext) -> float:
        cas = self.cas_steps * RealImages(self.scored, self.cas_steps).trial(context)
        samples = self.count * context.sample_seconds(self.network(context))
        return cas + samples + self.steps * super().trial(context)

    def run(self, context: StudyContext) -> dict[str, Any]:
        data = self.training_images(context)
        model = context.fit(self.network(context), data, self)
        labels, options = torch.arange(self.count) % data.num_classes, dict[str, Any](self.guidance)
        images = sample(model, labels, seed=self.seed, **options)
        context.progress(0.5)
        scored = slice(self.scored)
        found = self._scores(context, Dataset(images[scored], labels[scored], data.num_classes, self.name, "synthetic"))
        self.write(context, images, labels)
        made = context.cache.made(self).with_suffix(".safetensors")
        save(made, model, dataset=data, steps=self.steps, seed=self.seed)
        return {"images": len(data), **found}

    def training_images(self, context: StudyContext) -> Dataset:
        """Return what this generation is trained on."""
        real = context.images(self.subset)
        if self.previous is None:
            check_exactly(real, real, self.name)
            return real
        older = list(self.older)
        if self.mode == "accumulate":
            return joined([real, *(generation.drawn(context) for generation in older)], "train")
        drawn = self.previous.drawn(context)
        if self.mode == "replace":
            return drawn
        each = self.subset.per_class or 0
        return joined([drawn, context.subsets(self.subset.repetition).take(each, skip=self.number * each)], "train")

    @property
    def older(self) -> Iterator["Generation"]:
        """The generations before this one, the last one first."""
        if self.previous:
            yield self.previous
            yield from self.previous.older

    def drawn(self, context: StudyContext) -> Dataset:
        """Return as many of its images as the subset has."""
        return self.images(context, self.subset.images)

    def _scores(self, context: StudyContext, drawn: Dataset) -> dict[str, Any]:
        """FID, coverage and label agreement, as `mnistgen score` has them, with the real-vs-real baseline; and CAS."""
        assert context.scorer is not None
        score = context.scorer.score((drawn.images, drawn.labels), n=len(drawn), seed=context.seed)
        floor = score.scale.get(FLOOR, {}).get("mean", {})
        context.progress(0.7)
        return {
            **{name: score.numbers.get(number) for name, number in SCORES.items()},
            "cas": context.cas(drawn, self.cas_steps),
            "label_agreement": score.numbers.get("label_agreement"),
            "floor": {name: floor.get(number) for name, number in SCORES.items()},
            "protocol": score.protocol_line,
        }


@dataclass(frozen=True)
class RealImages(Task):
    """The classification accuracy score of as many real training images."""

    kind = "real images"
    trainings = 1
    holds: ClassVar = {"cas": float}
    scored: int
    cas_steps: int

    @property
    def name(self) -> str:
        return "real-images"

    def cost(self) -> tuple[str, float]:
        return self.kind, self.cas_steps

    def trial(self, context: StudyContext) -> float:
        return context.step_seconds(build_classifier("cnn", context.train.num_classes, **RECIPE))

    def run(self, context: StudyContext) -> dict[str, Any]:
        subsets = context.subsets(0)
        real = subsets.take(min(-(-self.scored // context.train.num_classes), subsets.least))
        return {"cas": context.cas(real, self.cas_steps)}

"""The score of a source, beside its scale, with the protocol that makes it comparable."""

import copy
import importlib.metadata
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from mnistgen.data import ConversionKeywords, Dataset, available_splits, conversions, load_data
from mnistgen.errors import DataError, UsageError
from mnistgen.evaluator.weights import FOLDER, train_command
from mnistgen.limits import checked_seed
from mnistgen.metrics import Alarm, GroupSums, Replicates, group_sums, label_agreement, replicate_fid
from mnistgen.metrics.labels import summaries
from mnistgen.scoring.classifiers import classification_accuracy_score, two_sample
from mnistgen.scoring.evaluators import Evaluators, Features
from mnistgen.scoring.fidelity import check_inception_weights, inception_fid
from mnistgen.scoring.likelihood import GREY, LIKELIHOOD_IMAGES, likelihood_of, measure_likelihood, unlike
from mnistgen.scoring.measure import JUDGED, TRAINING_IMAGES, Measured, measure, measure_memorisation
from mnistgen.scoring.reference import (
    LEAST,
    SUBSET_SEED,
    Reference,
    check_classes,
    class_counts,
    dataset_name,
    halves,
    is_named,
    load_reference,
    read_scales,
    stratified_indices,
)
from mnistgen.scoring.result import FID, Score
from mnistgen.scoring.scale import FLOOR, floor, real_labels, summary
from mnistgen.scoring.sources import ImageSource, ModelSource, Scorable, Source, Taken, dataset_of, open_source
from mnistgen.training import resolve_device

N = 10_000
UNLIKE = 0.01  # share of images in other classes than the reference's, or among it, from which on it is said
UNSURE = 0.95  # below this agreement or confidence, an evaluator does not know the images it is to compare by
AGAINST_SEED = 2**31  # of a model's samples that others are held against: none that a score usually has
FLOOR_DRAWS, FLOOR_IMAGES = 5, 1000  # of a floor that is computed here: at most so many, of so many images together
COMPUTED = "computed here"  # of features and scales that do not ship
Progress = Callable[[str, float], None]


class Scorer:
    """Evaluators, reference and scale of a dataset, loaded once for any number of sources.

    `training` are the dataset's training images where they are on disk: memorisation, CAS and a floor that does not
    ship need them. With `against`, the evaluators are those of `data`, and sources are held against that set of images
    (anything that `open_source` takes) in place of the dataset; at most 2 `n` of it are taken. Of such a set, of a
    dataset that is not divided into training and test images, and of a split that is not its test images, one half is
    the reference and the other gives the floor.

    Raises `CheckpointError` where there is no evaluator for the dataset, and as `load_data` where its reference images
    are neither shipped nor on disk.
    """

    def __init__(
        self,
        data: str = "mnist",
        *,
        split: str = "test",
        against: Scorable | None = None,
        n: int = N,
        device: str | torch.device = "auto",
        data_dir: Path | str | None = None,
        evaluators: Evaluators | None = None,
        reference: Reference | None = None,
        training: Dataset | None = None,
        **how: Unpack[ConversionKeywords],
    ) -> None:
        self.device, self.data_dir = resolve_device(device), data_dir
        self.notes: list[str] = []  # what a reader of any score should know
        self.most: int | None = None  # images of a source that are scored, where the reference is no fixed set
        self.labelled = True  # whether the labels of the reference are its own, and not what evaluator A sees
        self.training, self._no_training = training, "the training images are not given."
        self.control, self._no_control = training, ""  # real images other than the reference
        if against is None and is_named(data):  # what is done to the images that are scored is not done to these
            how = {}
        self.evaluators = evaluators or self._load_evaluators(data, how)
        if against is not None:
            self._hold_against(data, against, n, how)
        elif reference is not None:
            self.reference = reference
        elif split == "test" and _is_divided(data, data_dir):
            self.reference = load_reference(self.evaluators, data, split, data_dir=data_dir, **how)
            try:
                self.training = load_data(data, "train", data_dir=data_dir, download=False, **how)
            except (DataError, UsageError) as error:  # not on disk, or damaged
                self._no_training = f"it needs the training images. {error}"
            self.control = self.training
        else:
            self._hold_against_half(data, split, n, how)
        self._sums: dict[int, dict[str, GroupSums]] = {}
        self._partial: dict[tuple[int, ...], Scorer] = {}  # by the classes that they keep to
        self.scales, self._scales_hash = read_scales(FOLDER, self.evaluators, self.reference)
        self._shipped_scales = set(self.scales)

    def _load_evaluators(self, data: str, how: ConversionKeywords) -> Evaluators:
        """The evaluators of a dataset; those of a custom dataset are found by its name, or by its content."""
        own: Dataset | None = None
        if not is_named(data):
            with suppress(DataError, UsageError):  # no path: the name alone will do, or it is said what there is
                own = load_data(data, "train", data_dir=self.data_dir, download=False, **how)
        if own is not None and own.labels is None:
            raise UsageError(
                f"{data} has no labels to train an evaluator with. Hold samples against it by evaluators of another "
                f"dataset: --against {shlex.quote(data)}"
            )
        content = "" if own is None else own.hash
        evaluators = Evaluators.load(dataset_name(data), source=data, content=content, device=self.device)
        if content and evaluators.content not in ("", content):
            self.notes.append(
                f"Evaluator A was trained on other images that are called {dataset_name(data)}, too; to train one on "
                f"these: {train_command('A', data)} --overwrite"
            )
        return evaluators

    def _hold_against_half(self, data: str, split: str, n: int, how: ConversionKeywords) -> None:
        """Hold samples against one half of a dataset without test images, or of a split that has training images."""
        split = "all" if split == "test" else split
        found = load_data(data, split, data_dir=self.data_dir, download=False, **how)
        check_classes(self.evaluators, found, data)
        self._halve(ImageSource(found.name, found), n, split)
        self.notes.append(
            f"{found.name} {split} has images that models and evaluators are trained on, so samples look better than "
            "they are. One half of these is the reference, and the other gives the floor."
        )
        self._no_training = f"it needs test images that nothing was trained on; {found.name} {split} is not divided."

    def _hold_against(self, data: str, against: Scorable, n: int, how: ConversionKeywords) -> None:
        """Hold samples against any set of images."""
        source = open_source(against, device=self.device, data_dir=self.data_dir, **how)
        source.check(self.evaluators.num_classes)
        self._halve(source, n, "")
        self._no_training = "it needs the training images of what made these."
        kind = dataset_name(data)
        self.notes.append(
            f"The features of both sides are by the evaluators of {kind}: a distance means something where both are "
            f"images of that kind, and 0 means that these networks see no difference, not that there is none."
        )
        assert self.reference.features.probabilities is not None
        agreement = label_agreement(self.reference.features.probabilities, self.reference.labels)
        known = agreement.share if self.labelled and agreement.share is not None else agreement.mean_confidence
        if known < UNSURE:
            what = "agreement with its labels" if self.labelled else "mean confidence"
            self.notes.append(
                f"{source.name} may be of another kind than {kind}: evaluator A's {what} is {known:.1%}, so these "
                "distances say little."
            )

    def _halve(self, source: Source, n: int, split: str) -> None:
        """Take at most 2 n images of a source: one half as reference, the other for the floor."""
        own = source.data.labels if isinstance(source, ImageSource) else None
        like = torch.tensor(source.classes or range(self.evaluators.num_classes)) if own is None else own
        taken = source.take(2 * n, like, seed=AGAINST_SEED)
        self.labelled = taken.data.labels is not None
        self.reference, self.control = halves(self.evaluators, taken.data, f"{source.name} {split}".strip())
        self.most = len(self.reference)
        if self.control is None:
            self._no_control = (
                f"it is of one half of what samples are held against and the other, at least {LEAST} images each, and "
                f"{source.name} has {len(taken.data.images)}."
            )

    def score(
        self,
        source: Scorable,
        *,
        n: int = N,
        seed: int = 0,
        name: str = "",
        classes: Sequence[int] = (),
        two_sample_test: bool = False,
        cas: bool = False,
        cas_images: int = 0,
        inception: bool = False,
        inception_weights: Path | None = None,
        likelihood: bool = False,
        likelihood_images: int = LIKELIHOOD_IMAGES,
        training_images: int = TRAINING_IMAGES,
        progress: Progress | None = None,
        **options: Any,
    ) -> Score:
        """Take at most n images once, extract their features once, and measure everything that these images allow.

        A model is held against the real images of the classes that it was trained on, and images against all real
        ones, since one that they lack may be one that was never sampled; with `classes`, both are held against those
        alone. `two_sample_test` and `cas` train classifiers, the latter on `cas_images` samples where those are more
        than n; `inception` adds the literature's FID; `likelihood` that of `likelihood_images` real images (see
        `measure_likelihood`). `options` go to `open_source`. Raises
        `UsageError` where there are fewer than 100 images, or they are of other classes, and `DataError` where what
        was requested needs files that are not there.
        """
        seed, say = checked_seed(seed), progress or _silent
        source = open_source(source, name=name, device=self.device, data_dir=self.data_dir, **options)
        source.check(self.evaluators.num_classes)
        kept = self._classes(source, classes)
        if kept and kept != self.reference.classes:
            if isinstance(source, ImageSource):
                source = source.of_classes(kept)
            part = self._of_classes(kept)
            return part.score(
                source,
                n=min(n, len(part.reference)),
                seed=seed,
                two_sample_test=two_sample_test,
                cas=cas,
                cas_images=cas_images,
                inception=inception,
                inception_weights=inception_weights,
                likelihood=likelihood,
                likelihood_images=likelihood_images,
                training_images=training_images,
                progress=progress,
            )
        if inception:
            inception_weights = check_inception_weights(inception_weights)
        if likelihood:
            if not isinstance(source, ModelSource):
                raise UsageError(f"{source.name} is no model, and has no likelihood.")
            likelihood_of(source.model)
        if two_sample_test or cas or inception or likelihood:  # not after minutes of other work
            self._real_images(1)
        if two_sample_test or cas:
            self._control_images(1, seed)
        n = n if self.most is None else min(n, self.most)
        taken = source.take(
            n, self.reference.labels, seed=seed, progress=lambda done: say(f"sampling {source.name}", 0.5 * done)
        )
        say("features", 0.5)
        start = time.perf_counter()
        features = self.evaluators.extract(taken.data.images, taken.data.labels)
        seconds = {"drawing": taken.seconds, "features": time.perf_counter() - start}
        say("distances", 0.6)
        result = measure(features, self.reference, seed=seed)
        replicates: dict[str, Replicates] = {}
        with result.part("intervals"):
            replicates = self._replicates(features)
            result.details["bootstrap"] = {
                name: {"standard_error": found.standard_error, "interval_95": found.interval(result.numbers[name])}
                for name, found in replicates.items()
            }

        say("memorisation", 0.8)
        labels = taken.data.labels
        if labels is None:  # like is compared with like; what the evaluator predicts will do
            assert features.probabilities is not None
            labels = features.probabilities.argmax(1)
        strip = None
        if self.training is None:
            result.not_measured["memorisation"] = self._no_training
        else:
            strip = measure_memorisation(
                result,
                taken.data.images,
                labels,
                self.reference,
                self.training,
                training_images=training_images,
                seed=seed,
            )
        if two_sample_test:
            with result.part("two-sample test", needed=True):
                self._two_sample(result, taken.data.images, seed, say)
        if cas:
            with result.part("CAS", needed=True):
                self._cas(result, source, taken, cas_images, seed, say)
        if inception:
            say("Inception", 0.9)
            with result.part("Inception", needed=True):
                real = self._real_images(len(taken.data.images))
                result.numbers["inception_fid"] = inception_fid(
                    taken.data.images, real, weights=inception_weights, device=self.device
                )
        if likelihood:
            assert isinstance(source, ModelSource)
            with result.part("likelihood", needed=True):
                self._likelihood(result, source, likelihood_images, seed, say)
        scale = self._scale(len(taken.data.images), result)
        say("done", 1.0)
        return Score(
            name=source.name,
            numbers=result.numbers,
            scale=scale,
            protocol=self._protocol(taken, seed) | source.about,
            details=result.details,
            seconds=seconds | result.seconds,
            not_measured=result.not_measured,
            notes=self._notes(source, taken, result, scale),
            images=taken.data.images,
            labels=taken.data.labels,
            strip=strip,
            replicates=replicates,
            class_names=self.reference.class_names,
        )

    def _classes(self, source: Source, wanted: Sequence[int]) -> tuple[int, ...]:
        """The classes to hold a source against; none: all that there are."""
        there = self.reference.classes
        own = source.classes if isinstance(source, ModelSource) else there
        if not wanted:
            return tuple(label for label in there if label in own)
        for what, found in (("The reference", there), (source.name, source.classes)):
            lacking = [self.reference.class_name(label) for label in sorted(set(wanted)) if label not in found]
            if lacking:
                raise UsageError(f"{what} has no images of class {', '.join(lacking)} to be scored.")
        return tuple(sorted(set(wanted)))

    def _of_classes(self, classes: tuple[int, ...]) -> "Scorer":
        """The same, with the images of some classes alone: what sources are held against that have no others."""
        if classes not in self._partial:

            def kept(data: Dataset | None) -> Dataset | None:
                return data and data.subset(torch.isin(data.y, torch.tensor(classes)))

            part = self._partial[classes] = copy.copy(self)
            part.reference = self.reference.of_classes(classes)
            part.training, part.control = kept(self.training), kept(self.control)
            part.most = None if self.most is None else len(part.reference)
            part.scales, part._shipped_scales, part._sums, part._partial = {}, set(), {}, {}
            kinds = ", ".join(map(self.reference.class_name, classes))
            part.notes = [
                *self.notes,
                f"Images of the classes {kinds} alone are held against the {len(part.reference)} real images of those: "
                "a score that compares with others of the same classes.",
            ]
        return self._partial[classes]

    def _replicates(self, features: Features) -> dict[str, Replicates]:
        """The bootstrap of FID under each evaluator that ranks, by the name of the number."""
        n = len(features)
        reference = self.reference.take(n)
        if n not in self._sums:
            self._sums[n] = {
                f"fid.{view}": group_sums(reference.features.by_layer[view], reference.labels, seed=SUBSET_SEED)
                for view in JUDGED
                if view in features.by_layer
            }
        by_name = {f"fid.{view}": features.by_layer[view] for view in JUDGED if view in features.by_layer}
        return {
            name: replicate_fid(group_sums(ours, features.labels, seed=SUBSET_SEED), self._sums[n][name])
            for name, ours in by_name.items()
        }

    def _two_sample(self, result: Measured, images: Tensor, seed: int, say: Progress) -> None:
        real = self._real_images(len(images))
        control = self._control_images(len(images), seed)
        test = two_sample(
            images, real, control.images, seed=seed, device=self.device, progress=_within(say, "two-sample test")
        )
        result.details["two_sample"] = test.to_dict()
        result.numbers |= {
            "two_sample": test.as_is.accuracy,
            "two_sample_real": test.as_is.control_accuracy,
            "two_sample_binarised": test.binarised.accuracy,
            "two_sample_binarised_real": test.binarised.control_accuracy,
        }

    def _cas(self, result: Measured, source: Source, taken: Taken, n: int, seed: int, say: Progress) -> None:
        """CAS of the samples that were scored, or of n drawn for it where those are more than they."""
        if taken.data.labels is None:
            raise UsageError("CAS: these images have no labels to train a classifier with.")
        progress, k = _within(say, "CAS"), self.evaluators.num_classes
        more = n > len(taken.data)
        if more:
            taken = source.take(n, self.reference.labels, seed=seed, progress=partial(progress, "sampling"))
        samples = replace(taken.data, num_classes=k, class_names=())
        test = Dataset(self._real_images(len(self.reference)), self.reference.labels, k, self.reference.name, "test")
        real = self._control_images(len(samples), seed)
        found = classification_accuracy_score(
            samples, real, test, seed=seed, device=self.device, equal=not more, progress=progress
        )
        result.details["cas"] = found.to_dict()
        result.numbers |= {"cas": found.accuracy, "cas_real": found.real_accuracy}

    def _likelihood(self, result: Measured, source: ModelSource, n: int, seed: int, say: Progress) -> None:
        """The likelihood of real images, of training images, and of some that are neither."""
        n = min(n, len(self.reference))
        images, labels = self._real_images(n), self.reference.take(n).labels
        sets = {self._reference_name: (images, labels)}
        if self.training is not None:
            seen = self.training.subset(
                stratified_indices(self.training.y, class_counts(labels, min(n, len(self.training))), seed=seed)
            )
            sets["training images"] = (seen.images, seen.y)
        with suppress(DataError, UsageError):  # not on disk
            other = load_data("fashion", "test", data_dir=self.data_dir, download=False)
            if other.hash != self.reference.hash:
                sets["fashion"] = (other.images[:n], labels[: len(other.images)])
        sets |= {name: (some, labels) for name, some in unlike(images, seed=seed).items()}
        found = measure_likelihood(source.model, sets, seed=seed, progress=_within(say, "likelihood"))
        result.details["likelihood"] = found
        row = found["rows"][self._reference_name]
        result.numbers["nll"] = row["nats"]
        if found["of"] == GREY:
            result.numbers["bits_per_dim"] = row["bits_per_dim"]

    @property
    def _reference_name(self) -> str:
        return f"{self.reference.name} {self.reference.split}".strip()

    def _real_images(self, n: int) -> Tensor:
        images = self.reference.take(n).images
        if images is None:
            raise DataError(f"The images of {self.reference.name} are not on disk.")
        return images

    def _control_images(self, n: int, seed: int) -> Dataset:
        """Real images other than the reference's, with its class counts."""
        if self.control is None:
            raise DataError(self._no_control or self._no_training)
        if n >= len(self.control):
            return self.control
        counts = class_counts(self.reference.labels, n)
        return self.control.subset(stratified_indices(self.control.y, counts, seed=seed))

    def _scale(self, n: int, result: Measured) -> dict[str, dict[str, Any]]:
        """The scale that ships, else the floor alone, from one draw of training images, or some where they are few, of
        which any one may be far off; empty without those."""
        if n not in self.scales:
            self.scales[n] = {}
            if self.control is not None:
                with result.part("floor"):
                    draws = max(1, min(FLOOR_DRAWS, FLOOR_IMAGES // n)) if len(self.control) > n else 1
                    best = [
                        floor(self.evaluators, self.reference, self.control, n, seed=i).numbers for i in range(draws)
                    ]
                    labels = real_labels(self.evaluators, self.reference) if self.labelled else {}
                    for numbers in best:
                        del numbers["label_agreement"]  # of images that evaluator A was trained on
                    self.scales[n] = {FLOOR: summary([numbers | labels for numbers in best])}
        if not self.scales[n]:
            there = ", ".join(str(n) for n, rows in sorted(self.scales.items()) if rows) or "no number of"
            result.not_measured.setdefault(
                "floor", self._no_control or f"it ships for {there} images; {self._no_training}"
            )
        return self.scales[n]

    def _protocol(self, taken: Taken, seed: int) -> dict[str, Any]:
        n = len(taken.data.images)
        return {
            "evaluators": dict(self.evaluators.hashes),
            "layers": [str(view) for view in self.evaluators.views],
            "n": n,
            "class_counts": taken.class_counts,
            "reference": self._reference_name,
            "reference_hash": self.reference.hash,
            "reference_features": self.reference.features_hash or COMPUTED,
            "reference_n": min(n, len(self.reference)),
            "scale": self._scales_hash if n in self._shipped_scales else COMPUTED,
            "seed": seed,
            "device": str(self.device),
            "versions": {name: importlib.metadata.version(name) for name in ("mnistgen", "torch", "torch-fidelity")},
        }

    def _notes(self, source: Source, taken: Taken, result: Measured, scale: dict[str, dict[str, Any]]) -> list[str]:
        alarms = result.details.get("labels", {}).get("alarms", [])
        names = self.reference.class_names
        notes = summaries([Alarm(*(alarm[name] for name in Alarm._fields)) for alarm in alarms], names)
        notes += [*_lacking(source, self.reference), *_other_names(source, self.reference)]
        if len(taken.data.images) > len(self.reference):
            notes.append(
                f"{len(taken.data.images)} images stand against {len(self.reference)} real ones; score "
                f"{len(self.reference)} to compare with others."
            )
        best = scale.get(FLOOR, {}).get("mean", {})
        notes += [*self._same_images(source, taken), *_proportions(source, result, best), *_below_zero(result, best)]
        return notes + self.notes

    def _same_images(self, source: Source, taken: Taken) -> list[str]:
        """Whether images are compared with themselves."""
        real = [self.reference.images]
        if self.most is not None and self.control is not None:  # both halves of one set
            real.append(self.control.images)
        there = {image.numpy().tobytes() for images in real if images is not None for image in images.cpu()}
        share = sum(image.numpy().tobytes() in there for image in taken.data.images) / len(taken.data.images)
        if isinstance(source, ImageSource) and source.data.hash == self.reference.hash:  # though it may not be on disk
            share = 1.0
        if share < UNLIKE:
            return []
        return [
            f"{share:.1%} of these images are, pixel for pixel, among those that they are held against: they are "
            "compared with themselves, and distances are too small."
        ]


def _lacking(source: Source, reference: Reference) -> list[str]:
    """Name the classes that images lack; a model is not asked for what it was not trained on."""
    there = source.classes if isinstance(source, ImageSource) else ()
    lacking = [reference.class_name(label) for label in reference.classes if label not in there]
    if not there or not lacking:
        return []
    return [
        f"{source.name} has no images of class {', '.join(lacking)}, and is held against all classes: what it lacks "
        f"counts against it. To hold it against its own alone: --classes {','.join(map(str, there))}"
    ]


def _other_names(source: Source, reference: Reference) -> list[str]:
    """Whether classes are called otherwise in the reference: they are taken by their numbers."""
    if not (source.class_names and reference.class_names):
        return []
    other = [
        f"{label} is {source.class_names[label]} and {reference.class_name(label)}"
        for label in source.classes
        if label in reference.classes and source.class_names[label].lower() != reference.class_name(label).lower()
    ]
    if not other:
        return []
    return [
        f"Classes are taken by their numbers, and are not called alike in {source.name} and in {reference.name}: "
        f"{', '.join(other[:3])}{', ...' if len(other) > 3 else ''}."
    ]


def _proportions(source: Source, result: Measured, best: dict[str, float]) -> list[str]:
    """Say how much of a distance is class proportions."""
    away = result.details.get("class_proportions", {}).get("distance", 0.0)
    if away <= UNLIKE:
        return []

    def said(name: str) -> str:
        value, floor = result.numbers[name], best.get(FID)
        return f"{value:.4g} ({value / floor:.1f} floors)" if floor else f"{value:.4g}"

    return [
        f"Class counts are not the reference's: {away:.1%} of the images would have to be of another class. FID is "
        f"{said(FID)}, and {said(f'reweighted_{FID}')} with the classes weighed as in the reference."
        + " A checkpoint is sampled with the reference's counts."
        * isinstance(source, ImageSource)
    ]


def _below_zero(result: Measured, best: dict[str, float]) -> list[str]:
    """Explain distances below 0, which is what independent draws get on average."""
    names = {"KID": "kid.A.penultimate", "FID at infinite n": "fid_infinity.A.penultimate"}
    below = [what for what, name in names.items() if min(result.numbers.get(name, 0.0), best.get(name, 0.0)) < 0]
    if not below:
        return []
    return [
        f"{' and '.join(below)}: 0 is what two independent draws get. Sets with equal class counts are more alike than "
        "that, the more so the fewer images, so real images may be below 0: compare with theirs and not with 0."
    ]


def _is_divided(data: str, data_dir: Path | str | None) -> bool:
    """Whether a dataset has test images of its own; what cannot be read says so where it is read."""
    try:
        return is_named(data) or "test" in available_splits(data, data_dir=data_dir)
    except (DataError, UsageError):
        return True


def score(
    source: Scorable,
    *,
    data: str | None = None,
    split: str = "test",
    against: Scorable | None = None,
    n: int = N,
    device: str | torch.device = "auto",
    data_dir: Path | str | None = None,
    **options: Any,
) -> Score:
    """Score one source: a checkpoint (name, folder, file), images on disk, "mnist:train", a model, or tensors
    ((n, 1, 28, 28) uint8, (n,) int64 or None).

    `data` is the dataset to hold it against, by default that which a checkpoint was trained on, else MNIST. With
    `against`, another such source takes its place, and `data` names the evaluators that see both (see `Scorer`). The
    rest is for `Scorer.score`; a `Scorer` scores several sources without loading everything again.
    """
    opened = {key: options.pop(key) for key in ("name", "batch_size", "sampling_options") if key in options}
    how, where = conversions(options), resolve_device(device)
    found = open_source(source, device=where, data_dir=data_dir, **how, **opened)
    if against is not None:
        against = open_source(against, device=where, data_dir=data_dir, **how)
    named = data or dataset_of([found, *([] if against is None else [against])], by_name=against is not None)
    scorer = Scorer(named, split=split, against=against, n=n, device=device, data_dir=data_dir, **how)
    return scorer.score(found, n=n, **options)


def _within(say: Progress, part: str) -> Callable[[str, float], None]:
    return lambda what, done: say(f"{part}: {what}", 0.8 + 0.2 * done)


def _silent(what: str, done: float) -> None: ...

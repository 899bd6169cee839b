"""How long cells take: by what has been recorded, else by a few steps measured on this device."""

import time
from collections.abc import Callable, Iterable

import torch

from mnistgen.building import build
from mnistgen.errors import MnistgenError, described
from mnistgen.evaluator import build_classifier, evaluate
from mnistgen.experiments.cells import Cell, compared
from mnistgen.experiments.lab import Lab
from mnistgen.experiments.recipe import CLASSIFIER, generator_config
from mnistgen.metrics import nearest, pixels
from mnistgen.model import Trainable
from mnistgen.sampling import sample
from mnistgen.scoring.classifiers import RECIPE as CAS_RECIPE
from mnistgen.training import fit

WARM, STEPS = 3, 8  # the first steps set things up, and are not counted
IMAGES, QUERIES = 100, 200
FEATURES_OF_A_SCORE = 4.0  # a whole score takes four times as long as its features


class Costs:
    """Seconds of any cell of a study."""

    def __init__(self, lab: Lab, rates: dict[str, float]) -> None:
        """`rates`: seconds for one unit of a part of the work, as far as they are known."""
        self._lab, self._rates = lab, dict(rates)
        self.failed: dict[str, str] = {}  # parts that could not be measured, and why
        self._measures: dict[str, Callable[[str], float]] = {
            "train": self._train,
            "test": self._test,
            "draw": self._draw,
            "compare": self._compare,
            "score": self._score,
            "learn": self._learn,
        }

    def seconds(self, cell: Cell) -> float:
        """The estimate for a cell, without those it needs."""
        return sum(self.rate(part) * amount for part, amount in cell.amounts(self._lab).items())

    def total(self, cells: Iterable[Cell]) -> float:
        """The estimate for cells one after another."""
        return sum(map(self.seconds, cells))

    def rate(self, part: str) -> float:
        """Seconds for one step, image or pair of images of a part such as "train vae"; measured once."""
        if part not in self._rates:
            what, _, name = part.partition(" ")
            try:
                self._rates[part] = self._measures[what](name)
            except Exception as error:  # noqa: BLE001  a plugin may raise anything; its cells will tell, the others count
                self.failed[part] = str(error) if isinstance(error, MnistgenError) else described(error)
                self._rates[part] = 0.0
        return self._rates[part]

    def _train(self, name: str) -> float:
        lab = self._lab
        if name in CLASSIFIER:
            return self._step(build_classifier(name, lab.train.num_classes, **CLASSIFIER[name]))
        cls = lab.models[name]
        return self._step(build(cls, generator_config(name, cls), lab.train.num_classes))

    def _learn(self, name: str) -> float:
        return self._step(build_classifier(name, self._lab.train.num_classes, **CAS_RECIPE))

    def _step(self, model: Trainable) -> float:
        lab = self._lab
        data = lab.train.subset(torch.arange(min(len(lab.train), 1000)))
        start = 0.0
        for step in fit(model, data, steps=WARM + STEPS, device=lab.device, precision=lab.precision):
            if step.number == WARM:
                start = time.perf_counter()
        return (time.perf_counter() - start) / STEPS

    def _test(self, name: str) -> float:
        lab = self._lab
        model = build_classifier(name, lab.train.num_classes, **CLASSIFIER[name]).to(lab.device)
        data = lab.train.subset(torch.arange(min(len(lab.train), 2 * IMAGES)))
        return _timed(lambda: evaluate(model, data)) / len(data)

    def _draw(self, name: str) -> float:
        lab = self._lab
        cls = lab.models[name]
        model = build(cls, generator_config(name, cls), lab.train.num_classes).to(lab.device)
        labels = torch.arange(IMAGES) % lab.train.num_classes
        return _timed(lambda: sample(model, labels)) / IMAGES

    def _score(self, name: str) -> float:  # noqa: ARG002
        assert self._lab.scorer is not None
        panel, images = self._lab.scorer.evaluators, self._lab.train.images[:IMAGES]
        return FEATURES_OF_A_SCORE * _timed(lambda: panel.extract(images)) / len(images)

    def _compare(self, name: str) -> float:  # noqa: ARG002
        images = pixels(self._lab.train.images[: 5 * QUERIES])
        return _timed(lambda: nearest(images[:QUERIES], images)) / compared(min(QUERIES, len(images)), len(images))


def _timed(work: Callable[[], object]) -> float:
    """Seconds of the second time."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

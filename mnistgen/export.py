"""Models and evaluators as ONNX files, for programs without PyTorch; needs the extra `onnx`.

A generative model becomes a function of labels and noise, its sampling options being fixed when it is exported: a loop
over steps is written out. What a model draws is an input, in the order in which it draws: `noise` is standard normal
and `uniform` in [0, 1), and of draws of one shape there is one input for all, (batch, draws, *shape). `noise_of` gives
the numbers for a seed, with which the file makes the images of `mnistgen.sample`. An evaluator takes pixels as they are
in a file, and gives logits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from mnistgen.building import float32
from mnistgen.checkpoint import WEIGHTS, Checkpoint, find, load, read_checkpoint
from mnistgen.data import to_float, to_uint8
from mnistgen.errors import CheckpointNotFoundError, ContractError, MnistgenError, described, suggestion
from mnistgen.evaluator import SHIPPED, Classifier, load_classifier
from mnistgen.evaluator.weights import TRAINED, shipped_path
from mnistgen.extras import require_packages
from mnistgen.files import atomic_file
from mnistgen.model import GenerativeModel, Noise
from mnistgen.nn.precision import in_float32
from mnistgen.sampling.sampler import calling, checked_options, sample

EVALUATOR = "evaluator:"  # before the name of one
INPUTS = {"normal": "noise", "uniform": "uniform"}  # names, by the distribution
TRACED = 3  # images that the graph is traced with; its batch is of any size
CHECKED = 32  # images that it is compared with PyTorch by
WRONG = 1.0  # grey levels, or logits, in the mean, from which a graph is another function


class Draws(NamedTuple):
    """What a model draws for an image, one input of the graph."""

    distribution: str  # "normal" or "uniform"
    shape: tuple[int, ...]
    number: int  # of draws in a row


class Difference(NamedTuple):
    """How far the graph is from PyTorch: in grey levels for a model, in logits for an evaluator."""

    largest: float
    mean: float
    unit: str


def export_onnx(source: str | Path, path: Path, *, seed: int = 0, **options: Any) -> Difference:
    """Write the model or the evaluator of a checkpoint as ONNX; return how far it is from PyTorch.

    `options` are the sampling options that are fixed in the file. Raises `MnistgenError` where the packages of the
    extra are missing, PyTorch's exporter cannot express the model, or what it makes is another function.
    """
    require_onnx()
    checkpoint = file_of(source)
    about = read_checkpoint(checkpoint)
    graph = _classifier(load_classifier(checkpoint)) if about.classifier else _sampler(load(checkpoint), seed, options)
    program = _traced(graph, str(source))
    program.model.metadata_props.update(_metadata(checkpoint, about, graph))
    content = program.model_proto.SerializeToString()
    difference = _compared(graph, content)
    if not difference.mean < WRONG:
        raise MnistgenError(
            f"{source}: not exported, because onnxruntime differs from PyTorch by {difference.mean:.2g} "
            f"{difference.unit} in the mean; these options are not to be had as ONNX."
        )
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
    return difference


def file_of(source: str | Path) -> Path:
    """The file of a checkpoint, or of `evaluator:NAME`: A, B, or a classifier that has been trained here.

    Raises `CheckpointNotFoundError` that names the nearest there is.
    """
    name = str(source).removeprefix(EVALUATOR)
    if name == str(source):
        return find(source)
    if name in SHIPPED:
        return shipped_path(name)
    trained = [TRAINED / name / WEIGHTS, TRAINED / f"{name}-mnist" / WEIGHTS]
    if path := next((path for path in trained if path.is_file()), None):
        return path
    names = [*SHIPPED, *(path.parent.name for path in TRAINED.glob(f"*/{WEIGHTS}"))]
    raise CheckpointNotFoundError(f"There is no evaluator {name!r}. {suggestion(name, names)}")


def require_onnx() -> None:
    """Raise `MnistgenError` where a package of the extra `onnx` is missing."""
    require_packages("ONNX", "onnx", "onnxruntime", "onnxscript", extra="onnx")


def noise_of(session: Any, n: int, *, seed: int = 0) -> dict[str, Any]:
    """The inputs beside `labels` with which an exported model makes the n images of `sample`: arrays by name.

    `session` is onnxruntime's of the file, whose metadata say what the model draws.
    """
    inputs = json.loads(session.get_modelmeta().custom_metadata_map["inputs"])
    noise, found = Noise(seed, range(n)), {}
    for name, about in inputs.items():
        draw = noise.uniform if about["distribution"] == "uniform" else noise.normal
        values = [draw(*about["shape"]) for _ in range(about["draws"])]
        found[name] = _array(values[0] if len(values) == 1 else torch.stack(values, 1))
    return found


class _Recorder(Noise):
    """The noise of a seed, which remembers what was drawn."""

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        super().__init__(seed, indices)
        self.drawn: list[tuple[str, Tensor]] = []

    def normal(self, *shape: int) -> Tensor:
        return self._remember("normal", super().normal(*shape))

    def uniform(self, *shape: int) -> Tensor:
        return self._remember("uniform", super().uniform(*shape))

    def _remember(self, distribution: str, values: Tensor) -> Tensor:
        self.drawn.append((distribution, values.clone()))
        return values

    def _groups(self) -> Iterator[tuple[str, list[Tensor]]]:
        for (distribution, _), group in groupby(self.drawn, lambda draw: (draw[0], draw[1].shape)):
            yield distribution, [values for _, values in group]

    @property
    def draws(self) -> list[Draws]:
        return [Draws(kind, tuple(values[0].shape[1:]), len(values)) for kind, values in self._groups()]

    @property
    def inputs(self) -> list[Tensor]:
        return [values[0] if len(values) == 1 else torch.stack(values, 1) for _, values in self._groups()]


class _Given(Noise):
    """Noise that is given, in the order in which it is asked for."""

    def __init__(self, draws: Sequence[Draws], inputs: Sequence[Tensor]) -> None:
        self.device, self._first = inputs[0].device, inputs[0]
        self._rest: list[Tensor] = []
        for each, values in zip(draws, inputs, strict=True):
            self._rest += [values] if each.number == 1 else values.unbind(1)

    def __len__(self) -> int:
        return len(self._first)

    def normal(self, *shape: int) -> Tensor:  # noqa: ARG002  what was asked for when the draws were recorded
        return self._rest.pop(0)

    uniform = normal


class _Constants(TorchFunctionMode):
    """Computes while a graph is traced what depends on no input, such as the times of a solver: to numbers at once."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        values = tree_leaves((args, kwargs or {}))
        if any(isinstance(value, Tensor) and type(value) is not Tensor for value in values) or any(
            isinstance(value, torch.SymInt | torch.SymFloat) for value in values
        ):
            return func(*args, **(kwargs or {}))
        with _disable_current_modes():
            return func(*args, **(kwargs or {}))


class _Sampling(nn.Module):
    """Labels and noise -> images (b, 28, 28) uint8."""

    def __init__(self, model: GenerativeModel, draws: Sequence[Draws], options: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self.draws, self.options = model, draws, dict(options)

    def forward(self, labels: Tensor, *inputs: Tensor) -> Tensor:
        with _Constants():
            images = self.model.sample(labels, noise=_Given(self.draws, inputs), **self.options)
        pixels: Tensor = rearrange(to_uint8(images), "b 1 h w -> b h w")
        return pixels


class _Classifying(nn.Module):
    """Images (b, 28, 28) uint8 -> logits (b, classes)."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images[:, None].float() / 127.5 - 1)
        return logits


@dataclasses.dataclass(frozen=True)
class _Graph:
    """What is to be exported, with inputs by which it is compared, and what PyTorch makes of them."""

    module: nn.Module
    inputs: Mapping[str, Tensor]
    output: str
    expected: Tensor
    unit: str
    about: Mapping[str, Any]


def _sampler(model: GenerativeModel, seed: int, options: Mapping[str, Any]) -> _Graph:
    options = checked_options(model, options)
    classes = torch.tensor(model.trained_classes or (0,))
    labels = classes.repeat(-(-CHECKED // len(classes)))[:CHECKED]
    with in_float32():
        expected = sample(model, labels, seed=seed, **options)
    recorder = _Recorder(seed, range(len(labels)))
    with in_float32(), calling(model, "sample"):
        model.sample(labels, noise=recorder, **options)
    if not recorder.draws:
        raise ContractError(f"{type(model).__name__}.sample() draws nothing from its noise.")
    names = _names(recorder.draws)
    about = {
        "sampling": dict(options),
        "inputs": {
            name: {"distribution": each.distribution, "shape": each.shape, "draws": each.number}
            for name, each in zip(names, recorder.draws, strict=True)
        },
        "protocol": "image i of a call with seed s draws from numpy.random.Philox(key=[s, i])",
    }
    inputs = {"labels": labels, **dict(zip(names, recorder.inputs, strict=True))}
    module = _Sampling(model, recorder.draws, options)
    return _Graph(module.eval(), inputs, "images", expected[:, 0], "grey levels", about)


def _classifier(model: Classifier) -> _Graph:
    images = torch.randint(0, 256, (CHECKED, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        expected = model(to_float(images[:, None]))
    about = {"protocol": "uint8 pixels, 0 black and 255 white, as in MNIST"}
    return _Graph(_Classifying(model).eval(), {"images": images}, "logits", expected, "logits", about)


def _names(draws: Sequence[Draws]) -> list[str]:
    """`noise` and `uniform`; where there are several, `noise_2` and so on."""
    kinds = [INPUTS[each.distribution] for each in draws]
    numbers = [kinds[:place].count(kind) + 1 for place, kind in enumerate(kinds)]
    return [kind if number == 1 else f"{kind}_{number}" for kind, number in zip(kinds, numbers, strict=True)]


def _traced(graph: _Graph, name: str) -> Any:
    """The program of torch's exporter."""
    few = tuple(values[:TRACED] for values in graph.inputs.values())
    batch = {0: torch.export.Dim.DYNAMIC}
    shapes: tuple[Any, ...] = tuple(dict(batch) for _ in few)
    shapes = (shapes[0], shapes[1:]) if isinstance(graph.module, _Sampling) else shapes
    try:
        with _quiet(), torch.no_grad(), in_float32(), float32():
            exported = torch.export.export(graph.module, few, dynamic_shapes=shapes, strict=False)
            exported = exported.run_decompositions(REPLACED)
            program: Any = torch.onnx.export(
                exported,
                input_names=list(graph.inputs),
                output_names=[graph.output],
                dynamo=True,
                verbose=False,
                external_data=False,
            )
    except Exception as error:
        reason = described(_cause(error))
        if "specialized it to be a constant" in reason:
            reason = "its code fixes the number of images; len(y) does so, and y.shape[0] does not."
        elif "data-dependent" in reason:
            reason = "what it computes next depends on the numbers before, and a graph is fixed."
        raise MnistgenError(
            f"{name}: PyTorch cannot express this model with these options as ONNX: {reason}"
        ) from error
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # where in which file it comes from
    return program


def _cause(error: BaseException) -> BaseException:
    """The first of a chain of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _bucketize(values: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """`torch.bucketize` by binary search, of operators that ONNX has."""
    found = torch.zeros_like(values, dtype=torch.int64)
    size = 1 << (len(boundaries)).bit_length()
    padded = torch.nn.functional.pad(boundaries, (0, size - len(boundaries)), value=torch.inf)
    step = size // 2
    while step:
        edges = padded[found + (step - 1)]
        found = found + step * (edges <= values if right else edges < values).to(torch.int64)
        step //= 2
    return found.to(torch.int32) if out_int32 else found


def _clamp(values: Tensor, min: float | None = None, max: float | None = None) -> Tensor:  # noqa: A002  torch's names
    """`torch.clamp`, of which the exporter does not take one side alone."""
    if min is not None:
        values = torch.where(values < min, min, values)
    return values if max is None else torch.where(values > max, max, values)


# What the exporter has no translation of, or a wrong one.
REPLACED = {torch.ops.aten.bucketize.Tensor: _bucketize, torch.ops.aten.clamp.default: _clamp}


def _metadata(checkpoint: Path, about: Checkpoint, graph: _Graph) -> dict[str, str]:
    """What the file says of itself: the checkpoint's description, its hash, and how it is to be used."""
    described_as = dataclasses.asdict(about) | {
        "mnistgen": version("mnistgen"),
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        **graph.about,
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in described_as.items()}


def _compared(graph: _Graph, content: bytes) -> Difference:
    """The difference of onnxruntime from PyTorch, on a whole batch and on one image."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    feeds = {name: _array(values) for name, values in graph.inputs.items()}
    found = session.run(None, feeds)[0]
    single = session.run(None, {name: values[:1] for name, values in feeds.items()})[0]
    expected = _array(graph.expected)
    if found.shape != expected.shape or found.dtype != expected.dtype or single.shape != expected[:1].shape:
        raise MnistgenError(f"The exported graph returns {found.shape} {found.dtype}, and not {expected.shape}.")
    away = np.abs(np.concatenate([found, single]).astype(float) - np.concatenate([expected, expected[:1]]))
    return Difference(float(away.max()), float(away.mean()), graph.unit)


def _array(values: Tensor) -> Any:
    return values.contiguous().numpy()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

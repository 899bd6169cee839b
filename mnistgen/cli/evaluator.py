"""`mnistgen evaluator train NAME` and `mnistgen evaluator test [NAME]`."""

import json
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from mnistgen.checkpoint import WEIGHTS, find, name_of, read_checkpoint
from mnistgen.cli.arguments import Reading, parse
from mnistgen.cli.run_folder import LOG
from mnistgen.cli.training_run import Outcome, RunWriter, TrainOptions, train
from mnistgen.console import duration, notes, out, show
from mnistgen.curves import curves
from mnistgen.data import DIGITS, Dataset, available_splits, data_folder, load_data
from mnistgen.data.families import FAMILIES
from mnistgen.errors import CheckpointError, UsageError, suggestion
from mnistgen.evaluator import (
    CLASSIFIERS,
    SHIPPED,
    Classifier,
    Evaluation,
    class_scores,
    classifier_class,
    evaluate,
    evaluator_hash,
    evaluator_path,
    load_classifier,
    save_classifier,
)
from mnistgen.evaluator.weights import TRAINED, shipped_path
from mnistgen.files import atomic_file
from mnistgen.sampling import grid
from mnistgen.training import Step, process_group, resolve_device

SHOWN_ERRORS = 100


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(TrainOptions):
    """The flags of `evaluator train` that every classifier has."""

    out: Path | None = None
    """Folder of the run: its checkpoint, log and curves; default: checkpoints/evaluators/NAME-DATASET."""
    samples: Path | None = None
    """Folder of the curves; default: that of the run."""


@dataclass(frozen=True, kw_only=True)
class TestOptions(Reading):
    """Test a classifier on labelled images: A or B (shipped), one that you have trained, or a checkpoint."""

    source: Annotated[str, tyro.conf.Positional] = ""
    """A, B, a classifier's name such as lenet, or a checkpoint: a folder, a file or a name under checkpoints/.
    Default: the evaluator that scores images of this dataset."""
    data: str = "mnist"
    """Dataset name (see `mnistgen data --help`) or a path: IDX, CSV, NPZ, or a folder of images by class."""
    split: str = ""
    """Which part of the dataset; default: test, or all of what is not divided."""
    out: Path | None = None
    """Folder of the pictures and numbers; default: samples/evaluator-NAME-DATASET."""
    quiet: bool = False
    """No pictures in the terminal."""


TRAIN_EXAMPLES = """
mnistgen evaluator train {name}                    defaults, into checkpoints/evaluators/{name}-mnist
mnistgen evaluator train {name} --data fashion     an evaluator for another dataset
mnistgen evaluator train {name} --resume           continue after Ctrl-C or a crash
mnistgen evaluator train {name} --seed 1 --budget 5m --out runs/mine
"""

TEST_EXAMPLES = """
mnistgen evaluator test                            evaluator A on MNIST's test images
mnistgen evaluator test B
mnistgen evaluator test lenet                      the one in checkpoints/evaluators/lenet-mnist
mnistgen evaluator test cnn --data fashion --out report
"""

USAGE = """usage: {prog} train NAME [flags]
       {prog} test [NAME or CHECKPOINT] [flags]

Classifiers: the ladder from logistic regression to the evaluators that score generated images.

classifiers: {names}

`{prog} train NAME --help` and `{prog} test --help` show the flags."""


def run(arguments: list[str], prog: str) -> int:
    commands = {"train": _train_command, "test": _test}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(prog=prog, names=", ".join(CLASSIFIERS)))
        return 0 if arguments else 2
    command, *rest = arguments
    if command not in commands:
        raise UsageError(f"There is no command {command!r} of {prog}. {suggestion(command, commands)}")
    return commands[command](rest, f"{prog} {command}")


# Training.


def _train_command(arguments: list[str], prog: str) -> int:
    if not arguments or arguments[0].startswith("-"):
        print(
            f"usage: {prog} NAME [flags]\n\nclassifiers: {', '.join(CLASSIFIERS)}\n\n`{prog} NAME --help` shows more."
        )
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    name, *flags = arguments
    cls = classifier_class(name)
    with process_group() as rank:
        return train(_ClassifierWriter, name, cls, flags, f"{prog} {name}", rank)


class _ClassifierWriter(RunWriter):
    """The checkpoint of a classifier, and its curves."""

    Options = ClassifierOptions
    examples = TRAIN_EXAMPLES
    home = TRAINED
    pictures = ("curves.png",)

    @classmethod
    def way_on(cls, name: str, path: Path) -> str:  # noqa: ARG003
        return "Start anew with --overwrite."

    def plots(self, validation: Dataset | None) -> dict[str, Callable[[Path], None]]:  # noqa: ARG002
        title = f"{self.name} on {self.train.name}"
        return {"curves.png": lambda path: curves(self.folder.path / LOG, path, title)}

    def tell(
        self, outcome: Outcome, data: Dataset, validation: Dataset | None, seconds: float, pictures: list[Path]
    ) -> None:
        """Print how good it is on what was held out, and what to do next."""
        console = out()
        console.print(f"trained {self.name} on {data.name}: {outcome.step} steps in {duration(seconds)}", markup=False)
        if validation is not None:
            held = evaluate(load_classifier(self.folder.path), validation)
            console.print(f"held-out    {_percent(held)} of {len(validation)} training images")
        # The synthetic digits have no test images; MNIST's are those they stand for, where they are on disk.
        mnist = (data_folder(self.options.data_dir) / FAMILIES["mnist"].folder / "raw").is_dir()
        known = ("mnist", DIGITS) if mnist else ("mnist",)
        where = "" if self.options.data in known else f" --data {shlex.quote(self.options.data)}"
        source = shlex.quote(str(self.folder.path))
        console.print(f"checkpoint  {self.folder.path / WEIGHTS}", markup=False)
        console.print(f"curves      {', '.join(map(str, pictures))}", markup=False)
        console.print(f"test it     python -m mnistgen evaluator test {source}{where}", markup=False)

    def write(self, path: Path, step: Step, scores: dict[str, float]) -> None:
        assert isinstance(step.ema, Classifier)
        save_classifier(
            path,
            step.ema,
            dataset=self.train,
            steps=step.number,
            seed=self.options.seed,
            seconds=step.seconds,
            scores=scores,
            content=self.whole.hash,
        )


# Testing.


def _test(arguments: list[str], prog: str) -> int:
    options = parse(TestOptions, arguments, prog=prog, examples=TEST_EXAMPLES)
    divided = "test" in available_splits(options.data, data_dir=options.data_dir)
    split = options.split or ("test" if divided else "all")
    data = load_data(options.data, split, data_dir=options.data_dir, **options.how)
    notes(data.notes)
    name, path = _classifier(options.source, data, options.data)
    model, about = load_classifier(path), read_checkpoint(path)
    model.to(resolve_device(options.device))
    start = time.perf_counter()
    result = evaluate(model, data)
    seconds = time.perf_counter() - start

    # The files first: who reads what is printed may stop reading.
    subject = f"{name} ({evaluator_hash(model)}) on {len(data)} {data.split} images of {data.name}"
    folder = options.out or Path("samples") / f"evaluator-{name}-{data.name}"
    numbers: dict[str, Any] = {"classifier": name, "hash": evaluator_hash(model), "dataset": data.name}
    numbers |= {"split": data.split, "dataset_hash": data.hash, "images_per_second": round(len(data) / seconds)}
    numbers |= result.to_dict()
    with atomic_file(folder / "test.json") as temporary:
        temporary.write_text(json.dumps(numbers, indent=2) + "\n", "utf-8")
    draw_confusion(result, data, folder / "confusion.png", subject)
    wrong = result.misclassified[:SHOWN_ERRORS]
    if len(wrong):
        draw_errors(result, data, folder / "misclassified.png", subject)

    console = out()
    console.print(subject, markup=False)
    if about.dataset != data.name:
        console.print(f"note: it was trained on {about.dataset or 'an unnamed dataset'}", markup=False)
    elif data.hash in (about.content, about.dataset_hash):
        console.print("note: it was trained on these images, so it does better on them than on others", markup=False)
    console.print(f"accuracy           {_percent(result)}, {len(result.misclassified)} errors", markup=False)
    console.print(f"calibration error  {result.calibration_error:.4f}", markup=False)
    console.print(f"speed              {len(data) / seconds:,.0f} images/s", markup=False)
    console.print(_table(result, data))
    console.print(f"confusion matrix   {folder / 'confusion.png'}", markup=False)
    if len(wrong):
        if not options.quiet:
            show(grid(data.images[wrong], min(20, len(wrong))))
        console.print(f"misclassified      {folder / 'misclassified.png'}", markup=False)
    console.print(f"numbers            {folder / 'test.json'}", markup=False)
    return 0


def _classifier(source: str, data: Dataset, called: str) -> tuple[str, Path]:
    """The name and the file of the evaluator for this dataset, of a shipped one, of a classifier trained on this
    dataset, or of a checkpoint; `called` is the dataset as it was asked for, by its name or path."""
    if not source:
        return "A", evaluator_path(data.name, source=called, content=data.hash)
    if source in SHIPPED:
        return source, shipped_path(source)
    if source in CLASSIFIERS and not Path(source).exists():
        path = TRAINED / f"{source}-{data.name}" / WEIGHTS
        if not path.is_file():
            raise CheckpointError(
                f"{path}: there is no {source} for {data.name} yet. Train it: "
                f"mnistgen evaluator train {source}{'' if data.name == 'mnist' else f' --data {shlex.quote(called)}'}"
            )
        return source, path
    path = find(source)
    return name_of(path) or "classifier", path


def _percent(result: Evaluation) -> str:
    low, high = result.interval
    return f"{result.accuracy:.2%} (95% interval {low:.2%} to {high:.2%})"


def _names(data: Dataset) -> tuple[str, ...]:
    return data.class_names or tuple(str(label) for label in range(data.num_classes))


def _table(result: Evaluation, data: Dataset) -> Table:
    table = Table("class", box=None, pad_edge=False)
    for column in ("images", "precision", "recall", "F1"):
        table.add_column(column, justify="right")
    scores = class_scores(result.confusion).T.tolist()
    for name, count, row in zip(_names(data), result.confusion.sum(1).tolist(), scores, strict=True):
        table.add_row(name, str(count), *(f"{value:.4f}" for value in row))
    return table


def draw_confusion(result: Evaluation, data: Dataset, path: Path, title: str) -> None:
    """The confusion matrix with its counts, shaded by errors: the diagonal would drown them."""
    from matplotlib.figure import Figure

    counts = result.confusion
    errors = counts.clone().fill_diagonal_(0)
    k = data.num_classes
    side = max(5.0, 0.45 * k)
    figure = Figure(figsize=(side, side + 0.4), layout="constrained")
    axes = figure.subplots()
    most = max(1, int(errors.max()))
    axes.imshow(errors.numpy(), cmap="Reds", vmin=0, vmax=most)
    for i in range(k):
        for j in range(k):
            if counts[i, j]:
                colour = "white" if errors[i, j] > most / 2 else "black"  # the upper half of "Reds" is dark
                axes.text(j, i, str(int(counts[i, j])), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(k), _names(data), rotation=0 if k <= 10 and not _long(data) else 90, fontsize=8)
    axes.set_yticks(range(k), _names(data), fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.suptitle(f"{title}\naccuracy {_percent(result)}", fontsize=8)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def draw_errors(result: Evaluation, data: Dataset, path: Path, title: str) -> None:
    """Draw the misclassified images, the most confidently wrong first, with true and predicted class and confidence."""
    from matplotlib.figure import Figure

    wrong = result.misclassified[:SHOWN_ERRORS].tolist()
    columns = min(10, len(wrong))
    rows = -(-len(wrong) // columns)
    figure = Figure(figsize=(max(4.0, 0.95 * columns), 1.2 * rows + 0.6), layout="constrained")
    names = _names(data)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, index in zip(panels, wrong, strict=False):
        predicted = int(result.predictions[index])
        axes.imshow(data.images[index, 0].cpu().numpy(), cmap="gray", vmin=0, vmax=255)
        sure = float(result.probabilities[index, predicted])
        axes.set_title(f"{names[int(data.y[index])]} as {names[predicted]}\n{sure:.0%}, no. {index}", fontsize=6)
    more = len(result.misclassified) - len(wrong)
    figure.suptitle(f"{title}: misclassified{f', {more} more not shown' if more else ''}", fontsize=8)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def _long(data: Dataset) -> bool:
    return any(len(name) > 2 for name in data.class_names)

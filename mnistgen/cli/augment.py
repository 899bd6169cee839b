"""`mnistgen augment MODEL...`."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro
from rich.table import Table

from mnistgen.cli.arguments import Reading, parse
from mnistgen.cli.training_run import parse_duration
from mnistgen.console import duration, out
from mnistgen.errors import UsageError
from mnistgen.experiments import Loop, Study, augment, loop, protocol
from mnistgen.experiments.analysis import REFERENCES, percent, points
from mnistgen.experiments.plan import Size
from mnistgen.experiments.protocol import CONDITIONS, DEFAULT_CONDITIONS, Mode


@dataclass(frozen=True, kw_only=True)
class AugmentOptions(Reading):
    """Does synthetic data help? Train classifiers on few real images, with and without synthetic ones, and compare.

    The same command again goes on where it was interrupted. Under torchrun the processes share the work.
    """

    former: ClassVar[dict[str, str]] = {"arms": "conditions", "real_share": "real_fraction", "loop": "generations"}

    models: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL ...", help_behavior_hint="")
    ] = ()
    """Models whose images are tried, by name (see `mnistgen models`); default: flow and vae, where installed."""
    per_class: tuple[str, ...] | None = None
    """Real images per class, or all; default: 10 100 (with --generations: 100)."""
    ratio: tuple[float, ...] = (protocol.RATIO,)
    """Synthetic images for each real one."""
    seeds: int | None = None
    """Repetitions, each with other subsets, generators and classifiers; default: 5 (with --generations: 1)."""
    classifier: tuple[Literal["cnn", "lenet", "mlp", "logistic"], ...] = protocol.CLASSIFIERS  # type: ignore[assignment]
    """Classifiers to train."""
    conditions: tuple[str, ...] = DEFAULT_CONDITIONS
    """What is compared, of: real affine classical repeated synthetic classical-synthetic synthetic-only more-real
    leaking pool pseudo-labels; or all. real and classical always are."""
    budget: str | None = None
    """Wall time of this run, such as 40m: nothing is started that would not end within it. The next run goes on."""
    out: Path | None = None
    """Folder of the records and the report; default: runs/augment-DATASET (runs/loop-DATASET)."""
    data: str = "mnist"
    """Dataset name (see `mnistgen data --help`) or a path, with a training and a test split."""
    real_fraction: float | Literal["ratio"] = protocol.REAL_FRACTION
    """Fraction of real data in a batch that has other images, too; ratio: as the ratio makes it."""
    filter: float = 0.0
    """Keep synthetic images where a cnn trained on the same subset sees what was asked for with at least this
    confidence; 0 keeps all."""
    pool: int = protocol.POOL
    """Training images that the conditions with an unlabelled pool may use without their labels."""
    generator_steps: int | None = None
    """Steps of a generator; default: 80 times the cube root of its labelled images."""
    classifier_steps: int | None = None
    """Steps of a classifier, in all conditions; default: 30 times the square root of the subset's images."""
    generations: int = 0
    """Self-consuming training instead: train a model on its own output for so many generations."""
    mode: Mode = "replace"
    """With --generations, what a generation learns from: only what the one before drew, the subset and all drawn since,
    or what the one before drew and fresh real images."""
    guidance: float | None = None
    """With --generations, the guidance that is compared with none; default: the model's own."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic; auto: bfloat16 where the hardware computes in it."""
    plan: bool = False
    """Say what would be done and how long that takes, and stop."""
    quiet: bool = False
    """No progress in the terminal."""

    def sizes(self, default: tuple[Size, ...]) -> tuple[Size, ...]:
        """The sizes as numbers. Raises `UsageError` for what is none."""
        if self.per_class is None:
            return default
        for size in self.per_class:
            if size != "all" and not size.isdecimal():
                raise UsageError(f"--per-class {size}: it is a number of images, or all.")
        return tuple("all" if size == "all" else int(size) for size in self.per_class)


EXAMPLES = """
mnistgen augment                                        flow and vae, 10 and 100 images per class, 5 seeds
torchrun --nproc-per-node 2 -m mnistgen augment         the same by two processes; again to go on after a kill
mnistgen augment vae --plan                             what that would be, and how long it takes
mnistgen augment vae --per-class 10 50 100 500 1000 all --ratio 0.5 1 2 5 10 --seeds 10 --budget 8h
mnistgen augment vae --classifier cnn lenet --conditions all --out runs/everything
mnistgen augment vae --generations 5 --mode accumulate  trained on its own output
"""


def run(arguments: list[str], prog: str) -> int:
    options = parse(AugmentOptions, arguments, prog=prog, examples=EXAMPLES)
    if options.generations < 0:
        raise UsageError(f"--generations is {options.generations}; it must be zero or more.")
    try:
        return _loop(options) if options.generations else _augment(options)
    except KeyboardInterrupt:
        if _first():
            print("What is done is kept; the same command goes on.", file=sys.stderr)
        raise


def _augment(options: AugmentOptions) -> int:
    study = augment(
        options.models,
        data=options.data,
        out=options.out,
        seed=options.seed,
        device=options.device,
        precision=options.precision,
        data_dir=options.data_dir,
        **options.how,
        budget=parse_duration(options.budget) if options.budget is not None else None,
        quiet=options.quiet,
        say=_say,
        only_plan=options.plan,
        per_class=options.sizes(protocol.SIZES),
        ratio=options.ratio,
        seeds=protocol.SEEDS if options.seeds is None else options.seeds,
        classifiers=options.classifier,
        conditions=options.conditions,
        real_fraction=options.real_fraction,
        filter=options.filter,
        pool=options.pool,
        generator_steps=options.generator_steps,
        classifier_steps=options.classifier_steps,
    )
    if not _first() or options.plan:
        return 0
    _print(study)
    return 1 if study.failures else 0


def _loop(options: AugmentOptions) -> int:
    found = loop(
        options.models,
        generations=options.generations,
        mode=options.mode,
        per_class=options.sizes((100,)),
        seeds=1 if options.seeds is None else options.seeds,
        guidance=options.guidance,
        generator_steps=options.generator_steps,
        data=options.data,
        out=options.out,
        seed=options.seed,
        device=options.device,
        precision=options.precision,
        data_dir=options.data_dir,
        **options.how,
        budget=parse_duration(options.budget) if options.budget is not None else None,
        quiet=options.quiet,
        say=_say,
        only_plan=options.plan,
    )
    if not _first() or options.plan:
        return 0
    _print_loop(found)
    return 1 if found.failures else 0


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say(line: str) -> None:
    out().print(line, markup=False)


def _print(study: Study) -> None:
    console = out()
    compared = {(c.row, c.against): c for c in study.comparisons}
    places = list(dict.fromkeys((o.row.classifier, o.row.size) for o in study.outcomes))
    for classifier, size in places:
        table = Table(f"{classifier}, {size} per class", box=None, pad_edge=False)
        for column in (
            "n",
            "accuracy",
            *(f"against {CONDITIONS[reference].title}" for reference in REFERENCES),
            "p",
            "cost",
        ):
            table.add_column(column, justify="right")
        for o in study.outcomes:
            if (o.row.classifier, o.row.size) == (classifier, size):
                pairs = [compared.get((o.row, reference)) for reference in REFERENCES]
                differences = ["" if c is None else points(c.paired.interval) for c in pairs]
                p = "" if pairs[0] is None or pairs[0].p_holm is None else f"{pairs[0].p_holm:.2g}"
                cells = (o.row.title, str(o.accuracy.n), percent(o.accuracy), *differences, p, duration(o.seconds))
                table.add_row(*cells)
        console.print(table)
    for baseline in study.baselines:
        weak = "  (weak: a gain over it means nothing)" if baseline.weak else ""
        where = f"{baseline.what}, {baseline.size} per class"
        console.print(f"published   {where}: {baseline.published:.1%}, here {baseline.found.mean:.1%}{weak}")
    _print_end(study.missing, [f"{failure.name}: {failure.why}" for failure in study.failures])
    console.print(f"verdict     {study.verdict}", markup=False)
    console.print(f"report      {study.folder / 'report.md'}", markup=False)


def _print_loop(found: Loop) -> None:
    console = out()
    table = Table("model", "per class", "guidance", "generation", box=None, pad_edge=False)
    for column in ("FID", "coverage", "CAS"):
        table.add_column(column, justify="right")
    for line in found.lines:
        numbers = [line.numbers[name].mean if name in line.numbers else None for name in ("fid", "coverage", "cas")]
        shown = ["" if x is None else format(x, form) for x, form in zip(numbers, (".3g", ".3f", ".2%"), strict=True)]
        table.add_row(line.model, str(line.per_class or "all"), line.guidance, str(line.generation), *shown)
    console.print(table)
    _print_end(found.missing, [f"{failure.name}: {failure.why}" for failure in found.failures])
    console.print(f"report      {found.folder / 'loop.md'}", markup=False)


def _print_end(missing: int, failures: list[str]) -> None:
    console = out()
    for failure in failures:
        console.print(f"failed      {failure}", markup=False)
    if missing:
        console.print(f"missing     {missing} tasks; the same command goes on", markup=False)

"""`mnistgen score SOURCE...`."""

import shlex
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from rich.table import Table

from mnistgen.checkpoint import checkpoint_names, hidden
from mnistgen.cli.arguments import Reading, parse
from mnistgen.console import Display, duration, notes, out, show
from mnistgen.errors import UsageError, suggestion
from mnistgen.sampling import BATCH, grid, save_png
from mnistgen.scoring import (
    ImageSource,
    ModelSource,
    N,
    Score,
    Scorer,
    Source,
    difference,
    open_source,
    ranked,
    to_json,
    write_json,
)
from mnistgen.scoring.likelihood import GREY, LIKELIHOOD_IMAGES
from mnistgen.scoring.measure import TRAINING_IMAGES
from mnistgen.scoring.reference import Reference
from mnistgen.scoring.result import JUDGES
from mnistgen.scoring.scale import FLOOR
from mnistgen.scoring.scorer import UNLIKE
from mnistgen.scoring.sources import dataset_of, options_of
from mnistgen.training import resolve_device

STANDARD_OUTPUT = Path("-")


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(Reading):
    """Score images against real ones, each number beside the best and the worst possible value."""

    standard_output = ("json",)

    sources: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE ...", help_behavior_hint="")
    ] = ()
    """What to score: checkpoints (name, folder or file; mnistgen:NAME is the one that ships), folders of images, NPZ
    files, or DATASET:SPLIT."""
    data: str = ""
    """The dataset to hold it against; default: that which the checkpoint was trained on, else mnist."""
    split: str = "test"
    """Which part of that dataset."""
    against: str = ""
    """Another source to hold them against in place of that dataset, whose evaluators see both; one half of it is the
    reference, the other gives the floor, the real-vs-real baseline."""
    classes: str = ""
    """Classes that both sides keep to, by number or name, such as 3,8. Default: for a checkpoint those that it was
    trained on, and all for images."""
    n: int = N
    """Images to sample, or to take of those there are; only equal numbers compare."""
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """A sampling option of the models, such as temperature=0.9; once for each."""
    two_sample: bool = False
    """Also train a small CNN to tell the samples from real images (four trainings)."""
    cas: bool = False
    """Also the classification accuracy score (CAS): train a classifier on the samples alone and test it on real images
    (two trainings)."""
    cas_images: int = 0
    """Samples that CAS trains on, where they are to be more than those that are scored: 60000 are as many as MNIST has,
    and of 153600 each is seen once. The steps are as many."""
    likelihood: bool = False
    """Also how probable a model finds real images, in bits/dim and nats, and images that are none: inverted, shuffled,
    constant, of clothes where they are on disk."""
    likelihood_images: int = LIKELIHOOD_IMAGES
    """Images of each kind whose likelihood is taken; of a diffusion model it takes a second an image."""
    features: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME")] = ()
    """Other features for a Frechet distance (FID) beside: inception, the literature's, which takes half an hour without
    a GPU."""
    inception_weights: Path | None = None
    """File of torch-fidelity's Inception weights; default: where torch-fidelity keeps them."""
    training_images: int = TRAINING_IMAGES
    """Training images among which memorised ones are looked for."""
    json: Path | None = None
    """Write everything to this file as well; - writes it to standard output, and all else to standard error."""
    out: Path | None = None
    """Folder of the pictures; default: samples/score-NAME."""
    batch_size: int = BATCH
    """Images sampled at a time; it changes the speed and not the images."""
    quiet: bool = False
    """No progress and no picture in the terminal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n", "batch_size", "training_images", "likelihood_images"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1.")
        for name in self.features:
            if name != "inception":
                raise UsageError(f"--features {name}: {suggestion(name, ['inception'])}")


EXAMPLES = """
mnistgen score vae-mnist                              a shipped checkpoint, beside its scale
mnistgen score checkpoints/mine other-mnist           several: a table, best first
mnistgen score digits.npz folder/ mnist:train         images on disk; a split of a dataset
mnistgen score digits.npz --against scans/            one set of digits against another
mnistgen score vae-mnist --n 1000 --seed 1 --json score.json
mnistgen score vae-mnist --option temperature=0.9
mnistgen score vae-mnist --two-sample --cas           train classifiers as judges, too
mnistgen score axial --likelihood                     bits/dim of real images, and of others
"""


KINDS = {  # of likelihoods
    "exact": "exact",
    "lower bound": "by a lower bound on log p, so that these are upper bounds",
    "estimate": "by an estimate",
}


class Line(NamedTuple):
    """One line of the table of one source, and one column of the table of several."""

    title: str
    number: str
    form: str
    column: str = ""  # its title there; none where it is left out
    beside: str = ""  # the number of the real images, where it is none of the floor


LINES = (
    Line("FID, Frechet distance", "fid.A.penultimate", ".4g", "FID"),
    Line("  intermediate layer", "fid.A.early", ".4g", "early"),
    Line("  by evaluator B", "fid.B.penultimate", ".4g"),
    Line("  classes reweighted", "reweighted_fid.A.penultimate", ".4g"),
    Line("  worst class", "class_fid.worst", ".4g", "worst class"),
    Line("  mean over classes", "class_fid.mean", ".4g"),
    Line("  over the real variance", "relative_fid.A.penultimate", ".2g"),
    Line("  at infinite n", "fid_infinity.A.penultimate", ".4g"),
    Line("KID, kernel distance", "kid.A.penultimate", ".3g", "KID"),
    Line("  intermediate layer", "kid.A.early", ".3g"),
    Line("precision", "precision.A.penultimate", ".3f", "precision"),
    Line("recall", "recall.A.penultimate", ".3f", "recall"),
    Line("density", "density.A.penultimate", ".3f", "density"),
    Line("coverage", "coverage.A.penultimate", ".3f", "coverage"),
    Line("  intermediate layer", "coverage.A.early", ".3f"),
    Line("label agreement", "label_agreement", ".2%", "labels"),
    Line("mean confidence", "mean_confidence", ".2%"),
    Line("authentic", "authentic", ".1%", "authentic", beside="authentic_real"),
    Line("two-sample test", "two_sample", ".1%", "two-sample", beside="two_sample_real"),
    Line("  binarised", "two_sample_binarised", ".1%", beside="two_sample_binarised_real"),
    Line("classification accuracy (CAS)", "cas", ".2%", "CAS", beside="cas_real"),
    Line("FID, Inception", "inception_fid", ".4g", "Inception"),
    Line("likelihood, bits/dim", "bits_per_dim", ".3f", "bits/dim"),
    Line("likelihood, nats an image", "nll", ".2f", "nats"),
)


def run(arguments: list[str], prog: str) -> int:
    options = parse(ScoreOptions, arguments, prog=prog, examples=EXAMPLES)
    if not options.sources:
        names = ", ".join(checkpoint_names())
        raise UsageError(f"Name what is to be scored: {prog} SOURCE ... There is {names}; images on disk will do, too.")
    device = resolve_device(options.device)
    notes(filter(None, map(hidden, options.sources)))
    sources = [
        open_source(source, device=device, data_dir=options.data_dir, batch_size=options.batch_size, **options.how)
        for source in options.sources
    ]
    notes(note for source in sources if isinstance(source, ImageSource) for note in source.data.notes)
    sources = [_with_options(source, options.option) for source in _named(sources)]
    against = None
    if options.against:
        against = open_source(
            options.against, device=device, data_dir=options.data_dir, batch_size=options.batch_size, **options.how
        )
    data = options.data or dataset_of([*sources, *([against] if against else [])], by_name=against is not None)
    scorer = Scorer(
        data,
        split=options.split,
        against=against,
        n=options.n,
        device=device,
        data_dir=options.data_dir,
        **options.how,
    )
    scores = [_score(scorer, source, options) for source in sources]
    with redirect_stdout(sys.stderr) if options.json == STANDARD_OUTPUT else nullcontext():
        _tell(scores, options, command=shlex.join(["mnistgen", "score", *arguments]))
    if options.json == STANDARD_OUTPUT:
        sys.stdout.write(to_json(scores))
    return 0


def _tell(scores: list[Score], options: ScoreOptions, command: str) -> None:
    """Write the files and print everything."""
    try:  # the files first: who reads what is printed may stop reading
        files = [
            line for score in scores for line in _pictures(score, options, several=len(scores) > 1, command=command)
        ]
        if options.json is not None and options.json != STANDARD_OUTPUT:
            write_json(options.json, scores)
            files.append(f"numbers     {options.json}")
    finally:
        if len(scores) == 1:
            _print_one(scores[0], options)
        else:
            _print_several(ranked(scores))
    for line in files:
        out().print(line, markup=False)


def _named(sources: list[Source]) -> list[Source]:
    """Two sources of one name would share a folder and a line: the later ones get a number."""
    times: dict[str, int] = {}
    for source in sources:
        count = times[source.name] = times.get(source.name, 0) + 1
        if count > 1:
            source.name = f"{source.name}-{count}"
    return sources


def _with_options(source: Source, sampling: tuple[str, ...]) -> Source:
    """Set the sampling options of a model; each value is read as the type of the option's default."""
    if not sampling:
        return source
    if not isinstance(source, ModelSource):
        raise UsageError(f"--option: {source.name} is no model, and has no sampling options.")
    defaults = options_of(source.model)
    for given in sampling:
        name, equals, text = given.partition("=")
        if not equals:
            raise UsageError(f"--option {given}: write NAME=VALUE.")
        name = source.model.former_options.get(name, name)
        if name not in defaults:
            raise UsageError(f"{source.name} has no sampling option {name!r}. {suggestion(name, defaults)}")
        source.sampling_options[name] = _value(name, text, defaults[name])
    return source


def _value(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise UsageError(f"--option {name}={text}: it is true or false.")
        return text.lower() == "true"
    kind = type(default) if isinstance(default, int | float) else str
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"--option {name}={text}: it is a number, such as {default}.") from None


def _score(scorer: Scorer, source: Source, options: ScoreOptions) -> Score:
    display = Display(f"score {source.name}", quiet=options.quiet)
    with display.live():
        return scorer.score(
            source,
            n=options.n,
            seed=options.seed,
            classes=_classes(options.classes, scorer.reference),
            two_sample_test=options.two_sample,
            cas=options.cas,
            cas_images=options.cas_images,
            inception="inception" in options.features,
            inception_weights=options.inception_weights,
            likelihood=options.likelihood,
            likelihood_images=options.likelihood_images,
            training_images=options.training_images,
            progress=lambda what, done: display.update(done, what, last=done >= 1),
        )


def _classes(text: str, reference: Reference) -> tuple[int, ...]:
    """The labels that a person names, by number or by name."""
    names = {reference.class_name(label).lower(): label for label in reference.classes}
    names = {str(label): label for label in reference.classes} | names
    found = []
    for word in (word.strip().lower() for word in text.split(",") if text):
        if word not in names:
            there = ", ".join(map(reference.class_name, reference.classes))
            raise UsageError(
                f"--classes {text}: {word or 'nothing'} is no class of {reference.name}, which has {there}."
            )
        found.append(names[word])
    return tuple(found)


def _print_one(score: Score, options: ScoreOptions) -> None:
    console = out()
    if not options.quiet:
        show(score.picture())
    corrupted = [name for name in score.scale if name != FLOOR]
    table = _table(score, corrupted)
    while corrupted and console.measure(table).maximum > console.width:  # a narrow terminal
        table = _table(score, corrupted := corrupted[:-1])
    console.print(table)
    if score.floors is not None:
        console.print(f"headline    {_headline(score)}", markup=False)
    _print_labels(score)
    _print_likelihood(score)
    memory = score.details.get("memorisation")
    if memory:
        copying = memory["copying"]
        console.print(
            f"copies      a sample is nearer to {memory['training_images']} training images than a real image is in "
            f"{memory['closer']:.0%} of pairs (50% if alike); C_T {copying['statistic']:.1f} (real images "
            f"{copying['control']:.1f} ± {copying['control_spread']:.1f}; far below: copies, or averages)",
            markup=False,
        )
    for note in score.notes:
        console.print(f"note: {note}", markup=False)
    for part, reason in score.not_measured.items():
        console.print(f"not measured: {part}: {reason}", markup=False)
    total = sum(score.seconds.values())
    parts = ", ".join(f"{part} {duration(seconds)}" for part, seconds in score.seconds.items())
    console.print(f"time        {duration(total)}: {parts}", markup=False)
    console.print(f"protocol    {score.protocol_line}", markup=False)


def _reweighted(score: Score) -> bool:
    """Whether the classes of the samples are not those of the reference, so that it makes a difference."""
    return bool(score.details["class_proportions"]["distance"] > UNLIKE)


def _headline(score: Score) -> str:
    by = ", ".join(f"{network} {times:.1f}" for network, times in score.floors_by.items())
    which = ", of which the larger counts" if len(score.floors_by) > 1 else ""
    around = "" if score.interval is None else "; 95% interval {:.1f} to {:.1f}".format(*score.interval)
    return f"{score.floors:.1f} times the floor, the real-vs-real baseline (by evaluator {by}{which}{around})"


def _print_labels(score: Score) -> None:
    """Print how often the evaluator predicted each class, and which it confused."""
    labels = score.details["labels"]
    console = out()
    counts = ", ".join(f"{score.class_name(label)}: {count}" for label, count in enumerate(labels["predicted"]))
    console.print(f"predicted   {counts}", markup=False)
    if labels["table"] is None:
        return
    low, high = labels["interval_95"]
    mistakes = [
        (count, requested, predicted)
        for requested, row in enumerate(labels["table"])
        for predicted, count in enumerate(row)
        if requested != predicted and count
    ]
    most = ", ".join(
        f"{score.class_name(requested)} as {score.class_name(predicted)} ({count})"
        for count, requested, predicted in sorted(mistakes, reverse=True)[:5]
    )
    console.print(
        f"labels      {labels['agreement']:.2%} as requested (95% interval {low:.2%} to {high:.2%})"
        f"{f'; else {most}' if most else ''}",
        markup=False,
    )


def _print_likelihood(score: Score) -> None:
    """Print the likelihood of each kind of images, with its interval."""
    found = score.details.get("likelihood")
    if not found:
        return
    unit = "bits_per_dim" if found["of"] == GREY else "nats"
    form, what = (".3f", "bits/dim") if unit == "bits_per_dim" else (".2f", "nats an image")
    out().print(f"likelihood  -log p of {found['of']}, {KINDS[found['kind']]}:", markup=False)
    for name, row in found["rows"].items():
        low, high = row[f"{unit}_interval_95"]
        interval = f"(95% interval {low:{form}} to {high:{form}}; n {row['n']})"
        out().print(f"            {name:16} {row[unit]:{form}} {what} {interval}", markup=False)


def _table(score: Score, corrupted: list[str]) -> Table:
    """Every number beside that of real images and of those of the corrupted ones that are requested."""
    table = Table(box=None, pad_edge=False)
    table.add_column(score.name, no_wrap=True)
    for title in ("score", "/ floor", "real images", *corrupted):
        table.add_column(title, justify="right", no_wrap=True)
    best = score.scale.get(FLOOR, {})
    spread = best.get("spread", {})
    errors = score.details.get("bootstrap", {})
    for line in LINES:
        if line.number not in score.numbers or (line.number.startswith("reweighted") and not _reweighted(score)):
            continue
        title = line.title
        if line.number == "class_fid.worst":
            title = f"{title} ({score.class_name(score.details['per_class_fid']['worst_class'])})"
        is_distance = line.number.split(".")[0] in ("fid", "reweighted_fid", "class_fid")
        times = score.times_floor(line.number) if is_distance else None
        real = score.numbers.get(line.beside) if line.beside else best.get("mean", {}).get(line.number)
        around = f" ± {spread[line.number]:.1g}" if line.number in spread and line.form.endswith("g") else ""
        value = format(score.numbers[line.number], line.form)
        if line.number in errors:
            value += f" ± {errors[line.number]['standard_error']:.1g}"
        around_kid = score.numbers.get(f"kid_spread{line.number.removeprefix('kid')}", 0.0)
        if line.number.startswith("kid.") and around_kid > 1e-9:  # of 1,000 images, every subset is the whole
            value += f" ± {around_kid:.1g}"
        rows = [score.scale[name]["mean"].get(line.number) for name in corrupted]
        table.add_row(
            title,
            value,
            "" if times is None else f"{times:.1f}",
            "" if real is None else f"{real:{line.form}}{around}",
            *("" if number is None else format(number, line.form) for number in rows),
        )
    return table


def _print_several(scores: list[Score]) -> None:
    console = out()
    table = Table(box=None, pad_edge=False)
    table.add_column("source", no_wrap=True)
    judges = [network for network in JUDGES if any(network in score.floors_by for score in scores)]
    for title in ("/ floor", *(f"by {network}" for network in judges if len(judges) > 1)):
        table.add_column(title, justify="right")
    lines = [line for line in LINES if line.column and any(line.number in score.numbers for score in scores)]
    for line in lines:
        table.add_column(line.column, justify="right")
    for score in scores:
        cells = [format(score.numbers[x.number], x.form) if x.number in score.numbers else "" for x in lines]
        table.add_row(score.name, *_floors(score, judges), *cells)
    sizes = {score.protocol["n"] for score in scores}
    references = {score.protocol["reference"] for score in scores}
    if len(sizes) == len(references) == 1:
        best = scores[0].scale.get(FLOOR, {}).get("mean", {})
        beside = [scores[0].numbers.get(x.beside) if x.beside else best.get(x.number) for x in lines]
        table.add_row(
            "real images",
            *["1.0" if best else ""] * (1 + len(judges) * (len(judges) > 1)),
            *("" if v is None else format(v, x.form) for v, x in zip(beside, lines, strict=True)),
        )
    console.print(table)
    for better, worse in pairwise(scores):
        apart = difference(better, worse)
        if apart is not None and not apart.distinguishable:
            low, high = apart.interval
            console.print(
                f"note: {better.name} and {worse.name} are not distinguishable: the 95% interval of their difference, "
                f"{low:.2f} to {high:.2f} floors, contains 0.",
                markup=False,
            )
    common = [note for note in scores[0].notes if all(note in score.notes for score in scores)]
    for note in common:
        console.print(f"note: {note}", markup=False)
    for score in scores:
        own = [note for note in score.notes if note not in common]
        for note in (*own, *(f"not measured: {part}: {why}" for part, why in score.not_measured.items())):
            console.print(f"{score.name}: {note}", markup=False)
    if len(sizes) > 1:
        console.print("note: the numbers of images differ, so these scores do not compare.", markup=False)
    if len(references) > 1:
        console.print("note: they are held against images of different classes, and do not compare.", markup=False)
    for score in scores:
        console.print(f"protocol    {score.name}: {score.protocol_line}", markup=False)


def _floors(score: Score, judges: list[str]) -> list[str]:
    """The headline and its interval, and beside it, where there are two evaluators, what each of them says."""
    by = [score.floors_by.get(network) for network in judges] if len(judges) > 1 else []
    headline, *others = ["" if times is None else f"{times:.1f}" for times in (score.floors, *by)]
    return [headline if score.interval is None else "{} ({:.1f} to {:.1f})".format(headline, *score.interval), *others]


def _pictures(score: Score, options: ScoreOptions, *, several: bool, command: str) -> list[str]:
    """Write the pictures of a score; returns lines that say where they are."""
    home = Path("samples") / f"score-{score.name}" if options.out is None else options.out
    folder = home / score.name if several and options.out is not None else home
    provenance = {"Software": "mnistgen", "Source": command, "Protocol": score.protocol_line}
    save_png(folder / "grid.png", score.picture(), provenance, scale=2)
    lines = [f"pictures    {folder / 'grid.png'}"]
    if score.strip is not None:
        strip = score.strip
        save_png(folder / "nearest.png", grid(strip, len(strip) // 2), provenance, scale=3)
        lines.append(f"            {folder / 'nearest.png'} (above samples, below the nearest training images)")
    return lines

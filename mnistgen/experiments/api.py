"""`augment` and `loop`: a study from the question to the answer, or taken up where it was."""

import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from mnistgen import registry
from mnistgen.console import Display, duration
from mnistgen.data import Dataset, conversions, load_data
from mnistgen.errors import MnistgenError, UsageError
from mnistgen.experiments import protocol
from mnistgen.experiments.analysis import Loop, Results, Study
from mnistgen.experiments.cache import Runner
from mnistgen.experiments.plan import Costs, Design, LoopDesign, Plan, Question
from mnistgen.experiments.tasks import StudyContext
from mnistgen.model import GenerativeModel
from mnistgen.scoring import Scorer
from mnistgen.text import rendered
from mnistgen.training import resolve_device

FORMER = {"arms": "conditions", "real_share": "real_fraction"}  # fields of a design; they go with the next release
Models = Sequence[str | type[GenerativeModel]]
Say = Callable[[str], None]
Found = TypeVar("Found", bound=Results[Any])


class Workers(NamedTuple):
    """This process among those that `torchrun` has started; others may share the folder as well."""

    rank: int
    size: int

    @classmethod
    def started(cls) -> "Workers":
        """Return what torchrun's variables say; each takes a GPU of its own, where there are several."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count > 1 and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        return cls(int(os.environ.get("RANK", "0")) if count > 1 else 0, count)


def augment(
    models: Models = (),
    *,
    data: str | tuple[Dataset, Dataset] = "mnist",
    out: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    data_dir: Path | str | None = None,
    budget: float | None = None,
    quiet: bool = True,
    say: Say | None = None,
    only_plan: bool = False,
    **design: Any,
) -> Study:
    """Does synthetic data help? Run the augmentation study, or take it up where it was, and write its report.

    `models` are names or classes; without any, those of the default study that are installed. `data` is a dataset with
    two splits, or (training, test). `design` are fields of `Design`, per_class, ratio, seeds, classifiers, conditions,
    ..., and the conversions of `load_data`.
    Everything goes to the folder `out` (default: runs/augment-DATASET). `budget` is in seconds: no task is started that
    is not expected to end within it. `say` gets the lines that tell what will be done. All processes that are given the
    same folder share the work; under torchrun, the first one tells and writes the report.

    Raises `UsageError` where the design makes no sense, and `LeakageError` where a generator was about to see images
    that its condition does not allow. A task that fails for another reason is in `failures`, and the others go on.
    """
    how: Any = {"data": data, "out": out, "seed": seed, "device": device, "precision": precision, "data_dir": data_dir}
    how |= {"budget": budget, "quiet": quiet, "say": say, "only_plan": only_plan}
    return _run(Study, Design, models, **how, **design)


def loop(models: Models, *, scorer: Scorer | None = None, **options: Any) -> Loop:
    """Train models on their own output, generation after generation, and write what becomes of them.

    The samples of each generation are scored by `scorer` (default: that of the dataset). `options` are fields of
    `LoopDesign`, generations, mode, per_class, seeds, guidance, ..., and all else that `augment` takes.
    """
    return _run(Loop, LoopDesign, models, scorer=scorer, **options)


def _run(
    kind: type[Found],
    question: type[Question],
    models: Models,
    *,
    data: str | tuple[Dataset, Dataset] = "mnist",
    out: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    data_dir: Path | str | None = None,
    budget: float | None = None,
    quiet: bool = True,
    say: Say | None = None,
    only_plan: bool = False,
    scorer: Scorer | None = None,
    **fields: Any,
) -> Found:
    """Plan a study, say what it is, do what is to be done, and write what has been found."""
    for former in FORMER.keys() & fields:
        warnings.warn(f"{former} is called {FORMER[former]} now.", FutureWarning, stacklevel=3)
        fields[FORMER[former]] = fields.pop(former)
    how, chosen = conversions(fields), find_models(models)
    design, workers = question(models=tuple(chosen), **fields), Workers.started()
    if isinstance(data, str):
        train, test = (load_data(data, split, data_dir=data_dir, **how) for split in ("train", "test"))
    else:
        train, test = data
    where = resolve_device(device)
    if question is LoopDesign and scorer is None:
        scorer = Scorer(data if isinstance(data, str) else train.name, device=where, data_dir=data_dir)
    folder = Path(out or Path("runs") / f"{kind.title}-{train.name}")
    context = StudyContext(
        train, test, chosen, folder=folder, seed=seed, device=where, precision=precision, scorer=scorer
    )
    plan, cache = design.plan(context), context.cache
    (cache.check_folder if only_plan else cache.open)()
    costs = Costs(context, plan.everything)
    if say is not None and workers.rank == 0:
        _describe(design, plan, kind.title, costs, workers, say)
    if not only_plan:
        runner = Runner(cache, costs, Display(kind.title, quiet=quiet or workers.rank != 0), budget)
        context.progress = runner.show
        try:
            runner.run(plan.tasks, context)
        except MnistgenError as error:
            if workers.rank:  # the command line speaks for the first process alone
                print(f"mnistgen: process {workers.rank}: {error}", file=sys.stderr, flush=True)
            raise
    found = kind(design, plan, context, cache.failures(plan.everything))
    if workers.rank == 0 and not only_plan:
        from mnistgen.experiments.report import write_report  # imports Matplotlib, which planning does without

        write_report(found)
    return found


def find_models(models: Models) -> dict[str, type[GenerativeModel]]:
    """Return the classes by name; those of the default study that are installed, where none is named."""
    if not models:
        models = [name for name in protocol.MODELS if name in registry.list_models()]
        if not models:
            raise UsageError(f"Name a model: none of the default ones ({', '.join(protocol.MODELS)}) is installed.")
    found: dict[str, type[GenerativeModel]] = {}
    for model in models:
        cls = registry.model_class(model) if isinstance(model, str) else model
        entry = registry.entry_of(cls)
        name = model if isinstance(model, str) else entry.name if entry else cls.__name__.lower()
        if name in found:
            raise UsageError(f"The model {name} is named twice.")
        found[name] = cls
    return found


def _describe(design: Question, plan: Plan, title: str, costs: Costs, workers: Workers, say: Say) -> None:
    """Say what is asked, what will be done, and how long that takes."""
    context = costs.context
    to_do = [task for task in plan.everything if context.cache.get(task) is None]
    text = rendered(
        "mnistgen.experiments",
        f"{title}.txt",
        design=design,
        dataset=context.train.name,
        conditions=[condition.title for condition in protocol.find_conditions(getattr(design, "conditions", ()))],
        to_do=to_do,
        total=len(plan.everything),
        kinds=Counter(task.kind for task in to_do),
        damaged=context.cache.damaged,
        notes=(*context.train.notes, *plan.notes),
    )
    for line in text.splitlines():
        say(line)
    if to_do:
        start = time.perf_counter()
        seconds = sum(map(costs, to_do)) / workers.size
        measured = f" (measured in {duration(time.perf_counter() - start)})"
        for work, why in costs.failed.items():
            say(f"note: the estimate is without {work!r}, which fails: {why}")
        by = f" by {workers.size} processes" if workers.size > 1 else ""
        say(f"estimate    {duration(seconds)}{by}{measured}")

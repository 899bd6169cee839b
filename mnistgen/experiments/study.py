"""`augment`: the augmentation study from the question to the answer."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from mnistgen import registry
from mnistgen.console import Display, duration
from mnistgen.data import ConversionKeywords, Dataset, conversions, load_data
from mnistgen.errors import UsageError
from mnistgen.experiments import recipe
from mnistgen.experiments.cells import Cell
from mnistgen.experiments.costs import Costs
from mnistgen.experiments.crew import Crew, crew
from mnistgen.experiments.design import Design, Plan, plan
from mnistgen.experiments.found import Study
from mnistgen.experiments.lab import Lab
from mnistgen.experiments.records import Records
from mnistgen.experiments.results import comparisons, known, outcomes
from mnistgen.experiments.runner import Failure, Runner
from mnistgen.model import GenerativeModel
from mnistgen.training import resolve_device

Models = Sequence[str | type[GenerativeModel]]


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
    say: Callable[[str], None] | None = None,
    only_plan: bool = False,
    **design: Any,
) -> Study:
    """Does synthetic data help? Run the augmentation study, or take it up where it was, and write its report.

    `models` are names or classes; without any, those of the default study that are installed. `data` is a dataset with
    two splits, or (training, test). `design` are fields of `Design`, per_class, ratio, seeds, classifiers, arms, ...,
    and the conversions of `load_data`.
    Everything goes to the folder `out` (default: runs/augment-DATASET). `budget` is in seconds: no cell is started that
    is not expected to end within it. `say` gets the lines that tell what will be done. Under torchrun all processes
    call this; each does its share, and the first one writes the report.

    Raises `UsageError` where the design makes no sense, and `LeakageError` where a generator was about to see images
    that its arm does not allow. A cell that fails for another reason is in `failures`, and the others go on.
    """
    how = conversions(design)
    chosen = find_models(models)
    asked = Design(models=tuple(chosen), **design)
    train, test = load_splits(data, data_dir=data_dir, **how)
    us = crew()
    lab = Lab(train, test, chosen, seed=seed, device=resolve_device(device), precision=precision)
    planned = plan(asked, lab)
    folder = Path(out) if out else Path("runs") / f"augment-{train.name}"
    records = open_records(folder, lab.frame, us, planned.everything, make=not only_plan)
    costs = prepare(lab, records, planned.everything)
    if us.rank == 0 and say is not None:
        notes = (*train.notes, *planned.notes)
        describe(question(asked, train.name), planned.everything, notes, records, costs, us, say)
    failures: list[Failure] = []
    if not only_plan:
        display = Display("augment", quiet=quiet or us.rank != 0)
        failures = Runner(lab, records, us, costs, display=display, budget=budget).run(
            planned.cells, planned.everything
        )
    study = conclude(asked, planned, records, lab, failures)
    if us.rank == 0 and not only_plan:
        from mnistgen.experiments.report import write_report  # imports Matplotlib, which planning does without

        write_report(study)
    return study


def find_models(models: Models) -> dict[str, type[GenerativeModel]]:
    """The classes by name; those of the default study that are installed, where none is named."""
    if not models:
        models = [name for name in recipe.MODELS if name in registry.list_models()]
        if not models:
            raise UsageError(f"Name a model: none of the default ones ({', '.join(recipe.MODELS)}) is installed.")
    found: dict[str, type[GenerativeModel]] = {}
    for model in models:
        cls = registry.model_class(model) if isinstance(model, str) else model
        entry = registry.entry_of(cls)
        name = model if isinstance(model, str) else entry.name if entry else cls.__name__.lower()
        if name in found:
            raise UsageError(f"The model {name} is named twice.")
        found[name] = cls
    return found


def load_splits(
    data: str | tuple[Dataset, Dataset], *, data_dir: Path | str | None = None, **how: Unpack[ConversionKeywords]
) -> tuple[Dataset, Dataset]:
    """The training and the test split. Raises as `load_data`."""
    if not isinstance(data, str):
        return data
    train = load_data(data, "train", data_dir=data_dir, **how)
    return train, load_data(data, "test", data_dir=data_dir, **how)


def open_records(
    folder: Path, frame: Mapping[str, Any], us: Crew, everything: Sequence[Cell], *, make: bool = True
) -> Records:
    """The records of a folder that all processes share; what failed before is tried again.

    `make`: whether the folder may be made and changed. Raises `UsageError` where it holds something and is no study's.
    """
    records = Records(folder, dict(frame))
    if not make:
        records.check_folder()
        return records
    if us.rank == 0:
        records.open()
        records.forget_failures(everything)
    us.wait(f"opened {folder}")
    us.check_shared(folder)
    return records


def prepare(lab: Lab, records: Records, everything: Sequence[Cell]) -> Costs:
    """The costs by what is recorded in the folder already."""
    for cell in everything:
        records.get(cell)
    return Costs(lab, records.rates())


def question(asked: Design, dataset: str) -> dict[str, str]:
    """What a study asks, of what, and how, as titles and lines."""
    return {
        "question": f"does synthetic data help to train a classifier of {dataset} on few real images?",
        "models": ", ".join(asked.models),
        "classifiers": ", ".join(asked.classifiers),
        "sizes": f"{', '.join(map(str, asked.per_class))} real images a class, {asked.seeds} times each; "
        f"{', '.join(f'{ratio:g}' for ratio in asked.ratio)} synthetic images for each",
        "arms": "; ".join(arm.title for arm in asked.chosen_arms),
    }


def describe(
    lines: Mapping[str, str],
    everything: Sequence[Cell],
    notes: Sequence[str],
    records: Records,
    costs: Costs,
    us: Crew,
    tell: Callable[[str], None],
) -> None:
    """Say what is asked, what will be done, and how long that takes."""
    for title, line in lines.items():
        tell(f"{title:<12}{line}")
    to_do = [cell for cell in everything if records.get(cell) is None]
    kinds = Counter(cell.kind for cell in to_do)
    counts = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
    done = f", {len(everything) - len(to_do)} of them done already" if len(to_do) < len(everything) else ""
    trainings = sum(cell.trainings for cell in to_do)
    tell(f"trainings   {trainings}")
    tell(f"cells       {len(everything)}{done}{f': {counts}' if counts else ''}")
    for path, why in records.damaged.items():
        tell(f"note: {path} is damaged ({why}); that cell is done again.")
    for note in notes:
        tell(f"note: {note}")
    if to_do:
        start = time.perf_counter()
        seconds = costs.total(to_do) / us.size
        measured = f" (measured in {duration(time.perf_counter() - start)})"
        by = f" by {us.size} processes" if us.size > 1 else ""
        for part, why in costs.failed.items():
            tell(f"note: the estimate is without {part!r}, which fails: {why}")
        tell(f"estimate    {duration(seconds)}{by}{measured}")


def conclude(asked: Design, planned: Plan, records: Records, lab: Lab, failures: Sequence[Failure] = ()) -> Study:
    """What the records say."""
    found = outcomes(planned.cells, records)
    done = [record for cell in planned.everything if (record := records.get(cell))]
    return Study(
        design=asked,
        plan=planned,
        records=records,
        lab=lab,
        outcomes=found,
        comparisons=comparisons(found),
        known=known(planned.cells, records, found, lab.train.name),
        failures=list(failures),
        done=len(done),
        seconds=sum(sum(record.seconds.values()) for record in done),
    )

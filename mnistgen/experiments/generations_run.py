"""`loop`: generation after generation, from the question to the report."""

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack, get_args

from mnistgen.console import Display
from mnistgen.data import ConversionKeywords, Dataset
from mnistgen.errors import UsageError, suggestion
from mnistgen.experiments import recipe
from mnistgen.experiments.cells import Cell, Subset
from mnistgen.experiments.crew import crew
from mnistgen.experiments.design import Size
from mnistgen.experiments.generations import RANGES, TITLES, Generation, Line, Loop, RealImages
from mnistgen.experiments.lab import Lab
from mnistgen.experiments.recipe import Mode
from mnistgen.experiments.records import Records
from mnistgen.experiments.runner import Failure, Runner
from mnistgen.experiments.statistics import t_interval
from mnistgen.experiments.study import Models, describe, find_models, load_splits, open_records, prepare
from mnistgen.experiments.subsets import seed_of
from mnistgen.model import BaseConfig, GenerativeModel
from mnistgen.scoring import Scorer
from mnistgen.scoring.classifiers import CAS_STEPS
from mnistgen.training import resolve_device


def loop(
    models: Models,
    *,
    generations: int = 5,
    mode: Mode = "replace",
    per_class: Sequence[Size] = (100,),
    seeds: int = 1,
    guidance: float | None = None,
    generator_steps: int | None = None,
    scored: int = recipe.LOOP_IMAGES,
    cas_steps: int = CAS_STEPS,
    configs: dict[str, BaseConfig] | None = None,
    data: str | tuple[Dataset, Dataset] = "mnist",
    scorer: Scorer | None = None,
    out: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    data_dir: Path | str | None = None,
    budget: float | None = None,
    quiet: bool = True,
    say: Callable[[str], None] | None = None,
    only_plan: bool = False,
    **how: Unpack[ConversionKeywords],
) -> Loop:
    """Train models on their own output for so many generations after the first, and write what becomes of them.

    `per_class`: sizes of the real subset, or "all". `guidance` is the value of the knob with
    guidance (default: the model's own). `scored` samples of each generation are scored by `scorer` (default: that of
    the dataset). The rest is as for `augment`.

    Raises `UsageError` where that makes no sense, for example where fresh images run out.
    """
    if mode not in get_args(Mode):
        raise UsageError(f"There is no mode {mode!r}. {suggestion(mode, get_args(Mode))}")
    for name, value in (("--loop", generations), ("--seeds", seeds)):
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1.")
    chosen = find_models(models)
    train, test = load_splits(data, data_dir=data_dir, **how)
    us = crew()
    where = resolve_device(device)
    scorer = scorer or Scorer(data if isinstance(data, str) else train.name, device=where, data_dir=data_dir)
    lab = Lab(train, test, chosen, seed=seed, device=where, precision=precision, scorer=scorer)
    scored = min(scored, len(test))
    judges = json.dumps(dict(scorer.evaluators.hashes), sort_keys=True)
    cells: list[Generation] = []
    for repetition in range(seeds):
        for size in (None if asked == "all" else asked for asked in per_class):
            if mode == "fresh":
                if size is None:
                    raise UsageError("--mode fresh needs images that no generation has seen: give a --per-class.")
                lab.subsets(repetition).take(size, skip=generations * size)  # refuses where there are too few
            images = lab.subsets(repetition).take(size)
            subset = Subset(repetition, size, len(images), images.hash)
            for model, cls in chosen.items():
                config = ((configs or {}).get(model) or recipe.generator_config(model, cls)).to_json()
                for knobs in guidances(cls, guidance):
                    previous = None
                    for number in range(generations + 1):
                        previous = Generation(
                            model=model,
                            config=config,
                            mode=mode,
                            guidance=knobs,
                            number=number,
                            subset=subset,
                            steps=generator_steps or recipe.generator_steps(len(images)),
                            seed=seed_of(seed, repetition, size, model, "generation", number),
                            scored=scored,
                            cas_steps=cas_steps,
                            judges=judges,
                            previous=previous,
                        )
                        cells.append(previous)
    real = RealImages(scored, cas_steps)
    everything: tuple[Cell, ...] = (real, *cells)
    folder = Path(out) if out else Path("runs") / f"loop-{train.name}"
    records = open_records(folder, lab.frame, us, everything, make=not only_plan)
    costs = prepare(lab, records, everything)
    if us.rank == 0 and say is not None:
        lines = {
            "question": f"what becomes of a model of {train.name} that is trained on its own output?",
            "models": ", ".join(chosen),
            "sizes": f"{', '.join(map(str, per_class))} real images a class, {seeds} times each",
            "loop": f"{generations} generations after the first, mode {mode}",
        }
        describe(lines, everything, train.notes, records, costs, us, say)
    failures: list[Failure] = []
    if not only_plan:
        # A process takes a loop, for its generations come one after another: what is handed out is the last one.
        lasts = [cell for cell in cells if cell.number == generations]
        display = Display("loop", quiet=quiet or us.rank != 0)
        runner = Runner(lab, records, us, costs, display=display, budget=budget)
        failures = runner.run((real, *lasts), everything)
    done = [cell for cell in cells if records.get(cell) is not None]
    found = Loop(
        mode=mode,
        generations=generations,
        seeds=seeds,
        models=tuple(chosen),
        guidance=guidance,
        generator_steps=generator_steps,
        lab=lab,
        records=records,
        lines=_lines(cells, records),
        real=_real(real, cells, records),
        failures=failures,
        missing=sum(records.get(cell) is None for cell in everything),
        steps={str(cell.subset.per_class or "all"): cell.steps for cell in cells},
        cells=done,
        protocol=next((str(record.result["protocol"]) for cell in done if (record := records.get(cell))), ""),
    )
    if us.rank == 0 and not only_plan:
        from mnistgen.experiments.generations_report import write_loop  # imports Matplotlib

        write_loop(found)
    return found


def guidances(cls: type[GenerativeModel], value: float | None = None) -> list[tuple[tuple[str, float], ...]]:
    """Without guidance, and with it, for a model that has such a knob; as it is, for another one."""
    for parameter in inspect.signature(cls.sample).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name in recipe.GUIDANCE_OFF:
            off = recipe.GUIDANCE_OFF[parameter.name]
            on = value
            if on is None:
                on = float(parameter.default) if parameter.default != off else off + 1.0
            if on == off:
                raise UsageError(f"--guidance {on:g} is no guidance for {cls.__name__}; give another value.")
            return [((parameter.name, off),), ((parameter.name, on),)]
    return [()]


def _lines(cells: Sequence[Generation], records: Records) -> list[Line]:
    found: dict[tuple[str, int | None, str, int], dict[str, list[float]]] = {}
    for cell in cells:
        record = records.get(cell)
        if record is None:
            continue
        guided = ", ".join(
            "without guidance" if value == recipe.GUIDANCE_OFF[knob] else f"{knob} {value:g}"
            for knob, value in cell.guidance
        )
        numbers = found.setdefault((cell.model, cell.subset.per_class, guided, cell.number), {})
        for name in TITLES:
            if (value := record.result.get(name)) is not None:
                numbers.setdefault(name, []).append(float(value))
    return [
        Line(*key, {name: t_interval(values, within=RANGES[name]) for name, values in numbers.items()})
        for key, numbers in found.items()
    ]


def _real(cell: RealImages, cells: Sequence[Generation], records: Records) -> dict[str, float]:
    """What real images get, as far as that is known."""
    record = records.get(cell)
    found = {"cas": float(record.result["cas"])} if record else {}
    for generation in cells:
        done = records.get(generation)
        if done is not None:
            found |= {name: float(value) for name, value in done.result["floor"].items() if value is not None}
            break
    return found

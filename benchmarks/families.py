"""Every model, trained with its defaults, scored against the test images, in one table.

    python benchmarks/families.py                           all models, one after the other with all cores
    python benchmarks/families.py --jobs 2                  two trainings at a time, each with half of the cores
    python benchmarks/families.py --models vae dcgan --seeds 0 vae=0,1,2
    python benchmarks/families.py --table                   what there is so far; trains and scores nothing
    python benchmarks/families.py --ship                    copy seed 0's checkpoints and pictures to where they ship
    python benchmarks/families.py --steps 20 --n 1000 --no-cas      a few steps each, to see that it works

Every training is `mnistgen train NAME --seed S` into OUT/NAME-S/checkpoint and OUT/NAME-S/pictures, where FLAGS has
no more flags for it; an interrupted one goes on, and a finished one is not repeated. Every score is `mnistgen score
--seed 0` of that checkpoint, one at a time with all cores, into OUT/NAME-S/score.json and OUT/NAME-S/scored; it is
made again only where the checkpoint has changed since. A folder of that form from elsewhere is taken as it is.
Numbers are means over the training seeds, with the range beside FID. Models are ordered by the headline, the larger of
the multiples of the floor under evaluators A and B, and held to their targets by it. The exit status is 1 where a
training or a score failed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from kept import keep, machine
from PIL import Image
from safetensors import safe_open

from mnistgen import checkpoint, list_models
from mnistgen.checkpoint import WEIGHTS, load_state, read_checkpoint
from mnistgen.cli.run_folder import STATE
from mnistgen.console import duration
from mnistgen.files import atomic_file
from mnistgen.scoring import N
from mnistgen.scoring.scale import FLOOR
from mnistgen.training import resolve_device

SEEDS = {"vae": [0, 1, 2], "r3gan": [0, 1, 2], "vqvae": [0, 1, 2]}  # of all others, 0 alone
MEANFLOW = "--teacher flow-mnist --part 0.25 --instant 0.1 --time-mean 0 --time-std 2 --epochs 5"
FLAGS = {"meanflow": MEANFLOW.split(), "sid": ["--teacher", "flow-mnist"]}  # of the training, beside the defaults
TARGETS = {  # in floors
    "vae": 25.0,
    "latent_flow_vae": 8.0,
    "vqvae": 5.0,
    "dcgan": 8.0,
    "wgan_gp": 10.0,
    "r3gan": 4.0,
    "flow": 1.5,
    "edm": 2.0,
    "ddpm": 2.0,
    "meanflow": 3.0,
    "sid": 3.0,
    "axial": 2.5,
}
LABELS = 0.99  # the least label agreement
COVERAGE = 0.05  # the most that coverage may be below that of real images
LARGEST = 8 * 2**20  # bytes of a checkpoint that ships; what is asked of the VAEs and GANs is half of it
PICTURES = (".png", ".gif")
ROOT = Path(__file__).resolve().parents[1]


class Trained(NamedTuple):
    model: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.model}-{self.seed}"


class Column(NamedTuple):
    """One column of the table of scores."""

    title: str
    number: str  # its name in the score
    form: str
    real: str = ""  # that of the real images, where it is none of the floor
    ranges: bool = False  # show the range over the seeds


COLUMNS = (
    Column("FID / floor", "floors", ".1f", ranges=True),
    Column("by A", "floors_a", ".1f"),
    Column("by B", "floors_b", ".1f"),
    Column("FID", "fid.A.penultimate", ".3g", ranges=True),
    Column("worst class FID", "class_fid.worst", ".3g"),
    Column("KID", "kid.A.penultimate", ".2g"),
    Column("precision", "precision.A.penultimate", ".3f"),
    Column("recall", "recall.A.penultimate", ".3f"),
    Column("density", "density.A.penultimate", ".3f"),
    Column("coverage", "coverage.A.penultimate", ".3f"),
    Column("labels", "label_agreement", ".2%"),
    Column("CAS", "cas", ".2%", real="cas_real"),
    Column("authentic", "authentic", ".1%", real="authentic_real"),
)


def cores(threads: int) -> str:
    return "one core" if threads == 1 else f"{threads} cores"


def write(path: Path, content: Any) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def progress(folder: Path) -> float:
    """Share of a training that is done; a checkpoint without a state to go on from is a finished one."""
    state = folder / "checkpoint" / STATE
    return float(load_state(state)["progress"]) if state.exists() else float((state.parent / WEIGHTS).exists())


def score_of(folder: Path, n: int) -> dict[str, Any] | None:
    """The score of n images of exactly the checkpoint that is there, or None."""
    found = read(folder / "score.json")
    if not found or not (folder / "checkpoint" / WEIGHTS).exists():
        return None
    (score,) = found
    about = json.loads(json.dumps(asdict(read_checkpoint(folder / "checkpoint"))))  # tuples become lists
    protocol = score["protocol"]
    return score if protocol["n"] == n and protocol["checkpoint"] == about else None


def lacking(folder: Path, n: int) -> str:
    """What is still to do; empty where nothing is."""
    done = progress(folder)
    if done < 1:
        return f"{done:.0%} trained" if done else "not trained"
    return "" if score_of(folder, n) else "not scored"


def command(home: Path, log: str, threads: int, *arguments: str) -> bool:
    """Run `mnistgen` inside `home`, so that no path of this machine gets into what it writes; say whether it worked."""
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if "MNISTGEN_DATA" in variables:
        variables["MNISTGEN_DATA"] = str(Path(variables["MNISTGEN_DATA"]).resolve())
    (home / log).parent.mkdir(parents=True, exist_ok=True)
    with (home / log).open("a") as file:
        process = subprocess.run(
            [sys.executable, "-m", "mnistgen", *arguments], cwd=home, env=variables, stdout=file, stderr=file
        )
    if process.returncode:
        print(f"mnistgen {' '.join(arguments[:2])} ended with {process.returncode}: see {home / log}", flush=True)
    return process.returncode == 0


def train(run: Trained, home: Path, threads: int, steps: int | None) -> bool:
    """Train one model, unless that is done; go on where it was interrupted."""
    folder = home / run.name
    if progress(folder) >= 1:
        return True
    print(f"{run.name}: training, {cores(threads)}", flush=True)
    start = time.monotonic()
    flags = ["--resume"] if (folder / "checkpoint" / STATE).exists() else []
    flags += ["--steps", str(steps)] if steps else []
    flags += FLAGS.get(run.model, ())
    places = ["--out", f"{run.name}/checkpoint", "--samples", f"{run.name}/pictures"]
    log = f"{run.name}/train.log"
    if not command(home, log, threads, "train", run.model, "--seed", str(run.seed), *places, *flags):
        return False
    write(folder / "training.json", {"threads": threads})
    print(f"{run.name}: trained, {duration(time.monotonic() - start)}", flush=True)
    return True


def score(run: Trained, home: Path, n: int, cas: bool) -> bool:
    """Score one checkpoint, unless that is done."""
    folder = home / run.name
    found = score_of(folder, n)
    if found and ("cas" in found["numbers"] or not cas):
        return True
    print(f"{run.name}: scoring", flush=True)
    flags = ["--json", f"{run.name}/score.json", "--out", f"{run.name}/scored", "--quiet", *(["--cas"] if cas else [])]
    threads, log = torch.get_num_threads(), f"{run.name}/score.log"
    if not command(home, log, threads, "score", f"{run.name}/checkpoint", "--n", str(n), "--seed", "0", *flags):
        return False
    write(folder / "scoring.json", {"threads": threads})
    return True


def facts(folder: Path, score: dict[str, Any]) -> dict[str, Any]:
    """Everything that the table says of one training."""
    about, file = read_checkpoint(folder / "checkpoint"), folder / "checkpoint" / WEIGHTS
    by_a, by_b = (score["times_floor"][f"fid.{network}.penultimate"] for network in "AB")
    return {
        **score["numbers"],
        "floors": max(by_a, by_b),  # the headline of `mnistgen score`
        "floors_a": by_a,
        "floors_b": by_b,
        "worst_class": score["details"].get("per_class_fid", {}).get("worst_class"),
        "weights": sum(tensor.numel() for tensor in checkpoint.read(file)[1].values() if tensor.is_floating_point()),
        "bytes": file.stat().st_size,
        "steps": about.steps,
        "training_seconds": about.seconds,
        "training_threads": read(folder / "training.json").get("threads"),
        "images_per_second": about.steps * about.config["batch_size"] / about.seconds,
        "sampling_seconds": score["seconds"]["drawing"] / score["protocol"]["n"],
        "sampling_threads": read(folder / "scoring.json").get("threads"),
    }


def averaged(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return mean(values) if values else None


def cell(column: Column, rows: Sequence[dict[str, Any]]) -> str:
    """The mean over the seeds, and where there are several and it is asked for, the range."""
    value = averaged(rows, column.number)
    if value is None:
        return ""
    text = format(value, column.form)
    if column.ranges and len(rows) > 1:
        values = [row[column.number] for row in rows]
        text += f" ({min(values):{column.form}} to {max(values):{column.form}})"
    if column.number == "class_fid.worst":
        text += f" ({', '.join(sorted({str(row['worst_class']) for row in rows}))})"
    return text


def real_cell(column: Column, floor: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """What real images get: the floor, or the control that was measured beside the samples."""
    if column.number.startswith("floors"):
        return format(1.0, column.form)
    value = averaged(rows, column.real) if column.real else floor["mean"].get(column.number)
    spread = floor["spread"].get(column.number) if column.ranges else None
    return "" if value is None else format(value, column.form) + (f" ± {spread:.1g}" if spread else "")


def verdict(model: str, rows: Sequence[dict[str, Any]], floor: dict[str, Any]) -> str:
    """The target in floors, whether the mean over the seeds meets it, and what else is missed."""
    if model not in TARGETS:
        return ""
    distance, labels, coverage = (
        averaged(rows, name) for name in ("floors", "label_agreement", "coverage.A.penultimate")
    )
    assert distance is not None
    text = f"{TARGETS[model]:g}: {'met' if distance <= TARGETS[model] else 'missed'}"
    if labels is not None and labels < LABELS:
        text += f"; labels below {LABELS:.0%}"
    least = floor["mean"]["coverage.A.penultimate"] - COVERAGE
    if coverage is not None and coverage < least:
        text += f"; coverage below {least:.3f}"
    return text


def quality(models: dict[str, dict[int, dict[str, Any]]], floor: dict[str, Any]) -> str:
    everything = [row for runs in models.values() for row in runs.values()]
    rows = [["real images", "", *(real_cell(column, floor, everything) for column in COLUMNS), ""]]
    best_first = sorted(models.items(), key=lambda item: averaged(list(item[1].values()), "floors") or 0.0)
    for model, runs in best_first:
        cells = [cell(column, list(runs.values())) for column in COLUMNS]
        rows.append([f"`{model}`", ", ".join(map(str, runs)), *cells, verdict(model, list(runs.values()), floor)])
    head = ["", "seeds", *(column.title for column in COLUMNS), "target, floors"]
    return keep("families-quality", head, rows)


def cost(models: dict[str, dict[int, dict[str, Any]]]) -> str:
    rows = []
    for model, runs in models.items():
        by = {name: mean(row[name] for row in runs.values()) for name in ("weights", "bytes", "training_seconds")}
        by |= {name: mean(row[name] for row in runs.values()) for name in ("images_per_second", "sampling_seconds")}
        on = {
            name: "".join(f", {cores(threads)}" for threads in sorted({row[name] for row in runs.values()} - {None}))
            for name in ("training_threads", "sampling_threads")
        }
        rows.append(
            [
                f"`{model}`",
                f"{by['weights']:,.0f}",
                f"{by['bytes'] / 2**20:.2f} MiB",
                duration(by["training_seconds"]) + on["training_threads"],
                f"{by['images_per_second']:,.0f}",
                f"{1000 * by['sampling_seconds']:.2g} ms{on['sampling_threads']}",
            ]
        )
    head = ["", "weights", "checkpoint", "training", "training images/s", "time of a sample"]
    return keep("families-cost", head, rows)


def protocol_of(scores: dict[Trained, dict[str, Any]]) -> dict[str, Any]:
    """What all scores have in common. Exits where they do not compare."""
    shared = ("evaluators", "layers", "n", "reference", "reference_hash", "seed", "versions")
    (first, *_), found = scores, [{key: score["protocol"][key] for key in shared} for score in scores.values()]
    for run, protocol in zip(scores, found, strict=True):
        for key in shared:
            if protocol[key] != found[0][key]:
                sys.exit(
                    f"{run.name} was scored with {key} {protocol[key]} and {first.name} with {found[0][key]}, so they "
                    "do not compare. Delete the score.json of one of them, and it is scored again."
                )
    return found[0]


def report(runs: Sequence[Trained], home: Path, n: int) -> dict[str, Any]:
    """Print the table of what there is, and what is missing; return its numbers."""
    missing = {run.name: what for run in runs if (what := lacking(home / run.name, n))}
    found = {run: score_of(home / run.name, n) for run in runs if run.name not in missing}
    scores = {run: score for run, score in found.items() if score is not None}
    content: dict[str, Any] = {"missing": missing}
    if scores:
        protocol = protocol_of(scores)
        floor = next(iter(scores.values()))["scale"][FLOOR]
        models: dict[str, dict[int, dict[str, Any]]] = {}
        for run, one in scores.items():
            models.setdefault(run.model, {})[run.seed] = facts(home / run.name, one)
        evaluators = ", ".join(f"{name} `{digest}`" for name, digest in protocol["evaluators"].items())
        versions = ", ".join(f"{name} {version}" for name, version in protocol["versions"].items())
        print(
            f"{machine()}, {resolve_device('auto').type}; {versions}. {protocol['n']:,} samples, seed "
            f"{protocol['seed']}, against {protocol['reference']} (`{protocol['reference_hash']}`); evaluators "
            f"{evaluators}.\n"
        )
        print(quality(models, floor), cost(models), sep="\n\n")
        content |= {"protocol": protocol, "machine": machine(), "floor": floor, "models": models}
    if missing:
        print(f"\nmissing: {', '.join(f'{name} ({what})' for name, what in missing.items())}")
    return content


def texts(path: Path) -> Iterator[str]:
    """What a picture or a safetensors file says of itself."""
    if path.suffix in PICTURES:
        with Image.open(path) as picture:
            picture.load()  # text may stand behind the pixels
            values = picture.info.values()
            yield from (value.decode() if isinstance(value, bytes) else str(value) for value in values)
    else:
        with safe_open(path, "pt") as file:
            yield from (file.metadata() or {}).values()


def absolute_path(text: str) -> str | None:
    """The first path of a machine that stands in a text, if there is one; an address of the web is none."""
    found = re.search(r"(?<![\w.~/-])(?:/|~/|[A-Za-z]:\\)[\w.-]+\S*", re.sub(r"\w+://\S+", "", text))
    return found[0] if found else None


def ship(models: Sequence[str], home: Path, root: Path) -> None:
    """Copy the checkpoint and the pictures of seed 0 of each model. Exits, before anything is copied, where a file is
    missing or too large or names a path of this machine."""
    copies: dict[Path, Path] = {}
    for model in models:
        folder, pictures = home / Trained(model, 0).name, root / "samples" / f"{model}-mnist"
        weights = folder / "checkpoint" / WEIGHTS
        copies[weights] = root / "checkpoints" / f"{model}-mnist.safetensors"
        for picture in ("grid", "curves"):
            copies[folder / "pictures" / f"{picture}.png"] = pictures / f"{picture}.png"
        drawn = [path for path in (folder / "pictures").glob("*") if path.suffix in PICTURES]
        copies |= {picture: pictures / picture.name for picture in drawn}
        copies[folder / "scored" / "grid.png"] = pictures / "scored.png"
        copies[folder / "scored" / "nearest.png"] = pictures / "nearest.png"
        if weights.exists() and weights.stat().st_size > LARGEST:
            sys.exit(f"{weights} has {weights.stat().st_size / 2**20:.2f} MiB; at most {LARGEST / 2**20:g} MiB ship.")
    for source in copies:
        if not source.exists():
            sys.exit(f"{source} is missing, so nothing is shipped; train and score it first.")
        for text in texts(source):
            if path := absolute_path(text):
                sys.exit(f"{source} names the path {path}, so nothing is shipped.")
    for source, target in copies.items():
        with atomic_file(target) as temporary:
            temporary.write_bytes(source.read_bytes())
        print(f"shipped: {target}")


def seeds_of(models: Sequence[str], given: Sequence[str]) -> list[Trained]:
    """`0 1 vae=0,1,2`: seeds of all models, and of one. Raises `ValueError` on anything else."""
    everyone = [int(text) for text in given if "=" not in text]
    named = {
        name: [int(seed) for seed in seeds.split(",")]
        for name, equals, seeds in (text.partition("=") for text in given)
        if equals
    }
    if unknown := set(named) - set(models):
        raise ValueError(f"{unknown.pop()} is none of {', '.join(models)}")
    return [Trained(name, seed) for name in models for seed in named.get(name) or everyone or SEEDS.get(name, [0])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="names of models; default: all that are installed")
    parser.add_argument("--seeds", nargs="+", default=[], metavar="SEED|NAME=SEED,...", help="seeds of the trainings")
    parser.add_argument("--out", type=Path, default=Path("runs/families"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=1, help="trainings at a time; they share the cores")
    parser.add_argument("--n", type=int, default=N, help="samples to score")
    parser.add_argument("--no-cas", action="store_true", help="train no classifiers on the samples")
    parser.add_argument("--table", action="store_true", help="train and score nothing")
    parser.add_argument("--json", type=Path, help="write every number to this file as well")
    parser.add_argument("--ship", type=Path, nargs="?", const=ROOT, help="copy what ships; into this folder, or here")
    parser.add_argument("--steps", type=int, help="a short run in a folder of its own, to see that everything works")
    options = parser.parse_args()
    if options.steps and options.ship:
        parser.error("what --steps trains is not worth shipping")
    models = options.models or sorted(list_models())
    if not options.table and (unknown := [name for name in models if name not in list_models()]):
        parser.error(f"there is no model {unknown[0]!r}; there are {', '.join(sorted(list_models()))}")
    try:
        runs = seeds_of(models, options.seeds)
    except ValueError as error:
        parser.error(f"--seeds: {error}")
    home: Path = options.out / f"steps-{options.steps}" if options.steps else options.out

    worked = True
    if not options.table:
        threads = max(1, torch.get_num_threads() // options.jobs)
        pool = ThreadPoolExecutor(options.jobs)
        try:
            worked = all(list(pool.map(lambda run: train(run, home, threads, options.steps), runs)))
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C, none that has not begun
        for run in runs:
            if progress(home / run.name) >= 1:
                worked &= score(run, home, options.n, not options.no_cas)
    content = report(runs, home, options.n)
    if options.json:
        write(options.json, content)
    if options.ship:
        ship(models, home, options.ship)
    return int(not worked)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from there")

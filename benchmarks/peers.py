"""Our models beside those of pythae, torchcfm and diffusers: same images, same wall time of training, same scorer.

    pip install pythae==0.1.2
    python benchmarks/peers.py --budget 4m
    pip install torchcfm==1.0.7 diffusers==0.42.1
    python benchmarks/peers.py --budget 4m --n 1000 --contestants flow torchcfm diffusers
    python benchmarks/peers.py --budget 10s --n 1000 --contestants vae pythae-vae-mlp       to see that it works

vae, vqvae      `mnistgen train NAME --budget`, defaults otherwise. They are told a class; classes are drawn in the test
                images' proportions.
pythae-vae-mlp  its VAE with the networks it takes by default, and its VAE with its convolutional networks for MNIST;
pythae-vae-conv sampled by its NormalSampler and its GaussianMixtureSampler (ten components, its default).
pythae-vqvae    its VQVAE with its residual networks for MNIST, and its PixelCNNSampler, each for half of the time. No
                other of its samplers takes codes that are images. It leaves its PixelCNN in training mode, where batch
                normalisation sees the unfinished codes; sampling in evaluation mode is scored as well.

flow            `mnistgen train flow --budget`, defaults otherwise.
torchcfm        the class-conditional MNIST example of torchcfm: its U-Net of 32 channels with one residual block, and
                flow matching; Adam with 1e-3, batches of 128. Sampled by Heun's method.
diffusers       a UNet2DModel of 32, 64 and 64 channels with a class embedding, trained on the noise of its DDPM; the
                same Adam and batches. Sampled by its DDIM and its DDPM in 50 steps.

torchcfm and diffusers train in float32, as their examples do, with a learning rate that falls linearly to zero over the
time. pythae trains with `BaseTrainer`, in float32, and the settings of its own examples for MNIST: Adam, learning rate
1e-3, batches of 100, 16 latent dimensions (examples/scripts/configs/mnist), 256 codes with a moving average
(examples/scripts/distributed_training_mnist.py). Its PixelCNNSampler cannot read such a codebook, so it is handed the
same one in the form that it can. pythae keeps the weights with the best loss on the held-out images at the end of an
epoch, as it does by default; the last weights count, too. Fitting the Gaussian mixture and drawing come on top of its
time.

All learn from the same images (the training images but those held out), each in a process of its own, one at a time.
Samples are scored as images without labels, ours as well. What was made is not made again.
"""

import argparse
import importlib.metadata
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from diffusion_peers import contend
from families import cores, read, write
from kept import keep, machine
from torch import Tensor, nn

from mnistgen import load, load_data, sample
from mnistgen.checkpoint import read_checkpoint
from mnistgen.console import duration
from mnistgen.data import Dataset, to_uint8, train_validation_split
from mnistgen.files import atomic_file
from mnistgen.scoring import N, Scorer, class_counts, write_json
from mnistgen.scoring.scale import FLOOR

VERSIONS = {"pythae": "0.1.2", "torchcfm": "1.0.7", "diffusers": "0.42.1"}
HELD_OUT = 5000  # training images, as `mnistgen train` holds out
LATENT = 16
CODES = 256
SETTINGS = {"learning_rate": 1e-3, "per_device_train_batch_size": 100, "per_device_eval_batch_size": 100}


class Drawn(NamedTuple):
    """What one sampler made."""

    sampler: str
    images: Tensor  # (n, 1, 28, 28) uint8
    facts: dict[str, Any]


class Column(NamedTuple):
    title: str
    number: str
    form: str


COLUMNS = (
    Column("FID / floor", "floors.A.penultimate", ".1f"),
    Column("FID", "fid.A.penultimate", ".3g"),
    Column("FID, intermediate layer / floor", "floors.A.early", ".1f"),
    Column("KID", "kid.A.penultimate", ".2g"),
    Column("precision", "precision.A.penultimate", ".3f"),
    Column("recall", "recall.A.penultimate", ".3f"),
    Column("density", "density.A.penultimate", ".3f"),
    Column("coverage", "coverage.A.penultimate", ".3f"),
    Column("confidence", "mean_confidence", ".1%"),
    Column("authentic", "authentic", ".1%"),
)


def seconds_of(text: str) -> float:
    """`90s`, `4m` or `1h` in seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        seconds = float(text[:-1]) * units[text[-1:]]
    except (KeyError, ValueError):
        seconds = 0.0
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time; write 90s, 4m or 1h")
    return seconds


def ours(name: str, options: argparse.Namespace, folder: Path) -> Iterator[Drawn]:
    checkpoint = folder / "checkpoint"
    command = [sys.executable, "-m", "mnistgen", "train", name, "--budget", f"{options.budget:g}s", "--overwrite"]
    command += ["--seed", str(options.seed), "--out", str(checkpoint), "--samples", str(folder / "pictures")]
    subprocess.run(command, check=True)
    about, model = read_checkpoint(checkpoint), load(checkpoint)
    start = time.perf_counter()
    counts = torch.tensor(class_counts(load_data("mnist", "test").require_labels(), options.n))
    images = sample(model, torch.arange(len(counts)).repeat_interleave(counts), seed=options.seed)
    facts = {"steps": about.steps, "images": about.steps * model.config.batch_size, "trained": about.seconds}
    yield Drawn("its own", images, facts | {"weights": weights(model), "drawing": time.perf_counter() - start})


class Enough(Exception):  # noqa: N818
    """Ends pythae's training."""


@dataclass
class Clock:
    """How long pythae has trained, and until when it may."""

    begun: float = 0.0
    end: float = 0.0
    trained: float = 0.0
    steps: int = 0

    def start(self, seconds: float) -> None:
        self.begun = time.monotonic()
        self.end = self.begun + seconds

    def tick(self) -> None:
        """To be called after each step."""
        self.steps += 1
        if time.monotonic() >= self.end:
            raise Enough

    def stop(self) -> None:
        self.trained += time.monotonic() - self.begun


def trainer_until(clock: Clock) -> type:
    """pythae's `BaseTrainer`, ended by a clock."""
    from pythae.trainers import BaseTrainer
    from pythae.trainers.training_callbacks import TrainingCallback

    class Timer(TrainingCallback):  # type: ignore[misc]
        def on_train_step_end(self, training_config: Any, **_: Any) -> None:  # noqa: ARG002
            clock.tick()

    class Timed(BaseTrainer):  # type: ignore[misc]
        def __init__(self, **given: Any) -> None:
            super().__init__(**given, callbacks=[Timer()])

        def train(self, log_output_dir: str | None = None) -> None:
            with suppress(Enough):
                super().train(log_output_dir)
            clock.stop()
            self.model = self._best()
            self.save_model(self.model, str(Path(self.training_dir) / "final_model"))  # where samplers look for it

        def _best(self) -> nn.Module:
            """The best by held-out loss: that of the end of an epoch which pythae has kept, or the last."""
            candidates = [self.model, getattr(self, "_best_model", self.model)]

            def loss(model: nn.Module) -> float:
                self.model = model
                return float(self.eval_step(epoch=0))

            return min(candidates, key=loss)

    return Timed


def learnt_from(seed: int) -> tuple[Dataset, Dataset]:
    """What all learn from, and the rest: as `mnistgen train` divides it."""
    return train_validation_split(load_data("mnist"), HELD_OUT, seed)


def autoencoder(name: str) -> nn.Module:
    """One of pythae's models."""
    model: nn.Module
    from pythae.models import VAE, VQVAE, VAEConfig, VQVAEConfig
    from pythae.models.nn.benchmarks import mnist

    if name == "pythae-vqvae":
        vq = VQVAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, num_embeddings=CODES, use_ema=True)
        model = VQVAE(vq, encoder=mnist.Encoder_ResNet_VQVAE_MNIST(vq), decoder=mnist.Decoder_ResNet_VQVAE_MNIST(vq))
        return model
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT)
    convolutional = {"encoder": mnist.Encoder_Conv_VAE_MNIST(config), "decoder": mnist.Decoder_Conv_AE_MNIST(config)}
    model = VAE(config, **({} if name == "pythae-vae-mlp" else convolutional))
    return model


def hand_over(model: Any) -> None:
    """Put the codebook of a moving average where PixelCNNSampler looks for one; the codes of images stay the same."""
    from pythae.models.vq_vae.vq_vae_utils import Quantizer

    quantizer = Quantizer(model.model_config)
    quantizer.embeddings.weight.data.copy_(model.quantizer.embeddings)
    model.quantizer = quantizer


def theirs(name: str, options: argparse.Namespace, folder: Path) -> Iterator[Drawn]:
    """Train one of pythae's models, and draw with each of its samplers."""
    from pythae.data.datasets import BaseDataset
    from pythae.samplers import GaussianMixtureSampler, NormalSampler, PixelCNNSampler
    from pythae.samplers.pixelcnn_sampler import pixelcnn_sampler
    from pythae.trainers import BaseTrainerConfig
    from pythae.trainers.trainer_utils import set_seed

    x, rest = (data.images.float().div_(255) for data in learnt_from(options.seed))
    config = BaseTrainerConfig(output_dir=str(folder / "training"), num_epochs=1_000_000, seed=options.seed, **SETTINGS)
    clock = Clock()
    timed = trainer_until(clock)
    set_seed(options.seed)
    share = 0.5 if name == "pythae-vqvae" else 1.0  # of the time, for the autoencoder
    datasets = [BaseDataset(images, torch.ones(len(images))) for images in (x, rest)]
    trainer = timed(
        model=autoencoder(name), train_dataset=datasets[0], eval_dataset=datasets[1], training_config=config
    )
    clock.start(share * options.budget)
    trainer.train()
    model = trainer.model.eval()
    facts = {"images": clock.steps * config.per_device_train_batch_size}

    def drawn(label: str, sampler: Any, networks: list[nn.Module]) -> Drawn:
        set_seed(options.seed)
        start = time.perf_counter()
        with torch.no_grad():
            images = to_uint8(sampler.sample(num_samples=options.n) * 2 - 1).cpu()
        seconds = time.perf_counter() - start
        about = {"steps": clock.steps, "trained": clock.trained, "weights": sum(map(weights, networks))}
        return Drawn(label, images, facts | about | {"drawing": seconds})

    if name != "pythae-vqvae":
        yield drawn("NormalSampler", NormalSampler(model), [model])
        mixture = GaussianMixtureSampler(model)
        start = time.monotonic()
        mixture.fit(x)
        facts["fitting"] = time.monotonic() - start
        yield drawn("GaussianMixtureSampler", mixture, [model])
        return
    hand_over(model)
    prior = PixelCNNSampler(model)
    clock.start((1 - share) * options.budget)  # which reading the codes of all images is part of
    with patch.object(pixelcnn_sampler, "BaseTrainer", timed):  # which the sampler makes for itself
        prior.fit(x, rest, training_config=config)
    networks = [model, prior.pixelcnn_model]
    # Evaluation mode first: the other one changes the statistics of the batch normalisation.
    for training in (False, True):
        prior.pixelcnn_model.train(training)
        label = "PixelCNNSampler" if training else "PixelCNNSampler, evaluation mode"
        yield drawn(label, prior, networks)


def others(name: str, options: argparse.Namespace, _: Path) -> Iterator[Drawn]:
    """torchcfm or diffusers."""
    for title, images, facts in contend(name, options, learnt_from(options.seed)[0]):
        yield Drawn(title, images, facts)


def weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


CONTESTANTS: dict[str, Callable[[str, argparse.Namespace, Path], Iterator[Drawn]]] = {
    "vae": ours,
    "pythae-vae-mlp": theirs,
    "pythae-vae-conv": theirs,
    "vqvae": ours,
    "pythae-vqvae": theirs,
    "flow": ours,
    "torchcfm": others,
    "diffusers": others,
}
PYTHAES = ["vae", "pythae-vae-mlp", "pythae-vae-conv", "vqvae", "pythae-vqvae"]
RIVALS = {
    "vae": ("pythae-vae-mlp", "pythae-vae-conv"),
    "vqvae": ("pythae-vqvae",),
    "flow": ("torchcfm", "diffusers"),
}


def contest(name: str, options: argparse.Namespace, folder: Path) -> None:
    """Train one contestant and keep what it draws, in this process."""
    for old in folder.glob("[0-9].json"):  # scores of what was drawn before
        old.unlink()
    found = []
    for number, drawn in enumerate(CONTESTANTS[name](name, options, folder)):
        with atomic_file(folder / f"{number}.npz") as temporary:
            np.savez_compressed(temporary, images=drawn.images.numpy())
        found.append({"sampler": drawn.sampler, "file": f"{number}.npz", **drawn.facts})
    write(folder / "drawn.json", found)


def in_a_process(name: str, folder: Path) -> None:
    """`contest` in a new process, with the options of this one."""
    print(f"{name}: training", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("w") as log:
        command = [sys.executable, __file__, *sys.argv[1:], "--contest", name]
        if subprocess.run(command, stdout=log, stderr=log).returncode:
            sys.exit(f"{name} failed: see {folder / 'log'}")


def scored(name: str, folder: Path, scorer: Scorer, n: int) -> list[dict[str, Any]]:
    """What each sampler of a contestant got."""
    rows = []
    for drawn in read(folder / "drawn.json"):
        path = (folder / drawn["file"]).with_suffix(".json")
        if not path.exists():
            print(f"{name}, {drawn['sampler']}: scoring", flush=True)
            with np.load(folder / drawn["file"]) as file:
                images = torch.from_numpy(file["images"])
            write_json(path, [scorer.score((images, None), n=n, name=name)])
        (score,) = read(path)
        floors = {f"floors.{view}": score["times_floor"][f"fid.{view}"] for view in ("A.penultimate", "A.early")}
        rows.append({"contestant": name, **drawn, "numbers": score["numbers"] | floors, "score": score})
    return rows


def table(name: str, rows: list[dict[str, Any]], images: int, n: int) -> str:
    """Every sampler of every contestant below the real images, kept by that name."""
    numbers, floor = rows[0]["score"]["numbers"], rows[0]["score"]["scale"][FLOOR]["mean"]
    real = floor | {"floors.A.penultimate": 1.0, "floors.A.early": 1.0, "authentic": numbers.get("authentic_real")}
    lines = [["real images", *[""] * 4, *(cell(column, real) for column in COLUMNS), ""]]
    for row in rows:
        extra = f" + {duration(row['fitting'])}" if "fitting" in row else ""
        lines.append(
            [
                f"`{row['contestant']}`",
                row["sampler"],
                f"{row['weights']:,}",
                duration(row["trained"]) + extra,
                f"{row['images'] / images:.1f}",
                *(cell(column, row["numbers"]) for column in COLUMNS),
                f"{1000 * row['drawing'] / n:.2g} ms",
            ]
        )
    head = ["", "sampler", "weights", "trained", "epochs", *(column.title for column in COLUMNS), "time of a sample"]
    return keep(name, head, lines, n=n)


def cell(column: Column, numbers: dict[str, Any]) -> str:
    value = numbers.get(column.number)
    return "" if value is None else format(value, column.form)


def best(rows: list[dict[str, Any]], names: Sequence[str]) -> dict[str, Any] | None:
    """The row with the least FID among some contestants."""
    some = [row for row in rows if row["contestant"] in names]
    return min(some, key=lambda row: float(row["numbers"]["fid.A.penultimate"]), default=None)


def package_of(contestant: str) -> str | None:
    """The package that a contestant is from, where it is not ours."""
    return next((package for package in VERSIONS if contestant.startswith(package)), None)


def check(package: str) -> None:
    wanted = VERSIONS[package]
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{package} is not installed. Run: pip install {package}=={wanted}")
    if version != wanted:
        sys.exit(
            f"{package} {version} is installed, and this compares with {wanted}. Run: pip install {package}=={wanted}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=seconds_of, default=240.0, help="training time of each, such as 90s or 4m")
    parser.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS), default=PYTHAES)
    parser.add_argument("--n", type=int, default=N, help="samples of each")
    parser.add_argument("--seed", type=int, default=0, help="of training and sampling")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"), help="folder of what is made")
    parser.add_argument("--json", type=Path, help="write every number to this file as well")
    parser.add_argument("--contest", help=argparse.SUPPRESS)  # one contestant, in this process
    options = parser.parse_args()
    home: Path = options.out / f"{options.budget:g}s-n{options.n}-seed{options.seed}"
    if options.contest:
        contest(options.contest, options, home / options.contest)
        return
    todo = [name for name in options.contestants if not (home / name / "drawn.json").exists()]
    for package in filter(None, map(package_of, todo)):
        check(package)
    for name in todo:
        in_a_process(name, home / name)
    scorer = Scorer("mnist")
    rows = [row for name in options.contestants for row in scored(name, home / name, scorer, options.n)]

    packages = {package: VERSIONS[package] for package in filter(None, map(package_of, options.contestants))}
    versions = ", ".join(
        f"{name} {version}" for name, version in (rows[0]["score"]["protocol"]["versions"] | packages).items()
    )
    protocol = (
        f"{machine()}, {scorer.device.type}, {cores(torch.get_num_threads())}; {versions}. "
        f"{duration(options.budget)} of training each, seed {options.seed}; {options.n:,} samples against mnist test, "
        f"as images without labels; evaluator A `{rows[0]['score']['protocol']['evaluators']['A']}`."
    )
    images = len(learnt_from(options.seed)[0])
    kept = "peers-vae" if options.contestants == PYTHAES else f"peers-{options.contestants[0]}"
    print(protocol, table(kept, rows, images, options.n), sep="\n\n", end="\n\n")
    ratios = {}
    for name, others in RIVALS.items():
        mine, rival = best(rows, [name]), best(rows, others)
        if mine and rival:
            ratios[name] = mine["numbers"]["fid.A.penultimate"] / rival["numbers"]["fid.A.penultimate"]
            print(f"FID of `{name}` in that of `{rival['contestant']}` ({rival['sampler']}): {ratios[name]:.2f}")
    if options.json:
        write(options.json, {"protocol": protocol, "budget": options.budget, "rows": rows, "ratios": ratios})


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from there")

"""Training speed and memory of `mnistgen.fit`, beside pythae 0.1.2's `BaseTrainer` and beside a plain loop.

    pip install pythae==0.1.2
    python benchmarks/training_throughput.py

Three contestants train the same VAE (pythae's own encoder and decoder, its default loss: squared error + KL) on the
same images in batches of the same size on the same device, each in a process of its own, in turn:

pythae  `BaseTrainer.train()` with its usual config: Adam, float32, a DataLoader without workers, its progress bar. No
        evaluation set and no checkpoints, so that what is timed is its steps (and the copy it makes of the best
        model at the end of an epoch). It is timed, and ended, by one of its own callbacks.
host    `mnistgen.fit` with its defaults: EMA, schedule, a check that the loss is finite, seeds for each step,
        autocast where the device computes in bfloat16, channels_last.
plain   the loop one writes by hand: images[order] from one float tensor on the device, zero_grad, backward, step.
        Optimizer, precision and memory format are the host's; it has nothing else.

The clock starts after `--warmup` steps and runs for `--seconds` or `--steps`. Ratios are medians over the rounds of
the ratio within a round, since a machine may have other work. Memory is the peak after the imports and the reading
of the images: of the process, or on a GPU of the allocator. Without pythae, host and plain run on networks with the
same layers. The exit status is 1 where a ratio misses its target.
"""

import argparse
import contextlib
import itertools
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnistgen import BaseConfig, Dataset, GenerativeModel, Loss, Noise, fit, load_data
from mnistgen.training import autocast_dtype

LATENT = 16
CONTESTANTS = ("pythae", "host", "plain")
OF_PYTHAE = {"mlp": 1.2, "conv": 2.0}  # the least of its images/s that the host should reach
OF_PLAIN = 0.97


class Layers(nn.Module):
    """Layers, then heads on what they give, by the names pythae uses."""

    def __init__(self, *layers: nn.Module, **heads: nn.Module) -> None:
        super().__init__()
        self.layers, self.heads = nn.Sequential(*layers), nn.ModuleDict(heads)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.layers(x)
        return {name: head(x) for name, head in self.heads.items()}


def twins(name: str) -> tuple[nn.Module, nn.Module]:
    """Networks with the layers of pythae's `name`, for where it is not installed."""
    if name == "mlp":
        width, hidden = 512, [nn.Flatten(), nn.Linear(784, 512), nn.ReLU()]
        up = [nn.Linear(LATENT, 512), nn.ReLU(), nn.Linear(512, 784), nn.Sigmoid(), nn.Unflatten(1, (1, 28, 28))]
    else:
        width, hidden = 1024, []
        for i, o in itertools.pairwise((1, 128, 256, 512, 1024)):
            hidden += [nn.Conv2d(i, o, 4, 2, 1), nn.BatchNorm2d(o), nn.ReLU()]
        hidden.append(nn.Flatten())
        up = [nn.Linear(LATENT, 1024 * 16), nn.Unflatten(1, (1024, 4, 4))]
        up += [nn.ConvTranspose2d(1024, 512, 3, 2, 1), nn.BatchNorm2d(512), nn.ReLU()]
        up += [nn.ConvTranspose2d(512, 256, 3, 2, 1, 1), nn.BatchNorm2d(256), nn.ReLU()]
        up += [nn.ConvTranspose2d(256, 1, 3, 2, 1, 1), nn.Sigmoid()]
    encoder = Layers(*hidden, embedding=nn.Linear(width, LATENT), log_covariance=nn.Linear(width, LATENT))
    return encoder, Layers(*up, reconstruction=nn.Identity())


def networks(name: str) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder: pythae's default MLP, or its convolutional networks for MNIST."""
    if find_spec("pythae") is None:
        return twins(name)
    from pythae.models import VAEConfig
    from pythae.models.nn.benchmarks.mnist.convnets import Decoder_Conv_AE_MNIST, Encoder_Conv_VAE_MNIST
    from pythae.models.nn.default_architectures import Decoder_AE_MLP, Encoder_VAE_MLP

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT)
    if name == "mlp":
        return Encoder_VAE_MLP(config), Decoder_AE_MLP(config)
    return Encoder_Conv_VAE_MNIST(config), Decoder_Conv_AE_MNIST(config)


def vae_loss(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    """pythae's default loss, 1/2 |x - x'|^2 + KL in nats an image, for x in [0, 1]."""
    code = encoder(x)
    mu, log_var = code["embedding"], code["log_covariance"]
    z = mu + torch.randn_like(mu) * torch.exp(0.5 * log_var)
    reconstruction = decoder(z)["reconstruction"]
    error = 0.5 * F.mse_loss(reconstruction.flatten(1), x.flatten(1), reduction="none").sum(-1)
    kl = -0.5 * (1 + log_var - mu.pow(2) - log_var.exp()).sum(-1)
    loss: Tensor = (error + kl).mean()
    return loss


@dataclass(frozen=True)
class HostedConfig(BaseConfig):
    network: str = "mlp"


class Hosted(GenerativeModel):
    """The VAE as a model of mnistgen."""

    Config = HostedConfig
    conditional = False

    def __init__(self, config: HostedConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.encoder, self.decoder = networks(config.network)

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:  # noqa: ARG002
        yield Loss(vae_loss(self.encoder, self.decoder, x.add(1).div_(2)), self)

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:  # noqa: ARG002
        images: Tensor = self.decoder(noise.normal(LATENT))["reconstruction"]
        return images * 2 - 1


@dataclass
class Watch:
    """Times the steps after the warm-up."""

    warmup: int
    seconds: float
    steps: int | None  # instead of seconds
    cuda: bool
    done: int = 0
    elapsed: float = 0.0
    start: float = 0.0

    def enough(self) -> bool:
        """To be asked after each step."""
        self.done += 1
        if self.done == self.warmup:
            self._wait()
            self.start = time.perf_counter()
        timed = self.done - self.warmup
        if timed <= 0 or (timed < self.steps if self.steps else time.perf_counter() - self.start < self.seconds):
            return False
        self._wait()
        self.elapsed = time.perf_counter() - self.start
        return True

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


class Enough(Exception):  # noqa: N818
    """Ends pythae's training."""


def train_pythae(options: argparse.Namespace, data: Dataset, watch: Watch) -> None:
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    class Timer(TrainingCallback):  # type: ignore[misc]
        def on_train_step_end(self, training_config: Any, **_: Any) -> None:  # noqa: ARG002
            if watch.enough():
                raise Enough

    encoder, decoder = networks(options.contest[1])
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        BaseTrainer(
            VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT), encoder=encoder, decoder=decoder),
            BaseDataset(data.images.float().div_(255), data.labels),
            training_config=BaseTrainerConfig(
                output_dir=folder,
                per_device_train_batch_size=options.batch,
                num_epochs=1_000_000,
                no_cuda=options.device == "cpu",
            ),
            callbacks=[Timer()],
        ).train()


def train_host(options: argparse.Namespace, data: Dataset, watch: Watch) -> None:
    model = Hosted(HostedConfig(network=options.contest[1], batch_size=options.batch))
    for _ in fit(model, data, epochs=1000, device=options.device, precision=options.precision):
        if watch.enough():
            break


def train_plain(options: argparse.Namespace, data: Dataset, watch: Watch) -> None:
    device, dtype = torch.device(options.device), autocast_dtype(torch.device(options.device), options.precision)
    model = nn.ModuleList(networks(options.contest[1]))
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    images = data.images.to(device).float().div_(255).contiguous(memory_format=torch.channels_last)
    full = len(images) // options.batch * options.batch
    while True:
        for rows in torch.randperm(len(images), device=device)[:full].split(options.batch):
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = vae_loss(model[0], model[1], images[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if watch.enough():
                return


TRAIN: dict[str, Callable[[argparse.Namespace, Dataset, Watch], None]] = {
    "pythae": train_pythae,
    "host": train_host,
    "plain": train_plain,
}


def peak() -> float:
    """The most memory this process has held, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """What one contestant does, in this process."""
    if find_spec("pythae"):
        import pythae.trainers  # noqa: F401  part of the baseline for all
    torch.manual_seed(0)
    cuda = options.device == "cuda"
    data = load_data("mnist", data_dir=options.data_dir)
    watch = Watch(options.warmup, options.seconds, options.steps, cuda)
    before = peak()
    TRAIN[options.contest[0]](options, data, watch)
    memory = torch.cuda.max_memory_allocated() / 2**20 if cuda else peak() - before
    images = (watch.done - watch.warmup) * options.batch
    return {"images/s": images / watch.elapsed, "images": images, "seconds": watch.elapsed, "MiB": memory}


def in_a_process(contestant: str, network: str) -> dict[str, float]:
    """`measure` in a new process, with the options of this one."""
    command = [sys.executable, __file__, *sys.argv[1:], "--contest", contestant, network]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"{contestant} on {network} failed:\n{process.stderr}")
    result: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return result


def ratio(rounds: list[dict[str, dict[str, float]]], contestant: str, to: str) -> float | None:
    """Median over the rounds of one's images/s in the other's."""
    if to not in rounds[0]:
        return None
    return median(results[contestant]["images/s"] / results[to]["images/s"] for results in rounds)


def compare(network: str, contestants: list[str], repeats: int) -> dict[str, Any]:
    """Run the contestants in turn, `repeats` times, and print the table of one network."""
    rounds = [{name: in_a_process(name, network) for name in contestants} for _ in range(repeats)]
    table = {}
    print(f"{network:<8}{'images/s':>9}{'slowest':>9}{'fastest':>9}{'of pythae':>11}{'of plain':>10}{'peak MiB':>10}")
    for name in contestants:
        speeds = [results[name]["images/s"] for results in rounds]
        of_pythae, of_plain = ratio(rounds, name, "pythae"), ratio(rounds, name, "plain")
        memory = median(results[name]["MiB"] for results in rounds)
        shown = "".join(f"{'-' if r is None else format(r, '.3f'):>{w}}" for r, w in ((of_pythae, 11), (of_plain, 10)))
        print(f"{name:<8}{median(speeds):9.0f}{min(speeds):9.0f}{max(speeds):9.0f}{shown}{memory:10.0f}", flush=True)
        table[name] = {"images/s": median(speeds), "of pythae": of_pythae, "of plain": of_plain, "MiB": memory}
    return {"table": table, "rounds": rounds}


def met(network: str, host: dict[str, float | None]) -> bool:
    """Print each of the host's ratios beside its target, and say whether all are reached."""
    reached = True
    for other, target in (("pythae", OF_PYTHAE[network]), ("plain", OF_PLAIN)):
        found = host[f"of {other}"]
        if found is not None:
            print(f"host of {other}: {found:.3f}, target {target}: {'met' if found >= target else 'MISSED'}")
            reached &= found >= target
    print()
    return reached


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(OF_PYTHAE), default=list(OF_PYTHAE))
    parser.add_argument("--batch", type=int, default=128, help="images in a step")
    parser.add_argument("--warmup", type=int, default=5, help="steps before the clock starts, at least 1")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    parser.add_argument("--steps", type=int, help="length of each measurement in steps, instead")
    parser.add_argument("--repeats", type=int, default=5, help="rounds in which each contestant runs once")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of host and plain")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data-dir", help="where the MNIST files are")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON that holds every measurement")
    parser.add_argument("--contest", nargs=2, help=argparse.SUPPRESS)  # one measurement, in this process
    options = parser.parse_args()
    if options.contest:
        print(json.dumps(measure(options)))
        return 0

    contestants = list(CONTESTANTS)
    if find_spec("pythae") is None:
        print("pythae is not installed (pip install pythae==0.1.2): only the host and the plain loop are compared.")
        contestants.remove("pythae")
    precision = "bf16" if autocast_dtype(torch.device(options.device), options.precision) else "fp32"
    processor = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    protocol = (
        f"torch {torch.__version__}, {options.device} ({processor}), {torch.get_num_threads()} threads, "
        f"batch {options.batch}, host and plain in {precision}, pythae in fp32, {options.repeats} rounds of "
        + (f"{options.steps} steps" if options.steps else f"{options.seconds:g} s")
    )
    print(protocol, end="\n\n")
    reached, results = True, {}
    for network in options.networks:
        results[network] = compare(network, contestants, options.repeats)
        reached &= met(network, results[network]["table"]["host"])
    if options.json:
        print(json.dumps({"protocol": protocol, **results}))
    return int(not reached)


if __name__ == "__main__":
    sys.exit(main())

"""Seeds of one range, and work that does not fit."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Tiny, TinyConfig, Walker, blobs
from torch import Tensor, nn

from mnistgen import Loss, Noise, PluginError, UsageError, fit, limits, room, sample
from mnistgen.cli.arguments import Common
from mnistgen.data import train_validation_split
from mnistgen.evaluator.weights import build_classifier
from mnistgen.limits import LARGEST_SEED, checked_seed, require_disk, require_memory, size
from mnistgen.metrics import kid
from mnistgen.sampling import fixed_latent, sample_trajectory
from mnistgen.scoring.sources import ModelSource
from mnistgen.training import resolve_device


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 10**30, 0.5, "1", None])
def test_a_seed_is_of_one_range_everywhere(seed: object) -> None:
    model = Tiny(TinyConfig(), num_classes=4)
    uses = [
        lambda: checked_seed(seed),
        lambda: Common(seed=seed),
        lambda: Noise(seed, [0]),
        lambda: sample(model, [1], seed=seed),
        lambda: next(fit(model, blobs(), steps=1, seed=seed)),
        lambda: train_validation_split(blobs(), 20, seed),
        lambda: build_classifier("logistic", seed=seed),
    ]
    for use in uses:
        with pytest.raises(UsageError, match=rf"seed is .*from 0 to {LARGEST_SEED}\.$"):
            use()


def test_the_largest_seed_is_one_like_any_other() -> None:
    model = Tiny(TinyConfig(), num_classes=4)
    assert checked_seed(np.int64(3)) == 3
    assert not torch.equal(sample(model, [1], seed=LARGEST_SEED), sample(model, [1], seed=0))
    assert next(fit(model, blobs(), steps=1, seed=LARGEST_SEED)).number == 1
    train_validation_split(blobs(), 20, LARGEST_SEED)
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert kid(features, features, subsets=2, subset_size=10, seed=LARGEST_SEED).mean < 1


def test_what_does_not_fit_is_refused_with_what_it_would_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_memory(1, "Nothing")
    with pytest.raises(UsageError, match=r"It would take about 1,000,000\.0 TB of memory, and [\d.]+ \w+ are free"):
        require_memory(1e18, "It")
    require_disk(1, tmp_path / "not" / "yet", "Nothing")
    with pytest.raises(UsageError, match=r"on disk, and .* are free there"):
        require_disk(1e18, tmp_path / "not" / "yet", "It")
    assert [size(n) for n in (999, 1500, 2**31)] == ["999 bytes", "1.5 kB", "2.1 GB"]
    model = Tiny(TinyConfig(batch_size=10**12), num_classes=4)
    with pytest.raises(UsageError, match="A batch of 1000000000000 images would take about"):
        next(fit(model, blobs(), steps=1))
    monkeypatch.setattr(limits, "free_memory", lambda: 10**6)
    with pytest.raises(UsageError, match=r"Sampling 2000 images at a time \(--batch-size\) would take about"):
        sample(model, [0] * 2000, batch_size=10**9)
    assert len(sample(model, [0] * 2000)) == 2000


def test_the_room_of_a_batch_is_counted_in_what_lives_at_the_same_time() -> None:
    with room.Peak() as peak:
        weight = torch.ones(1000)  # 4,000 bytes
        for _ in range(5):
            weight.view(10, 100).t().add(1).mul(2)  # at most two results at a time
    assert peak.most == 12_000
    assert peak.live == 4000
    with room.Peak() as peak:
        weight.view(10, 100).t()  # what was there before does not count
    assert peak.most == 0


def test_sampling_options_are_finite() -> None:
    walker = Walker(TinyConfig(), num_classes=4)
    for value in (float("nan"), float("inf")):
        for draw in (sample, sample_trajectory, fixed_latent):
            with pytest.raises(UsageError, match=f"temperature is {value}; it must be finite"):
                draw(walker, [0], temperature=value)
    for draw in (sample, sample_trajectory, fixed_latent):
        with pytest.raises(UsageError, match="steps is 1000000000; it must be at most 100000"):
            draw(walker, [0], steps=10**9)


class Wide(Tiny):
    """A network whose images take 100 times their room on the way, and whose weights take more than many images."""

    def __init__(self, config: TinyConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.weights = nn.Parameter(torch.zeros(500_000))

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        assert len(y) < 100, "the whole batch is tried"
        x = self.decode(self.encode(x, y), y).repeat(1, 100, 1, 1)
        yield Loss(x.exp().mean() + self.weights.sum(), self)


def test_a_batch_is_weighed_with_what_the_network_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(batch: int) -> None:
        model = Wide(TinyConfig(batch_size=batch), num_classes=4)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        try:
            next(fit(model, blobs(20), steps=1, device="cpu"))
        finally:
            assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    monkeypatch.setattr("mnistgen.room.TRUSTED", 10)
    monkeypatch.setattr(limits, "free_memory", lambda: 100 * 10**6)  # its images alone would fit 300 times
    with pytest.raises(UsageError, match=r"A batch of 100 images would take about (9\d|1\d\d)\.\d MB of memory"):
        begin(100)
    monkeypatch.setattr(limits, "free_memory", lambda: 10**9)
    with pytest.raises(PluginError, match="the whole batch is tried"):  # which it is where it fits
        begin(100)


def test_a_device_without_numbers_is_none() -> None:
    with pytest.raises(UsageError, match="'meta' cannot be used here"):
        resolve_device("meta")
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_score_of_more_images_than_fit_is_refused() -> None:
    source = ModelSource("tiny", Tiny(TinyConfig(), num_classes=4))
    with pytest.raises(UsageError, match="1000000000000 images would take about"):
        source.take(10**12, torch.arange(8) % 4, seed=0)

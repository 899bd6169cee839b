"""torch-fidelity from end to end: its scores are ours, its traps are closed, and it never loads what it should not."""

import copy
import functools
import hashlib
import importlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import blobs
from torch import Tensor, nn

from mnistgen import metrics
from mnistgen.data import Dataset, import_torchvision, load_data, to_float
from mnistgen.errors import DataError, UsageError
from mnistgen.evaluator import build_classifier, evaluator_hash, extract, load_evaluator
from mnistgen.evaluator.networks import Classifier
from mnistgen.scoring.fidelity import fidelity, inception_fid, register

MODULE = importlib.import_module("mnistgen.scoring.fidelity")
LAYERS = ["penultimate", "early", "logits"]


def torch_fidelity(module: str) -> ModuleType:
    import_torchvision()
    return importlib.import_module(f"torch_fidelity.{module}")


def noisy(n: int, seed: int = 0, level: float = 20) -> Tensor:
    """Images (n, 1, 28, 28) uint8 of blobs under noise."""
    images = blobs(n, seed=seed).images.float()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + level * noise).round().clamp(0, 255).to(torch.uint8)


def classifier(name: str = "lenet", seed: int = 0) -> Classifier:
    """Untrained, its normalisation fitted to noisy blobs: features of the size that training gives them."""
    model = build_classifier(name, 4, seed=seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average, here of one batch
    with torch.no_grad():
        model.train()(to_float(noisy(200, seed=9, level=30)))
    return model.eval()


def extractor(name: str, layers: list[str], **settings: Any) -> Any:
    """As torch-fidelity makes it."""
    return torch_fidelity("utils").create_feature_extractor(name, layers, cuda=False, verbose=False, **settings)


def calculate(samples: Tensor, reference: Tensor, name: str, **settings: Any) -> dict[str, float]:
    """torch-fidelity called by its user."""
    given = {"cuda": False, "save_cpu_ram": True, "verbose": False, "input1": MODULE._Images(samples)}
    given |= {"input2": MODULE._Images(reference), "feature_extractor": name, "fid": True}
    found: dict[str, float] = torch_fidelity("metrics").calculate_metrics(**given | settings)
    return found


def features(model: Classifier, *sets: Tensor, layer: str = "penultimate") -> list[Tensor]:
    return [extract(model, images, layers=[layer])[layer] for images in sets]


@pytest.fixture(scope="module")
def model() -> Classifier:
    """With features that are as large, and as much apart, as those of an evaluator."""
    return classifier("cnn")


@pytest.fixture(scope="module")
def small() -> Classifier:
    return classifier()


@pytest.fixture(scope="module")
def samples() -> Tensor:
    return noisy(300, seed=0, level=20)


@pytest.fixture(scope="module")
def reference() -> Tensor:
    return noisy(310, seed=1, level=25)


# Our own functions agree.


@pytest.mark.parametrize("layer", LAYERS)
def test_scores_are_those_of_our_functions(layer: str, model: Classifier, samples: Tensor, reference: Tensor) -> None:
    theirs = fidelity(
        samples,
        reference,
        model,
        layer=layer,
        kid=True,
        precision_recall=True,
        kid_subsets=10,
        kid_subset_size=200,
        seed=3,
    )
    x, y = features(model, samples, reference, layer=layer)
    assert theirs["fid"] == pytest.approx(metrics.fid(x, y), rel=1e-4)
    kid = metrics.kid(x, y, subsets=10, subset_size=200, seed=3)
    # torch-fidelity sums kernels near 1 in float32: its error is absolute, and far below the spread.
    assert kid.mean > 4e-4
    assert theirs["kid_mean"] == pytest.approx(kid.mean, abs=1e-6)
    assert theirs["kid_std"] == pytest.approx(kid.spread, abs=1e-6)
    manifold = metrics.prdc(x, y, k=3)
    assert manifold.precision > manifold.recall + 0.1  # they cannot be swapped unseen
    assert theirs["precision"] == pytest.approx(manifold.precision, abs=2.1 / 300)  # one image on an edge, or two
    assert theirs["recall"] == pytest.approx(manifold.recall, abs=2.1 / 310)
    assert set(theirs) == {"fid", "kid_mean", "kid_std", "precision", "recall"}


def test_what_is_asked_for_arrives(model: Classifier, samples: Tensor, reference: Tensor) -> None:
    x, y = features(model, samples, reference)
    alone = fidelity(samples, reference, model)
    assert set(alone) == {"fid"}
    assert alone["fid"] == pytest.approx(metrics.fid(x, y), rel=1e-5)
    wide = fidelity(samples, reference, model, precision_recall=True, k=9)
    assert wide["recall"] == pytest.approx(metrics.prdc(x, y, k=9).recall, abs=2.1 / 310)
    assert wide["recall"] > metrics.prdc(x, y, k=3).recall + 0.05
    one, two = (
        fidelity(samples, reference, model, kid=True, kid_subsets=3, kid_subset_size=100, seed=seed) for seed in (0, 1)
    )
    assert abs(one["kid_mean"] - two["kid_mean"]) > 1e-5
    assert one["kid_mean"] == pytest.approx(metrics.kid(x, y, subsets=3, subset_size=100).mean, abs=1e-6)


def test_with_the_shipped_evaluator_on_real_digits(mnist: Dataset) -> None:
    evaluator = load_evaluator("A")
    generator = torch.Generator().manual_seed(0)
    sets = [data.images[torch.randperm(len(data), generator=generator)[:500]] for data in (mnist, _test_digits())]
    theirs = fidelity(*sets, evaluator)["fid"]
    assert 0 < theirs == pytest.approx(metrics.fid(*features(evaluator, *sets)), rel=1e-4)


def _test_digits() -> Dataset:
    try:
        return load_data("mnist", "test", download=False)
    except DataError as error:
        pytest.skip(f"MNIST's test images are not on disk: {error}")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu(samples: Tensor, reference: Tensor) -> None:
    there = classifier().cuda()
    theirs = fidelity(samples.cuda(), reference, there)["fid"]
    assert theirs == pytest.approx(metrics.fid(*features(there, samples, reference)), rel=1e-4)
    assert next(there.parameters()).is_cuda


# The extractor.


def test_layers_come_in_the_order_of_the_request(model: Classifier) -> None:
    images = noisy(7)
    name = register(model)
    ours = extract(model, images, layers=LAYERS)
    for layers in (LAYERS, LAYERS[::-1], ["logits", "penultimate"], ["early"]):
        found = extractor(name, layers)(images)
        assert isinstance(found, tuple)
        assert [part.dtype for part in found] == [torch.float32] * len(layers)
        for layer, part in zip(layers, found, strict=True):
            assert torch.equal(part, ours[layer].float()), layer


def test_features_are_rounded_and_logits_are_not(model: Classifier) -> None:
    penultimate, early, logits = extractor(register(model), LAYERS)(noisy(7))
    assert torch.equal(penultimate, penultimate.half().float())
    assert torch.equal(early, early.half().float())
    assert not torch.equal(logits, logits.half().float())


@pytest.mark.parametrize(("name", "layers"), [("mlp", {"penultimate", "logits"}), ("lenet", set(LAYERS))])
def test_layers_are_those_of_the_network(name: str, layers: set[str]) -> None:
    cls = torch_fidelity("registry").FEATURE_EXTRACTORS_REGISTRY[register(build_classifier(name, seed=5))]
    assert set(cls.get_provided_features_list()) == layers
    assert [cls.get_default_feature_layer_for_metric(metric) for metric in ("isc", "fid", "kid", "prc")] == [
        "logits",
        "penultimate",
        "penultimate",
        "penultimate",
    ]
    assert not cls.can_be_compiled()


def test_every_setting_of_torch_fidelity_is_tolerated(model: Classifier, samples: Tensor, reference: Tensor) -> None:
    defaults = dict(torch_fidelity("defaults").DEFAULTS)
    for taken in ("cuda", "verbose"):
        del defaults[taken]
    (found,) = extractor(register(model), ["logits"], **defaults)(samples[:5])
    assert torch.equal(found, features(model, samples[:5], layer="logits")[0])
    for taken in ("input1", "input2", "feature_extractor", "fid", "save_cpu_ram"):
        del defaults[taken]
    theirs = calculate(samples, reference, register(model), **defaults | {"isc": True, "feature_extractor_compile": 1})
    assert theirs["frechet_inception_distance"] == pytest.approx(
        metrics.fid(*features(model, samples, reference)), rel=1e-4
    )
    assert 1 < theirs["inception_score_mean"] < 4


def test_a_folder_of_grey_images(model: Classifier, tmp_path: Path) -> None:
    """torch-fidelity reads files as RGB."""
    images, other = noisy(40, 2), noisy(40, 3)
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{i:03}.png")
    theirs = calculate(images, other, register(model), input1=str(tmp_path))["frechet_inception_distance"]
    assert theirs == pytest.approx(metrics.fid(*features(model, images, other)), rel=1e-4)


def test_images_of_another_kind_are_refused(model: Classifier, samples: Tensor) -> None:
    extract_ = extractor(register(model), ["penultimate"])
    assert torch.equal(extract_(samples[:4].repeat(1, 3, 1, 1))[0], extract_(samples[:4])[0])
    with pytest.raises(UsageError, match=r"\(4, 1, 28, 28\) float32"):
        extract_(to_float(samples[:4]))
    with pytest.raises(UsageError, match="in colour"):
        extract_(torch.cat([samples[:4], samples[:4], samples[1:5]], 1))
    for shape in ((4, 2, 28, 28), (4, 1, 32, 32), (4, 28, 28)):
        with pytest.raises(UsageError, match="the evaluator takes"):
            extract_(torch.zeros(shape, dtype=torch.uint8))


def test_requests_that_cannot_be(model: Classifier, samples: Tensor) -> None:
    with pytest.raises(UsageError, match=r"the samples are .* float32.*`to_uint8`"):
        fidelity(to_float(samples), samples, model)
    with pytest.raises(UsageError, match=r"the real images are \(300, 28, 28\) uint8"):
        fidelity(samples, samples[:, 0], model)
    with pytest.raises(UsageError, match="FID: too few images, 1 among the real images"):
        fidelity(samples, samples[:1], model)
    with pytest.raises(UsageError, match="KID: too few images, 300 among the samples; it needs at least 1000"):
        fidelity(samples, samples, model, kid=True)
    with pytest.raises(UsageError, match="Precision and recall: too few images, 3"):
        fidelity(samples[:3], samples, model, precision_recall=True)
    with pytest.raises(UsageError, match="Did you mean 'penultimate'"):
        fidelity(samples, samples, model, layer="penultimat")


def test_features_that_are_not_finite(samples: Tensor) -> None:
    large = classifier()
    with torch.no_grad():
        for parameter in large.late.parameters():
            parameter.mul_(1e4)  # float32 can hold the features, float16 cannot
    with pytest.raises(DataError, match="not finite"):
        fidelity(samples, samples, large)


# Names, and who changes what.


def test_registering_twice(model: Classifier) -> None:
    name = register(model)
    assert name == f"mnistgen-{evaluator_hash(model)}" == register(model) == register(copy.deepcopy(model))
    assert name in torch_fidelity("registry").FEATURE_EXTRACTORS_REGISTRY
    assert register(classifier(seed=1)) != name


def test_two_evaluators_share_nothing(small: Classifier, samples: Tensor, reference: Tensor, tmp_path: Path) -> None:
    """Not even in the cache of a user who names the inputs."""
    cached = {"cache": True, "cache_root": str(tmp_path), "input1_cache_name": "ours", "input2_cache_name": "real"}
    other = classifier(seed=1)
    found = []
    for each in (small, other, small):
        theirs = calculate(samples, reference, register(each), **cached)["frechet_inception_distance"]
        assert theirs == pytest.approx(metrics.fid(*features(each, samples, reference)), rel=1e-4)
        found.append(theirs)
    assert found[0] == found[2]
    assert abs(found[1] / found[0] - 1) > 1e-3
    assert len(list(tmp_path.iterdir())) == 8  # the cache was in use: features and moments, two inputs, two evaluators


def test_an_evaluator_that_changes_is_another(samples: Tensor, reference: Tensor) -> None:
    model = classifier(seed=2)
    name = register(model)
    before = fidelity(samples, reference, model)["fid"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    after = fidelity(samples, reference, model)["fid"]
    assert after == pytest.approx(metrics.fid(*features(model, samples, reference)), rel=1e-4)
    assert abs(after / before - 1) > 0.01
    # The old name keeps the old weights.
    assert calculate(samples, reference, name)["frechet_inception_distance"] == pytest.approx(before, rel=1e-6)


def test_scores_do_not_depend_on_what_was_scored_before(small: Classifier, samples: Tensor, reference: Tensor) -> None:
    """torch-fidelity's cache does not know n."""
    for n in (300, 150, 300):
        theirs = fidelity(samples[:n], reference[:n], small)["fid"]
        assert theirs == pytest.approx(metrics.fid(*features(small, samples[:n], reference[:n])), rel=1e-4)


def test_nothing_is_left_behind(
    samples: Tensor, reference: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = classifier(seed=3).train()
    frozen = next(model.parameters()).requires_grad_(False)
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    capfd.readouterr()
    theirs = fidelity(samples, reference, model, kid=True, kid_subset_size=100, precision_recall=True)["fid"]
    assert theirs == pytest.approx(metrics.fid(*features(model, samples, reference)), rel=1e-4)
    assert list(tmp_path.iterdir()) == []
    assert "".join(capfd.readouterr()) == ""
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert not frozen.requires_grad
    assert any(wanted)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.slow
def test_importing_is_cheap() -> None:
    code = "import sys, mnistgen.scoring.fidelity; print({'torch_fidelity', 'torchvision', 'scipy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


# Inception.


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where torch-fidelity would put the weights; whatever would download them fails."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(torch_fidelity("feature_extractor_inceptionv3"), "load_state_dict_from_url", refuse)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for Inception: random up to the layer of 64 features, one number a tensor after it."""
    module = torch_fidelity("feature_extractor_inceptionv3")
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        weights = module.FeatureExtractorInceptionV3("random", ["64"]).state_dict()
    for key, value in weights.items():
        if not key.startswith("Conv2d_"):
            weights[key] = torch.zeros((), dtype=value.dtype).expand(value.shape)
    torch.save(weights, path)
    return path


def bless(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the checksum of this file be the official one."""
    monkeypatch.setattr(MODULE, "INCEPTION_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())


def test_inception_sees_grey_as_rgb(random_weights: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, real = noisy(4, 4), noisy(4, 5, level=60)
    cls = torch_fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    network = cls("inception-v3-compat", ["64"], feature_extractor_weights_path=str(random_weights))
    (x,), (y,) = (network(images.repeat(1, 3, 1, 1)) for images in (ours, real))
    expected = metrics.fid(x, y)
    small = functools.partial(MODULE._inception_fid, layer="64")
    assert small(ours, real, random_weights, device=torch.device("cpu")) == pytest.approx(expected, rel=1e-4)

    # The same from the front door: by the given path, and from the hub's folder.
    monkeypatch.setattr(MODULE, "_inception_fid", small)
    bless(random_weights, monkeypatch)
    assert inception_fid(ours, real, weights=random_weights) == pytest.approx(expected, rel=1e-4)
    hub.mkdir(parents=True)
    official = hub / "weights-inception-2015-12-05-6726825d.pth"
    official.symlink_to(random_weights)
    assert inception_fid(ours, real) == pytest.approx(expected, rel=1e-4)
    assert list(hub.iterdir()) == [official]


def test_inception_takes_the_2048_features() -> None:
    assert MODULE._inception_fid.__kwdefaults__ == {"layer": "2048"}
    assert MODULE.INCEPTION_SHA256.startswith("6726825d")
    assert len(MODULE.INCEPTION_SHA256) == 64


def test_weights_that_are_missing(hub: Path) -> None:
    images = noisy(2)
    with pytest.raises(DataError) as caught:
        inception_fid(images, images)
    says = str(caught.value)
    assert str(hub / "weights-inception-2015-12-05-6726825d.pth") in says
    assert "https://github.com/toshas/torch-fidelity/releases/download/" in says
    assert "--inception-weights PATH" in says
    with pytest.raises(DataError, match=r"elsewhere\.pth: there is no such file"):
        inception_fid(images, images, weights=hub / "elsewhere.pth")
    assert not hub.exists()


def test_images_come_before_weights(hub: Path) -> None:
    with pytest.raises(UsageError, match="float32"):
        inception_fid(to_float(noisy(2)), noisy(2))
    with pytest.raises(UsageError, match="too few"):
        inception_fid(noisy(2), noisy(1))


def test_weights_with_another_checksum(random_weights: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(torch, "load", refuse)
    digest = hashlib.sha256(random_weights.read_bytes()).hexdigest()
    with pytest.raises(DataError, match=f"random.pth: not the official weights.*{digest}.*6726825d"):
        inception_fid(noisy(2), noisy(2), weights=random_weights)


@pytest.mark.parametrize("format_", ["torch", "legacy torch", "pickle"])
def test_weights_that_run_code(format_: str, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "marker"
    content = {"Conv2d_1a_3x3.conv.weight": torch.zeros(3), "more": Evil(marker)}
    if format_ == "pickle":
        path.write_bytes(pickle.dumps(Evil(marker), protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=format_ == "torch")
    with pytest.raises(DataError, match="not the official weights"):
        inception_fid(noisy(2), noisy(2), weights=path)
    bless(path, monkeypatch)
    with pytest.raises(DataError, match=r"evil\.pth: holds more than weights, or is damaged.*never load"):
        inception_fid(noisy(2), noisy(2), weights=path)
    assert not marker.exists()
    with path.open("rb") as file:  # but code it is
        if format_ == "pickle":
            pickle.load(file)
        else:
            torch.load(file, weights_only=False)
    assert marker.exists()


def test_weights_that_are_damaged(
    random_weights: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "damaged.pth"
    whole = random_weights.read_bytes()
    for content in (b"", b"noise" * 100, whole[: len(whole) // 2], whole[:10] + bytes(100) + whole[110:]):
        path.write_bytes(content)
        bless(path, monkeypatch)
        with pytest.raises(DataError, match="damaged"):
            inception_fid(noisy(2), noisy(2), weights=path)

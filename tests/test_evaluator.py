"""The classifiers, their files, and the measures of how good one is."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import blobs

from mnistgen import CheckpointError, ContractError, Dataset, UsageError, fit
from mnistgen.cli.evaluator import draw_confusion
from mnistgen.data import to_float
from mnistgen.evaluator import (
    CLASSIFIERS,
    SHIPPED,
    Evaluation,
    build_classifier,
    calibration_error,
    class_scores,
    classifier_class,
    confusion_matrix,
    evaluate,
    evaluator_hash,
    evaluator_path,
    load_classifier,
    load_evaluator,
    predict,
    save_classifier,
    weights,
    wilson_interval,
)
from mnistgen.evaluator.networks import Classifier

PLAIN = {
    "rotation": 0.0,
    "zoom": 0.0,
    "shear": 0.0,
    "translation": 0.0,
    "elastic": 0.0,
    "label_smoothing": 0.0,
    "warmup_steps": 0,
}
NAMES = sorted(CLASSIFIERS)
CNNS = ["cnn", "resnet"]


def trained(name: str, data: Dataset, steps: int, seed: int = 0, **fields: object) -> Classifier:
    """The averaged model of a short run."""
    model = build_classifier(name, data.num_classes, seed=seed, **fields)
    *_, last = fit(model, data, steps=steps, seed=seed, precision="fp32", device="cpu")
    assert isinstance(last.ema, Classifier)
    return last.ema


# The classifiers.


@pytest.mark.parametrize("name", NAMES)
def test_each_classifier_overfits_64_images(name: str) -> None:
    data = blobs(64)
    model = build_classifier(name, 4, **PLAIN, lr=3e-3, batch_size=64, ema_decay=0.9)
    steps = fit(model, data, steps=60, precision="fp32", device="cpu")
    assert any(evaluate(step.ema, data).accuracy == 1 for step in steps if step.number % 10 == 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_features_have_the_documented_shapes(name: str) -> None:
    model = build_classifier(name, 7).eval()
    x = to_float(blobs(5).images)
    with torch.no_grad():
        found = model.features(x)
        assert {layer: values.shape[0] for layer, values in found.items()} == dict.fromkeys(found, 5)
        assert all(values.ndim == 2 for values in found.values())
        assert found["logits"].shape == (5, 7)
        torch.testing.assert_close(model(x), found["logits"])
        torch.testing.assert_close(model.head(found["penultimate"]), found["logits"])  # type: ignore[operator]
    expected = {"cnn": (64, 128), "resnet": (64, 96), "lenet": (6, 84), "mlp": (None, 128), "logistic": (None, 784)}
    early, penultimate = expected[name]
    assert found["penultimate"].shape[1] == penultimate
    assert (found["early"].shape[1] if "early" in found else None) == early


@pytest.mark.parametrize("name", CNNS)
def test_the_evaluators_fit_into_two_mebibytes(name: str, tmp_path: Path) -> None:
    save_classifier(tmp_path / "a.safetensors", build_classifier(name))
    assert (tmp_path / "a.safetensors").stat().st_size < 2 * 2**20


def test_augmentation_belongs_to_training_alone() -> None:
    data = blobs(16)
    x, y = to_float(data.images), data.labels
    model = build_classifier("lenet", 4, **PLAIN | {"translation": 6.0})
    drawn = [next(model.train().losses(x, y)).value.item() for _ in range(2)]
    assert drawn[0] != drawn[1]
    assert model.eval().validation_loss(x, y) == model.validation_loss(x, y)
    assert next(model.losses(x, y)).value.item() == model.validation_loss(x, y).item()


def test_label_smoothing_is_for_training_and_not_for_validation() -> None:
    data = blobs(16)
    x, y = to_float(data.images), data.labels
    model = build_classifier("logistic", 4, label_smoothing=0.3)
    plain = model.validation_loss(x, y)
    log_p = model(x).log_softmax(1)
    target = 0.7 * torch.eye(4)[y] + 0.3 / 4
    torch.testing.assert_close(next(model.losses(x, y)).value, -(target * log_p).sum(1).mean())
    torch.testing.assert_close(plain, -log_p[torch.arange(16), y].mean())


def test_decay_is_for_the_weights_of_layers() -> None:
    model = build_classifier("cnn", weight_decay=0.1)
    (optimizer,) = model.optimizers().values()
    decayed, others = optimizer.param_groups
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in others["params"]} == {1}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("name", CNNS)
def test_running_statistics_are_averaged_as_the_weights_are(name: str) -> None:
    """In step t the first layer's statistics move by max(1 - ema_decay, 9 / (10 + t)), as the host's average does."""
    data = blobs(40)
    model = build_classifier(name, 4, **PLAIN, ema_decay=0.7).train()
    norm = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    conv = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    expected = torch.zeros_like(norm.running_mean)  # type: ignore[arg-type]
    for t, rows in enumerate(torch.arange(40).split(4), 1):
        x = to_float(data.images[rows])
        with torch.no_grad():
            rate = max(1 - 0.7, 9 / (10 + t))
            expected.lerp_(conv(x).mean((0, 2, 3)), rate)
            next(model.losses(x, data.labels[rows]))
        torch.testing.assert_close(norm.running_mean, expected)
    assert int(model.steps) == 10


@pytest.mark.slow
def test_the_averaged_model_has_statistics_of_its_own_weights() -> None:
    """Where the weights have moved fast, the averaged model classifies as with statistics computed for it exactly."""
    data = blobs(256)
    model = trained("cnn", data, 80, **PLAIN, lr=1e-2, schedule="constant", batch_size=32, ema_decay=0.95, dropout=0.0)
    exact = copy.deepcopy(model)
    for module in exact.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = 1.0
    exact.train()
    with torch.no_grad():
        exact(to_float(data.images))
    norms = [
        [module for module in each.modules() if isinstance(module, torch.nn.BatchNorm2d)] for each in (model, exact)
    ]
    for mine, theirs in zip(*norms, strict=True):
        assert mine.running_mean is not None
        assert theirs.running_mean is not None
        assert theirs.running_var is not None
        gap = (mine.running_mean - theirs.running_mean) / (theirs.running_var + 1e-3).sqrt()
        assert gap.abs().mean() < 0.2
    assert (predict(model, data) - predict(exact.eval(), data)).abs().max() < 0.1


def test_training_is_decided_by_its_seed() -> None:
    data = blobs(64)
    a, b, c = (evaluator_hash(trained("cnn", data, 3, seed=seed, batch_size=16)) for seed in (0, 0, 1))
    assert a == b != c


def test_a_resumed_run_is_the_uninterrupted_one() -> None:
    data = blobs(64)

    def steps(state: dict[str, object] | None = None) -> list[object]:
        model = build_classifier("cnn", 4, batch_size=16)
        return [
            (s.number, evaluator_hash(s.ema), copy.deepcopy(s.run.state_dict()) if s.number == 3 else None)  # type: ignore[arg-type]
            for s in fit(model, data, steps=6, precision="fp32", device="cpu", state=state)
        ]

    whole = steps()
    again = steps(whole[2][2])  # type: ignore[index]
    assert [row[:2] for row in again] == [row[:2] for row in whole[3:]]  # type: ignore[index]


def test_impossible_configs() -> None:
    for wrong in ({"label_smoothing": 1.0}, {"dropout": 1.0}, {"lr": -1.0}, {"zoom": 2.0}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            build_classifier("cnn", **wrong)
    with pytest.raises(UsageError, match="Did you mean 'lenet'"):
        classifier_class("lenet5")


# Files.


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    data = blobs(32)
    model = build_classifier(name, 4, seed=3, epochs=2.5).eval()
    save_classifier(tmp_path, model, dataset=data, steps=7, seed=3, seconds=1.25, scores={"validation_loss": 0.5})
    again = load_classifier(tmp_path)
    assert type(again) is type(model)
    assert again.config == model.config
    assert not again.training
    assert evaluator_hash(again) == evaluator_hash(model)
    torch.testing.assert_close(predict(again, data), predict(model, data))


def test_the_hash_is_of_weights_and_architecture() -> None:
    one, other = build_classifier("cnn", seed=0), build_classifier("cnn", seed=0)
    assert evaluator_hash(one) == evaluator_hash(other)
    assert len(evaluator_hash(one)) == 16
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-6
    assert evaluator_hash(one) != evaluator_hash(other)


def test_files_that_are_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_classifier(tmp_path / "missing.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"noise" * 100)
    with pytest.raises(CheckpointError, match="damaged"):
        load_classifier(tmp_path / "noise.safetensors")

    from tiny import Tiny, TinyConfig

    from mnistgen import save

    save(tmp_path / "tiny.safetensors", Tiny(TinyConfig()))
    with pytest.raises(CheckpointError, match="holds no classifier"):
        load_classifier(tmp_path / "tiny.safetensors")

    model = build_classifier("mlp")
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        save_classifier(tmp_path / "nan.safetensors", model)
    assert not (tmp_path / "nan.safetensors").exists()

    class Mine(CLASSIFIERS["mlp"]):  # type: ignore[misc]
        """A classifier that nobody can rebuild."""

    with pytest.raises(ContractError, match="Mine"):
        save_classifier(tmp_path / "mine.safetensors", Mine(Mine.Config()))


def test_the_evaluator_for_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    data = blobs(8, name="blobs")
    save_classifier(tmp_path / SHIPPED["A"], build_classifier("cnn", 4), dataset=data)
    assert evaluator_path("blobs") == tmp_path / SHIPPED["A"]
    assert evaluator_hash(load_evaluator()) == evaluator_hash(load_evaluator("A"))
    with pytest.raises(CheckpointError, match="evaluator train cnn --data fashion"):
        evaluator_path("fashion")
    with pytest.raises(CheckpointError, match="evaluator train resnet --data blobs"):
        evaluator_path("blobs", "B")
    trained_path = Path("checkpoints/evaluators/cnn-fashion")
    save_classifier(trained_path, build_classifier("cnn"))
    assert load_classifier(evaluator_path("fashion")).num_classes == 10
    with pytest.raises(UsageError, match="no evaluator 'C'"):
        load_evaluator("C")


def test_the_shipped_evaluators() -> None:
    a, b = load_evaluator("A"), load_evaluator("B")
    assert type(a) is not type(b)
    assert a.num_classes == b.num_classes == 10
    assert all((weights.FOLDER / name).stat().st_size < 2 * 2**20 for name in SHIPPED.values())


# Measures.


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, table I
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_interval(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=6e-5)


def test_wilson_interval_of_nothing() -> None:
    for successes, n in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(UsageError, match="no proportion"):
            wilson_interval(successes, n)


def test_scores_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    predictions = torch.tensor([0, 0, 1, 1, 0, 0])
    confusion = confusion_matrix(labels, predictions, 4)
    assert confusion.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    precision, recall, f1 = class_scores(confusion).tolist()
    assert precision == pytest.approx([2 / 4, 1 / 2, 0, 0])
    assert recall == pytest.approx([2 / 3, 1 / 2, 0, 0])
    assert f1 == pytest.approx([4 / 7, 1 / 2, 0, 0])


def test_calibration_error() -> None:
    labels = torch.zeros(10, dtype=torch.int64)
    certain = torch.tensor([[1.0, 0.0]]).repeat(10, 1)
    assert calibration_error(certain, labels) == 0
    assert calibration_error(certain, 1 - labels) == 1
    # eight of ten right at a confidence of 0.8 is calibrated, at 0.7 it is 0.1 off
    mixed = torch.tensor([0] * 8 + [1] * 2)
    for confidence, error in ((0.8, 0.0), (0.7, 0.1), (0.95, 0.15)):
        p = torch.tensor([[confidence, 1 - confidence]], dtype=torch.float64).repeat(10, 1)
        assert calibration_error(p, mixed) == pytest.approx(error, abs=1e-6)
    # two bins that are off in opposite directions do not cancel: half at 0.6 all right, half at 0.9 all wrong
    p = torch.tensor([[0.6, 0.4]] * 5 + [[0.9, 0.1]] * 5, dtype=torch.float64)
    half = torch.tensor([0] * 5 + [1] * 5)
    assert calibration_error(p, half) == pytest.approx(0.5 * 0.4 + 0.5 * 0.9)
    # within one bin they do: 0.80 and 0.86 lie in (12/15, 13/15]
    p = torch.tensor([[0.81, 0.19], [0.86, 0.14]], dtype=torch.float64)
    assert calibration_error(p, torch.tensor([0, 1])) == pytest.approx(abs(0.5 - 0.835))


def test_an_evaluation() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    result = Evaluation(probabilities, torch.tensor([0, 1, 1, 0]))
    assert (result.accuracy, result.correct) == (0.5, 2)
    assert result.interval == wilson_interval(2, 4)
    assert result.misclassified.tolist() == [3, 2]  # the surer mistake first
    numbers = json.loads(json.dumps(result.to_dict()))
    assert numbers["confusion"] == [[1, 1], [1, 1]]
    assert numbers["errors"] == 2


def test_evaluations_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="0 labels"):
        Evaluation(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    with pytest.raises(UsageError, match="0 to 2"):
        Evaluation(torch.ones(2, 3) / 3, torch.tensor([0, 3]))
    with pytest.raises(UsageError, match="4 classes and this classifier knows 10"):
        evaluate(build_classifier("logistic"), blobs(8))


def test_predictions_do_not_depend_on_the_mode_or_the_batch() -> None:
    data = blobs(30)
    model = build_classifier("cnn", 4).train()
    whole = predict(model, data)
    assert model.training
    assert whole.shape == (30, 4)
    torch.testing.assert_close(whole.sum(1), torch.ones(30))
    torch.testing.assert_close(predict(model, data, batch_size=7), whole)
    assert int(model.steps) == 0


@pytest.mark.usefixtures("whole_figures")
def test_a_confusion_matrix_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its axes are named, and each count stands out from its cell: the darkest red is behind the most errors."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig

    def watched(figure: Figure, *arguments: object, **options: object) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", watched)
    data = blobs(40)
    seen = data.labels.clone()
    seen[data.labels == 2] = 3
    draw_confusion(Evaluation(torch.eye(4)[seen], data.labels), data, tmp_path / "confusion.png", "blobs")
    (axes,) = figures[0].axes
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    (shades,) = axes.images
    for text in axes.texts:
        column, row = (int(place) for place in text.get_position())
        red, green, blue, _ = shades.to_rgba(np.array([[shades.get_array()[row, column]]]))[0, 0]
        luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        assert (text.get_color() == "white") == (luminance < 0.5)


# The command.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluator")
    data = blobs(80)
    np.savez(path / "blobs.npz", images=data.images[:, 0].numpy(), labels=data.labels.numpy())
    return path


def command(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    from mnistgen.cli.evaluator import run

    assert run(arguments.split(), "mnistgen evaluator") == 0
    return capsys.readouterr().out


def test_train_and_test(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    text = command("train lenet --data blobs.npz --steps 60 --lr 3e-3 --seed 1 --device cpu --quiet", capsys)
    assert "trained lenet" in text
    assert "held-out" in text
    (home,) = Path("checkpoints/evaluators").iterdir()
    assert {file.name for file in home.iterdir()} >= {"model.safetensors", "resume.pt", "log.jsonl", "run.json"}
    text = command(f"test {home} --data blobs.npz --split all --out report --quiet", capsys)
    assert "95% interval" in text
    assert "F1" in text
    numbers = json.loads(Path("report/test.json").read_text())
    assert numbers["accuracy"] > 0.9
    assert numbers["n"] == 80
    assert Path("report/confusion.png").stat().st_size > 1000
    advice = command("train logistic --data blobs.npz --steps 2 --quiet", capsys).split(
        "python -m mnistgen evaluator "
    )[1]
    assert "trained on these images" in command(advice.splitlines()[0], capsys)  # what is advised works as it is
    assert command("test lenet --data blobs.npz --quiet", capsys).startswith("lenet ")
    with pytest.raises(UsageError, match="holds a checkpoint already"):
        command("train lenet --data blobs.npz --steps 3 --quiet", capsys)
    assert "finished already" in command("train lenet --data blobs.npz --resume --quiet", capsys)


def test_mistakes_are_drawn(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    save_classifier("untrained.safetensors", build_classifier("mlp", 4))
    text = command("test untrained.safetensors --data blobs.npz --split all --out untrained --quiet", capsys)
    assert "misclassified" in text
    assert "trained on an unnamed dataset" in text
    assert Path("untrained/misclassified.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ("tran lenet", UsageError, "Did you mean 'train'"),
        ("train lenett", UsageError, "Did you mean 'lenet'"),
        ("test mlp --data blobs.npz --split all", CheckpointError, "evaluator train mlp --data blobs.npz"),
        ("test --out -", UsageError, "not written to standard output"),
        ("test --data blobs.npz --split all", CheckpointError, "evaluator train cnn --data blobs.npz$"),
        ("test nowhere --data blobs.npz --split all", CheckpointError, "no checkpoint"),
        ("train mlp --data blobs.npz --resume --out nothing", CheckpointError, "holds no run to resume"),
    ],
)
def test_wrong_requests(
    folder: Path,
    arguments: str,
    error: type[Exception],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(error, match=says):
        command(arguments, capsys)

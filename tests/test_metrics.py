"""The metrics against mathematics, against brute force, and against torch-fidelity."""

import importlib
import math
from functools import partial
from types import ModuleType

import pytest
import torch
from tiny import strokes
from torch import Tensor

from mnistgen import metrics
from mnistgen.data import Dataset, import_torchvision, to_float
from mnistgen.errors import DataError, UsageError
from mnistgen.evaluator import LeNet5
from mnistgen.evaluator.networks import LeNet5Config
from mnistgen.metrics.labels import summaries


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(n: int, d: int, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, d, generator=generator(seed), dtype=dtype)


def torch_fidelity(module: str) -> ModuleType:
    import_torchvision()
    return importlib.import_module(f"torch_fidelity.{module}")


def exactly(mean: Tensor, root: Tensor, n: int, seed: int) -> Tensor:
    """n points whose mean and covariance are exactly these: mean (d,) and root root' (d, d)."""
    x = normal(n, len(mean), seed, dtype=torch.float64)
    x = torch.linalg.qr(x - x.mean(0))[0] * math.sqrt(n - 1)  # centred, orthogonal columns
    return mean + x @ root.T


def distances(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None].double() - y.double()).square().sum(2).sqrt()


class TestFrechet:
    def test_of_gaussians_whose_covariances_commute(self) -> None:
        # |m_1 - m_2|^2 + sum_i (s_i - t_i)^2 in the common axes
        q = torch.linalg.qr(normal(6, 6, 1, dtype=torch.float64))[0]
        s, t = torch.tensor([3.0, 2, 1, 1, 0.5, 0.1]).double(), torch.tensor([1.0, 2, 2, 0.5, 0.1, 0.3]).double()
        m = torch.arange(6).double()
        x, y = exactly(m, q * s, 500, 2), exactly(torch.zeros(6).double(), q * t, 300, 3)
        assert metrics.fid(x, y) == pytest.approx(float((m * m).sum() + (s - t).square().sum()), rel=1e-9)

    def test_of_gaussians_whose_covariances_do_not(self) -> None:
        # The optimal coupling of N(0, C) and N(0, A C A), A symmetric and positive, is x -> A x: E|x - A x|^2
        root = normal(5, 5, 4, dtype=torch.float64)
        a = normal(5, 5, 5, dtype=torch.float64)
        a = a @ a.T / 5 + 0.1 * torch.eye(5)
        m = torch.ones(5).double()
        x, y = exactly(m, root, 400, 6), exactly(3 * m, a @ root, 200, 7)
        gap = (torch.eye(5) - a) @ root
        assert metrics.fid(x, y) == pytest.approx(4 * 5 + float(gap.square().sum()), rel=1e-9)

    def test_of_a_set_with_itself_is_0(self) -> None:
        x = normal(500, 32).relu()
        assert metrics.fid(x, x) == pytest.approx(0, abs=1e-6)
        assert metrics.fid(x, x[torch.randperm(500, generator=generator())]) == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize(("n", "m", "d"), [(900, 700, 48), (20, 30, 48), (2, 2, 5)])
    def test_is_torch_fidelitys_and_the_stable_form(self, n: int, m: int, d: int) -> None:
        x, y = normal(n, d, 1).relu(), (normal(m, d, 2) * 1.2).relu()
        module = torch_fidelity("metric_fid")
        theirs = [module.fid_features_to_statistics(z) for z in (x.double(), y.double())]
        theirs = module.fid_statistics_to_metric(*theirs, False)["frechet_inception_distance"]
        assert metrics.fid(x, y) == pytest.approx(theirs, rel=1e-6)
        # tr (C_1 C_2)^(1/2) is the nuclear norm of R_1 R_2', where C = R'R: no squares, no complex roots.
        x, y = x.double(), y.double()
        r1, r2 = (torch.linalg.qr((z - z.mean(0)) / math.sqrt(len(z) - 1))[1] for z in (x, y))
        nuclear = torch.linalg.svdvals(r1 @ r2.T).sum()
        stable = (x.mean(0) - y.mean(0)).square().sum() + r1.square().sum() + r2.square().sum() - 2 * nuclear
        assert metrics.fid(x, y) == pytest.approx(float(stable), rel=1e-5)

    def test_over_the_trace(self) -> None:
        x = exactly(torch.zeros(3).double(), torch.eye(3).double() * 2, 100, 0)
        collapsed = metrics.moments(x.mean(0).expand(50, 3))
        assert metrics.relative_frechet_distance(collapsed, metrics.moments(x)) == pytest.approx(1, abs=1e-6)
        with pytest.raises(DataError, match="do not vary"):
            metrics.relative_frechet_distance(metrics.moments(x), collapsed)

    def test_at_infinity(self) -> None:
        plain, far, here = [], [], []
        for seed in range(4):
            x, y = normal(2000, 16, seed), normal(2000, 16, seed + 100)
            plain.append(metrics.fid(x, y))
            here.append(metrics.fid_infinity(x, y))  # the truth is 0
            far.append(metrics.fid_infinity(x, y + 0.25))  # and 1
        assert min(plain) > 0.06
        assert abs(sum(here) / 4) < 0.02
        assert sum(far) / 4 == pytest.approx(1, abs=0.06)
        assert metrics.fid_infinity(x, y) == here[-1] != metrics.fid_infinity(x, y, seed=1)

    def test_rises_with_noise_and_blur_and_imbalance(self) -> None:
        torch.manual_seed(0)
        network = LeNet5(LeNet5Config()).eval()
        images, _ = strokes(600)
        reference, _ = strokes(600, seed=1)

        def score(images: Tensor, layer: str) -> float:
            with torch.no_grad():
                x, y = (network.features(to_float(z))[layer] for z in (images, reference))
            return metrics.fid(x, y)

        noise = normal(600, 784).view(600, 1, 28, 28)
        noisy = [(images + level * noise).round().clamp(0, 255).to(torch.uint8) for level in (0, 4, 16, 64)]
        blurred = [images.float()]
        for _ in range(3):
            blurred.append(torch.nn.functional.avg_pool2d(blurred[-1], 3, 1, 1))
        imbalanced = []  # more and more digits 0 stand where digits 3, then 4, then 5 should be
        for lost in range(4):
            label = torch.arange(600) % 10
            label[(label >= 3) & (label < 3 + lost)] = 0
            imbalanced.append(images[label + 10 * (torch.arange(600) // 10)])
        for layer in ("penultimate", "early"):
            for row in (noisy, [x.round().to(torch.uint8) for x in blurred], imbalanced):
                values = [score(x, layer) for x in row]
                assert values == sorted(set(values)), (layer, values)

    def test_by_class(self) -> None:
        centres = 4 * normal(10, 8, 9)
        labels = torch.arange(2000) % 10
        x, y = (centres[labels] + normal(2000, 8, seed) for seed in (1, 2))
        even = metrics.per_class_fid(x, labels, y, labels)
        assert sorted(even.distances) == list(range(10))
        assert even.missing == ()
        assert even.distances[4] == pytest.approx(metrics.fid(x[labels == 4], y[labels == 4]), rel=1e-9)
        assert even.mean == pytest.approx(sum(even.distances.values()) / 10)
        assert even.worst == even.distances[even.worst_class] == max(even.distances.values())

        swapped = labels.clone()
        swapped[labels == 3], swapped[labels == 8] = 8, 3
        wrong = metrics.per_class_fid(x, swapped, y, labels)
        assert wrong.worst_class in (3, 8)
        assert min(wrong.distances[3], wrong.distances[8]) > 20 * even.worst
        assert wrong.distances[5] == even.distances[5]
        assert metrics.fid(x, y) < even.worst  # which FID as a whole does not see

    def test_by_class_with_few_samples(self) -> None:
        labels = torch.arange(400) % 4
        reference = normal(400, 16)
        ours = torch.tensor([0] * 50 + [1] * 2 + [2])
        result = metrics.per_class_fid(normal(53, 16, 1), ours, reference, labels)
        assert sorted(result.distances) == [0, 1]
        assert result.missing == (2, 3)
        assert all(math.isfinite(value) for value in result.distances.values())
        assert result.to_dict()["missing"] == [2, 3]
        with pytest.raises(UsageError, match="no class has two"):
            metrics.per_class_fid(normal(2, 16), torch.tensor([0, 1]), reference, labels)


class TestKernel:
    def test_is_torch_fidelitys(self) -> None:
        x, y = normal(1200, 24, 1).relu(), (normal(1100, 24, 2) * 1.1).relu()
        theirs = torch_fidelity("metric_kid").kid_features_to_metric(
            x.double(),
            y.double(),
            kid_subsets=5,
            kid_subset_size=1000,
            kid_kernel="poly",
            kid_kernel_poly_degree=3,
            kid_kernel_poly_gamma=None,
            kid_kernel_poly_coef0=1,
            rng_seed=7,
            verbose=False,
        )
        ours = metrics.kid(x, y, subsets=5, seed=7)
        assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
        assert ours.spread == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-4)

    def test_without_bias(self) -> None:
        # Many small subsets: the mean is 0 within its error, where the biased estimate would be E k(x, x) / m = 8 / m.
        x, y = normal(4000, 16, 1), normal(4000, 16, 2)
        ours = metrics.kid(x, y, subsets=800, subset_size=50)
        assert abs(ours.mean) < 0.01 < 8 / 50
        assert ours.spread > 0

    def test_against_the_closed_form(self) -> None:
        # d = 1, x = +-1 and y = +-1 + a, even odds: E k(x, x') - 2 E k(x, y) + E k(y, y') from eight sums
        a = 0.5
        x = torch.tensor([-1.0, 1.0]).repeat(1000)[:, None]

        def mean(p: list[float], q: list[float]) -> float:
            return sum((s * t + 1) ** 3 for s in p for t in q) / 4

        p, q = [-1.0, 1.0], [-1 + a, 1 + a]
        exact = mean(p, p) + mean(q, q) - 2 * mean(p, q)
        ours = metrics.kid(x, x + a, subsets=100)
        assert abs(ours.mean - exact) < 4 * ours.spread / math.sqrt(100) + 0.01 * exact
        whole = metrics.kid(x, x + a, subsets=1, subset_size=2000)  # every image once: only the diagonal is missing
        off = [(mean(z, z) * 2000**2 - 1000 * sum((s * s + 1) ** 3 for s in z)) / (2000 * 1999) for z in (p, q)]
        assert whole.mean == pytest.approx(sum(off) - 2 * mean(p, q), rel=1e-6)
        assert whole.spread == 0

    def test_rises_with_a_shift(self) -> None:
        x, y = normal(1500, 8, 1), normal(1500, 8, 2)
        values = [metrics.kid(x + shift, y, subsets=10).mean for shift in (0.0, 0.2, 0.4, 0.8)]
        assert values == sorted(values)
        assert values[1] > 10 * abs(values[0])

    def test_needs_1000_a_side(self) -> None:
        for n, m, side in ((999, 1000, "samples"), (1000, 999, "real images")):
            with pytest.raises(UsageError, match=f"KID: too few images, 999 among the {side}; it needs at least 1000"):
                metrics.kid(normal(n, 4), normal(m, 4))
        with pytest.raises(UsageError, match="0 subsets"):
            metrics.kid(normal(1000, 4), normal(1000, 4), subsets=0)


class TestPrecisionRecall:
    def brute(self, x: Tensor, y: Tensor, k: int, density_k: int) -> tuple[float, ...]:
        """The definitions, one point at a time."""

        def radius(points: Tensor, i: int, k: int) -> float:
            others = torch.cat([points[:i], points[i + 1 :]])
            return float(distances(points[i : i + 1], others).sort().values[0, k - 1])

        d = distances(x, y).tolist()
        n, m = len(x), len(y)
        of_x, of_y = [radius(x, i, k) for i in range(n)], [radius(y, j, k) for j in range(m)]
        wide = [radius(y, j, density_k) for j in range(m)]
        precision = sum(any(d[i][j] <= of_y[j] for j in range(m)) for i in range(n)) / n
        recall = sum(any(d[i][j] <= of_x[i] for i in range(n)) for j in range(m)) / m
        density = sum(d[i][j] <= wide[j] for i in range(n) for j in range(m)) / (density_k * n)
        coverage = sum(any(d[i][j] <= wide[j] for i in range(n)) for j in range(m)) / m
        return precision, recall, density, coverage

    @pytest.mark.parametrize(("k", "density_k", "shift"), [(3, 5, 0.3), (1, 2, 0.0), (4, 2, 1.0)])
    def test_against_brute_force(self, k: int, density_k: int, shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = normal(70, 3, 1) + shift, normal(90, 3, 2) * 1.3
        expected = self.brute(x, y, k, density_k)
        assert metrics.prdc(x, y, k=k, density_k=density_k) == pytest.approx(expected, abs=1e-12)
        for module in ("precision_recall", "neighbours"):  # chunks of a few rows, the last one shorter
            monkeypatch.setattr(f"mnistgen.metrics.{module}.CHUNK", 400)
        assert metrics.prdc(x, y, k=k, density_k=density_k) == pytest.approx(expected, abs=1e-12)

    def test_precision_and_recall_are_torch_fidelitys(self) -> None:
        x, y = normal(400, 6, 1), normal(500, 6, 2) * 1.2
        theirs = torch_fidelity("metric_prc").prc_features_to_metric(
            x.double(), y.double(), prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=True, verbose=False
        )
        ours = metrics.prdc(x, y)
        assert ours.precision == pytest.approx(theirs["precision"], abs=1e-6)
        assert ours.recall == pytest.approx(theirs["recall"], abs=1e-6)

    def test_of_disjoint_sets(self) -> None:
        assert metrics.prdc(normal(50, 4), normal(60, 4, 1) + 100) == (0, 0, 0, 0)

    def test_of_a_set_with_itself(self) -> None:
        x = normal(200, 4)
        ours = metrics.prdc(x, x)
        # Each real ball holds its centre and its five neighbours, the fifth on its edge.
        assert ours == pytest.approx((1, 1, 6 / 5, 1), abs=1e-12)

    def test_of_one_side(self) -> None:
        reference = torch.cat([normal(300, 4, 1), normal(300, 4, 2) + 50])
        half = metrics.prdc(normal(300, 4, 3), reference)  # good, and half of it missing
        assert half.precision > 0.7
        assert half.recall < 0.5
        assert half.coverage < 0.51
        wide = metrics.prdc(torch.cat([normal(300, 4, 3), normal(300, 4, 4) - 50]), reference[:300])
        assert wide.precision < 0.5 < 0.7 < wide.recall  # all is there, and as much again that should not be

    def test_two_samples_of_one_distribution_are_not_1(self) -> None:
        ours = metrics.prdc(normal(1000, 16, 1), normal(1000, 16, 2))
        assert 0.3 < ours.precision < 0.95
        assert 0.3 < ours.recall < 0.95
        assert ours.density == pytest.approx(1, abs=0.1)
        assert 0.8 < ours.coverage < 0.999

    def test_a_collapse(self) -> None:
        one = normal(1, 4).expand(100, 4)
        ours = metrics.prdc(one, normal(200, 4))
        assert ours.recall == 0
        assert ours.coverage < 0.2


class TestNeighbours:
    def test_against_brute_force(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = normal(40, 12, 1) + 100, normal(300, 12, 2) + 100
        values, places = distances(x, y).sort(stable=True)
        for chunk in (2**23, 1000):
            monkeypatch.setattr("mnistgen.metrics.neighbours.CHUNK", chunk)
            found = metrics.nearest(x, y, 4)
            assert torch.equal(found.indices, places[:, :4])
            assert torch.allclose(found.distances, values[:, :4], rtol=1e-12)

    def test_copies_are_at_0(self) -> None:
        points = normal(500, 32) * 1e-3 + 7
        found = metrics.nearest(points[100:110], points)
        assert found.indices[:, 0].tolist() == list(range(100, 110))
        assert not found.distances.any()
        own = metrics.nearest(points, points, skip=torch.arange(500))
        assert bool((own.indices[:, 0] != torch.arange(500)).all())
        assert bool((own.distances > 0).all())

    def test_too_few_points(self) -> None:
        with pytest.raises(UsageError, match="the 3 nearest of 2 points"):
            metrics.nearest(normal(5, 2), normal(2, 2), 3)
        with pytest.raises(UsageError, match="needs at least 2"):
            metrics.nearest(normal(1, 2), normal(1, 2), skip=torch.tensor([0]))


class TestLabels:
    def probabilities(self, seen: Tensor, confidence: float = 0.91) -> Tensor:
        rest = (1 - confidence) / 9
        return torch.full((len(seen), 10), rest).scatter_(1, seen[:, None], confidence)

    def test_of_what_was_asked_for(self) -> None:
        labels = torch.arange(1000) % 10
        seen = labels.clone()
        seen[:3] = 9  # asked for 0, 1, 2
        ours = metrics.label_agreement(self.probabilities(seen), labels)
        assert ours.share == 0.997
        assert ours.interval is not None
        assert ours.interval[0] < 0.997 < ours.interval[1]
        assert ours.table is not None
        assert ours.table[0, 9] == 1
        assert ours.table.diagonal().sum() == 997
        assert ours.predicted.tolist() == [99, 99, 99, 100, 100, 100, 100, 100, 100, 103]
        assert ours.requested is not None
        assert ours.requested.tolist() == [100] * 10
        assert ours.mean_confidence == pytest.approx(0.91)
        assert ours.alarms == ()
        assert ours.to_dict()["agreement"] == 0.997

    def test_a_swap_is_caught(self) -> None:
        seen = torch.arange(1000) % 10
        labels = seen.clone()
        labels[seen == 3], labels[seen == 8] = 8, 3
        ours = metrics.label_agreement(self.probabilities(seen), labels)
        assert ours.share == 0.8
        assert ours.alarms == (metrics.Alarm("confused", 3, 8, 1.0), metrics.Alarm("confused", 8, 3, 1.0))
        assert str(ours.alarms[0]) == "Class 3 is confused: 100.0% of its images are predicted as 8."

    def test_a_missing_digit_is_caught(self) -> None:
        labels = torch.arange(1000) % 10
        seen = labels.clone()
        seen[labels == 4] = 9
        seen[4] = 4
        for asked in (labels, None):
            ours = metrics.label_agreement(self.probabilities(seen), asked)
            assert ours.alarms[0] == metrics.Alarm("missing", 4, None, 0.01)
            assert str(ours.alarms[0]) == "Class 4 is missing: it is predicted 1.0% as often as expected."
        assert (ours.share, ours.table, ours.requested, ours.interval) == (None, None, None, None)

    def test_many_alarms_are_two_sentences(self) -> None:
        missing = [metrics.Alarm("missing", label, None, label / 100) for label in range(7)]
        confused = [metrics.Alarm("confused", 7, other, 0.1 + other / 100) for other in (1, 2)]
        assert summaries([*missing, *confused]) == [
            "7 classes are missing, predicted at these shares of what is expected: 0 (0.0%), 1 (1.0%), 2 (2.0%), "
            "3 (3.0%), 4 (4.0%) and 2 more.",
            "Classes are confused, with these shares of their images: 7 as 2 (12.0%), 7 as 1 (11.0%).",
        ]
        assert summaries([missing[3], confused[0]]) == [str(missing[3]), str(confused[0])]
        assert summaries([]) == []

    def test_no_alarm_without_evidence(self) -> None:
        few = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 9, 1])  # a 0 is not yet missing
        assert metrics.label_agreement(self.probabilities(few), None).alarms == ()
        asked = torch.tensor([1] * 20)
        seen = torch.tensor([1] * 19 + [7])  # one of 20
        assert metrics.label_agreement(self.probabilities(seen), asked).alarms == ()
        asked = torch.zeros(100, dtype=torch.int64)  # classes that nobody asked for are not missing
        assert metrics.label_agreement(self.probabilities(asked), asked).alarms == ()

    def test_wrong_input(self) -> None:
        good = self.probabilities(torch.arange(10))
        with pytest.raises(DataError, match="softmax"):
            metrics.label_agreement(good * 20 - 5, torch.arange(10))
        with pytest.raises(DataError, match="softmax"):
            metrics.label_agreement(good * torch.nan, torch.arange(10))
        with pytest.raises(UsageError, match="need \\(10,\\) int64"):
            metrics.label_agreement(good, torch.arange(9))
        with pytest.raises(UsageError, match="knows 0 to 9"):
            metrics.label_agreement(good, torch.arange(1, 11))
        with pytest.raises(UsageError, match="n > 0"):
            metrics.label_agreement(torch.zeros(0, 10), torch.zeros(0, dtype=torch.int64))


class TestMemorisation:
    def sets(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training, held-out and fresh points of one distribution in 8 dimensions, and labels for all three."""
        labels = torch.arange(1000) % 5
        centres = 3 * normal(5, 8, 20)
        training, held_out, fresh = (centres[labels] + normal(1000, 8, seed) for seed in (21, 22, 23))
        return training, held_out, fresh, labels

    def test_new_samples_look_like_held_out_ones(self) -> None:
        training, held_out, fresh, labels = self.sets()
        ours = metrics.memorisation(fresh, labels, held_out, labels, training)
        assert ours.authentic_share == pytest.approx(ours.held_out_authentic_share, abs=0.05)
        assert 0.5 < ours.held_out_authentic_share < 0.75
        assert ours.closer == pytest.approx(0.5, abs=0.04)
        assert abs(ours.copying.statistic) < 1
        assert abs(ours.copying.control) < 1
        assert 0 < ours.copying.control_spread < 1
        assert ours.to_dict() == metrics.memorisation(fresh, labels, held_out, labels, training).to_dict()

    def test_a_copied_training_set_is_caught(self) -> None:
        training, held_out, _, labels = self.sets()
        copied = metrics.memorisation(training, labels, held_out, labels, training)
        assert copied.authentic_share == 0
        assert copied.closer == 1
        assert copied.copying.statistic < -8
        assert torch.equal(copied.nearest.indices[:, 0], torch.arange(1000))
        assert not copied.nearest.distances.any()
        noisy = training + 0.1 * normal(1000, 8, 30)
        near = metrics.memorisation(noisy, labels, held_out, labels, training)
        assert near.authentic_share < 0.05
        assert near.copying.statistic < -8

    def test_a_few_copies_are_found_first(self) -> None:
        training, held_out, fresh, labels = self.sets()
        fresh[[5, 500]] = training[[7, 70]]
        ours = metrics.memorisation(fresh, labels, held_out, labels, training)
        assert sorted(ours.closest[:2].tolist()) == [5, 500]
        assert ours.nearest.indices[[5, 500], 0].tolist() == [7, 70]

    def test_bad_samples_are_far(self) -> None:
        training, held_out, fresh, labels = self.sets()
        ours = metrics.memorisation(2 * fresh, labels, held_out, labels, training)
        assert ours.copying.statistic > 4
        assert ours.closer < 0.2

    def test_authentic_against_the_definition(self) -> None:
        training, _, fresh, _ = self.sets()
        training, fresh = training[:60], fresh[:50]
        ours = metrics.authentic(metrics.nearest(fresh, training), training)
        d, own = distances(fresh, training), distances(training, training).fill_diagonal_(torch.inf)
        assert ours.tolist() == [bool(d[i].min() > own[d[i].argmin()].min()) for i in range(50)]

    def test_mann_whitney(self) -> None:
        g = generator()
        x, y = torch.randint(0, 6, (40,), generator=g).double(), torch.randint(1, 7, (30,), generator=g).double()
        u = float(sum((a > b).double() + (a == b).double() / 2 for a in x for b in y))
        z, share = metrics.mann_whitney(x, y)
        assert share == pytest.approx(u / 1200)
        counts = torch.bincount(torch.cat([x, y]).long()).double()
        deviation = math.sqrt(1200 / 12 * (71 - float((counts**3 - counts).sum()) / (70 * 69)))
        assert z == pytest.approx((u - 600) / deviation)
        assert metrics.mann_whitney(x, x) == (0, 0.5)
        assert metrics.mann_whitney(torch.ones(3), torch.ones(4)) == (0, 0.5)
        values = [metrics.mann_whitney(normal(30, 1, s)[:, 0], normal(50, 1, s + 999)[:, 0])[0] for s in range(300)]
        assert abs(sum(values) / 300) < 0.2
        assert torch.tensor(values).std() == pytest.approx(1, abs=0.12)

    def test_stratified_halves(self) -> None:
        labels = torch.tensor([0] * 11 + [1] * 6)
        first, second = metrics.stratified_halves(labels, generator())
        assert labels[first].bincount().tolist() == labels[second].bincount().tolist() == [5, 3]
        assert len(set(first.tolist() + second.tolist())) == 16
        again, _ = metrics.stratified_halves(labels, generator())
        assert torch.equal(first, again)

    def test_too_few_images(self) -> None:
        labels = torch.arange(60) % 2
        with pytest.raises(UsageError, match="no class has 40 samples"):
            metrics.copying_test(torch.rand(60), labels, torch.rand(60), labels)

    def test_real_mnist(self, mnist: Dataset) -> None:
        order = torch.randperm(len(mnist), generator=generator())[:12000]
        images = metrics.pixels(mnist.images[order])
        training, held_out = images[:10000], images[10000:]
        share = float(metrics.authentic(metrics.nearest(held_out, training), training).double().mean())
        assert share == pytest.approx(0.63, abs=0.03)


class TestWrongInput:
    def test_is_refused_in_one_sentence(self) -> None:
        good, labels = normal(1000, 4), torch.arange(1000) % 10
        bad = normal(1000, 4)
        bad[3, 2] = torch.nan
        both = [
            metrics.fid,
            metrics.fid_infinity,
            metrics.kid,
            metrics.prdc,
            lambda x, y: metrics.per_class_fid(x, labels[: len(x)], y, labels[: len(y)]),
            lambda x, y: metrics.memorisation(x, labels[: len(x)], good, labels, y),
        ]
        for metric in both:
            with pytest.raises(DataError, match="1 of 1000 samples are not finite"):
                metric(bad, good)
            with pytest.raises(DataError, match="are not finite"):
                metric(good, bad)
            with pytest.raises(UsageError, match="have 5 features each"):
                metric(normal(1000, 5), good)
            with pytest.raises(UsageError, match="no images among the samples"):
                metric(good[:0], good)
            with pytest.raises(UsageError, match="it takes real numbers"):
                metric(good[0], good)
            with pytest.raises(UsageError, match="too few images, 1 among"):
                metric(good, good[:1])

    def test_labels(self) -> None:
        x = normal(20, 4)
        for labels in (torch.arange(19), torch.zeros(20), torch.full((20,), -1)):
            with pytest.raises(UsageError, match=r"20 images need \(20,\) int64"):
                metrics.per_class_fid(x, labels, x, torch.zeros(20, dtype=torch.int64))

    def test_layers_of_different_size(self) -> None:
        with pytest.raises(UsageError, match="same layer"):
            metrics.frechet_distance(metrics.moments(normal(9, 3)), metrics.moments(normal(9, 4)))

    def test_pixels(self) -> None:
        images = torch.full((2, 1, 28, 28), 255, dtype=torch.uint8)
        assert metrics.pixels(images).shape == (2, 784)
        assert bool((metrics.pixels(images) == 1).all())
        with pytest.raises(UsageError, match="uint8"):
            metrics.pixels(images.float())


def test_everything_repeats_to_the_last_digit() -> None:
    x, y = normal(1200, 24, 1).half(), normal(1100, 24, 2)
    for metric in (metrics.fid, metrics.fid_infinity, partial(metrics.kid, subsets=5), metrics.prdc):
        before = x.clone(), y.clone()
        first = metric(x, y)
        torch.manual_seed(5)  # the global random state has no part in it
        assert metric(x, y) == first
        assert torch.equal(before[0], x)
        assert torch.equal(before[1], y)


# The bootstrap.


def gaussians(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two classes of n / 2 points each, five dimensions, far apart."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    return torch.randn(n, 5, generator=g) + 6 * labels[:, None], labels


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_the_standard_error_is_the_spread_over_repeated_draws(scale: float) -> None:
    distances, errors, blind = [], [], []
    for seed in range(60):
        (x, y), (real, real_labels) = gaussians(300, 2 * seed), gaussians(300, 2 * seed + 1)
        x = scale * x
        distances.append(metrics.fid(x, real))
        if seed < 10:
            ours, theirs = metrics.group_sums(x, y), metrics.group_sums(real, real_labels)
            errors.append(metrics.replicate_fid(ours, theirs).standard_error)
            without = metrics.replicate_fid(metrics.group_sums(x), metrics.group_sums(real))
            blind.append(without.standard_error)
    spread = float(torch.tensor(distances).std())
    assert sum(errors) / 10 == pytest.approx(spread, rel=0.3)
    assert sum(blind) / 10 > 1.3 * spread  # as if the class counts were random, too


def test_a_replicate_is_the_distance_of_the_images_drawn_again() -> None:
    (x, _), (real, _) = gaussians(12, 0), gaussians(15, 1)
    found = metrics.replicate_fid(metrics.group_sums(x), metrics.group_sums(real), replicates=3, seed=5)
    generator = torch.Generator().manual_seed(5)
    theirs, _, ours = (torch.randint(n, (3, n), generator=generator) for n in (15, 15, 12))  # a group an image
    real, x = (z[torch.randperm(len(z), generator=torch.Generator().manual_seed(0))] for z in (real, x))
    expected = [metrics.fid(x[mine], real[his]) for his, mine in zip(theirs, ours, strict=True)]
    assert found.values.tolist() == pytest.approx(expected, rel=1e-6)


def test_what_an_interval_is_made_of() -> None:
    found = metrics.Replicates(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), null_variance=0.25)
    assert found.standard_error == 0.5**0.5  # 1 - 2 * 0.25
    low, high = found.interval(3.0)
    assert high - 3 == pytest.approx(3 - low) == pytest.approx(1.959964 * 0.5**0.5)
    assert metrics.Replicates(found.values, 0.5).standard_error == 0.5**0.5  # never below the null distance's
    assert (found * 2).standard_error == pytest.approx(2 * found.standard_error)
    assert (found - found).values.tolist() == [0, 0, 0]
    assert (found - found).null_variance == pytest.approx(0.375)


def test_weighted_moments_count_an_image_as_often_as_its_weight() -> None:
    x, labels = gaussians(40, 0)
    plain, weighted = metrics.moments(x), metrics.weighted_moments(x, torch.ones(40))
    torch.testing.assert_close(weighted.covariance, plain.covariance)
    uneven = torch.cat([x, x[labels == 1]])
    uneven_labels = torch.cat([labels, labels[labels == 1]])
    assert metrics.class_distance(uneven_labels, labels) == pytest.approx(1 / 6)
    weights = metrics.class_weights(uneven_labels, labels)
    assert weights.sum() == pytest.approx(60)
    torch.testing.assert_close(metrics.weighted_moments(uneven, weights).mean, plain.mean)
    assert float(metrics.class_weights(torch.tensor([0, 1]), torch.tensor([0, 0]))[1]) < 1e-11

"""Modes judged by any metric: its own figure, the interval of its images drawn anew, and searches by it."""

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import wenable as we
from wenable.core.journal import JournalError
from wenable.network import resampled_metric
from wenable.search import merit

CLASSES = 3
IMAGES = torch.randn(24, 3, 6, 6, generator=torch.Generator().manual_seed(0))
PIXELS = torch.randint(CLASSES, (24, 6, 6), generator=torch.Generator().manual_seed(1))
BATCHES = [(IMAGES[i : i + 10], PIXELS[i : i + 10]) for i in (0, 10, 20)]


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU()]
    layers += [nn.Conv2d(16, 16, 1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(16, CLASSES, 1))
    net = we.convert(model, torch.ones(1, 3, 6, 6), method=we.WeightEnabling((1, 2, 4)))
    we.train(net, BATCHES, we.TrainConfig(passes=3, epochs=3, learning_rate=0.1))
    return net


def confusion(scores: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Counted one pixel at a time: what is, and what it is taken for."""
    table = np.zeros((CLASSES, CLASSES))
    for taken, truth in zip(scores.argmax(1).ravel(), pixels.ravel(), strict=True):
        table[truth, taken] += 1
    return table


def mean_iou(table: np.ndarray) -> float:
    both = np.diag(table)
    return float(np.mean(both / (table.sum(0) + table.sum(1) - both)))


class MeanIoU:
    """As one writes it oneself: without reset, in numpy."""

    higher_is_better = True

    def __init__(self) -> None:
        self.table, self.names = np.zeros((CLASSES, CLASSES)), "a setting"

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        pairs = CLASSES * targets.numpy() + outputs.numpy().argmax(1)
        self.table += np.bincount(pairs.ravel(), minlength=CLASSES**2).reshape(CLASSES, CLASSES)

    def compute(self) -> float:
        return mean_iou(self.table)


class HalfOfIt(MeanIoU):
    def compute(self) -> float:
        return super().compute() / 2


class Broken(MeanIoU):
    def compute(self) -> float:
        raise RuntimeError("of two\nlines")


class MeanSquares:
    """As torchmetrics does it: sums as tensors, put back by reset."""

    higher_is_better = False
    images = 0

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total, self.seen, self.kept = torch.zeros(()), torch.tensor(0), []

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        wanted = nn.functional.one_hot(targets, CLASSES).permute(0, 3, 1, 2)
        self.total += (outputs - wanted).square().mean((1, 2, 3)).sum()
        self.seen += len(targets)
        self.kept += [len(targets)]
        self.images += len(targets)

    def compute(self) -> torch.Tensor:
        assert sum(self.kept) == int(self.seen)
        return self.total / self.seen


class Plainest:
    """Sums that begin as the number 0 and become tensors."""

    higher_is_better = True
    images = 0

    def __init__(self) -> None:
        self.total = 0

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.total += outputs.square().mean((1, 2, 3)).sum()
        self.images += len(targets)

    def compute(self) -> torch.Tensor:
        return self.total / self.images


def answers(net: Any, mode: str) -> np.ndarray:
    with net.using(mode), torch.no_grad():
        return net(IMAGES).numpy()


def test_the_figure_is_that_of_a_count_by_hand(net):
    expected = mean_iou(confusion(answers(net, "1/4"), PIXELS.numpy()))
    for metric in (MeanIoU(), MeanIoU, lambda: MeanIoU(), we.Metric(MeanIoU, name="mIoU")):
        found = we.evaluate(net, "1/4", BATCHES, metric=metric, split="a split")
        assert found.known == pytest.approx(expected, abs=1e-6)
        assert found.unit == ("mIoU" if isinstance(metric, we.Metric) else "MeanIoU")
        assert (found.count, found.source) == (24, "evaluated on a split")
        assert not found.lower_is_better
    assert str(found).endswith(")")


def test_a_metric_is_used_again_and_again(net):
    metric = MeanSquares()
    first = we.evaluate(net, "full", BATCHES, metric=metric)
    assert we.evaluate(net, "full", BATCHES, metric=metric) == first
    assert first.lower_is_better
    assert first.unit == "MeanSquares"
    once = MeanIoU()
    assert we.evaluate(net, "full", BATCHES, metric=once) == we.evaluate(
        net, "full", BATCHES, metric=once
    )
    assert not once.table.any()  # the one that was given is as it was


def test_the_interval_is_that_of_images_drawn_anew_by_hand(net):
    scores = answers(net, "full")
    tables = [confusion(scores[i : i + 1], PIXELS[i : i + 1].numpy()) for i in range(24)]
    rng, values = np.random.default_rng(7), list[float]()
    for _ in range(4000):
        values.append(mean_iou(np.sum([tables[i] for i in rng.integers(24, size=24)], axis=0)))
    expected = np.quantile(values, [0.025, 0.975])
    found = we.evaluate(net, "full", BATCHES, metric=MeanIoU())
    assert found.low is not None
    assert found.high is not None
    width = expected[1] - expected[0]
    assert abs(found.low - expected[0]) < 0.15 * width  # 400 draws are not 4000
    assert abs(found.high - expected[1]) < 0.15 * width
    assert found.interval == "95 % bootstrap over images, 400 draws"
    # of a mean over images the same: the textbook's interval of a mean
    total = we.evaluate(net, "full", BATCHES, metric=Plainest)
    assert total.low is not None
    each = [
        ((scores[i] - np.eye(CLASSES)[PIXELS[i]].transpose(2, 0, 1)) ** 2).mean() for i in range(24)
    ]
    spread = 1.96 * np.std(each) / np.sqrt(24)
    errors = we.evaluate(net, "full", BATCHES, metric=MeanSquares())
    assert errors.known == pytest.approx(np.mean(each), rel=1e-5)
    assert errors.low == pytest.approx(np.mean(each) - spread, abs=0.3 * spread)
    assert errors.high == pytest.approx(np.mean(each) + spread, abs=0.3 * spread)


class OfBatches(MeanIoU):
    """A mean over batches: what they hold together matters."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.values = [*self.values, mean_iou(confusion(outputs.numpy(), targets.numpy()) + 1)]

    def compute(self) -> float:
        return float(np.mean(self.values))


class Greatest(MeanIoU):
    def __init__(self) -> None:
        self.best = "0"

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.best = str(max(float(self.best), float(outputs.max())))

    def compute(self) -> float:
        return float(self.best)


class Slow(MeanIoU):
    def compute(self) -> float:
        resampled_metric.time.sleep(0.03)
        return super().compute()


NUMBERED = torch.arange(24)[:, None, None].expand(24, 6, 6)


class Kinds(MeanIoU):
    """How many images differ: each is another, and some are missing among those drawn anew."""

    def __init__(self) -> None:
        self.table = np.zeros((24, 1))

    def compute(self) -> float:
        return float(np.count_nonzero(self.table.sum(1)))

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        for number in targets.numpy()[:, 0, 0]:
            self.table[number, 0] += 1


@pytest.mark.parametrize(
    ("metric", "batches", "reason"),
    [
        (Kinds(), [(IMAGES, NUMBERED)], "no interval: images drawn anew give .*, and all of them 24"),
        (OfBatches(), BATCHES, "no interval: the metric does not add up over images: one by one"),
        (Greatest(), BATCHES, "no interval: an update changes 'best' of the metric otherwise than by"),
        (Slow(), BATCHES, "no interval: 400 draws of the images, [0-9.e-]+ s each, take more than 10 s"),
        (MeanIoU(), [(IMAGES[:1], PIXELS[:1])], "no interval: of 1 image"),
    ],
)  # fmt: skip
def test_without_an_interval_the_reading_says_why(net, metric, batches, reason: str):
    found = we.evaluate(net, "full", batches, metric=metric)
    assert (found.low, found.high, found.interval) == (None, None, "")
    assert re.search(reason, found.note)


class Gives:
    higher_is_better = True

    def __init__(self, value: Any) -> None:
        self.value = value

    def update(self, outputs: Any, targets: Any) -> None:
        pass

    def compute(self) -> Any:
        return self.value


class Unsaid(Gives):
    higher_is_better = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (Gives(float("nan")), "`metric` .Gives. is nan: look for NaN in the outputs or targets"),
        (Gives(torch.tensor(torch.inf)), "is inf"),
        (Gives({"map": 0.5, "map_50": 0.7}), r"several values \(map, map_50\); choose one: metric="),
        (("mar", Gives({"map": 0.5})), "gives no 'mar'; allowed: 'map'"),
        (("map", Gives(0.5)), r"gives one value, a float; `key` \(='map'\) chooses one of a dict"),
        (Gives(torch.ones(3)), "gives 3 numbers, and a mode is judged by one"),
        (Gives("text"), "gives a str, no number"),
        (Unsaid(0.5), r"does not say whether higher is better: give wenable.Metric\(metric, higher"),
        (nn.Linear(2, 2), r"`metric` \(a Linear\) has no `update`"),
        (3, r"`metric` \(an int\) has no `update`"),
        ((1, MeanIoU()), "a pair of a key and a metric"),
        (we.Metric(MeanIoU, adapt=lambda o, t: o), "must return a pair of what `update` gets"),
        (we.Metric(MeanIoU, adapt=lambda o, t: (o, {"a": t})), "cannot be updated with outputs"),
        (we.Metric(MeanIoU, adapt=lambda o, t: o["x"]), r"`adapt` .*fails with outputs \(one tensor"),
        (we.Metric(MeanIoU, adapt=lambda o: (o, o)), r"`adapt` of .*takes 1 positional argument"),
        (Broken, r"`metric` \(Broken\) cannot be computed: RuntimeError: of two"),
    ],
)  # fmt: skip
def test_what_is_no_metric_is_refused_in_one_line(net, metric: Any, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        we.evaluate(net, "full", BATCHES, metric=metric)
    assert "\n" not in str(caught.value)


def test_no_images_and_pooled_are_refused(net):
    with pytest.raises(ValueError, match="`loader` is empty; a metric needs"):
        we.evaluate(net, "full", [], metric=MeanIoU())
    with pytest.raises(ValueError, match="`pooled` adds up right answers"):
        we.evaluate(net, "full", BATCHES, metric=MeanIoU(), pooled=True)


def test_what_a_metric_does_not_say_is_said_with_it(net):
    chosen = we.Metric(Unsaid({"a": 0.25, "b": 3}), key="b", higher_is_better=False)
    found = we.evaluate(net, "full", BATCHES, metric=chosen)
    assert (found.known, found.unit, found.lower_is_better) == (3, "b", True)
    turned = we.Metric(MeanIoU, adapt=lambda scores, pixels: (scores.flip(2), pixels.flip(1)))
    plain = we.evaluate(net, "full", BATCHES, metric=MeanIoU)
    assert we.evaluate(net, "full", BATCHES, metric=turned) == plain


# --- searches -------------------------------------------------------------------------------------


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(resampled_metric, "DRAWS", 10)


STRATEGIES = [we.Knapsack(count=6, rounds=2), we.Greedy(), we.GreedyLazy(), we.NSGA2(trials=9)]


Known = dict[Any, tuple[float, int]]


@pytest.fixture(scope="module")
def known_by(net) -> dict[Any, Known]:
    """Metric -> mode -> what it says, and the MACs, of all nine modes."""
    options = itertools.product(*(knob.options for knob in net.space.knobs))
    modes = [net.space.mode(dict(zip(net.space.names, each, strict=True))) for each in options]
    return {
        metric: {
            mode: (we.evaluate(net, mode, BATCHES, metric=metric).known, net.macs(mode))
            for mode in modes
        }
        for metric in (MeanIoU, MeanSquares)
    }


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda each: each.name)
@pytest.mark.parametrize("metric", [MeanIoU, MeanSquares])
def test_a_search_finds_modes_by_what_the_metric_says(net, known_by, strategy, metric):
    steps: list[Any] = []
    lower = not metric.higher_is_better
    known = known_by[metric]
    full = known[net.space.full][0]
    limit = 3 * full if lower else full / 3
    limits = {"max_error": limit} if lower else {"min_accuracy": limit}
    front = we.explore(
        net, BATCHES, BATCHES, metric=metric, strategy=strategy, on_step=steps.append, **limits
    )
    for point in (
        *front.points,
        front.chosen,
        *front.path,
        *front.explored,
        *(s.taken for s in steps),
    ):
        assert (point.accuracy.known, point.cost.known) == known[point.mode]
        assert point.accuracy.unit == metric.__name__
    sign = -1 if lower else 1
    explored = {point.mode for point in front.explored}
    among = front.path if strategy.name.startswith("greedy") else front.explored
    kept = [p for p in among if sign * p.accuracy.known > sign * limit]
    for point in kept:  # no mode that was looked at beats one of the front
        values = sign * point.accuracy.known, -point.cost.known
        assert any(
            sign * q.accuracy.known >= values[0] and -q.cost.known >= values[1] for q in front
        )
    assert set(front.modes) <= explored
    assert front.min_accuracy == limit
    assert steps
    assert we.Front.from_json(front.to_json()) == front


@pytest.mark.usefixtures("few_draws")
def test_greedy_takes_the_way_of_the_algorithm_by_hand(net, known_by):
    """Algorithm 2 with an error e in the place of the accuracy: the least t * e is taken."""
    known = known_by[MeanSquares]
    mode, path = net.space.full, [net.space.full]
    while net.space.cheaper(mode):
        mode = min(net.space.cheaper(mode), key=lambda each: known[each][0] * known[each][1])
        path.append(mode)
    found = we.explore(
        net, BATCHES, BATCHES, metric=MeanSquares, max_error=1e9, strategy=we.Greedy()
    )
    assert [point.mode for point in found.path] == path


def test_limits_of_the_wrong_kind_are_refused(net):
    def explored(**given: Any) -> None:
        we.explore(net, BATCHES, BATCHES, **given)

    for given, message in (
        ({"metric": MeanSquares, "min_accuracy": 0.1}, "less is better: give `max_error`"),
        ({"metric": MeanIoU, "max_error": 0.1}, "more is better: give `min_accuracy`"),
        ({"max_error": 0.1, "min_accuracy": 0.1}, "`max_error` .* is a limit of a `metric`"),
        ({"metric": MeanSquares, "max_error": float("nan")}, "must be a finite number"),
        ({"metric": MeanSquares, "max_error": 1e-6}, "cannot be reached: the full mode has"),
        ({"metric": Gives(-2.0), "min_accuracy": -3.0}, "of the full mode is -2; strategies"),
        ({"metric": MeanIoU, "min_accuracy": 0.1, "cost": "latency", "strategy": we.Greedy("x")},
         "`journal` needs MACs"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message) as caught:
            explored(**given)
        assert "\n" not in str(caught.value)
    for given in ({"metric": MeanIoU}, {}):
        with pytest.raises(TypeError, match="needs `min_accuracy`"):
            explored(**given)


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("as_dicts", [False, True])
def test_a_search_by_a_metric_goes_on_by_its_journal(net, tmp_path, monkeypatch, as_dicts):
    (name,) = net.named_inputs
    batches = [{name: x, "y": y} for x, y in BATCHES] if as_dicts else BATCHES
    journal, evaluated = tmp_path / "search.journal", list[we.Mode]()
    measured = merit.measure_with

    def counting(net: Any, mode: Any, *given: Any, **more: Any) -> we.Reading:
        if len(evaluated) == stop:
            raise KeyboardInterrupt
        evaluated.append(mode)
        return measured(net, mode, *given, **more)

    def explored(**given: Any) -> we.Front:
        given = {"metric": MeanIoU, "strategy": we.Greedy(journal)} | given
        return we.explore(net, batches, batches, min_accuracy=0.0, **given)

    expected = explored(strategy=we.Greedy())
    monkeypatch.setattr(merit, "measure_with", counting)
    stop = 4
    with pytest.raises(KeyboardInterrupt):
        explored()
    first, stop = list(evaluated), 10**6
    evaluated.clear()
    assert explored() == expected
    # The full mode shows that the metric counts as it did; no other is evaluated twice.
    assert not set(first) & set(evaluated) - {net.space.full}
    assert len(first) + len(evaluated) == len({each.mode for each in expected.explored}) + 1
    with pytest.raises(JournalError, match=r"metric: .*MeanIoU"):
        explored(metric=we.Metric(MeanIoU, name="mIoU"))
    with pytest.raises(JournalError, match=r"MeanIoU of the full mode is .* there, .* here"):
        explored(metric=type("MeanIoU", (HalfOfIt,), {}))


def test_of_several_metrics_in_one_the_one_that_counts_says_whether_higher_is_better(
    net: Any,
) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    several = torchmetrics.MetricCollection(
        {
            "share": torchmetrics.classification.MulticlassAccuracy(CLASSES, average="micro"),
            "loss": torchmetrics.HammingDistance("multiclass", num_classes=CLASSES),
        }
    )
    share = we.evaluate(net, "full", BATCHES, metric=("share", several))
    alone = torchmetrics.classification.MulticlassAccuracy(CLASSES, average="micro")
    by_itself = we.evaluate(net, "full", BATCHES, metric=alone)
    assert (share.known, share.low, share.high) == (by_itself.known, by_itself.low, by_itself.high)
    assert share.low is not None
    assert not share.lower_is_better
    assert we.evaluate(net, "full", BATCHES, metric=("loss", several)).lower_is_better
    with pytest.raises(ValueError, match="does not say whether higher is better"):
        we.evaluate(net, "full", BATCHES, metric=several)

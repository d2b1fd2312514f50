"""Inputs by name, dicts of batches, outputs by name: the whole way from the network to a session."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import wenable as we
from wenable.modules.structures import mapped, some_examples
from wenable.runtime.session import Session

X, SHIFT = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), torch.ones(6, 8)
LABELS = torch.arange(6) % 3


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class Named(nn.Module):
    """As Hugging Face's: inputs by name, optional ones, a loss if labels are given, a dataclass back."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        *,
        shift: torch.Tensor | None = None,
    ) -> Answer:
        x = pixel_values if mask is None else pixel_values * mask
        assert x is not None
        scores = self.last(torch.relu(self.norm(self.first(x))))
        loss = None if labels is None else nn.functional.cross_entropy(scores, labels)
        return Answer(scores, loss)


def rows(**columns: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """A data set as Hugging Face's: one dict for each example."""
    count = len(next(iter(columns.values())))
    return [{name: each[i] for name, each in columns.items()} for i in range(count)]


def loss(outputs: Any, targets: Any) -> torch.Tensor:
    labels = targets["labels"] if isinstance(targets, dict) else targets
    return nn.functional.cross_entropy(outputs.logits, labels)


class Right:
    higher_is_better = True
    right = seen = 0

    def update(self, outputs: Any, targets: Any) -> None:
        self.right += int((outputs.logits.argmax(1) == targets).sum())
        self.seen += len(targets)

    def compute(self) -> float:
        return self.right / self.seen


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_whole_way_by_name(engine: str, tmp_path: Path):
    net = we.convert(
        Named().eval(), {"pixel_values": X}, method=we.WeightEnabling((1, 2), classifier=True)
    )
    assert list(net.named_inputs) == ["pixel_values"]
    loader = DataLoader(rows(pixel_values=X, labels=LABELS), 3)  # type: ignore[arg-type]
    config = we.TrainConfig(passes=2, epochs=1, seed=1)
    assert we.train(net, loader, config, loss=loss)
    other = we.convert(Named().eval(), X, method=we.WeightEnabling((1, 2), classifier=True))
    we.train(other, [(X[:3], LABELS[:3]), (X[3:], LABELS[3:])], config, loss=loss)
    for one, same in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)
    we.calibrate(net, ["full", "1/2"], loader)
    we.calibrate(other, ["full", "1/2"], [X[:3], X[3:]])
    for mode in ("full", "1/2"):
        found = we.evaluate(net, mode, loader, metric=Right)
        assert found.known == we.evaluate(other, mode, [(X, LABELS)], metric=Right).known
        net.set_mode(mode)
        assert torch.equal(net(pixel_values=X).logits, net(X).logits)
        assert torch.allclose(
            we.extract(net, mode)(pixel_values=X).logits, net(X).logits, atol=1e-6
        )
        assert net(pixel_values=X, labels=LABELS).loss is not None
    front = we.explore(net, loader, loader, metric=Right, min_accuracy=0.0, strategy="knapsack")
    assert front.chosen.accuracy.unit == "Right"
    net.set_mode("full")
    loaded = we.load(we.save(net, tmp_path / "net.safetensors"), Named())
    assert torch.equal(loaded(pixel_values=X).logits, net(X).logits)
    with Session(we.export(net, ["full", "1/2"], tmp_path / "net.wen"), engine=engine) as session:
        answer = session.run({"pixel_values": X.numpy()}, mode="1/2")
        net.set_mode("1/2")
        assert list(answer) == ["logits"]
        np.testing.assert_allclose(answer["logits"], net(X).logits.detach(), atol=1e-5)
        np.testing.assert_array_equal(
            session.run(X.numpy(), mode="1/2")["logits"], answer["logits"]
        )
        with pytest.raises(
            ValueError, match=r"`x` names 'image'; the network's inputs are 'pixel_values'"
        ):
            session.run({"image": X.numpy()})


def test_several_inputs_by_name_and_one_left_out(tmp_path: Path):
    mask = (torch.arange(48).view(6, 8) % 3 > 0).float()
    net = we.convert(
        Named().eval(), {"mask": mask, "pixel_values": X}, method=we.WeightEnabling((1, 2))
    )
    assert list(net.named_inputs) == ["pixel_values", "mask"]
    assert torch.equal(net(mask=mask, pixel_values=X).logits, net(X, mask).logits)
    assert torch.equal(net(X, mask=mask).logits, net(X, mask).logits)
    batch = {"labels": LABELS, "mask": mask, "pixel_values": X}
    config = we.TrainConfig(passes=2, epochs=1)
    results = []
    for given in (batch, ({"mask": mask, "pixel_values": X}, LABELS), ((X, mask), LABELS)):
        twin = we.convert(Named().eval(), (X, mask), method=we.WeightEnabling((1, 2)))
        we.train(twin, [given], config, loss=loss)
        results.append(twin.state_dict()["first.weight"])
    assert all(torch.equal(each, results[0]) for each in results)
    with Session(we.export(net, ["1"], tmp_path / "net.wen"), engine="onnxruntime") as session:
        by_name = session.run({"mask": mask.numpy(), "pixel_values": X.numpy()})["logits"]
        np.testing.assert_allclose(by_name, net(X, mask).logits.detach(), atol=1e-5)
    with pytest.raises(ValueError, match="must hold as many examples each"):
        we.train(twin, [((X, mask[:3]), LABELS)], config, loss=loss)
    optional = we.convert(Named().eval(), (X, None), method=we.WeightEnabling((1, 2)))
    we.train(optional, [{"pixel_values": X, "labels": LABELS}], config, loss=loss)
    we.train(optional, [{"pixel_values": X, "mask": None, "labels": LABELS}], config, loss=loss)


def test_images_by_name_are_made_as_large_as_the_mode_says():
    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
            self.head = nn.Linear(16, 4)

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.head(self.b(torch.relu(self.a(pixel_values))).mean((2, 3)))

    image = torch.randn(2, 3, 16, 16)
    sizes = we.ImageSize((16, 12))
    net = we.convert(Images(), {"pixel_values": image}, method=[we.WeightEnabling((1, 2)), sizes])
    net.set_mode("1,size=12")
    assert torch.equal(net(pixel_values=image), net(image))


REFUSED: dict[str, tuple[Any, str]] = {
    "other names": ({"image": X, "labels": LABELS}, r"lacks 'pixel_values': the network was"),
    "no targets": ({"pixel_values": X}, r"all of them inputs of the network; it must hold targets"),
    "unknown input": (({"pixel_values": X, "depth": X}, LABELS), r"'depth' is none of them"),
    "a text": ({"pixel_values": "x", "labels": LABELS}, r"an input of a batch is a str"),
    "an input too many": (((X, X), LABELS), r"2 input\(s\); .*, and it was converted with 1"),
    "two targets for classes": (
        {"pixel_values": X, "labels": LABELS, "id": LABELS}, r"a dict with the keys 'labels', 'id'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_batches_that_do_not_fit_are_refused_before_the_first_step(name: str):
    class Scores(Named):
        def forward(self, pixel_values: torch.Tensor, mask: Any = None) -> Any:  # type: ignore[override]
            return super().forward(pixel_values, mask).logits

    batch, message = REFUSED[name]
    net = we.convert(Scores().eval(), {"pixel_values": X})
    before = {n: t.clone() for n, t in net.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        we.train(net, [batch], we.TrainConfig(epochs=1))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    with pytest.raises(ValueError, match=message):
        we.evaluate(net, "full", [batch])


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            {"image": X},
            r"names 'image'; the network's forward has places for pixel_values, mask, labels",
        ),
        ({"shift": X}, r"names 'shift'; .*takes keywords alone"),
        ({"pixel_values": [X]}, r"is a list; allowed: a tensor"),
        ({}, "must hold a tensor with a batch dimension"),
    ],
)
def test_examples_that_do_not_fit_are_refused(example: Any, message: str):
    with pytest.raises(ValueError, match=message):
        we.convert(Named(), example)


def test_structures_are_gone_through_and_taken_apart():
    value = {"a": [X, None], "b": Answer(X, None), "c": ("text", 2.0)}
    doubled = mapped(lambda tensor: tensor * 2, value)
    assert torch.equal(doubled["b"].logits, 2 * X)
    assert doubled["c"] == ("text", 2.0)
    part = some_examples(value, 6, 2, 4, "it")
    assert torch.equal(part["a"][0], X[2:4])
    assert torch.equal(part["b"].logits, X[2:4])
    assert part["c"] == ("text", 2.0)
    boxes = [torch.ones(i, 4) for i in range(6)]
    assert [len(each) for each in some_examples(boxes, 6, 2, 4, "it")] == [2, 3]
    for wrong, message in ((object(), "it holds a object"), (X[:3], "has not the 6 examples")):
        with pytest.raises(ValueError, match=message):
            some_examples(wrong, 6, 0, 2, "it")

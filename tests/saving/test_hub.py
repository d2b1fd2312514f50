"""Sharing through huggingface_hub's mixin, against a local folder in the place of the Hub."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch

import wenable as we
from tests.helpers.networks import IMAGES, converted, small_resnet
from wenable.core.readings import Front, Point, Reading
from wenable.modules.fingerprint import weights_fingerprint
from wenable.saving.hub import CARD_FILE, FRONTS_FILE, NETWORK_FILE, SharedNetwork, card_text
from wenable.zoo import build


def network() -> we.DynamicNetwork:
    torch.manual_seed(0)
    net = we.convert(build("wenable.zoo:digits_resnet", width=16).eval(), torch.zeros(1, 1, 8, 8))
    we.calibrate(net, ["1/2", "1/4"], [torch.randn(16, 1, 8, 8)])
    return net


def front(net: we.DynamicNetwork) -> Front:
    def point(mode: str, accuracy: float) -> Point:
        low, high = accuracy - 0.01, accuracy + 0.01
        measured = Reading(
            accuracy, "top-1", low, high, "95 % Wilson", 500, source="evaluated on the test split"
        )
        cost = Reading(2.5, "ms", 2.4, 2.6, "quartiles", 120, source="wall clock", device="a board")
        return Point(net.space.mode(mode), measured, cost)

    points = (point("full", 0.98), point("1/2", 0.95))
    return Front(points, points[1], points, 7, 0.9, "latency", "greedy")


def test_a_folder_gives_back_the_network_and_its_fronts(tmp_path: Path):
    net = network()
    SharedNetwork(net, [front(net)]).save_pretrained(tmp_path)
    shared = SharedNetwork.from_pretrained(tmp_path)
    assert isinstance(shared.net, we.DynamicNetwork)
    assert shared.fronts == (front(net),)
    assert set(shared.net.calibrated_modes) == set(net.calibrated_modes)
    x = torch.randn(2, 1, 8, 8)
    for mode in net.calibrated_modes:
        with net.using(mode), shared.net.using(mode), torch.no_grad():
            assert torch.equal(net.eval()(x), shared.net(x))
    assert torch.equal(we.load(tmp_path / NETWORK_FILE)(x), shared.net(x))


def test_the_card_tells_what_was_measured_and_how(tmp_path: Path):
    net = network()
    shared = SharedNetwork(net, [front(net)])
    shared.save_pretrained(tmp_path, model_card_kwargs={"license": "mit"})
    card = huggingface_hub.ModelCard.load(tmp_path / CARD_FILE)
    assert (card.data.library_name, card.data.license) == ("wenable", "mit")
    mega = f"{net.macs('1/2') / 1e6:.1f}"
    # That front was never evaluated on a test split, and the card says so.
    assert "| id | mode | M MACs | accuracy (search split, chosen on it) | cost |" in card.text
    assert f"| m02 | `1/2` | {mega} | 95.0 % (94.0 to 96.0) | 2.5 ms (2.4 to 2.6) |" in card.text
    assert "- top-1: evaluated on the test split; 95 % Wilson; 500 samples" in card.text
    assert "- ms: wall clock; quartiles; 120 samples; a board" in card.text
    assert 'net.set_mode("1/2")' in card.text
    code = card.text.split("```python\n")[1].split("```")[0]
    exec(code.replace("OWNER/NAME", str(tmp_path)), {})


def test_a_front_of_other_weights_is_refused(tmp_path: Path):
    """Their accuracies would stand in the card of a network that does not have them."""
    net = network()
    found = replace(front(net), weights=weights_fingerprint(net))
    shared = SharedNetwork(net, [found])
    shared.save_pretrained(tmp_path)
    assert SharedNetwork.from_pretrained(tmp_path).fronts == (found,)
    with torch.no_grad():
        next(net.parameters()).add_(1.0)
    for refused in (
        lambda: SharedNetwork(net, [found]),
        lambda: shared.save_pretrained(tmp_path / "trained"),
    ):
        with pytest.raises(
            ValueError, match="`fronts` holds one that was found with other weights"
        ):
            refused()
    we.save(
        net, tmp_path / NETWORK_FILE
    )  # as a repository that was written before fronts told their weights
    with pytest.warns(UserWarning, match="1 of the 1 fronts of .* with other weights"):
        assert SharedNetwork.from_pretrained(tmp_path).fronts == ()


def test_without_readings_the_card_claims_nothing(tmp_path: Path):
    SharedNetwork(network()).save_pretrained(tmp_path)
    text = (tmp_path / CARD_FILE).read_text()
    assert "Nothing was measured" in text
    assert "%" not in text


def test_a_generated_card_follows_the_readings_and_a_written_one_stays(tmp_path: Path):
    net = network()
    SharedNetwork(net).save_pretrained(tmp_path)
    SharedNetwork(net, [front(net)]).save_pretrained(tmp_path)
    assert "95.0 %" in (tmp_path / CARD_FILE).read_text()
    (tmp_path / CARD_FILE).write_text("my own words")
    SharedNetwork(net).save_pretrained(tmp_path)
    assert (tmp_path / CARD_FILE).read_text() == "my own words"


def test_pushing_uploads_what_saving_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class FolderInsteadOfHub:
        def __init__(self, token: object = None) -> None:
            pass

        def create_repo(self, repo_id: str, **_: object) -> object:
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: object) -> str:
            shutil.copytree(folder_path, tmp_path / repo_id)
            return repo_id

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", FolderInsteadOfHub)
    net = network()
    assert SharedNetwork(net, [front(net)]).push_to_hub("me/digits") == "me/digits"
    uploaded = tmp_path / "me" / "digits"
    names = {path.name for path in uploaded.iterdir()}
    assert names == {NETWORK_FILE, FRONTS_FILE, CARD_FILE, "config.json"}
    assert json.loads((uploaded / "config.json").read_text())["library_name"] == "wenable"
    assert SharedNetwork.from_pretrained(uploaded).fronts == (front(net),)


def test_networks_of_ones_own_are_handed_in(tmp_path: Path):
    model = small_resnet()
    net = we.convert(model, torch.zeros(IMAGES))
    SharedNetwork(net).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pass the architecture"):
        SharedNetwork.from_pretrained(tmp_path)
    shared = SharedNetwork.from_pretrained(tmp_path, model=small_resnet())
    assert shared.net.space == net.space


def test_what_does_not_belong_together_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="found for another network"):
        SharedNetwork(converted(), [front(network())])
    SharedNetwork(network()).save_pretrained(tmp_path)
    (tmp_path / FRONTS_FILE).write_text("[1]")
    with pytest.raises(ValueError, match="does not hold the fronts"):
        SharedNetwork.from_pretrained(tmp_path)
    (tmp_path / FRONTS_FILE).unlink()
    assert SharedNetwork.from_pretrained(tmp_path).fronts == ()
    (tmp_path / NETWORK_FILE).unlink()
    with pytest.raises(FileNotFoundError):
        SharedNetwork.from_pretrained(tmp_path)


def test_the_card_shows_the_test_split_of_a_front_that_has_it():
    net = network()
    found = front(net)
    tested = found.with_tests({mode: Reading(0.81, "top-1", count=900) for mode in found.modes})
    text = card_text(net, [tested])
    assert "| accuracy (test split) |" in text
    assert "| 81.0 % |" in text
    assert "95.0 %" not in text

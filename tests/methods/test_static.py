"""A static network is converted to what it was, counted whole, kept and written."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import wenable as we
from wenable.methods import method_from_json


def test_its_only_mode_is_the_network_and_nothing_warns(tmp_path: Path):
    torch.manual_seed(0)
    layers = nn.Embedding(7, 8), nn.LayerNorm(8), nn.Flatten(), nn.Linear(40, 3)
    model = nn.Sequential(*layers).eval()
    tokens = torch.arange(10).reshape(2, 5) % 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = we.convert(model, tokens, method=we.Static())
    assert (net.space.size, str(net.space.full)) == (1, "1")
    assert net.macs("full") == 120
    reasons = {each.name: each.reason for each in net.left_alone}
    assert "static network switches nothing" in reasons["3"]
    assert set(reasons) == {"0", "3"}
    torch.testing.assert_close(net(tokens), model(tokens), rtol=0, atol=0)
    torch.testing.assert_close(we.extract(net, "full")(tokens), model(tokens), rtol=0, atol=0)
    assert we.load(we.save(net, tmp_path / "net.safetensors"), model=model).space == net.space


def test_its_settings_are_written_and_read_back():
    assert method_from_json(we.Static().to_json()) == we.Static()
    with pytest.raises(ValueError, match=r"`method` \(='precision'\) is not 'static'"):
        we.Static.from_json({"method": "precision"})

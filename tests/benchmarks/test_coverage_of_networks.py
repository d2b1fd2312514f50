"""Some of the networks of `make coverage-of-networks`, small enough for every run of the tests."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from benchmarks.coverage import check as checking
from benchmarks.coverage.check import Outcome, check
from benchmarks.coverage.groupable import groupable_macs
from benchmarks.coverage.networks import Candidate, timm_networks, torchvision_networks
from benchmarks.coverage.recount import recounted
from benchmarks.coverage.table import table
from benchmarks.export_coverage import representatives
from results.records import ROOT, read_records, records_file

# What each of them has inside that others lack.
NETWORKS = {
    "mobilenetv3_small_050": "squeeze-and-excitation, hard activations",
    "ghostnet_050": "concatenations of a layer with its own depthwise copy",
    "convnext_zepto_rms": "dense layers over the last dimension, no batch norm",
    "resnest14d": "split attention",
    "skresnet18": "selective kernels",
    "repghostnet_050": "re-parameterised branches",
    "vovnet39a": "one concatenation of many layers",
    "vit_tiny_patch16_224": "a transformer",
    "pvt_v2_b0": "attention over a reduced map",
    "gmlp_ti16_224": "a mixer with a gate over tokens",
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_timm_converts_and_every_check_holds(name: str, monkeypatch):
    monkeypatch.setattr(checking, "RANDOM_MODES", 1)
    fixed = {"vit_tiny_patch16_224": 224, "gmlp_ti16_224": 224}
    outcome = check(Candidate("timm", "", name, (3, fixed.get(name, 64), fixed.get(name, 64))))
    assert outcome.defects == []
    assert outcome.verdict == "converted", outcome.left_alone


def test_the_list_holds_a_network_of_each_family_of_timm_and_all_of_torchvision():
    candidates = timm_networks()
    assert len({each.family for each in candidates}) >= 98
    assert all(each.name in timm.list_models(module=each.family) for each in candidates)
    assert len(torchvision_networks()) >= 80


def test_what_is_groupable_is_counted_from_the_calls():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),  # 3 channels: no
        nn.Conv2d(8, 16, 3, padding=1),  # 16 positions x 16 x 8 x 9
        nn.Conv2d(16, 16, 3, padding=1, groups=16),  # depthwise: no
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(16, 32, 1),  # on a 1x1 map: no
        nn.Flatten(),
        nn.Linear(32, 64),  # 32 x 64
        nn.Linear(64, 10),  # the classifier
    )
    expected = 16 * 16 * 8 * 9 + 32 * 64
    assert groupable_macs(model, torch.zeros(2, 3, 4, 4), classes=10) == expected


def test_a_wrong_network_is_called_wrong(monkeypatch):
    class Noisy(nn.Module):
        """It computes something else each time that it is called."""

        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(32, 8))
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return self.layers(x) + self.calls

    monkeypatch.setattr(Candidate, "build", lambda self: Noisy().eval())
    outcome = check(Candidate("timm", "", "noisy", (4, 4, 4)))
    assert outcome.verdict == "wrong"
    assert outcome.defects


def test_the_page_counts_and_explains():
    good = Outcome("timm", "a", "good", (3, 8, 8), full_macs=100, smallest_macs=10, knobs=2)
    good.share_by_default, good.switched_macs = 0.75, 70
    by_choice = Outcome("timm", "b", "chosen", (3, 8, 8), full_macs=100, smallest_macs=10, knobs=2)
    by_choice.share_by_default, by_choice.share_with_attention = 0.25, 0.75
    by_choice.settings = "attention=True"
    partly = Outcome("timm", "c", "little", (3, 8, 8), full_macs=100, smallest_macs=90, knobs=1)
    partly.share_by_default, partly.left_alone = 0.1, {"is called 3 times in one pass": 60}
    refused = Outcome("torchvision", "d", "none", (3, 8, 8), refusal="cannot be traced")
    results = {
        "command": "c", "machine": "m", "versions": {"torch": "2"},
        "networks": [vars(each) for each in (good, by_choice, partly, refused)],
    }  # fmt: skip
    page = table(results)
    assert "Of 3 in timm, **2 convert** (66.7%), 1 of them with `attention=True`; 1 partly." in page
    assert "Of 1 in torchvision, **0 convert** (0.0%); 1 refused." in page
    assert "- `none` (refused): cannot be traced." in page
    assert "60% of its MACs are in layers of which each is called 3 times in one pass." in page
    assert "converted with `attention=True` |" in page


def test_each_family_that_converts_is_exported_by_its_smallest_network():
    rows = read_records(records_file(ROOT, "coverage"))["networks"]
    chosen = {(one.library, one.family): one.name for one in representatives()}
    assert len(chosen) == len(representatives())
    for row in rows:
        if Outcome(**row).verdict != "converted":
            continue
        key = row["library"], chosen[row["library"], row["family"]]
        smallest = next(each for each in rows if (each["library"], each["name"]) == key)
        assert smallest["parameters"] <= row["parameters"]


@pytest.mark.parametrize("name", ["resnest14d", "vit_tiny_patch16_224"])
def test_counting_again_finds_what_converting_found(name: str, monkeypatch):
    monkeypatch.setattr(checking, "RANDOM_MODES", 0)
    size = 224 if name.startswith("vit") else 64
    candidate = Candidate("timm", "", name, (3, size, size))
    outcome = check(candidate)
    again = recounted(
        replace(outcome, full_macs=0, knobs=0, share_by_default=0.0, left_alone={}), candidate
    )
    assert again == outcome

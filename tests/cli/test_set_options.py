"""Settings of a run as `--set NAME=VALUE`: read by type, refused by name."""

import pytest

from wenable.cli.set_options import with_set, with_settings
from wenable.training import Sharing, TrainConfig
from wenable.training.recipes import recipe_named


def test_values_are_read_by_their_type():
    texts = [
        "clip-grad=5",
        "mixup=0.2",
        "channels_last=True",
        "grow_from=none",
        "precision=bfloat16",
    ]
    found = with_set({"epochs": 2, "seed": None}, texts)
    assert found == {
        "epochs": 2, "clip_grad": 5, "mixup": 0.2, "channels_last": True, "grow_from": None,
        "precision": "bfloat16",
    }  # fmt: skip
    assert TrainConfig(**found).clip_grad == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip_grad", "must be NAME=VALUE"),
        ("clip_grad=", "must be NAME=VALUE"),
        ("nonsense=1", "names no setting; allowed: passes, counting"),
        ("clip=5", "clip is called clip_grad now"),
        ("epochs=3", "epochs was given already"),
        ("momentum=fast", "momentum must be a number"),
        ("passes=2.5", "passes must be a whole number"),
        ("channels_last=1", "channels_last must be true or false"),
        ("optimizer=3", "optimizer must be a word"),
    ],
)
def test_what_cannot_be_set_is_refused(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        with_set({"epochs": 2}, [text])


def test_what_modes_share_is_set_by_a_name_with_a_dot():
    found = with_set({"epochs": 2}, ["sharing.delay=0.5", "sharing.losses=mean"])
    assert found == {"epochs": 2, "sharing": {"delay": 0.5, "losses": "mean"}}
    assert with_settings(TrainConfig(), found).sharing == Sharing(delay=0.5, losses="mean")
    pool = with_set({}, ["sharing.pool = 1/2; 1/4,layer1.*=1/2;"])
    assert pool == {"sharing": {"pool": ("1/2", "1/4,layer1.*=1/2")}}
    recipe = TrainConfig(sharing=Sharing(delay=0.25, rise=0.1), distillation=True)
    assert with_settings(recipe, found).sharing == Sharing(delay=0.5, losses="mean", rise=0.1)
    for text, message in (
        ("sharing=1", "names no setting"),
        ("sharing.delay=half", "sharing.delay must be a number"),
        ("sharing.losses=most", "must be one of 'sum', 'mean'"),
    ):
        with pytest.raises(ValueError, match=message):
            with_set({}, [text])


@pytest.mark.parametrize(
    ("texts", "from_weights", "delay"),
    [
        ([], False, 0.5), ([], True, 0.0), (["sharing.rise=0.1"], True, 0.0),
        (["sharing.delay=0.25"], True, 0.25), (["sharing.delay=0"], False, 0.0),
    ],
)  # fmt: skip
def test_nothing_is_delayed_for_weights_that_are_good_already(texts, from_weights, delay: float):
    recipe = recipe_named("cifar").training
    assert recipe.sharing.delay == 0.5
    found = with_settings(recipe, with_set({}, texts), from_weights=from_weights)
    assert found.sharing.delay == delay
    assert found.distillation

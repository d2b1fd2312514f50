"""Knobs, spaces and modes: immutable, ordered, and refused by name where they do not fit."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wenable.core.networks import joined_knobs
from wenable.core.space import Knob, Mode, Space


def spaces() -> st.SearchStrategy[Space]:
    chains = st.sampled_from([(1,), (1, 2), (1, 2, 4), (1, 3, 6), (1, 2, 4, 8, 16), (1, 4, 16)])
    return st.lists(chains, min_size=1, max_size=8).map(
        lambda all_options: Space(
            tuple(Knob(f"layer.{i}.conv", options) for i, options in enumerate(all_options))
        )
    )


@st.composite
def modes(draw: st.DrawFn) -> Mode:
    space = draw(spaces())
    return Mode(space, tuple(draw(st.sampled_from(knob.options)) for knob in space.knobs))


@given(modes())
def test_text_and_json_forms_are_read_back(mode: Mode):
    space = mode.space
    assert space.mode(str(mode)) == mode
    assert space.mode(json.loads(json.dumps(dict(mode)))) == mode
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


LABELS = ("1", "0.75", "0.5", "wide", "8bit", "é", "-3")


@st.composite
def labelled_modes(draw: st.DrawFn) -> Mode:
    """Knobs with labels among knobs without: some with the same labels, in any order."""

    def knob(name: str) -> Knob:
        options = draw(st.sampled_from([(1,), (1, 2), (1, 2, 3), (1, 2, 4, 8), (2, 5)]))
        if draw(st.booleans()):
            return Knob(name, options)
        several = st.permutations(LABELS)
        labels = draw(st.one_of(st.just(LABELS), several))[: len(options)]
        return Knob(name, options, labels=tuple(labels))

    space = Space(tuple(knob(f"knob.{i}") for i in range(draw(st.integers(1, 5)))))
    return Mode(space, tuple(draw(st.sampled_from(knob.options)) for knob in space.knobs))


@given(labelled_modes())
def test_labels_are_written_and_read_back(mode: Mode):
    space = mode.space
    assert space.mode(str(mode)) == mode
    for own in (space.full, space.smallest, *space.uniform_modes()):
        assert space.mode(str(own)) == own
    assert space.mode("full") == space.full
    assert space.mode("smallest") == space.smallest
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space
    for knob in space.knobs:
        for option in knob.options:
            assert knob.read(knob.text(option)) == option
            if len(space.knobs) > 1:
                runs = [each.text(each.options[0]) for each in space.knobs]
                changed = {knob.name: option}
                runs[space.position(knob.name)] = knob.text(option)
                assert space.mode(",".join(runs)) == space.full.replace(changed)


@st.composite
def joined_modes(draw: st.DrawFn) -> Mode:
    """Modes of a space of several networks, whose knobs may be called the same."""
    names = draw(
        st.lists(st.sampled_from(["big", "little", "0.5", "1", "ü"]), min_size=2, unique=True)
    )
    own = {name: draw(st.one_of(modes(), labelled_modes())) for name in names}
    space = Space(joined_knobs({name: each.space.knobs for name, each in own.items()}))
    assert space.size == sum(each.space.size for each in own.values())
    return space.of_network(*draw(st.sampled_from(sorted(own.items()))))


@given(joined_modes(), st.integers(0, 2**32))
def test_modes_of_several_networks_run_one_of_them(mode: Mode, seed: int):
    space = mode.space
    name, own = space.within(mode)
    assert space.mode(str(mode)) == space.mode(f"{own},network={name}") == mode
    assert space.mode(json.loads(json.dumps(dict(mode)))) == mode
    told = {knob.name: mode[knob.name] for knob in space.knobs if knob.network in ("", name)}
    assert space.mode(told) == mode  # of the others nothing need be said
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space
    part = space.fixed({"network": mode["network"]})
    assert part.size == own.space.size
    assert space.mode(dict(part.full)) == space.of_network(name, "full")
    assert space.mode(f"network={name}") == space.of_network(name, own.space.full)
    first, *_, last = space.networks
    assert space.full == space.mode("full") == space.mode(f"network={first}")
    assert space.smallest == space.mode("smallest") == space.of_network(last, "smallest")
    sampled = space.sample(random.Random(seed))
    for each in (sampled, *space.cheaper(mode), *space.uniform_modes()):
        running, inside = space.within(each)
        assert space.of_network(running, inside) == each == space.mode(str(each))
    nearest = [space.within(each) for each in space.cheaper(mode)]
    assert [each for network, each in nearest if network == name] == list(own.space.cheaper(own))
    assert all(each.is_no_costlier_than(space.full) for each in space.cheaper(space.full))


def test_a_mode_sets_no_knob_of_a_network_that_does_not_run():
    knobs = joined_knobs({"big": [Knob("a", (1, 2))], "little": [Knob("a", (1, 4))]})
    space = Space(knobs)
    with pytest.raises(ValueError, match="runs the network 'little' and sets 'big/a' of another"):
        Mode(space, (2, 2, 1))
    with pytest.raises(ValueError, match="'middle', which is no option of 'network'; allowed: big"):
        space.mode("network=middle")
    with pytest.raises(ValueError, match=r"`mode` \(='network=big,1/4'\): .* allowed: 1, 1/2"):
        space.mode("network=big,1/4")
    with pytest.raises(ValueError, match="the network 'little' has no knob"):
        Space(knobs[:2])


def test_labels_stand_in_files_only_where_there_are_any():
    knobs = Knob("a", (1, 2)), Knob("b", (1, 2), labels=("1", "0.5"))
    written = Space(knobs).to_json()["knobs"]
    assert list(written[0]) == ["name", "options", "must_divide"]
    assert written[1]["labels"] == ["1", "0.5"]


WIDTHS = Space((Knob("width", (1, 2, 3), labels=("1", "0.75", "0.5")),))


def test_modes_of_labels():
    assert [str(mode) for mode in WIDTHS.uniform_modes()] == ["1", "0.75", "0.5"]
    assert WIDTHS.mode("0.75") == WIDTHS.uniform(2)
    assert WIDTHS.mode("1,width=0.5") == WIDTHS.smallest == WIDTHS.uniform(9)
    assert Space((Knob("width", (1, 2, 3)),)) != WIDTHS
    both = Space((*WIDTHS.knobs, Knob("conv", (1, 2, 4))))
    assert str(both.mode("0.5,1/4")) == "1/4,width=0.5"
    assert both.mode("1,conv=1/2").options == (1, 2)
    assert str(both.full) == "1"


def test_a_text_for_all_sets_the_knobs_of_its_kind():
    bits = Knob("precision", (1, 4), labels=("32-bit", "8-bit"))
    convs = Knob("a", (1, 2, 4)), Knob("b", (1, 2))
    space = Space((bits, *convs))
    for text, options in {
        "1/4": (1, 4, 2), "8-bit": (4, 1, 1), "1/4,precision=8-bit": (4, 4, 2),
        "8-bit,a=1/4": (4, 4, 1), "1": (1, 1, 1), "32-bit": (1, 1, 1), "8-bit,1/2,1": (4, 2, 1),
    }.items():  # fmt: skip
        assert space.mode(text).options == options
    written = [str(mode) for mode in (space.full, space.uniform(2), space.smallest)]
    assert written == ["1", "1/2", "1/4,precision=8-bit"]
    assert str(space.mode("8-bit,1/2,1")) == "8-bit,1/2,1"
    # Two knobs with labels: no exception by name would stand for both.
    assert str(Space((bits, *convs, replace(bits, name="c"))).smallest) == "8-bit,1/4,1/2,8-bit"
    for wrong in ("9-bit", "9-bit,a=1/2", "1/4,precision=1/4"):
        with pytest.raises(ValueError, match="no option of 'precision'; allowed: 32-bit, 8-bit"):
            space.mode(wrong)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            "0.6",
            r"`mode` \(='0.6'\) holds '0.6', which is no option of 'width'; allowed: 1, 0.75, 0.5",
        ),
        ("1/2", "'1/2', which is no option of 'width'"),
        ("1,width=2", r"`mode` \(='1,width=2'\) holds '2', which is no option"),
        ({"width": 4}, r"option 4 of 'width' is none of its 3; allowed: 1 \(1\), 2 \(0.75\)"),
    ],
)
def test_what_is_no_label_is_refused(choice, message: str):
    with pytest.raises(ValueError, match=message):
        WIDTHS.mode(choice)


@pytest.mark.parametrize(
    "labels",
    [("1",), ("1", "1"), ("1", "full"), ("1", "a b"), ("1", ""), ("1", "1/2"), ("1", "a,b"),
     ("a=1", "b"), ("a*2", "b"), (" 1", "b")],
)  # fmt: skip
def test_labels_that_a_text_could_not_hold_are_refused(labels):
    with pytest.raises(ValueError, match="`labels` "):
        Knob("width", (1, 2), labels=labels)


@given(modes(), st.integers(0, 2**31))
def test_modes_hash_and_compare_by_value(mode: Mode, seed: int):
    same = Mode(Space(tuple(mode.space.knobs)), tuple(mode.options))
    assert mode == same
    assert hash(mode) == hash(same)
    other = mode.space.sample(random.Random(seed))
    assert (other == mode) == (other.options == mode.options)


@given(spaces())
def test_size_counts_every_mode(space: Space):
    seen = {space.full}
    frontier = [space.full]
    while frontier and len(seen) < 3000:
        for mode in space.cheaper(frontier.pop()):
            if mode not in seen:
                seen.add(mode)
                frontier.append(mode)
    # Every mode is reached by making single knobs cheaper, so this counts them independently.
    assert len(seen) == space.size or space.size >= 3000


@given(modes())
def test_cheaper_moves_one_knob_one_option(mode: Mode):
    for neighbour in mode.space.cheaper(mode):
        moved = [(a, b) for a, b in zip(mode.options, neighbour.options, strict=True) if a != b]
        assert len(moved) == 1
        assert moved[0][0] < moved[0][1]
        assert neighbour.is_no_costlier_than(mode)
        assert not mode.is_no_costlier_than(neighbour)


@given(spaces(), st.sampled_from([1, 2, 3, 4, 6, 8, 16]))
def test_uniform_takes_the_nearest_option_below(space: Space, n: int):
    for knob, option in zip(space.knobs, space.uniform(n).options, strict=True):
        assert option == max(o for o in knob.options if o <= n)


def test_the_size_of_resnet50s_space_is_exact():
    space = Space(tuple(Knob(f"conv{i}", (1, 2, 4, 8, 16)) for i in range(52)))
    assert space.size == 5**52


@pytest.mark.parametrize("rng", [random.Random(3), np.random.default_rng(3)])
def test_samples_come_from_the_given_generator_and_reach_every_option(rng):
    space = Space((Knob("a", (1, 2, 4, 8, 16)), Knob("b", (1, 2))))
    drawn = [space.sample(rng) for _ in range(4000)]
    for option in (1, 2, 4, 8, 16):
        share = sum(mode["a"] == option for mode in drawn) / len(drawn)
        assert share == pytest.approx(0.2, abs=0.03)
    assert space.sample(random.Random(9)) == space.sample(random.Random(9))


OTHER = Space((Knob("x", (1, 2)),))
SPACE = Space(
    (
        Knob("layers.0.conv1", (1, 2, 4), (("input channels", 12), ("output channels", 8))),
        Knob("layers.0.conv2", (1, 2, 4, 8), (("input channels", 24), ("output channels", 8))),
        Knob("layers.1.conv1", (1, 2, 4, 8, 16)),
    )
)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("full", (1, 1, 1)),
        ("smallest", (4, 8, 16)),
        ("1", (1, 1, 1)),
        ("1/4", (4, 4, 4)),
        ("1/16", (4, 8, 16)),
        ("1, 1/8 ,1/16", (1, 8, 16)),
        ("1/2*2,1/16", (2, 2, 16)),
        ("1/4,layers.1.conv1=1/16", (4, 4, 16)),
        ("1,layers.0.*=1/2", (2, 2, 1)),
        ("layers.0.*=1/2", (2, 2, 1)),
        ("layers.1.conv1=1/16, layers.0.conv1=1/4", (4, 1, 16)),
    ],
)
def test_texts_that_a_person_types(text: str, options: tuple[int, ...]):
    assert SPACE.mode(text).options == options


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (4, "`mode` \\(=4\\) must be a mode, a text as '1/4', or a dict over all knobs"),
        (None, "`mode` \\(=None\\) must be a mode"),
        (
            {"layers.0.conv1": 1, "layers.0.conv2": 2.0, "layers.1.conv1": 1},
            r"`groups` \(=2.0\) of 'layers.0.conv2' must be a whole number; allowed: 1, 2, 4, 8",
        ),
        (
            {"layers.0.conv1": True, "layers.0.conv2": 2, "layers.1.conv1": 1},
            r"`groups` \(=True\) of 'layers.0.conv1' must be a whole number",
        ),
        ("4", "'4', which is no option; write 1 or 1/n"),
        ("1/0", "'1/0', which is no option"),
        ("1/2*0,1", "repeats an option '0' times"),
        ("1,1/2", "gives 2 options; this network has 3 knobs"),
        ("1/2*99999999999,1", "options; this network has 3 knobs"),
        ("1,1,1,layers.1.conv1=1/2", "must start with one option"),
        ("1/4,layers.9=1/2", "names 'layers.9', which is no knob of this network"),
        ({"layers.0.conv1": 1}, "says nothing of 'layers.0.conv2', 'layers.1.conv1'"),
        ({"nope": 1}, "names 'nope', which is no knob of this network; its 3 knobs are"),
        (
            {"layers.0.conv1": 1, "layers.0.conv2": 16, "layers.1.conv1": 1},
            r"`groups` \(=16\) must divide the input channels \(=24\) of 'layers.0.conv2';"
            " allowed: 1, 2, 4, 8",
        ),
        (
            "1,layers.0.conv1=1/3",
            r"`groups` \(=3\) must divide the output channels \(=8\) of 'layers.0.conv1';"
            " allowed: 1, 2, 4",
        ),
        (
            "1,layers.1.conv1=1/32",
            r"`groups` \(=32\) is not an option of 'layers.1.conv1'; allowed: 1, 2, 4, 8, 16",
        ),
    ],
)
def test_modes_outside_the_space_are_refused_by_name(choice, message: str):
    with pytest.raises(ValueError, match=message):
        SPACE.mode(choice)


def test_a_mode_of_another_space_is_refused():
    with pytest.raises(ValueError, match="belongs to the space of another network"):
        SPACE.mode(OTHER.full)


def test_modes_and_knobs_are_ordered():
    modes = [SPACE.smallest, SPACE.full, SPACE.uniform(2)]
    assert sorted(modes) == [SPACE.full, SPACE.uniform(2), SPACE.smallest]
    assert sorted(SPACE.knobs, reverse=True)[0].name == "layers.1.conv1"
    assert Knob("a", [1, 2]) == Knob("a", (1, 2))
    assert hash(Space([Knob("a", (1, 2))])) == hash(Space((Knob("a", (1, 2)),)))
    with pytest.raises(TypeError):
        _ = SPACE.full < OTHER.full


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Knob("a", ()), "`options` of 'a' is empty"),
        (lambda: Knob("a", (1, 2, 2)), "positive and ascending"),
        (lambda: Knob("a", (2, 1)), "positive and ascending"),
        (lambda: Knob("a", (1, 5), (("input channels", 8),)), "`groups` \\(=5\\) must divide"),
        (lambda: Space(()), "`knobs` is empty"),
        (lambda: Space((Knob("a", (1,)), Knob("a", (1, 2)))), "names 'a' more than once"),
        (lambda: SPACE.uniform(0), "`n` \\(=0\\) must be a whole number above 0"),
        (lambda: SPACE.cheaper(OTHER.full), "belongs to the space of another network"),
        (lambda: SPACE.full.is_no_costlier_than(OTHER.full), "belongs to the space of another"),
        (lambda: Mode(SPACE, (1, 1)), "has 2 entries; the space has 3 knobs"),
        (lambda: Space.from_json({"knobs": [{"name": "a"}]}), "not the JSON form of a space"),
    ],
)
def test_bad_spaces_are_refused_when_they_are_made(build, message: str):
    with pytest.raises(ValueError, match=message):
        build()


def test_modes_are_immutable_mappings_in_execution_order():
    mode = SPACE.mode("1/4,layers.1.conv1=1/16")
    assert list(mode) == ["layers.0.conv1", "layers.0.conv2", "layers.1.conv1"]
    assert mode.replace({"layers.0.conv2": 8})["layers.0.conv2"] == 8
    assert mode["layers.0.conv2"] == 4
    with pytest.raises(AttributeError):
        mode.options = (1, 1, 1)  # type: ignore[misc]
    with pytest.raises(KeyError, match="'x' is no knob"):
        mode["x"]


@pytest.mark.parametrize("text", ["1/3", "1/32", "1/1024", "1/3,layers.0.conv1=1", " 1/6 "])
def test_a_typed_option_that_nothing_has_is_refused_and_not_rounded(text: str):
    with pytest.raises(
        ValueError, match=r"an option that nothing in this network has; allowed: 1, 1/2"
    ):
        SPACE.mode(text)


def test_a_typed_option_that_some_have_is_rounded_where_others_lack_it():
    space = Space((Knob("a", (1, 2)), Knob("b", (1, 2, 4)), Knob("c", (1, 3))))
    assert space.mode("1/4").options == (2, 4, 3)
    assert space.mode("1/3").options == (2, 2, 3)
    assert space.mode("1/4") == space.uniform(4)
    assert space.uniform(1000) == space.smallest  # a number may be rounded
    for text in ("1/5", "1/6", "1/12"):
        with pytest.raises(ValueError, match="allowed: 1, 1/2, 1/3, 1/4"):
            space.mode(text)
    for text in ("1/4,a=1/4", "1/2,c=1/2", "1/4,1/4,1/3"):  # by name or place
        with pytest.raises(ValueError, match="is not an option of"):
            space.mode(text)


def test_in_a_mixed_space_each_kind_of_text_names_an_option_that_there_is():
    mixed = Space((Knob("a", (1, 2)), Knob("width", (1, 2), labels=("1.0", "0.5"))))
    assert mixed.mode("1/2").options == (2, 1)
    assert mixed.mode("0.5").options == (1, 2)
    for text in ("1/3", "0.3", "1/2,width=0.3", "1/2,a=1/3"):
        with pytest.raises(ValueError, match=r"`(mode|groups)`"):
            mixed.mode(text)


# --- knobs that only their name sets --------------------------------------------------------------

SIZE = Knob("size", (1, 2, 3), labels=("64", "48", "32"), by_name=True)
PRECISION = Knob("precision", (1, 4), labels=("32-bit", "8-bit"))
WIDTH = Knob("width", (1, 2), labels=("1", "0.5"))
GROUPS = tuple(Knob(name, (1, 2, 4)) for name in "ab")


@pytest.mark.parametrize(
    ("knobs", "text", "options"),
    [
        ((SIZE, *GROUPS), "1/4", (1, 4, 4)),
        ((SIZE, *GROUPS), "1/4,size=48", (2, 4, 4)),
        ((SIZE, *GROUPS), "1,size=32", (3, 1, 1)),
        ((SIZE, *GROUPS), "48,1/2,1/4", (2, 2, 4)),
        ((SIZE, PRECISION, *GROUPS), "1/4,size=48,precision=8-bit", (2, 4, 4, 4)),
        ((SIZE, PRECISION, *GROUPS), "8-bit,size=48", (2, 4, 1, 1)),
        ((SIZE, WIDTH), "0.5,size=32", (3, 2)),
        ((SIZE, WIDTH), "1,size=32", (3, 1)),
        ((SIZE,), "48", (2,)),
    ],
)
def test_an_option_for_all_leaves_knobs_that_only_their_name_sets(knobs, text: str, options):
    space = Space(knobs)
    mode = space.mode(text)
    assert mode.options == options
    assert str(mode) == text
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_uniform_modes_leave_knobs_that_only_their_name_sets():
    space = Space((SIZE, *GROUPS))
    assert [str(mode) for mode in space.uniform_modes()] == ["1", "1/2", "1/4"]
    assert [str(mode) for mode in Space((SIZE,)).uniform_modes()] == ["64", "48", "32"]
    with pytest.raises(ValueError, match="'40', which is no option of 'size'; allowed: 64, 48, 32"):
        space.mode("1/2,size=40")


def test_uniform_modes_are_combined_with_knobs_that_only_their_name_sets():
    space = Space((SIZE, *GROUPS))
    found = [str(mode) for mode in space.uniform_combinations()]
    sizes = ["", ",size=48", ",size=32"]
    assert found == [f"{groups}{size}" for size in sizes for groups in ("1", "1/2", "1/4")]
    assert Space(GROUPS).uniform_combinations() == Space(GROUPS).uniform_modes()
    assert [str(mode) for mode in Space((SIZE,)).uniform_combinations()] == ["64", "48", "32"]
    many = tuple(Knob(f"k{i}", (1, 2), by_name=True) for i in range(14))
    with pytest.raises(ValueError, match=r"16,384 combinations .* at most 10,000"):
        Space((*many, Knob("a", (1,)))).uniform_combinations()


def test_a_part_of_a_space_has_one_option_of_some_knobs():
    space = Space((SIZE, *GROUPS))
    part = space.fixed({"size": 3})
    assert (part.size, part.full.options, part.names) == (9, (3, 1, 1), space.names)
    assert str(space.mode(dict(part.smallest))) == "1/4,size=32"
    for options, message in (({"depth": 1}, "names 'depth'"), ({"size": 4}, "option 4 of 'size'")):
        with pytest.raises(ValueError, match=message):
            space.fixed(options)

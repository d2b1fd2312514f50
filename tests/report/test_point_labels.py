"""Names beside points: they hide neither each other nor a point, as long as there is room."""

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from wenable.report.point_labels import label_points


def labelled(names: dict, others: list = ()) -> tuple[list[Bbox], list, Bbox]:
    """Boxes of the names, the points' places in pixels, and the panel's box."""
    figure = Figure(figsize=(5, 4))
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.set(xlim=(0, 10), ylim=(0, 10))
    figure.draw_without_rendering()
    label_points(axis, names, others)
    assert [text.get_text() for text in axis.texts] == list(names.values())
    places = [tuple(axis.transData.transform(place)) for place in [*names, *others]]
    figure.draw_without_rendering()  # puts the names in their places
    return [Text.get_window_extent(text) for text in axis.texts], places, axis.bbox


def free(boxes: list[Bbox], places: list) -> bool:
    apart = not any(Bbox.intersection(one, other) for one, other in combinations(boxes, 2))
    return apart and not any(box.contains(*place) for box in boxes for place in places)


def test_a_point_alone_has_its_name_below_on_the_right():
    (box,), ((x, y),), _ = labelled({(5, 5): "1/4"})
    assert box.x0 > x
    assert box.y1 < y


def test_names_of_near_points_are_apart():
    names = {(5, 5): "1/4", (5.2, 5.1): "1/8", (5.4, 4.9): "1/16", (5.1, 5.3): "1/2"}
    boxes, places, _ = labelled(names)
    assert free(boxes, places)


def test_points_without_a_name_are_not_hidden():
    boxes, places, _ = labelled({(5, 5): "1/4"}, [(5.3, 4.7), (5.3, 5.3)])
    assert free(boxes, places)


def test_names_stay_in_the_panel():
    corners = {(0, 0): "one", (10, 0): "two", (0, 10): "three", (10, 10): "four"}
    boxes, _, panel = labelled(corners)
    for box in boxes:
        assert panel.x0 <= box.x0 < box.x1 <= panel.x1
        assert panel.y0 <= box.y0 < box.y1 <= panel.y1


def test_a_name_goes_further_away_where_what_is_near_is_taken():
    # Markers that reach into the far corners of the four places next to the point.
    others = [(5 + right, 5 + up) for right in (-1.15, 1.15) for up in (-0.8, 0.8)]
    (box,), places, _ = labelled({(5, 5): "1/16"}, others)
    markers = [Bbox([[x - 5, y - 5], [x + 5, y + 5]]) for x, y in places]
    assert not any(Bbox.intersection(box, marker) for marker in markers)

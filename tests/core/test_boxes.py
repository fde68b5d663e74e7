from __future__ import annotations

import pytest
from PIL import Image as PilImage
from vlcore.boxes import COLOURS, Box, Grounding, draw_answer, draw_boxes, place_point, read_marks
from vlcore.messages import make_message, user

GROUNDING = Grounding(read=read_marks, write_box=str, write_label=str)
LEFT = Box(((0.1, 0.1), (0.4, 0.9)), "left")


def colours_of(picture: PilImage.Image) -> set[str]:
    return {"#{:02x}{:02x}{:02x}".format(*pixel) for _, pixel in picture.getcolors(picture.width * picture.height)}


@pytest.mark.parametrize("text", [
    "<ref> a cup</ref><box>(100,200),(300,400)</box>", "<ref>a cup</ref> <box>[[100, 200, 300, 400]]</box>",
    "look: <ref>a cup</ref><box>100,200,300,400</box>.",
])
def test_a_named_box_is_read_in_the_marks_of_several_families(text):
    assert read_marks(text) == (Box(((0.1, 0.2), (0.3, 0.4)), "a cup"),)


def test_a_name_holds_for_all_boxes_that_follow_it_directly():
    text = "<ref>cups</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box> and <box>(9,10),(11,12)</box>"
    assert [box.label for box in read_marks(text)] == ["cups", "cups", ""]
    assert [box.label for box in read_marks("<ref>cups</ref><box>[[1,2,3,4],[5,6,7,8]]</box>")] == ["cups", "cups"]


def test_a_quadrilateral_has_four_corners():
    (box,) = read_marks("<quad>(0,0),(500,0),(500,1000),(0,1000)</quad>")
    assert box.points == ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))


@pytest.mark.parametrize("text", [
    "", "no boxes", "<box></box>", "<box>(1,2)</box>", "<box>(1,2),(3,4)", "<ref>x</ref>",
])
def test_texts_without_whole_boxes_hold_none(text):
    assert read_marks(text) == ()


def test_points_lie_inside_the_picture():
    assert [place_point(point, (640, 480)) for point in ((0, 0), (0.302, 0.5), (1, 1), (-2, 7))] == [
        (0, 0), (193, 240), (639, 479), (0, 479)]


def test_boxes_are_drawn_on_a_copy_in_a_colour_for_each_name():
    picture = PilImage.new("RGB", (200, 120), "#ffffff")
    boxes = [LEFT, Box(((0.5, 0.1), (0.9, 0.5)), "right"), Box(((0.5, 0.6), (0.9, 0.9)), "left")]
    drawn = draw_boxes(picture, boxes)
    assert colours_of(picture) == {"#ffffff"} and drawn.size == picture.size
    assert colours_of(drawn) & set(COLOURS) == set(COLOURS[:2])


@pytest.mark.filterwarnings("ignore:labels")  # a system may have no font for them
def test_corners_in_any_order_and_labels_without_room_are_drawn():
    picture = PilImage.new("RGB", (60, 40))
    reversed_corners = draw_boxes(picture, [Box(((0.9, 0.9), (0.2, 0.5)))])
    assert reversed_corners.tobytes() == draw_boxes(picture, [Box(((0.2, 0.5), (0.9, 0.9)))]).tobytes()
    assert COLOURS[0] in colours_of(draw_boxes(picture, [Box(((0.95, 0.0), (1.0, 0.1)), "far right")]))
    assert COLOURS[0] in colours_of(draw_boxes(picture, [Box(((0, 0), (1, 0), (0.5, 1), (0, 1)), "猫")]))


def test_the_last_answers_boxes_are_drawn_on_the_last_picture():
    first, last = PilImage.new("RGB", (50, 50)), PilImage.new("RGB", (90, 30))
    talk = [user("Where?", [first]), make_message("assistant", "There."), user("And here?", [last]),
            make_message("assistant", "<ref>it</ref><box>(1,2),(300,400)</box>")]
    drawn = draw_answer(talk, GROUNDING)
    assert drawn is not None and drawn.size == (90, 30)


def test_nothing_is_drawn_without_a_box_a_picture_or_an_answer():
    boxed = make_message("assistant", "<box>(1,2),(300,400)</box>")
    asked = user("Where?", [PilImage.new("RGB", (50, 50))])
    for talk in ([asked], [asked, make_message("assistant", "There.")], [user("Where?"), boxed]):
        assert draw_answer(talk, GROUNDING) is None

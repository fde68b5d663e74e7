from pathlib import Path

import pytest
from vlcore.errors import UsageError
from vlcore.family import FamilyOption, ModelFamily, ModelRecord, Parts

OPTIONS = (
    FamilyOption(name="max_num", kind=int, help="Tiles.", default=12),
    FamilyOption(name="ratio", kind=float, help="Ratio."),
    FamilyOption(name="thumbnail", kind=bool, help="Thumbnail."),
    FamilyOption(name="label", kind=str, help="Label."),
)


@pytest.mark.parametrize("name", ["toy-2b", "TOY-2B", "Org/Toy-2B", "other/toy2", "Toy-2B", "toy2"])
def test_record_answers_to_its_name_its_ids_and_their_folder_names(name):
    record = ModelRecord(name="toy-2b", huggingface="Org/Toy-2B", modelscope="Other/toy2")
    assert record.answers_to(name) and not record.answers_to("toy-2")
    assert record.hub_ids == ("Org/Toy-2B", "Other/toy2")


def test_a_model_asks_for_media_as_its_family_unless_it_says_otherwise(make_family):
    family = make_family(ask="turn")
    own = ModelRecord(name="x", huggingface="x/x", ask="conversation")
    assert [family.ask_of(record) for record in (None, family.models[0], own)] == ["turn", "turn", "conversation"]


def test_parts_are_found_by_prefix_of_whole_names():
    parts = Parts(language=("model",), vision=("model.vision",), projector=("mlp", "mlp1"))
    names = ("model.x", "model.vision.x", "model.vision_x", "mlp1.0", "mlp12", "head")
    found = ["language", "vision", "language", "projector", None, None]
    assert [parts.part_of(name) for name in names] == found


def test_option_is_the_given_value_else_the_models_else_the_default(make_family):
    family = make_family(options=OPTIONS)
    record = ModelRecord(name="x", huggingface="x/x", options={"max_num": 6, "ratio": 0.5})
    assert family.read_options({}) == {"max_num": 12, "ratio": None, "thumbnail": None, "label": None}
    assert family.read_options({"ratio": "2", "thumbnail": "False", "label": "7"}, record) == {
        "max_num": 6, "ratio": 2.0, "thumbnail": False, "label": "7"}


@pytest.mark.parametrize("given", [
    {"max_num": "x"}, {"thumbnail": "maybe"}, {"ratio": "1/2"}, {"max_num": 2.5}, {"max_num": [1]}, {"max_num": True},
    {"thumbnail": 1}, {"label": 3},
])
def test_option_of_another_type_is_refused(given, make_family):
    with pytest.raises(UsageError, match="takes a value of type"):
        make_family(options=OPTIONS).read_options(given)


def test_unknown_option_is_refused_with_the_near_name(make_family):
    with pytest.raises(UsageError, match=r"family toy has no such option; did you mean max_num\?"):
        make_family(options=OPTIONS).read_options({"max_nun": 1})


def test_a_family_of_native_types_recognises_them_itself() -> None:
    family = ModelFamily(name="toy", native=("llava", "llava_next"))
    assert family.owns({"model_type": "llava_next"}, Path())
    assert not family.owns({"model_type": "qwen2_vl"}, Path())
    own = ModelFamily(name="toy", native=("llava",), recognise=lambda config, folder: "toy" in config)
    assert own.owns({"toy": 1}, Path())
    assert not own.owns({"model_type": "llava"}, Path())


def test_a_family_that_recognises_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"family toy: nothing says .* give native"):
        ModelFamily(name="toy")

import json
import socket
from types import SimpleNamespace

import pytest
from vlcore import hub, resolve
from vlcore.config import LoadConfig
from vlcore.errors import CheckpointError, ModelNotFound, PluginError, UsageError
from vlcore.messages import user
from vlcore.model import build_frontend
from vlcore.resolve import open_checkpoint, resolve_model
from vlcore.template import ChatTemplate


@pytest.fixture
def toy(use_plugins, make_point, make_plugin, make_family):
    """The family `toy` with two models, and the family `other` with one."""
    family = make_family(models=["toy-1b", "toy-2b"], reject=lambda config, folder: config.get("looks_like_toy"))
    other = make_family("other", ["other-1b"])
    use_plugins(make_point("toy", make_plugin(family)), make_point("other", make_plugin(other)))
    return family


@pytest.fixture
def write_checkpoint(tmp_path):
    def write(name="checkpoint", config='{"model_type": "toy"}', **files):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        if config is not None:
            (folder / "config.json").write_text(config)
        for stem, data in files.items():
            (folder / f"{stem}.json").write_text(json.dumps(data))
        return folder

    return write


def resolve_text(model="", model_type=""):
    return resolve_model(LoadConfig(model=str(model), model_type=model_type))


def test_folder_is_opened_by_its_owner(toy, write_checkpoint):
    folder = write_checkpoint()
    checkpoint = resolve_text(folder)
    assert (checkpoint.folder, checkpoint.family, checkpoint.owner) == (folder, toy, "toy")
    assert checkpoint.record is None and checkpoint.name == "checkpoint"


def test_nothing_given_is_refused(toy):
    with pytest.raises(ModelNotFound, match="--model"):
        resolve_text()


@pytest.mark.parametrize("given", ["./gone", "a/b/gone", "/gone/away", "~/gone"])
def test_missing_folder_is_refused(given, toy):
    with pytest.raises(ModelNotFound, match=f"model {given}: there is no such folder"):
        resolve_text(given)


def test_file_is_refused(toy, tmp_path):
    (tmp_path / "model.bin").touch()
    with pytest.raises(ModelNotFound, match="it is a file; give the folder it lies in"):
        resolve_text(tmp_path / "model.bin")


def test_folder_without_configuration_is_refused_with_what_is_there(toy, write_checkpoint):
    with pytest.raises(CheckpointError, match=r"it has no config.json; .*\(here: notes.json\)"):
        resolve_text(write_checkpoint(config=None, notes={}))


@pytest.mark.parametrize(("config", "why"), [('{"model_type": ', "it is not JSON"), ("[1]", "it holds no JSON object"),
                                            ("\udcff", "it is not JSON")])
def test_broken_configuration_is_refused(config, why, toy, write_checkpoint):
    folder = write_checkpoint(config=None)
    (folder / "config.json").write_bytes(config.encode("utf8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=f"config.json: {why}"):
        resolve_text(folder)


@pytest.mark.parametrize(("model_type", "plugin"), resolve.KNOWN_PLUGINS.items())
def test_checkpoint_that_nobody_owns_names_the_plugin_to_install(model_type, plugin, toy, write_checkpoint):
    with pytest.raises(ModelNotFound, match=f"model_type {model_type}; run: pip install {plugin}"):
        resolve_text(write_checkpoint(config=json.dumps({"model_type": model_type})))


@pytest.mark.parametrize("config", ['{"model_type": "bert"}', "{}"])
def test_checkpoint_of_an_unknown_family_is_refused(config, toy, write_checkpoint):
    with pytest.raises(ModelNotFound, match=r"no plugin owns a config.json with model_type (bert|none)"):
        resolve_text(write_checkpoint(config=config))


def test_look_alike_is_refused_with_the_familys_reason(toy, write_checkpoint):
    config = '{"model_type": "toy-like", "looks_like_toy": "it is the audio model of toy"}'
    with pytest.raises(ModelNotFound, match="it is the audio model of toy; see `vlcore models`"):
        resolve_text(write_checkpoint(config=config))


def test_family_that_stumbles_over_a_configuration_does_not_stop_the_others(
    use_plugins, make_point, make_plugin, make_family, write_checkpoint
):
    clumsy = make_family("clumsy", ["clumsy-1b"], recognise=lambda config, folder: config["architectures"][0] == "x")
    use_plugins(make_point("toy", make_plugin(make_family())), make_point("clumsy", make_plugin(clumsy)))
    with pytest.warns(UserWarning, match=r"plugin clumsy of vlcore-clumsy 1.2.3 could not look at .*KeyError"):
        assert resolve_text(write_checkpoint()).owner == "toy"


def test_two_owners_of_one_checkpoint_are_refused(use_plugins, make_point, make_plugin, make_family, write_checkpoint):
    twin = make_family("twin", ["twin-1b"], recognise=lambda config, folder: True)
    use_plugins(make_point("toy", make_plugin(make_family())), make_point("twin", make_plugin(twin)))
    with pytest.raises(PluginError, match=r"vlcore-toy 1.2.3 and vlcore-twin 1.2.3 both recognise it"):
        resolve_text(write_checkpoint())


@pytest.mark.parametrize("name", ["toy-2b", "toy/TOY-2B"])
def test_registered_name_is_downloaded_and_known(name, toy, write_checkpoint, monkeypatch):
    asked = []
    monkeypatch.setattr(resolve, "download_model", lambda model, **_: asked.append(model) or write_checkpoint())
    assert resolve_text(name).record is toy.models[1]
    assert asked == [toy.models[1]]


def test_model_type_alone_names_the_model(toy, write_checkpoint, monkeypatch):
    monkeypatch.setattr(resolve, "download_model", lambda model, **_: write_checkpoint())
    assert resolve_text(model_type="toy-1b").name == "toy-1b"


def test_hub_id_that_no_plugin_registers_is_owned_by_its_configuration(toy, write_checkpoint, monkeypatch):
    monkeypatch.setattr(resolve, "download_model", lambda model, **_: write_checkpoint())
    assert resolve_text("somebody/tuned").owner == "toy"


def test_unknown_name_is_refused_with_near_names(toy):
    with pytest.raises(ModelNotFound, match=r"did you mean toy-(1b|2b) or toy-(1b|2b)"):
        resolve_text("toy-3b")
    with pytest.raises(ModelNotFound, match=r"model_type toy-3b: no plugin registers it; did you mean"):
        resolve_text("somewhere", "toy-3b")


def test_name_of_a_folder_or_of_a_hubs_cache_tells_the_model(toy, write_checkpoint):
    assert open_checkpoint(write_checkpoint("TOY-2B")).name == "toy-2b"
    assert open_checkpoint(write_checkpoint("models--toy--TOY-1B/snapshots/0a1b")).name == "toy-1b"


def test_what_vlcore_wrote_beside_a_checkpoint_tells_the_model(toy, write_checkpoint):
    assert open_checkpoint(write_checkpoint("TOY-2B", vlcore={"model_type": "toy-1b"})).name == "toy-1b"
    assert open_checkpoint(write_checkpoint("odd", vlcore={"model_type": 3})).record is None


def test_model_type_wins_over_the_name_of_a_folder(toy, write_checkpoint):
    assert resolve_text(write_checkpoint("TOY-2B"), "toy-1b").name == "toy-1b"


def test_model_type_of_another_family_is_refused(toy, write_checkpoint):
    with pytest.raises(ModelNotFound, match=r"model_type other-1b: .* is a checkpoint of family toy"):
        resolve_text(write_checkpoint(), "other-1b")


def test_hook_that_nobody_answers_is_an_error_that_names_the_plugin(toy, write_checkpoint):
    with pytest.raises(PluginError, match="hook build_template for toy-1b: plugin toy gives nothing"):
        resolve_text(write_checkpoint("toy-1b")).call("build_template")


def test_code_of_a_checkpoint_is_not_imported(toy, write_checkpoint):
    folder = write_checkpoint(config='{"model_type": "toy", "auto_map": {"AutoConfig": "evil.Config"}}')
    (folder / "evil.py").write_text("raise SystemExit('imported')")
    assert resolve_text(folder).owner == "toy"


def test_hub_is_not_asked_for_a_folder(toy, write_checkpoint, monkeypatch):
    monkeypatch.setattr(hub, "download_model", lambda *_: pytest.fail("asked"))
    resolve_text(write_checkpoint())


def test_local_folder_is_resolved_and_encoded_without_a_network(
    use_plugins, make_point, make_plugin, make_family, write_checkpoint, qwen_tokenizer, monkeypatch
):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    template = ChatTemplate(roles={"user": "Q: ", "assistant": "A:"}, ends={"user": "\n", "assistant": "\n"})
    media = SimpleNamespace(image_token_id=0, plan=lambda slots, options: ())
    owner = make_plugin(make_family(), build_template=lambda: template, preprocess_media=lambda: media)
    use_plugins(make_point("toy", owner))
    folder = write_checkpoint()
    qwen_tokenizer.save_pretrained(folder)
    frontend = build_frontend(resolve_text(folder))
    assert frontend.tokenizer.decode(frontend.encode([user("What?")]).ids) == "Q: What?\nA:"


def test_a_vision_tower_is_refused_where_the_family_keeps_it_with_the_other_weights(toy, write_checkpoint, tmp_path):
    with pytest.raises(UsageError, match="no vision folder of their own"):
        resolve_model(LoadConfig(model=str(write_checkpoint()), vision_tower=str(tmp_path)))

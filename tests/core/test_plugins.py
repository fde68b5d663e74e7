import warnings
from types import SimpleNamespace

import pluggy
import pytest
from vlcore import clashes, hookimpl, plugins
from vlcore.errors import PluginError, VlcoreDeprecationWarning
from vlcore.family import ModelRecord
from vlcore.hookspecs import deprecate
from vlcore.plugins import discover


def get(registry, name):
    return next(plugin for plugin in registry.plugins if plugin.name == name)


@pytest.mark.parametrize("error", [RuntimeError("two\nlines"), ModuleNotFoundError("gone"), SystemExit(3)])
def test_broken_plugin_costs_one_warning_and_the_others_go_on(error, make_point, make_family, make_plugin):
    good = make_point("good", make_plugin(make_family()))
    with pytest.warns(UserWarning) as caught:
        registry = discover([make_point("bad", error), good])
    (warning,) = caught
    text = str(warning.message)
    assert "\n" not in text
    for part in ("plugin bad of vlcore-bad 1.2.3", type(error).__name__, "pip uninstall vlcore-bad", "VLCORE_PLUGINS"):
        assert part in text
    assert get(registry, "bad").failure and get(registry, "good").families


@pytest.mark.parametrize("answer", [["no family"], 3])
def test_plugin_whose_families_are_no_families_is_left_out_with_a_warning(answer, make_point, make_plugin):
    with pytest.warns(UserWarning, match="plugin odd of vlcore-odd 1.2.3 was left out: TypeError"):
        registry = discover([make_point("odd", make_plugin(register_models=lambda: answer))])
    assert get(registry, "odd").families == () and not registry.manager.has_plugin("odd")


def test_misspelt_hook_is_refused_with_the_near_name(make_point, make_plugin):
    with pytest.raises(PluginError, match=r"hook lode_model of vlcore-odd 1.2.3: .*did you mean load_model\?"):
        discover([make_point("odd", make_plugin(lode_model=lambda checkpoint: None))])


def test_hook_that_later_versions_may_have_is_allowed_when_marked_optional(make_point, make_plugin):
    plugin = make_plugin(hook_of_tomorrow=hookimpl(lambda: None, optionalhook=True))
    assert get(discover([make_point("new", plugin)]), "new").hooks == ("hook_of_tomorrow",)


def test_hook_with_wrong_argument_names_is_refused(make_point, make_plugin):
    with pytest.raises(PluginError, match=r"plugin odd of vlcore-odd 1.2.3: .*chekpoint") as caught:
        discover([make_point("odd", make_plugin(load_model=lambda chekpoint: None))])
    assert "\n" not in str(caught.value)


def test_hook_may_take_fewer_arguments_than_its_specification(make_point, make_plugin):
    registry = discover([make_point("few", make_plugin(load_model=lambda config: config))])
    assert registry.call("load_model", "few", checkpoint=None, config="seen") == "seen"


def test_two_plugins_of_one_name_are_refused_with_both_distributions(make_point, make_plugin):
    first, second = make_point("toy", make_plugin()), make_point("toy", make_plugin(), version="9")
    with pytest.raises(PluginError, match=r"plugin toy: vlcore-toy 1.2.3 and vlcore-toy 9 both bring it"):
        discover([first, second])


@pytest.mark.parametrize("models", [["toy-1b"], ["TOY-1B"]])
def test_two_owners_of_one_model_are_refused_with_both_distributions(models, make_point, make_family, make_plugin):
    one, two = make_plugin(make_family()), make_plugin(make_family("other", models))
    with pytest.raises(PluginError, match=r"model toy-1b: vlcore-one 1.2.3 and vlcore-two 1.2.3 both own it|model TOY"):
        discover([make_point("one", one), make_point("two", two)])


def test_two_owners_of_one_hub_id_are_refused(make_point, make_family, make_plugin):
    record = ModelRecord(name="another", huggingface="Toy/toy-1b")
    one, two = make_plugin(make_family()), make_plugin(make_family("other", [record]))
    with pytest.raises(PluginError, match=r"model Toy/toy-1b: vlcore-one .* and vlcore-two .* both own it"):
        discover([make_point("one", one), make_point("two", two)])


def test_limit_names_the_only_plugins_besides_the_core(make_point, make_plugin):
    points = [make_point(name, make_plugin()) for name in ("native", "a", "b", "c")]
    assert [p.name for p in discover(points, "b, a").plugins] == ["native", "a", "b"]
    assert [p.name for p in discover(points, "").plugins] == ["native"]


def test_limit_leaves_a_broken_plugin_unloaded(make_point, make_plugin):
    assert discover([make_point("bad", RuntimeError()), make_point("a", make_plugin())], "a").plugins[0].name == "a"


def test_limit_with_a_name_that_is_not_installed_warns_with_the_near_name(make_point, make_plugin):
    with pytest.warns(UserWarning, match=r"VLCORE_PLUGINS names internvi: .*did you mean internvl\?"):
        discover([make_point("internvl", make_plugin())], "internvi")


def test_plugin_that_owns_nothing_may_wrap_a_hook(make_point, make_family, make_plugin):
    @hookimpl(wrapper=True)
    def load_model(checkpoint):
        return f"wrapped {yield}"

    owner = make_plugin(make_family(), load_model=lambda checkpoint, config: "model")
    registry = discover([make_point("toy", owner), make_point("extra", make_plugin(load_model=load_model))])
    assert registry.call("load_model", "toy", checkpoint=None, config=None) == "wrapped model"


def test_plugin_may_wrap_the_registration_of_models(make_point, make_family, make_plugin):
    @hookimpl(wrapper=True)
    def register_models():
        families = yield
        return [[*family, make_family("added", ["added-1b"])] for family in families]

    registry = discover([make_point("a", make_plugin(register_models=register_models)),
                         make_point("toy", make_plugin(make_family()))])
    assert list(registry.families) == ["toy/toy", "toy/added"]


def test_other_owners_are_left_out_of_a_hook_call(make_point, make_family, make_plugin):
    asked = []

    def make_owner(name):
        return make_point(name, make_plugin(make_family(name, [name]), load_model=lambda: asked.append(name)))

    points = [make_owner(name) for name in ("one", "two", "three")]
    assert discover(points).call("load_model", "two", checkpoint=None, config=None) is None
    assert asked == ["two"]


@pytest.mark.parametrize("order", [1, -1])
def test_defaults_of_the_core_come_last(order, make_point, make_family, make_plugin):
    core = make_plugin(load_model=hookimpl(lambda: "default", trylast=True),
                           load_tokenizer=hookimpl(lambda: "default", trylast=True))
    owner = make_plugin(make_family(), load_model=lambda: "own")
    registry = discover([make_point("native", core), make_point("toy", owner)][::order])
    assert registry.call("load_model", "toy", checkpoint=None, config=None) == "own"
    assert registry.call("load_tokenizer", "toy", checkpoint=None) == "default"


def test_registry_knows_who_owns_a_family(use_plugins, make_point, make_family, make_plugin):
    family = make_family()
    registry = use_plugins(make_point("toy", make_plugin(family)))
    assert registry.owner_of(family).distribution == "vlcore-toy"
    assert get(registry, "native").origin == "vlcore.native"


@pytest.mark.parametrize(("needs", "command"), [("vlcore>=9", "pip install -U vlcore"), ("vlcore==9.*", "-U vlcore"),
                                                ("vlcore<0.0.1", "pip install -U vlcore-other")])
def test_plugin_made_for_another_core_is_left_out_unimported_with_the_command_to_run(
    needs, command, make_point, make_family, make_plugin
):
    class Unimported(make_point):
        def load(self):
            raise AssertionError("it was imported")

    other = Unimported("other", None, requires=("torch", needs))
    with pytest.warns(UserWarning) as caught:
        registry = discover([other, make_point("toy", make_plugin(make_family()))])
    (warning,) = caught
    assert f"plugin other of vlcore-other 1.2.3 was left out: it needs {needs}, and vlcore " in str(warning.message)
    assert str(warning.message).endswith(command)
    assert get(registry, "toy").families


def test_plugin_whose_requirement_cannot_be_read_is_left_out(make_point, make_plugin):
    with pytest.warns(UserWarning, match="plugin odd .* was left out: InvalidRequirement"):
        discover([make_point("odd", make_plugin(), requires=("vlcore >>> 1",))])


def test_requirement_that_this_core_meets_or_that_is_of_another_machine_is_no_matter(make_point, make_plugin):
    needs = ("vlcore>=0.0.1", "vlcore>=9; python_version < '3'", "vlcore>=9; extra == 'new'")
    assert get(discover([make_point("toy", make_plugin(), requires=needs)]), "toy").failure == ""


@pytest.fixture
def old_hooks(monkeypatch):
    """Specifications of which one hook and one argument are deprecated."""
    spec = pluggy.HookspecMarker("vlcore")
    notice = deprecate("hook greet", "1.2", "2.0", "fill welcome")
    of_argument = deprecate("argument loudly of welcome", "1.3", "2.0", "take volume")
    specs = SimpleNamespace(**{name: getattr(plugins.hookspecs, name) for name in vars(plugins.hookspecs)
                               if name.startswith("register_")})
    specs.greet = spec(warn_on_impl=notice)(lambda name: None)
    specs.welcome = spec(warn_on_impl_args={"loudly": of_argument})(lambda name, loudly: None)
    for module in (plugins, clashes):
        monkeypatch.setattr(module, "hookspecs", specs)


@pytest.mark.parametrize(("hook", "said"), [({"greet": lambda name: None}, "hook greet"),
                                            ({"welcome": lambda loudly: None}, "argument loudly of welcome")])
def test_deprecated_hook_or_argument_warns_with_the_distribution_and_goes_on_working(
    hook, said, old_hooks, make_point, make_plugin
):
    with pytest.warns(VlcoreDeprecationWarning) as caught:
        registry = discover([make_point("toy", make_plugin(**hook))])
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith(f"plugin toy of vlcore-toy 1.2.3: {said} is deprecated since hooks 1.")
    assert "gone in 2.0" in text and warning.filename == __file__
    assert get(registry, "toy").hooks == tuple(hook)


def test_plugin_that_uses_nothing_deprecated_is_not_warned(old_hooks, make_point, make_plugin):
    with warnings.catch_warnings(record=True) as caught:
        discover([make_point("toy", make_plugin(welcome=lambda name: None))])
    assert caught == []

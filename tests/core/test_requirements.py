import pytest
from importlib_metadata import distribution
from vlcore.errors import PluginError
from vlcore.requirements import find_unmet, refuse_other_core


@pytest.fixture
def unmet(write_distribution):
    """What is not met of a distribution that requires the given."""

    def find(*requires, extras=()):
        write_distribution("toy-owner", requires=requires, extras=extras)
        return list(find_unmet(distribution("toy-owner")))

    return find


def test_requirements_that_are_met_or_of_another_machine_or_extra_are_no_finding(unmet):
    assert unmet("vlcore", "click>=1", "toy-gone; python_version < '3'", "toy-gone>=1; extra == 'more'",
                 extras=["more"]) == []


def test_what_is_not_installed_is_named_with_the_command(unmet):
    (found,) = unmet("toy-gone<3,>=2")
    assert (found.name, found.why, found.run) == ("toy-gone", "it is not installed", "pip install 'toy-gone>=2,<3'")


def test_what_is_too_old_is_to_be_updated_and_what_is_too_new_names_who_refuses_it(unmet, write_distribution):
    write_distribution("toy-part", "1.5")
    (old,), (new,) = unmet("toy-part>=2"), unmet("toy-part<1.2")
    assert old.why == new.why == "toy-part 1.5 is installed"
    assert old.run == "pip install 'toy-part>=2'"
    assert new.run == "pip install -U toy-owner, or pip install 'toy-part<1.2'"


def test_pre_releases_count_as_any_other_version(unmet, write_distribution):
    write_distribution("toy-part", "2.0rc1")
    assert [found.wanted for found in unmet("toy-part>=1", "toy-part>=2")] == ["toy-part>=2"]


def test_what_a_named_extra_needs_is_needed(unmet, write_distribution):
    write_distribution("toy-part", requires=["toy-gone; extra == 'more'", "click"], extras=["more"])
    (found,) = unmet("toy-part[more]")
    assert (found.name, found.why) == ("toy-gone", "toy-gone is not installed")
    assert found.run == "pip install 'toy-part[more]'"


def test_an_extra_that_does_not_exist_is_named(unmet, write_distribution):
    write_distribution("toy-part", extras=["more"])
    (found,) = unmet("toy-part[moer]")
    assert found.why == "toy-part 1.2.3 has no extra moer"


def test_the_core_that_runs_is_held_against_what_a_plugin_needs(write_distribution):
    write_distribution("toy-owner", requires=["VLCore>=0.0.1,!=99"])
    refuse_other_core(distribution("toy-owner"), "plugin toy")
    write_distribution("toy-owner", requires=["vlcore[video]>=99"])
    with pytest.raises(PluginError, match=r"plugin toy: it needs vlcore\[video\]>=99, and vlcore .* is installed"):
        refuse_other_core(distribution("toy-owner"), "plugin toy")

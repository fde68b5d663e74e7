"""The plugin does what every family must."""

pytest_plugins = ["vlcore.testing.pytest"]
vlcore_plugin = "vlcore-kestrel"


def test_conformance(vlcore_check):
    vlcore_check()

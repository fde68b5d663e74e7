"""The conformance kit: whether a plugin does what every family must, tried on a tiny checkpoint on the CPU.

`vlcore plugin check NAME` runs it by the command line; in pytest a module of a plugin's tests runs it with

    pytest_plugins = ["vlcore.testing.pytest"]
    vlcore_plugin = "vlcore-foo"

    def test_conformance(vlcore_check):
        vlcore_check()

and from Python `vlcore.testing.kit.check_plugin` gives the outcomes one by one.
"""

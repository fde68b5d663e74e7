"""Every family of this repository does what every family must."""

from __future__ import annotations

from collections.abc import Callable

pytest_plugins = ["vlcore.testing.pytest"]
vlcore_plugin = ("deepseek_vl/deepseek_vl", "internvl/internvl", "qwen_vl/qwen_vl", "yi_vl/yi_vl")


def test_conformance(vlcore_check: Callable[[], None]) -> None:
    vlcore_check()

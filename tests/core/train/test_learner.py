from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vlcore.train.learner import leave_cache


def test_no_cache_is_filled_whichever_configuration_a_model_asks() -> None:
    text = SimpleNamespace(use_cache=True)
    config = SimpleNamespace(use_cache=True, get_text_config=lambda: text)
    model: Any = SimpleNamespace(config=config)
    leave_cache(model)
    assert (config.use_cache, text.use_cache) == (False, False)

from __future__ import annotations

import random
from pathlib import Path

import pytest
from vlcore.config import LoadConfig
from vlcore.detokenizer import HALF, Detokenizer
from vlcore.model import build_frontend
from vlcore.resolve import resolve_model
from vlcore.tokenizer import Tokenizer

DATA = Path(__file__).parents[1] / "parity" / "data"
FOLDERS = (
    "internvl/internvl-chat-v1_5-tiny", "internvl/internvl2-4b-tiny", "internvl/internvl3_5-1b-tiny",
    "internvl/internvl2-40b-tiny", "internvl/internvl2-llama3-76b-tiny", "qwen_vl/qwen-vl-tiny",
    "deepseek_vl/deepseek-vl-7b-chat-tiny", "yi_vl/yi-vl-6b-tiny",
)


@pytest.mark.parametrize("folder", FOLDERS)
def test_ids_one_by_one_give_the_text_of_all(folder: str) -> None:
    tokenizer = build_frontend(resolve_model(LoadConfig(model=str(DATA / folder / "checkpoint")))).tokenizer
    chosen = random.Random(0)
    written = tokenizer.encode("It is 3 o ' clock , don ' t worry . 你好，世界 👋🏽 naïve\n\n    indented\tcode == x")
    for number in range(30):
        ids = [*(chosen.choice(written) for _ in range(20)), *(chosen.randrange(200) for _ in range(10))]
        check_growth(tokenizer, ids if number else written)


def check_growth(tokenizer: Tokenizer, ids: list[int]) -> None:
    """What is shown stays, and lacks no more than what may change."""
    text, whole = Detokenizer(tokenizer), tokenizer.decode(ids)
    late = getattr(tokenizer, "tidied", 0)
    for count, token in enumerate(ids, start=1):
        grown = text.add(token)
        assert whole.startswith(grown)
        rest = tokenizer.decode(ids[:count])[len(grown) :]
        assert len(rest.replace(HALF, "").strip()) <= late


def test_no_token_is_decoded_with_all_before_it() -> None:
    seen: list[int] = []

    class Counting:
        def decode(self, ids: list[int]) -> str:
            seen.append(len(ids))
            return "".join(map(chr, ids))

    text = Detokenizer(Counting())  # type: ignore[arg-type]
    for token in range(65, 300):
        text.add(token)
    assert max(seen) <= 2 and text.text == "".join(map(chr, range(65, 300)))

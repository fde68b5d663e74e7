"""The metric of counting: the first whole number of an answer, in digits or in words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from vlcore.metrics.record import Facts, Score

ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
WORDS = {word: value for value, word in enumerate(ONES)} | {word: 10 * at for at, word in enumerate(TENS, 2)}
HAN = {numeral: value for value, numeral in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "兩": 2}
#: Digits that are no part of a word or a decimal fraction; a word for a number; Chinese numerals up to 99.
NUMBER = re.compile(
    rf"(?P<digits>(?<![a-z0-9.,])(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?!\d|[.,]\d))"
    rf"|\b(?P<tens>{'|'.join(TENS)})(?:[ -](?P<ones>{'|'.join(ONES[1:10])}))?\b|\b(?P<word>{'|'.join(ONES)})\b"
    rf"|(?P<ten>[一二三四五六七八九]?)十(?P<one>[一二三四五六七八九]?)|(?P<han>[{''.join(HAN)}])",
    re.ASCII,
)


def read_number(text: str) -> int | None:
    """The first whole number of a text, or None.

    It stands in digits, with commas between thousands or without, in English words up to ninety-nine, or in Chinese
    numerals up to 九十九. Digits inside words (`B12`) and decimal fractions are passed over, and so is a sign: a count
    has none.

    >>> read_number("There are twenty-one cats and 3 dogs."), read_number("图中有十二只猫"), read_number("many")
    (21, 12, None)
    """
    found = NUMBER.search(unicodedata.normalize("NFKC", text).lower())
    if not found:
        return None
    if found["digits"]:
        return int(found["digits"].replace(",", ""))
    if found["tens"]:
        return WORDS[found["tens"]] + WORDS.get(found["ones"] or "", 0)
    if found["word"]:
        return WORDS[found["word"]]
    if found["han"]:
        return HAN[found["han"]]
    return 10 * HAN.get(found["ten"], 1) + HAN.get(found["one"], 0)


def count_accuracy(answer: str, labels: Sequence[str], facts: Facts) -> Score | None:
    """1 when the first number of the answer is that of a label; None when no label has one."""
    right = {number for label in labels if (number := read_number(label)) is not None}
    return Score(float(read_number(answer) in right)) if right else None

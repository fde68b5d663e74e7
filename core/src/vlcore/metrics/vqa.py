"""Accuracy as the VQA challenge counts it, with its normalisation of answers.

Source: Antol et al., VQA: Visual Question Answering, ICCV 2015; Goyal et al., Making the V in VQA Matter, CVPR 2017
(VQA v2); https://visualqa.org/evaluation.html and the evaluation code published there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlcore.metrics.record import Facts, Score

#: Punctuation that is taken out; apostrophes, colons and full stops are not among it.
PUNCTUATION = ";/[]\"{}()=+\\_-><@`,?!"
GROUPED_DIGITS = re.compile(r"\d,\d")
#: A full stop that is no decimal point.
STOP = re.compile(r"\.(?!\d)")
ARTICLES = ("a", "an", "the")
NUMBERS = {word: str(number) for number, word in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"))} | {"none": "0"}
#: Words whose apostrophe is put back when one is missing. Left out are those that are words without it, too.
SHORTENED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
#: Each of them with one apostrophe missing; the last one is an oddity of the published code.
CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word for word in SHORTENED.split() for at, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}


def normalise(text: str) -> str:
    """An answer as the challenge compares it.

    Punctuation goes: without a trace where it stands beside a space somewhere in the text or the text has digits
    grouped by commas, else a space takes its place. Full stops go that are no decimal points. Then lower case, digits
    for number words up to ten, no articles, apostrophes put back.

    >>> normalise("The dogs, two of them; dont run.")
    "dogs 2 of them don't run"
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    plain, grouped = text, bool(GROUPED_DIGITS.search(text))
    for mark in PUNCTUATION:
        gone = grouped or f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if gone else " ")
    words = [NUMBERS.get(word, word) for word in STOP.sub("", plain).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, labels: Sequence[str], facts: Facts) -> Score:
    """min(matches / 3, 1), averaged over the sets of labels that leave one out.

    With fewer than four labels, where leaving one out leaves fewer than the three that a full score takes, it is 1
    when any matches. The published code normalises labels only when they differ; here they always are.
    """
    given, right = normalise(answer), [normalise(label) for label in labels]
    matches = right.count(given)
    if len(right) < 4:
        return Score(float(matches > 0))
    left_out = [matches - (label == given) for label in right]
    return Score(sum(min(count / 3, 1.0) for count in left_out) / len(left_out))

"""Metrics that compare texts: as wholes, by characters, by the order of their words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from vlcore.errors import ExtraMissing
from vlcore.metrics.record import Facts, Score

#: Distance from which ANLS gives no points.
THRESHOLD = 0.5
#: Characters of scripts that put no spaces between words: Han with its extensions, kana.
UNSPACED = "\u3005-\u3007\u3041-\u3096\u30a1-\u30fa\u30fc\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
#: What ROUGE-L counts: a character of those scripts, or a run of other letters and digits.
TOKEN = re.compile(f"[{UNSPACED}]|[^\\W_{UNSPACED}]+")


def load_distances() -> Any:
    """The module with the edit distances.

    Raises:
        ExtraMissing: when rapidfuzz is not installed.
    """
    try:
        from rapidfuzz import distance
    except ImportError as error:
        raise ExtraMissing("metrics cer, anls and rouge_l", "rapidfuzz", "metrics") from error
    return distance


def normalise(text: str) -> str:
    """A text as `exact_match` compares it.

    Unicode NFKC (full-width letters become plain ones), no difference of case, one space for each run of white space,
    none at the ends, and no full stops at the end.

    >>> normalise("  A\\n  Ｃat. ")
    'a cat'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".。 ")


def exact_match(answer: str, labels: Sequence[str], facts: Facts) -> Score:
    """1 when the answer equals a label, both normalised."""
    return Score(float(normalise(answer) in map(normalise, labels)))


def cer(answer: str, labels: Sequence[str], facts: Facts) -> Score:
    """Character error rate: insertions, deletions and substitutions over the characters of the label.

    Characters are Unicode code points in NFC; white space at the ends does not count, case does. Of several labels
    the one with the lowest rate counts. A row's rate ends at 1, that of a corpus is all edits over all characters.
    """
    distance = load_distances().Levenshtein.distance
    given, right = _compose(answer), [_compose(label) for label in labels]
    scores = [Score(distance(given, text), len(text)) for text in right]
    return min(scores, key=lambda score: score.points / max(score.weight, 1))


def _compose(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def anls(answer: str, labels: Sequence[str], facts: Facts) -> Score:
    """Average normalised Levenshtein similarity: 1 - NL to the nearest label, and 0 from NL = 0.5 on.

    NL is the edit distance over the length of the longer text. Case does not count, nor the length of white space.
    Source: Biten et al., Scene Text Visual Question Answering, ICCV 2019 (equation 1); DocVQA takes it over.
    """
    distance = load_distances().Levenshtein.normalized_distance
    given = " ".join(answer.lower().split())
    nearest = min(distance(given, " ".join(label.lower().split())) for label in labels)
    return Score(1 - nearest if nearest < THRESHOLD else 0.0)


def split_tokens(text: str) -> list[str]:
    """The tokens of ROUGE-L: lower-case words, and each Chinese or Japanese character for itself.

    >>> split_tokens("Two 猫s, 3rd")
    ['two', '猫', 's', '3rd']
    """
    return TOKEN.findall(unicodedata.normalize("NFKC", text).lower())


def rouge_l(answer: str, labels: Sequence[str], facts: Facts) -> Score:
    """ROUGE-L: F1 of the longest common subsequence of tokens, of the best label; words are not stemmed.

    Source: Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004, section 3.1, with beta 1.
    """
    common = load_distances().LCSseq.similarity
    given = split_tokens(answer)
    best = 0.0
    for tokens in map(split_tokens, labels):
        if given and tokens:
            # F1 of precision LCS/m and recall LCS/n is 2 LCS/(m + n).
            best = max(best, 2 * common(given, tokens) / (len(given) + len(tokens)))
        elif given == tokens:
            best = 1.0
    return Score(best)

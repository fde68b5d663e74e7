"""Ids that come one by one to a text that grows."""

from __future__ import annotations

from vlcore.tokenizer import TidyingTokenizer, Tokenizer

#: What half of a character is decoded as.
HALF = "\ufffd"


class Detokenizer:
    """The text of ids, each decoded together with the few before it and not with all of them.

    A token's text depends on the token before it: a space, or bytes that make one character together. So the ids
    behind `settled` are decoded with those from `begin` on, whose text is known, and what is longer is new.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tidies = isinstance(tokenizer, TidyingTokenizer) and tokenizer.tidied > 0
        self.tidying = tokenizer if tidies and isinstance(tokenizer, TidyingTokenizer) else None
        self.decode = self.tidying.decode_untidied if self.tidying else tokenizer.decode
        self.ids: list[int] = []
        self.text = ""
        self.begin = self.settled = 0

    def add(self, *tokens: int) -> str:
        """The text up to and with some tokens, without what the next ones may change: half a character, say."""
        self.ids += tokens
        known = self.decode(self.ids[self.begin : self.settled])
        now = self.decode(self.ids[self.begin :])
        if len(now) > len(known) and not now.endswith(HALF):
            self.text = self.text + now[len(known) :] if now.startswith(known) else self.decode(self.ids)
            self.begin, self.settled = self.settled, len(self.ids)
        return self.tidying.tidy(self.text)[: -self.tidying.tidied] if self.tidying else self.text

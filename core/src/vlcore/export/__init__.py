"""Models out: merged into their release, in transformers' own layout, in 4 or 8 bits; each held against its source."""

"""Models out: an adapter merged into its release, transformers' own layout, 4 or 8 bits, each held against its source."""

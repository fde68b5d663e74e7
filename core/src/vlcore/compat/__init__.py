"""Calls of older tools, on the public API."""

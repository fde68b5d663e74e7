"""A page in the browser for talking with a model (extra `web`)."""

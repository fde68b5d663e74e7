"""Serving a model over HTTP in OpenAI's form; extra `serve`."""

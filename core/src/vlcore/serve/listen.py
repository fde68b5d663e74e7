"""The socket of a server."""

from __future__ import annotations

import os
import socket

from vlcore.errors import UsageError


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens, taken before the model is loaded.

    Raises:
        UsageError: when the address cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise UsageError(f"address {host}:{port}", f"it cannot be listened on ({reason})",
                         "give another --port or --host") from error


def write_address(listener: socket.socket) -> str:
    """What a browser opens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

"""Serve a Python model to Skysail front ends, or to any client of the Open Inference Protocol.

Subclass `Container`, name `inputs` and `outputs`, write `predict`, and hand the class to `main` (a
command line) or an instance to `serve` or `serve_async`. A plain function becomes a container by
`Container.from_function`.

Layout: `container` is what a user writes; `server` starts and ends it; `settings` and `cli` say how;
`service` and `inference` answer the protocol; `datatypes` turns contents into arrays and back;
`worker` runs user code on threads of its own; `registration` keeps front ends told; `messages` holds
the message classes.

It does not batch: front ends send batches, and a call is computed as it came.
"""

from .cli import main
from .container import Batch, Container, TensorSpec
from .errors import InvalidInput, StartError, UsageError
from .server import serve, serve_async
from .settings import Settings

__all__ = [
    "Batch",
    "Container",
    "InvalidInput",
    "Settings",
    "StartError",
    "TensorSpec",
    "UsageError",
    "main",
    "serve",
    "serve_async",
]

"""A library's own process: `python -I pipe.py WORKER ARGUMENTS...`, in an environment without this package.

WORKER is a file whose `build(*arguments)` returns a function from a batch to a result. Batches come over stdin, results
go over stdout: npz files, each after its length in 8 bytes. A batch holds `input_ids`, `attention_mask` and, if the
model uses it, `token_type_ids`, int64 of shape `(batch, length)`. A result holds `start_logits` and `end_logits`,
float32 of that shape, `seconds` (of the library's run alone) and what else the library says, or `error`, a text.
"""

import io
import os
import runpy
import struct
import sys
from collections.abc import Callable
from typing import IO, Any, cast

import numpy as np

LENGTH = struct.Struct("<Q")


def send(stream: IO[bytes], arrays: dict[str, np.ndarray]) -> None:
    """Write arrays and their length."""
    packed = io.BytesIO()
    np.savez(packed, **cast(Any, arrays))
    stream.write(LENGTH.pack(packed.tell()) + packed.getbuffer())
    stream.flush()


def receive(stream: IO[bytes]) -> dict[str, np.ndarray] | None:
    """Read arrays, or None at the end. Raises EOFError if the end comes within them."""
    head = stream.read(LENGTH.size)
    if not head:
        return None
    if len(head) < LENGTH.size or len(body := stream.read(LENGTH.unpack(head)[0])) < LENGTH.unpack(head)[0]:
        raise EOFError("the other process ended within a message")
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return dict(arrays)


def serve(build: Callable[[], Callable[[dict[str, np.ndarray]], dict[str, Any]]]) -> None:
    """Build a model, then answer batches until stdin ends; an error is the answer to the batch."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library prints must not come between the results
    model = None
    while (batch := receive(sys.stdin.buffer)) is not None:
        try:
            model = model or build()
            result = model(batch)
        except Exception as error:  # from a library: whatever it is, the benchmark's row says it
            result = {"error": f"{type(error).__name__}: {error}"}
        send(results, {name: np.asarray(value) for name, value in result.items()})


if __name__ == "__main__":
    serve(lambda: runpy.run_path(sys.argv[1])["build"](*sys.argv[2:]))

"""The process that runs DeepSparse for the benchmark: `python -I worker.py GRAPH THREADS`.

It runs in an environment of its own (`make deepsparse`) and imports nothing of this package. Over stdin come batches,
over stdout go results: npz files, each after its length in 8 bytes. A batch holds the graph's inputs, int64 of shape
`(batch, length)` and named as in `onnx_graph`; a result start_logits and end_logits, float32 of that shape, `seconds`
(of the engine's run alone) and `supported` (the share of the graph's operations that the engine supports, 0 to 1), or
`error`, a text.
"""

import io
import os
import struct
import sys
import time
from typing import BinaryIO

import numpy as np

NAMES = ("input_ids", "attention_mask", "token_type_ids")
LENGTH = struct.Struct("<Q")


def send(stream: BinaryIO, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays and their length."""
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    stream.write(LENGTH.pack(packed.tell()) + packed.getbuffer())
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, np.ndarray] | None:
    """Read arrays, or None at the end. Raises EOFError if the end comes within them."""
    head = stream.read(LENGTH.size)
    if not head:
        return None
    if len(head) < LENGTH.size or len(body := stream.read(LENGTH.unpack(head)[0])) < LENGTH.unpack(head)[0]:
        raise EOFError("the other process ended within a message")
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return dict(arrays)


class Model:
    """A graph, compiled anew whenever the shape of the batch changes."""

    def __init__(self, graph: str, threads: int):
        self.graph, self.threads = graph, threads
        self.shape, self.engine = (), None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A batch to a result."""
        import deepsparse

        values = [np.ascontiguousarray(batch[name]) for name in NAMES if name in batch]
        shape = values[0].shape
        if shape != self.shape:
            self.engine = None  # its memory first
            self.engine = deepsparse.Engine(
                self.graph, batch_size=shape[0], num_cores=self.threads, input_shapes=[list(shape)] * len(values)
            )
            self.shape = shape
        started = time.perf_counter()
        starts, ends = self.engine.run(values)
        seconds = time.perf_counter() - started
        supported = self.engine.fraction_of_supported_ops
        return {"start_logits": starts, "end_logits": ends, "seconds": seconds, "supported": supported}


def main(graph: str, threads: int) -> None:
    """Answer batches until stdin ends."""
    os.environ["NM_DISABLE_ANALYTICS"] = "1"  # it reports its use otherwise
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library prints must not come between the results
    model = Model(graph, threads)
    while (batch := receive(sys.stdin.buffer)) is not None:
        try:
            found = model(batch)
        except Exception as error:  # from a closed library: whatever it is, the benchmark's row says it
            found = {"error": f"{type(error).__name__}: {error}"}
        send(results, {name: np.asarray(value) for name, value in found.items()})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

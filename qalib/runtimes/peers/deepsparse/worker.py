"""What runs in DeepSparse's own environment (see `remote.pipe`); it imports nothing of this package."""

import os
import time
from typing import Any

import numpy as np

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Model:
    """A graph, compiled anew whenever the shape of the batch changes."""

    def __init__(self, graph: str, threads: int):
        self.graph, self.threads = graph, threads
        self.shape: tuple[int, ...] = ()
        self.engine: Any = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray | float]:
        """A batch to a result; `supported` is the share of the graph's operations that the engine runs, 0 to 1."""
        from deepsparse import Engine  # pyright: ignore[reportAttributeAccessIssue]  # not installed here

        values = [np.ascontiguousarray(batch[name]) for name in INPUTS if name in batch]
        shape = values[0].shape
        if shape != self.shape:
            self.engine = None  # its memory first
            self.engine = Engine(
                self.graph, batch_size=shape[0], num_cores=self.threads, input_shapes=[list(shape)] * len(values)
            )
            self.shape = shape
        started = time.perf_counter()
        starts, ends = self.engine.run(values)
        seconds = time.perf_counter() - started
        supported = self.engine.fraction_of_supported_ops
        return {"start_logits": starts, "end_logits": ends, "seconds": seconds, "supported": supported}


def build(graph: str, threads: str) -> Model:
    """A model from a graph's file."""
    os.environ["NM_DISABLE_ANALYTICS"] = "1"  # it reports its use otherwise
    return Model(graph, int(threads))

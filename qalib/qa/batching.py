"""Batching: which windows are put into a batch, and how far they are padded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from qalib.qa.windows import MAX_LENGTH, Window, collate

PAD_TO_MULTIPLE_OF = 16  # tokens: with few shapes, memory is reused


@dataclass(frozen=True)
class BatchingConfig:
    """How windows are put into batches: `batch_size` each, sorted by length or in file order, padded to the longest
    window of the batch or to `pad_to` tokens. Changes the time, not the answers."""

    batch_size: int = 32
    sort_by_length: bool = True
    pad_to: int | None = None


LENGTH_SORTED = BatchingConfig()  # the default here
PADDED = BatchingConfig(sort_by_length=False, pad_to=MAX_LENGTH)  # as evaluation scripts usually do


def batches(cut: Sequence[Window], batching: BatchingConfig) -> Iterator[list[Window]]:
    """The windows in batches; if sorted, the longest come first: if they fit into memory, all do."""
    order = sorted(cut, key=len, reverse=True) if batching.sort_by_length else cut
    for first in range(0, len(order), batching.batch_size):
        yield list(order[first : first + batching.batch_size])


def padded(batch: Sequence[Window], pad_id: int, batching: BatchingConfig) -> dict[str, Tensor]:
    """Model inputs for a batch, each of shape `(batch, length)`, as long as the batching asks for.

    Without padding there is no `attention_mask`: attention is faster without one, on a GPU by much.
    """
    longest = max(map(len, batch))
    multiple = -(-longest // PAD_TO_MULTIPLE_OF) * PAD_TO_MULTIPLE_OF
    inputs = collate(batch, pad_id, batching.pad_to or min(multiple, MAX_LENGTH))
    if inputs["attention_mask"].all():
        del inputs["attention_mask"]
    return inputs

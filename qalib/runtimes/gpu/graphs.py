"""CUDA graphs: a forward pass is recorded once for each bucket of shapes, and then launched as a whole.

A pass of BERT-base is some hundred launches from Python, which for few windows take longer than the work itself.
"""

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from qalib.model import bert
from qalib.runtimes.forward import Forward

LENGTHS = 32  # tokens: lengths are filled up to a multiple of this
Logits = tuple[Tensor, Tensor]
Record = Callable[[Callable[[], Logits]], tuple[Logits, Callable[[], None]]]


class CudaRecorder:
    """Captures what a function computes in a CUDA graph; all its graphs use the same memory, one after another."""

    def __init__(self):
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], Logits]) -> tuple[Logits, Callable[[], None]]:
        """What `run` gives, and a function that computes it anew into the same memory."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # what is made at first use, as libraries' workspaces, must not be made in the capture
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            found = run()
        return found, graph.replay


def record_on_cpu(run: Callable[[], Logits]) -> tuple[Logits, Callable[[], None]]:
    """The same without a GPU, for tests and rehearsals: `run` is run again, into the same memory."""
    found = run()

    def replay() -> None:
        for old, new in zip(found, run(), strict=True):
            old.copy_(new)

    return found, replay


def bucket(batch: int, length: int, longest: int) -> tuple[int, int]:
    """The shape that a batch is filled up to: lengths to a multiple, up to `longest`; windows beyond 8 to a multiple of
    4, beyond 32 of 16.

    >>> bucket(5, 130, 512), bucket(33, 384, 512), bucket(1, 500, 509)
    ((5, 160), (48, 384), (1, 509))
    """
    step = 1 if batch <= 8 else 4 if batch <= 32 else 16
    return -(-batch // step) * step, min(-(-length // LENGTHS) * LENGTHS, longest)


class Recorded:
    """A forward pass of one shape, with the memory that it reads from and writes to."""

    def __init__(self, model: nn.Module, shape: tuple[int, int], masked: bool, device: torch.device, record: Record):
        self.ids, self.types = (torch.zeros(shape, dtype=torch.long, device=device) for _ in range(2))
        self.mask = torch.ones(shape, dtype=torch.long, device=device) if masked else None

        def run() -> Logits:
            found = model(input_ids=self.ids, attention_mask=self.mask, token_type_ids=self.types)
            return found.start_logits, found.end_logits

        self.logits, self.replay = record(run)

    def __call__(self, ids: Tensor, mask: Tensor | None, types: Tensor | None) -> Logits:
        """The logits of a batch that is no larger; what is filled up is masked."""
        batch, length = ids.shape
        self.ids[:batch, :length].copy_(ids)
        if types is None:
            self.types.zero_()
        else:
            self.types[:batch, :length].copy_(types)
        if self.mask is not None:
            self.mask[:batch, length:] = 0
            self.mask[:batch, :length].copy_(torch.ones_like(ids) if mask is None else mask)
        self.replay()
        starts, ends = self.logits
        return starts[:batch, :length].clone(), ends[:batch, :length].clone()  # the next batch has the same memory


class Graphs(nn.Module):
    """A question-answering model (`forward.Forward`) as CUDA graphs, one a bucket of shapes, with and without padding.

    A batch without `attention_mask` that fills its bucket is run without a mask. For inference; the weights must stay
    where they are. `longest` is the most tokens that the model takes; `record` is a CudaRecorder by default.
    """

    def __init__(self, model: nn.Module, longest: int, record: Record | None = None):
        super().__init__()
        self.model, self.longest, self.record = model, longest, record or CudaRecorder()
        self.recorded: dict[tuple[int, int, bool], Recorded] = {}

    @torch.inference_mode()
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> QuestionAnsweringModelOutput:
        """As `Forward`'s; inputs may be on the CPU, too."""
        batch, length = input_ids.shape
        shape = bucket(batch, length, self.longest)
        masked = attention_mask is not None or shape != input_ids.shape
        if (key := (*shape, masked)) not in self.recorded:
            device = next(chain(self.model.parameters(), self.model.buffers())).device
            self.recorded[key] = Recorded(self.model, shape, masked, device, self.record)
        starts, ends = self.recorded[key](input_ids, attention_mask, token_type_ids)
        return QuestionAnsweringModelOutput(start_logits=starts, end_logits=ends)


def capture(model: BertForQuestionAnswering, device: torch.device) -> Graphs:
    """Run a model in CUDA graphs, captured at the first batch of a shape; on a CPU a stand-in replaces them."""
    return Graphs(Forward(model.eval()), bert.max_tokens(model), None if device.type == "cuda" else record_on_cpu)

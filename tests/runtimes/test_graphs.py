"""What runs in CUDA graphs: its logic, with a recorder for the CPU in place of CUDA's."""

import copy

import pytest
import torch

from qalib import runtimes
from qalib.runtimes import compact
from qalib.runtimes.forward import Forward
from qalib.runtimes.gpu import block_sparse as block_sparse_gpu
from qalib.runtimes.gpu import graphs
from qalib.runtimes.gpu.graphs import Graphs

CPU, FLOAT = torch.device("cpu"), torch.float32


class Stand:
    """As torch.cuda.CUDAGraph is used: captures once, replays into the same memory; counts both."""

    def __init__(self):
        self.captures, self.replays = 0, 0

    def __call__(self, run):
        self.captures += 1
        found, again = graphs.record_on_cpu(run)

        def replay():
            self.replays += 1
            again()

        return found, replay


@pytest.fixture
def stand(sparse):
    record = Stand()
    return Graphs(Forward(copy.deepcopy(sparse.model)), 512, record), record


def batch(windows, length, padding=(), seed=0):
    ids = torch.randint(5, 90, (windows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    for row, left in padding:
        mask[row, left:] = 0
    return {"input_ids": ids, "token_type_ids": (ids > 50).long()} | ({"attention_mask": mask} if padding else {})


def difference(module, model, inputs):
    with torch.inference_mode():
        found, expected = module(**inputs), model.eval()(**inputs)
    seen = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])) == 1
    assert found.start_logits.shape == inputs["input_ids"].shape
    return max((found[name] - expected[name])[seen].abs().max() for name in ("start_logits", "end_logits"))


SHAPES = [(1, 32), (1, 20), (3, 64), (5, 33), (9, 40), (12, 64), (13, 500), (2, 512)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_has_the_logits_of_dense(stand, sparse, shape):
    module, _ = stand
    assert difference(module, sparse.model, batch(*shape)) < 1e-4
    assert difference(module, sparse.model, batch(*shape, padding=[(0, 7)], seed=1)) < 1e-4
    assert difference(module, sparse.model, batch(*shape, seed=2)) < 1e-4  # nothing of the batch before is left


def test_a_bucket_is_captured_once_and_replayed(stand, sparse):
    module, record = stand
    for seed, length in enumerate((33, 40, 64)):
        assert difference(module, sparse.model, batch(2, length, padding=[(1, 9)], seed=seed)) < 1e-4
    assert (record.captures, record.replays) == (1, 3)
    assert difference(module, sparse.model, batch(2, 64)) < 1e-4  # without padding, and without a mask
    assert (record.captures, record.replays) == (2, 4)
    assert list(module.recorded) == [(2, 64, True), (2, 64, False)]


def test_results_outlive_the_next_batch(stand):
    module, _ = stand
    first = module(**batch(2, 32))
    kept = first.start_logits.clone()
    module(**batch(2, 32, seed=1))
    assert torch.equal(first.start_logits, kept)


def test_only_a_batch_that_fills_its_bucket_has_no_mask(sparse):
    seen = []

    class Model(Forward):
        def forward(self, input_ids, attention_mask=None, token_type_ids=None):
            seen.append((tuple(input_ids.shape), attention_mask is not None))
            return super().forward(input_ids, attention_mask, token_type_ids)

    module = Graphs(Model(sparse.model), 512, Stand())
    module(**batch(1, 32))
    module(**batch(1, 31))
    assert set(seen) == {((1, 32), False), ((1, 32), True)}


def test_buckets_are_no_smaller_than_the_batch_and_fit_the_model():
    for windows in range(1, 200):
        for length in (1, 31, 32, 33, 384, 385, 509):
            rows, columns = graphs.bucket(windows, length, 509)
            assert rows >= windows and length <= columns <= 509 and rows * 0.67 <= windows
    assert graphs.bucket(32, 384, 512) == (32, 384) and graphs.bucket(128, 384, 512) == (128, 384)


def test_compact_graph_has_the_logits_of_dense(sparse):
    module = runtimes.REGISTRY["compact-graph"].build(sparse, CPU, FLOAT).eval()
    assert difference(module, sparse.model, batch(2, 32)) < 1e-4
    assert difference(module, sparse.model, batch(3, 40, padding=[(1, 9)])) < 1e-4
    assert runtimes.kernel(module) == "dense"


def test_forward_has_no_mask_without_padding_and_the_logits_of_transformers(sparse):
    module = Forward(copy.deepcopy(sparse.model))
    assert difference(module, sparse.model, batch(2, 40)) < 1e-4
    assert difference(module, sparse.model, batch(2, 40, padding=[(1, 9)])) < 1e-4
    masks = []
    module.model.bert.encoder.layer[0].register_forward_pre_hook(lambda layer, given: masks.append(given[1]))
    module(**batch(1, 16))
    module(**batch(1, 16, padding=[(0, 3)]))
    assert masks[0] is None and masks[1].tolist() == [[[[True] * 3 + [False] * 13]]]


@pytest.mark.parametrize("workspace", [None, block_sparse_gpu.no_workspace])
def test_block_sparse_layers_can_be_compiled(sparse, workspace):
    """In one graph: the workspace of a thread does not break it."""
    model = block_sparse_gpu.block_sparse.replace(
        compact.shrink(copy.deepcopy(sparse.model), sparse.block), block_sparse_gpu.DenseLinear, workspace=workspace
    )
    compiled = torch.compile(Forward(model.eval()), backend="eager", fullgraph=True, dynamic=False)
    assert difference(compiled, sparse.model, batch(2, 16)) < 1e-4
    torch._dynamo.reset()


@pytest.mark.parametrize(("kind", "unit"), [(torch.float32, 8), (torch.bfloat16, 16)])
def test_on_a_gpu_neurons_are_multiples_of_what_its_units_take(sparse, kind, unit):
    sparse.model.bert.encoder.layer[0].intermediate.dense.weight.data[:19] = 0
    assert compact.alignment(torch.device("cuda"), kind) == unit and compact.alignment(CPU, kind) == 1
    small = compact.shrink(copy.deepcopy(sparse.model), multiple_of=unit)
    assert all(layer.intermediate.dense.out_features % unit == 0 for layer in small.bert.encoder.layer)
    assert difference(small, sparse.model, batch(2, 16)) < 1e-4

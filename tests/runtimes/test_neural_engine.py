"""The Neural Engine as a peer: what its worker does around the library, and what is refused."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering

from qalib import runtimes
from qalib.benchmark import latency
from qalib.model import bert, blocks, checkpoint
from qalib.runtimes.peers import calibration, neural_engine
from qalib.runtimes.peers.neural_engine import worker
from qalib.utils.errors import InputError


class Node:
    """A node of the engine's graph, with an int8 weight of shape `(inputs, outputs)`."""

    def __init__(self, name: str, weight: np.ndarray, **attr: str):
        self.name, self.op_type, self.attr = name, "InnerProduct", attr
        self.input_tensors = [None, type("Tensor", (), {"data": weight})]


def weight(density: float, dtype: str = "int8") -> np.ndarray:
    kept = np.random.default_rng(0).random((64, 16)) < density
    return np.repeat(kept, 4, axis=1).astype(dtype)


@pytest.mark.parametrize(("density", "names"), [(0.2, ["one", "other"]), (0.45, []), (0.9, [])])
def test_all_matrices_go_to_the_sparse_kernel_or_none(density, names):
    nodes = [Node("one", weight(density)), Node("other", weight(0.6)), Node("float", weight(0.2, "float32"))]
    nodes += [Node("tanh", weight(0.2), append_op="tanh"), Node("narrow", weight(0.2)[:, :62])]
    graph = type("Graph", (), {"nodes": [*nodes, type("Softmax", (), {"op_type": "Softmax"})]})
    assert worker.sparse_matrices(graph) == names


def test_a_batch_is_given_in_the_order_of_the_engine():
    given = []

    class Graph:
        def inference(self, values):
            given.extend(values)
            return {"logits": np.stack([values[0], values[2]], -1).astype("float32")}

    ids = np.arange(6).reshape(2, 3)
    batch = {"input_ids": ids, "attention_mask": ids + 10, "token_type_ids": ids + 20}
    result = worker.Model(Graph(), 3)(batch)
    assert [value.dtype for value in given] == [np.int32] * 3 and (given[1] == ids + 20).all()
    assert (result["start_logits"] == ids).all() and (result["end_logits"] == ids + 10).all()
    assert result["seconds"] > 0 and result["sparse"] == 3


def test_equal_vectors_differ_by_a_hair_for_the_exporter():
    config = BertConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2, intermediate_size=16, vocab_size=20)
    model = BertForQuestionAnswering(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    worker.tell_apart(model)
    vectors = [parameter.detach().numpy().tobytes() for parameter in model.parameters() if parameter.dim() == 1]
    assert len(set(vectors)) == len(vectors) > 20
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=1e-5, rtol=1e-5)


def test_other_architectures_are_refused(mpnet):
    with pytest.raises(InputError, match="MPNet is not run by the Neural Engine here"):
        neural_engine._build(checkpoint.load(mpnet), "dense")


@pytest.mark.parametrize("name", ["neural-engine-int8", "neural-engine-int8-sparse"])
def test_it_gives_the_logits_of_dense(name, tmp_path):
    """In a width that it knows: not in those of the tiny models of other tests."""
    if reason := runtimes.unavailable_reason(name, "cpu"):
        pytest.skip(reason)
    config = BertConfig(num_hidden_layers=2, hidden_size=256, num_attention_heads=4, intermediate_size=512)
    model = BertForQuestionAnswering(config).eval()
    for matrix in bert.matrices(model):
        kept = torch.rand(matrix.linear.weight.shape[0] // 4, matrix.linear.weight.shape[1]) < 0.2
        matrix.linear.weight.data *= blocks.expand(kept, (4, 1))
    model.save_pretrained(tmp_path)
    loaded = checkpoint.load(tmp_path)
    inputs = latency.random_inputs(loaded, 2, 32)
    expected = latency.forward(runtimes.build("dense", loaded), inputs)
    module = runtimes.build(name, loaded)
    result = latency.forward(module, inputs)
    for logits in ("start_logits", "end_logits"):
        assert (result[logits] - expected[logits]).abs().max() < 0.1 * expected[logits].std()
    assert module.details["sparse"] == 12 * name.endswith("sparse")


def test_calibration_is_what_other_peers_have(sparse, monkeypatch):
    """Batch by batch, read from the model's folder by the worker."""
    read = []

    def remote(environment, path, folder, form):
        reader = worker.Calibration(folder / worker.CALIBRATION)
        read.extend(iter(reader.get_next, None))
        return torch.nn.Identity()

    monkeypatch.setattr(neural_engine, "Remote", remote)
    neural_engine._build(sparse, "dense")
    expected = calibration.batches(sparse.model.config.vocab_size)
    assert len(read) == len(expected) == 6
    for ours, theirs in zip(read, expected, strict=True):
        assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)

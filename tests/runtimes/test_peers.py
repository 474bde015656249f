"""Other libraries' runtimes, where they are installed (extra `peers`)."""

import pytest
import torch

from qalib import runtimes
from qalib.benchmark import latency
from qalib.model import checkpoint

PEERS = {"openvino": ("fp32", 1e-3), "onnxruntime-int8": ("fp32", 1.0), "torchao-int8": ("bf16", 1.0)}
PEERS |= {"openvino-int8": ("fp32", 1.0), "openvino-int8-sparse": ("fp32", 1.0)}
PEERS |= {"deepsparse": ("fp32", 1e-3), "deepsparse-int8": ("fp32", 1.0)}


@pytest.mark.parametrize("model", ["packed_folder", "mpnet"])
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_gives_the_logits_of_dense(name, model, request):
    dtype, tolerance = PEERS[name]
    if reason := runtimes.unavailable_reason(name, "cpu", dtype):
        pytest.skip(reason)
    sparse = checkpoint.load(request.getfixturevalue(model))
    inputs = latency.random_inputs(sparse, 3, 21)
    inputs["attention_mask"] = torch.ones(3, 21, dtype=torch.long)
    inputs["attention_mask"][1, 7:] = 0
    expected = latency.forward(runtimes.build("dense", sparse), inputs)
    found = latency.forward(runtimes.build(name, sparse, dtype=dtype), inputs)
    for logits in ("start_logits", "end_logits"):
        difference = (found[logits].float() - expected[logits])[inputs["attention_mask"].bool()].abs().max()
        assert difference < tolerance and torch.isfinite(found[logits]).all()


def test_peers_run_only_when_named_and_say_what_is_missing(monkeypatch):
    assert not set(PEERS) & set(runtimes.available("cpu"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert runtimes.unavailable_reason("openvino", "cpu") == "not installed: openvino (make peers)"
    missing = "not installed: openvino, nncf (make peers)"
    assert runtimes.unavailable_reason("openvino-int8-sparse", "cpu") == missing
    assert runtimes.unavailable_reason("onnxruntime-int8", "cpu", "bf16") == "is for fp32, not for bf16"

"""DeepSparse as a peer: the process around it with a stand-in for the library, and the graphs made for it."""

import gc
import time
import venv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from qalib import runtimes
from qalib.benchmark import latency
from qalib.model import checkpoint
from qalib.runtimes.export import onnx_graph
from qalib.runtimes.peers import remote
from qalib.runtimes.peers.deepsparse import graph, int8, session
from qalib.runtimes.peers.remote import Remote
from qalib.utils.errors import InputError
from qalib.utils.timing import Seconds, interleave

STAND_IN = """
import os, sys, time

class Engine:
    fraction_of_supported_ops = 0.75

    def __init__(self, graph, batch_size, num_cores, input_shapes):
        print("a copyright line on stdout", os.environ["NM_DISABLE_ANALYTICS"], flush=True)
        time.sleep(0.4)
        assert [batch_size, *input_shapes[0][1:]] == input_shapes[2]
        self.threads = num_cores

    def run(self, values):
        ids, mask, types = values
        if (ids == 13).any():
            raise ValueError("unlucky")
        if (ids == 99).any():
            print("Assertion at planner.hpp:120", file=sys.stderr)
            os._exit(3)
        time.sleep(0.05)
        return [(ids * mask).astype("float32"), (types + self.threads).astype("float32")]
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """The python of an environment with a stand-in for the library: it multiplies a batch by its mask."""
    folder = tmp_path_factory.mktemp("deepsparse")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "deepsparse.py").write_text(STAND_IN)
    (packages / "numpy.pth").write_text(str(Path(np.__file__).parents[1]))
    return folder / "bin" / "python"


@pytest.fixture
def deepsparse(environment, monkeypatch) -> Callable[[], Remote]:
    """What starts a process of the stand-in."""
    monkeypatch.setenv("QALIB_DEEPSPARSE", str(environment))
    return lambda: Remote(session.ENVIRONMENT, session.WORKER, Path("graph.onnx"))


def test_what_is_missing_is_said(environment, tmp_path, monkeypatch):
    monkeypatch.setenv("QALIB_DEEPSPARSE", str(tmp_path / "python"))
    missing = f"not installed: there is no {tmp_path / 'python'} (make deepsparse)"
    assert runtimes.unavailable_reason("deepsparse", "cpu") == missing
    venv.create(tmp_path / "bare", symlinks=True)
    bare = tmp_path / "bare" / "bin" / "python"
    monkeypatch.setenv("QALIB_DEEPSPARSE", str(bare))
    assert runtimes.unavailable_reason("deepsparse-int8", "cpu") == (
        f"not installed: {bare} has no deepsparse (make deepsparse)"
    )
    monkeypatch.setenv("QALIB_DEEPSPARSE", str(environment))
    monkeypatch.setattr(session, "PACKAGES", ())
    assert runtimes.unavailable_reason("deepsparse", "cpu") is None
    monkeypatch.delenv("QALIB_DEEPSPARSE")
    monkeypatch.delenv("QALIB_NEURAL_ENGINE", raising=False)
    monkeypatch.setattr(remote, "ROOT", tmp_path)
    for name, target in (("deepsparse", "deepsparse"), ("neural-engine-int8", "neural-engine")):
        missing = f"not installed: there is no .venv-{target}/bin/python (make {target})"
        assert runtimes.unavailable_reason(name, "cpu") == missing  # nothing of the machine's folders


def test_a_batch_goes_there_and_back(deepsparse):
    module = deepsparse()
    for shape in ((2, 3), (1, 5)):
        ids, mask = torch.arange(shape[0] * shape[1]).view(shape), torch.ones(shape, dtype=torch.long)
        mask[0, 2] = 0
        found = module(input_ids=ids, attention_mask=mask)
        assert (
            torch.equal(found.start_logits, (ids * mask).float())
            and (found.end_logits == torch.get_num_threads()).all()
        )
        assert 0.05 <= found.seconds < 0.4  # the run alone, without the 0.4 to compile
    assert "supports 75 % of the graph's operations" in session.caveat(None, module)
    process = psutil.Process(module.process.pid)
    until = time.monotonic() + 5
    while process.status() != psutil.STATUS_STOPPED:  # it takes no time from the others
        assert time.monotonic() < until
    del module
    gc.collect()
    assert not process.is_running()


def test_errors_and_the_end_of_the_process(deepsparse):
    module = deepsparse()
    with pytest.raises(InputError, match="DeepSparse: ValueError: unlucky"):
        module(input_ids=torch.tensor([[13]]))
    assert module(input_ids=torch.tensor([[12]])).start_logits.item() == 12
    for _ in range(2):  # it stays ended
        with pytest.raises(InputError, match="DeepSparse.*Assertion at planner.hpp:120"):
            module(input_ids=torch.tensor([[99]]))
    assert module.process.wait() == 3


def test_seconds_of_its_own_are_what_counts():
    timings = interleave({"here": lambda: time.sleep(0.02), "there": lambda: Seconds(0.5)}, 2, progress=False)
    assert timings["there"].seconds == (0.5, 0.5) and timings["here"].median >= 0.02


def test_it_is_timed_beside_the_others(sparse, deepsparse, monkeypatch):
    stands_in = runtimes.Runtime(
        "deepsparse-int8", "", lambda *_: deepsparse(), exact=False, peer=True, caveat=session.caveat
    )
    monkeypatch.setitem(runtimes.REGISTRY, "deepsparse-int8", stands_in)
    rows = latency.compare(sparse, ["deepsparse-int8"], ["fp32"], batch=1, length=8, repeats=2, progress=False)
    dense, theirs = rows.iloc[0], rows.iloc[1]
    assert dense.remark == "" and theirs.remark.startswith("timed around the engine's run, in its own process")
    assert 0.05 <= theirs.median_seconds < 0.3 and theirs.best_baseline == "dense fp32"


@pytest.mark.parametrize("name", ["packed_folder", "distilbert", "mpnet"])
def test_graphs_have_the_logits_of_the_model(name, request, tmp_path):
    onnx = pytest.importorskip("onnx", reason="make peers")
    pytest.importorskip("onnxruntime", reason="make peers")
    model = checkpoint.load(request.getfixturevalue(name)).model
    plain = graph.write(model, tmp_path / "plain.onnx")
    onnx_graph.check(plain, model)
    assert onnx.load(plain).opset_import[0].version == 13
    quantised = int8.quantise(plain, model.config.vocab_size)
    assert 0 < onnx_graph.difference(quantised, model) < 0.5
    counts = Counter(node.op_type for node in onnx.load(quantised).graph.node)
    products = 8 * model.config.num_hidden_layers + 1
    assert counts["MatMulInteger"] == products and not counts.keys() & {"MatMul", "QLinearMatMul", "Identity"}

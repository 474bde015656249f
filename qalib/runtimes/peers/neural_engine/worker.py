"""What runs in the Neural Engine's own environment (see `remote.pipe`); it imports nothing of this package."""

import importlib
import os
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

INPUTS = ("input_ids", "token_type_ids", "attention_mask")  # in the engine's order
OUTPUTS = ("start_logits", "end_logits")
PACKAGE = "intel_extension_for_transformers"
OPSET = 13
ISA = "AVX512_CORE_VNNI"  # more than it knows makes it refuse the processor
CALIBRATION = "calibration.npz"  # in the model's folder: arrays NUMBER/INPUT
BLOCK, SPARSE = 4, 0.5  # rows of a block of its sparse kernel; the share of zero blocks from which it is used


class Model:
    """A graph of the engine, with so many matrices in its sparse kernel."""

    def __init__(self, graph: Any, sparse: int):
        self.graph, self.sparse = graph, sparse

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray | float]:
        """A batch to a result."""
        values = [np.ascontiguousarray(batch[name].astype(np.int32)) for name in INPUTS]
        started = time.perf_counter()
        outputs = self.graph.inference(values)
        seconds = time.perf_counter() - started
        (logits,) = outputs.values()
        starts, ends = np.moveaxis(np.array(logits).reshape(*values[0].shape, 2), -1, 0)
        return {"start_logits": starts, "end_logits": ends, "seconds": seconds, "sparse": self.sparse}


class Calibration:
    """The batches of a file, as onnxruntime asks for calibration data."""

    def __init__(self, path: Path):
        with np.load(path) as file:
            count = len(file.files) // len(INPUTS)
            self.left = iter([{name: file[f"{number}/{name}"] for name in INPUTS} for number in range(count)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None."""
        return next(self.left, None)


def export(folder: str, out: Path) -> Path:
    """Write the model in a folder as a graph with the operators that the engine knows, in int8."""
    import torch
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from transformers import BertForQuestionAnswering

    model = BertForQuestionAnswering.from_pretrained(folder, return_dict=False).eval()
    tell_apart(model)
    ids = torch.ones(2, 8, dtype=torch.long)
    example = {name: ids for name in INPUTS}
    plain, quantized, names = out / "plain.onnx", out / "int8.onnx", [*INPUTS, *OUTPUTS]
    torch.onnx.export(
        model, (example,), plain, dynamo=False, opset_version=OPSET, input_names=list(INPUTS),
        output_names=list(OUTPUTS), dynamic_axes={name: {0: "batch", 1: "length"} for name in names},
    )  # fmt: skip
    quantize_static(
        plain, quantized, Calibration(Path(folder) / CALIBRATION), quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"], per_channel=True, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8, extra_options={"WeightSymmetric": True},
    )  # fmt: skip
    return quantized


def tell_apart(model: Any) -> None:
    """Change equal vectors by a hair: the exporter would write them once, and the engine does not find them then."""
    import torch

    written = set()
    for parameter in model.parameters():
        while parameter.dim() == 1 and parameter.detach().numpy().tobytes() in written:
            parameter.data[0] = torch.nextafter(parameter.data[0], torch.tensor(9.0))
        written.add(parameter.detach().numpy().tobytes() if parameter.dim() == 1 else None)


def sparse_matrices(graph: Any) -> list[str]:
    """The names of all matrices that its sparse kernel can multiply, if enough of their blocks of 4x1 are zero.

    Its own `get_sparse_nodes_name` takes those that are 70 % zeros, and far longer: it loops over blocks in Python.
    """
    zeros = {}
    for node in graph.nodes:
        data: Any = node.input_tensors[1].data if node.op_type == "InnerProduct" else None
        takes = isinstance(data, np.ndarray) and data.dtype.itemsize == 1 and data.shape[1] % BLOCK == 0
        if takes and node.attr.get("append_op") != "tanh":
            zeros[node.name] = (data.reshape(len(data), -1, BLOCK) == 0).all(-1)
    share = sum(zero.sum() for zero in zeros.values()) / sum(zero.size for zero in zeros.values())
    return list(zeros) if share >= SPARSE else []


def build(folder: str, threads: str, form: str) -> Model:
    """A model in int8 from a folder for transformers; in the form `sparse`, its sparse kernel skips zeros."""
    os.environ |= {"OMP_NUM_THREADS": threads, "ONEDNN_MAX_CPU_ISA": ISA}
    root = Path(np.__file__).parents[1] / PACKAGE
    for name, path in ((PACKAGE, root), (f"{PACKAGE}.transformers", root / "transformers")):
        sys.modules[name] = types.ModuleType(name)  # importing these fails: they want packages of that time
        sys.modules[name].__path__ = [str(path)]
    compiler = importlib.import_module(f"{PACKAGE}.transformers.runtime.compile")
    runtime = importlib.import_module(f"{PACKAGE}.transformers.runtime.compile.graph")
    with tempfile.TemporaryDirectory() as out:
        compiler.compile(str(export(folder, Path(out)))).save(out)
        graph = runtime.Graph()
        graph.graph_init(f"{out}/conf.yaml", f"{out}/model.bin", load_weight=True)
    names = sparse_matrices(graph) if form == "sparse" else []
    if names:
        graph.transpose_mode_int8(names)
    return Model(graph, len(names))

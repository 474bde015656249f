"""A checkpoint as a folder for onnxruntime and transformers.js: `onnx/model.onnx` with config and tokenizer beside.

int8 goes to `onnx/model_quantized.onnx`, which is the file that transformers.js takes by default.
"""

import copy
from pathlib import Path

from qalib.model import saving
from qalib.model.checkpoint import Checkpoint
from qalib.runtimes import compact
from qalib.runtimes.export import onnx_graph
from qalib.runtimes.registry import not_installed
from qalib.utils.errors import InputError
from qalib.utils.files import atomic_folder


def save(loaded: Checkpoint, out: Path | str, cut: bool = False, int8: bool = False) -> tuple[Path, float]:
    """Write the folder; returns the file of the graph and its largest difference of a logit from torch's.

    With `cut`, heads and FFN neurons that do not change the output are left out; with `int8`, weights are quantised.
    Raises InputError if a package is missing, `out` is not empty, or a float32 logit differs from that of torch.
    """
    if absent := not_installed(*onnx_graph.PACKAGES)():
        raise InputError(f"export to ONNX: {absent}")
    model = compact.shrink(copy.deepcopy(loaded.model)) if cut else loaded.model
    with atomic_folder(out) as draft:
        graph = onnx_graph.write(model, draft / "onnx" / "model.onnx")
        differs = onnx_graph.check(graph, loaded.model)
        if int8:
            plain, graph = graph, onnx_graph.quantise(graph)
            plain.unlink()
            differs = onnx_graph.difference(graph, loaded.model)
        saving.save_config_and_tokenizer(loaded, draft)
    return Path(out) / "onnx" / graph.name, differs

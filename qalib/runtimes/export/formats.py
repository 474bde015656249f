"""Export in any format: for plain transformers, packed, or as ONNX."""

from pathlib import Path

from qalib.model import checkpoint, saving
from qalib.model.checkpoint import Checkpoint
from qalib.runtimes.export import onnx_folder, onnx_graph
from qalib.utils.errors import InputError

FORMATS = ("transformers", "packed", "onnx")


def export(
    model: str | Path | Checkpoint,
    out: Path | str,
    format: str = "transformers",
    dtype: str = "fp16",
    compact: bool = False,
    int8: bool = False,
) -> Path:
    """Write a model to a new folder; returns the folder, or the graph's file for `onnx`.

    `format` is one of FORMATS: full size for plain transformers, kept blocks only, or an ONNX graph. `dtype` is the
    packed form's (fp16, fp32 or int8); `compact` (without idle heads and neurons) and `int8` are for ONNX. Raises
    InputError for options that do not go together, a folder that is not empty, or an absent package.
    """
    return export_with_remark(model, out, format, dtype, compact, int8)[0]


def export_with_remark(
    model: str | Path | Checkpoint, out: Path | str, format: str, dtype: str, compact: bool, int8: bool
) -> tuple[Path, str]:
    """As `export`, but with a remark on what was written, "" if there is none."""
    if format not in FORMATS:
        raise InputError(f"format {format!r}: choose one of {', '.join(FORMATS)}")
    if (compact or int8) and format != "onnx":
        raise InputError(f"format {format!r}: compact and int8 are for onnx")
    loaded = model if isinstance(model, Checkpoint) else checkpoint.load(model)
    match format:
        case "onnx":
            graph, difference = onnx_folder.save(loaded, out, compact, int8)
            return graph, f"opset {onnx_graph.OPSET}, logits differ from torch's by {difference:.2g} at most"
        case "packed":
            return saving.save_packed(loaded, out, dtype), ""
    reason = saving.not_for_transformers(loaded)
    return saving.save_transformers(loaded, out), f"for qalib only: {reason}" if reason else ""

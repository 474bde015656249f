"""The int8 graph in the form that DeepSparse is fastest with: that of SparseML's exporter, MatMulInteger throughout.

onnxruntime finds the scales (`quantize_static`, per matrix). Its own forms do not suit the engine: with
QuantizeLinear and DequantizeLinear it multiplies in float, with QLinearMatMul it leaves some operations out, and on
DynamicQuantizeLinear it fails. In processor time of a pass (two layers of BERT-base, density 0.1, 4 x 128 tokens):
float32 32 ms, QLinearMatMul 17 ms, MatMulInteger for weights only 17 ms, for attention too 15 ms.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qalib.runtimes.export.onnx_graph import quiet
from qalib.runtimes.peers import calibration
from qalib.runtimes.peers.deepsparse.graph import inputs

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


def quantise(graph: Path, vocabulary: int) -> Path:
    """Write a float32 graph of `graph.write` in int8, calibrated on random tokens below `vocabulary`."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    reader = _Batches(vocabulary, inputs(graph))
    out = graph.with_name(f"{graph.stem}_quantized.onnx")
    with quiet():
        quantize_static(
            graph, out, reader, quant_format=QuantFormat.QOperator, op_types_to_quantize=["MatMul"],
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": False, "WeightSymmetric": True},
        )  # fmt: skip
    model = onnx.load(out)
    _Rewriting(model.graph).run()
    onnx.save(model, out)
    return out


class _Batches:
    """Calibration data as onnxruntime asks for them."""

    def __init__(self, vocabulary: int, names: Sequence[str]):
        self.left = ({name: batch[name] for name in names} for batch in calibration.batches(vocabulary))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None."""
        return next(self.left, None)


class _Rewriting:
    """QLinearMatMul, DequantizeLinear and (of a layer) Add of a bias become MatMulInteger, Add, Cast and Mul."""

    def __init__(self, graph: "GraphProto"):
        from onnx import numpy_helper

        self.graph = graph
        self.values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)

    def run(self) -> None:
        """Rewrite the graph in place."""
        same = {n.output[0]: n.input[0] for n in self.graph.node if n.op_type == "Identity"}  # of equal biases
        nodes = [node for node in self.graph.node if node.op_type != "Identity"]
        for node in nodes:
            node.input[:] = [same.get(name, name) for name in node.input]
            for name in node.input:
                self.readers[name].append(node)
        replaced: dict[str, list[NodeProto]] = {}
        for node in nodes:
            if node.op_type == "QLinearMatMul":
                replaced |= self._in_integers(node)
        nodes = [new for node in nodes for new in replaced.get(node.output[0], [node])]
        read = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in read]
        for field, left in ((self.graph.node, nodes), (self.graph.initializer, kept)):
            del field[:]
            field.extend(left)

    def _in_integers(self, node: "NodeProto") -> "dict[str, list[NodeProto]]":
        """What takes the place of a product and of what follows it, by the outputs of those."""
        from onnx import TensorProto, helper

        x, x_scale, x_zero, weight, weight_scale, weight_zero = node.input[:6]
        (back,) = self.readers[node.output[0]]
        scale = np.float32(self.values[x_scale].item() * self.values[weight_scale].item())
        last, product, steps = back, f"{node.name}_product", []
        if weight in self.values:  # of a layer, not of attention; the engine wants it unsigned
            weight = self._put(node, "weight", (self.values[weight].astype(np.int16) + 128).astype(np.uint8))
            weight_zero = self._put(node, "zero", np.uint8(128))
            (last,) = self.readers[back.output[0]]
            (bias,) = (self.values[name] for name in last.input if name in self.values)
            bias = self._put(node, "bias", np.round(bias / scale).astype(np.int32))
            steps = [helper.make_node("Add", [product, bias], [f"{product}_biased"], f"{product}_add")]
        summed = steps[-1].output[0] if steps else product
        number = f"{product}_float"
        steps = [
            helper.make_node("MatMulInteger", [x, weight, x_zero, weight_zero], [product], product),
            *steps,
            helper.make_node("Cast", [summed], [number], f"{product}_cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [number, self._put(node, "scale", scale)], last.output[:], f"{product}_scale"),
        ]
        return {node.output[0]: [], back.output[0]: [], last.output[0]: steps}

    def _put(self, node: "NodeProto", what: str, value: Any) -> str:
        from onnx import numpy_helper

        name = f"{node.name}.{what}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

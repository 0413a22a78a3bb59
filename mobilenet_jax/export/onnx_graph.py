"""ONNX files, built from the weights layer by layer."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from input_pipeline.preprocessing import MINKOWSKI_NORM
from mobilenet_jax.kernels.depthwise import Padding
from mobilenet_jax.model.mobilenet import BLOCKS, trace_strided_layers

if TYPE_CHECKING:
    from mobilenet_jax.export.network import Network

_Value = str | np.ndarray | np.float32  # the name of a node, or a constant

_OPSET = 17
_IR_VERSION = 9  # of ONNX 1.14, so that runtimes of 2023 and later read the files
_CHANNELS_FIRST, _CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def write(network: "Network", path: Path) -> None:
    """Writes a network. The image is channels-last, as in the other formats; ONNX's convolutions are channels-first."""
    import onnx
    from onnx import helper

    input_type = helper.np_dtype_to_tensor_dtype(np.dtype(network.input_type))
    graph = _Graph()
    output = _add_network(graph, network)
    graph.add("Identity", output, name=network.output)
    shape = _compute_output_shape(network)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "mobilenet_v1",
            [helper.make_tensor_value_info("image", input_type, network.input_shape)],
            [helper.make_tensor_value_info(network.output, onnx.TensorProto.FLOAT, shape)],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


class _Graph:
    """The nodes and constants of an ONNX graph."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operation: str, *inputs: _Value, name: str | None = None, **attributes: Any) -> str:
        """Adds a node; values become constants. Returns the name of its output."""
        from onnx import helper, numpy_helper

        name = name or f"{operation.lower()}_{len(self.nodes)}"
        names = []
        for i, value in enumerate(inputs):
            if isinstance(value, str):
                names.append(value)
            else:
                names.append(f"{name}_{i}")
                self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), names[-1]))
        self.nodes.append(helper.make_node(operation, names, [name], name=name, **attributes))
        return name

    def add_conv(
        self,
        x: str,
        params: dict[str, Any],
        layer: str,
        stride: int = 1,
        padding: Padding = ((0, 0), (0, 0)),
        *,
        depthwise: bool = False,
    ) -> str:
        """Adds a convolution with folded batch normalization, and ReLU6."""
        kernel, (rows, columns) = params[layer]["kernel"], padding
        x = self.add(
            "Conv", x, kernel.transpose(3, 2, 0, 1), params[f"{layer}_bn"]["bias"], strides=(stride, stride),
            pads=(rows[0], columns[0], rows[1], columns[1]), group=kernel.shape[3] if depthwise else 1,
        )  # fmt: skip
        return self.add("Clip", x, np.float32(0), np.float32(6))


def _add_network(graph: _Graph, network: "Network") -> str:
    """Adds all layers and returns the name of the output."""
    params = network.fold()[1]["params"]
    x = "image"
    if not network.raw:
        low, high = map(np.asarray, network.input_scaling)
        x = graph.add("Cast", x, to=1)  # to float32
        x = _remove_color_cast(graph, x) if network.removes_color_cast else x
        x = graph.add("Mul", x, np.float32((high - low) / 255))
        x = graph.add("Add", x, np.float32(low)) if low.any() else x
    x = graph.add("Transpose", x, perm=_CHANNELS_FIRST)
    strided = trace_strided_layers(network.weights.architecture.padding, network.image_size)
    x = graph.add_conv(x, params, "conv1", stride=2, padding=next(strided)[0])
    for index, (_, stride) in enumerate(BLOCKS, start=1):
        padding = next(strided)[0] if stride == 2 else ((1, 1), (1, 1))
        x = graph.add_conv(x, params, f"conv_dw_{index}", stride, padding, depthwise=True)
        x = graph.add_conv(x, params, f"conv_pw_{index}")
    if network.weights.architecture.conv_head:
        x = graph.add_conv(x, params, "conv_head")
    return _add_head(graph, network, params, x)


def _remove_color_cast(graph: _Graph, x: str) -> str:
    """Adds `model.preprocessing.remove_color_cast` and returns the name of its output."""
    powers = graph.add("Pow", graph.add("Div", x, np.float32(255)), np.float32(MINKOWSKI_NORM))
    means = graph.add("ReduceMean", graph.add("ReduceMean", powers, axes=(1,)), axes=(2,))
    means = graph.add("Pow", means, np.float32(1 / MINKOWSKI_NORM))
    gains = graph.add("Div", graph.add("ReduceMean", means, axes=(3,)), graph.add("Max", means, np.float32(1 / 255)))
    return graph.add("Min", graph.add("Round", graph.add("Mul", x, gains)), np.float32(255))


def _add_head(graph: _Graph, network: "Network", params: dict[str, Any], x: str) -> str:
    head = network.weights.architecture.head
    if head in ("article", "article_bn", None):
        x = graph.add("Transpose", x, perm=_CHANNELS_LAST)
    if head is None:
        return x
    if head in ("small", "imagenet"):
        x = graph.add("GlobalAveragePool", x)
    x = graph.add("Flatten", x)
    if head in ("article", "article_bn"):
        for layer in ("dense_1", "dense_2"):
            bias = params[layer]["bias"]
            if head == "article_bn":
                bias = bias + params[f"{layer}_bn"]["bias"]
            x = graph.add("Relu", graph.add("Gemm", x, params[layer]["kernel"], bias))
    last = params["conv_preds" if head == "imagenet" else "predictions"]
    x = graph.add("Gemm", x, last["kernel"].reshape(last["kernel"].shape[-2:]), last["bias"])
    return x if network.raw else graph.add("Softmax", x, axis=-1)


def _compute_output_shape(network: "Network") -> tuple[int, ...]:
    import jax

    image = jax.ShapeDtypeStruct(network.input_shape, network.input_type)
    return jax.eval_shape(network.apply, image).shape


def load(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs the file on one input.

    Args:
        path: the file.
        threads: the number of threads.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})[0]


def count_operations(path: Path) -> Counter[str]:
    """Counts the operations by type."""
    import onnx

    return Counter(node.op_type for node in onnx.load(path).graph.node)

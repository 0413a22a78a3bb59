"""LiteRT files (`.tflite`), formerly TensorFlow Lite. The only module that uses LiteRT's converter and its runtime."""

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import jax

    from mobilenet_jax.export.network import Network

SIGNATURE = "serving_default"


def write(network: "Network", path: Path) -> None:
    """Writes a network in float32."""
    path.write_bytes(convert(network.apply, network, network.input_type))


def convert(function: "Callable[[jax.Array], jax.Array]", network: "Network", input_type: type[np.generic]) -> bytes:
    """Converts a function of one image to the content of a file.

    Args:
        function: a function of JAX, from the shape of the network's input to its output.
        network: specifies that shape and the name of the output.
        input_type: the type of the input.
    """
    import jax
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager

    image = jax.ShapeDtypeStruct(network.input_shape, input_type)
    program = jax.jit(function).trace(image).lower(lowering_platforms=("cpu",)).compiler_ir("stablehlo")
    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context:
        module = ir.Module.parse(program.operation.get_asm(binary=True), context)
        converter.set_signature(module.operation, SIGNATURE, ["image"], [network.output])
        passes = passmanager.PassManager.parse("builtin.module()", context)
        converter.run_convert_to_tfl_passes(module, passes, converter.ConvertToTFLConfig())
        content: bytes = converter.export_flatbuffer_to_bytes(module.operation)
    return content


def load(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs the file on one input.

    Args:
        path: the file.
        threads: the number of threads.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    [source], [target] = interpreter.get_input_details(), interpreter.get_output_details()

    def run(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source["index"], image)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])

    return run


class Operation(NamedTuple):
    """An operation of a file.

    Attributes:
        name: such as `CONV_2D`.
        types: the types of its inputs and outputs, such as `INT8`.
    """

    name: str
    types: frozenset[str]


def list_operations(content: bytes) -> list[Operation]:
    """Lists the operations of a file in their order."""
    from ai_edge_litert import schema_py_generated as schema

    names, types = _name_values(schema.BuiltinOperator), _name_values(schema.TensorType)
    model = _unpack(content)
    [graph] = model.subgraphs
    operations = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        tensors = [graph.tensors[i] for i in [*operator.inputs, *operator.outputs] if i >= 0]
        name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        operations.append(Operation(name, frozenset(types[tensor.type] for tensor in tensors)))
    return operations


def _name_values(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _unpack(content: bytes) -> Any:
    from ai_edge_litert.tools import flatbuffer_utils

    return flatbuffer_utils.read_model_from_bytearray(content)


def accept_pixels(content: bytes, scale: float, zero_point: int) -> bytes:
    """Changes the input of a quantized network from float32 to uint8 pixels, which stand for real numbers.

    DEQUANTIZE computes these numbers. A QUANTIZE from uint8 to int8 alone would give the same, but XNNPACK, which
    computes all other operations, lacks it, and that of the interpreter is slow on x86 (docs/export.md).

    Args:
        content: a network that begins with the conversion of its input to int8, and ends with that of its output to
            float32.
        scale: the difference between the numbers of neighboring pixel values.
        zero_point: the pixel value that stands for 0.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = _unpack(content)
    [graph] = model.subgraphs
    [values], position = graph.inputs, len(graph.tensors)
    pixels = copy.copy(graph.tensors[values])
    pixels.type, pixels.quantization = schema.TensorType.UINT8, schema.QuantizationParametersT()
    pixels.quantization.scale, pixels.quantization.zeroPoint = [scale], [zero_point]
    graph.tensors[values].name = b"values"
    graph.tensors.append(pixels)
    dequantize = copy.copy(graph.operators[-1])
    dequantize.inputs, dequantize.outputs = [position], [values]
    graph.operators.insert(0, dequantize)
    graph.inputs = [position]
    for signature in model.signatureDefs:
        signature.inputs[0].tensorIndex = position
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def find_logits(content: bytes) -> list[str]:
    """Returns the names of the tensors with the logits: the input of the softmax, and that before a change of shape."""
    [graph] = _unpack(content).subgraphs
    found: list[str] = []
    for operator, operation in zip(graph.operators[::-1], list_operations(content)[::-1], strict=True):
        if operation.name not in ("SOFTMAX", "RESHAPE"):
            break
        found.append(graph.tensors[operator.inputs[0]].name.decode())
    return found


def count_operations(path: Path) -> Counter[str]:
    """Counts the operations by type."""
    return Counter(operation.name for operation in list_operations(path.read_bytes()))

"""A model in the form that passes change: nodes, constants and static shapes, instead of ONNX's nested messages.

Only for models whose shapes are all known once symbolic sizes are set (a batch to 1), as in every circuit.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from omron_miner.errors import ConfigError

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise ConfigError(
        "models are rewritten with onnx, which is not installed", "pip install 'omron-miner[tune]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[Any]

FLOAT = onnx.TensorProto.FLOAT
OPSET = 13
"""Opset that older models are converted to: the first in which axes are inputs in all operations that passes use."""
_IR_VERSION = 8


class Graph:
    """A model's nodes in order of computation, its constants by name, its inputs and outputs.

    A pass that replaces a node gives its last new node the old output name, so that nothing after it changes.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
        self.name = graph.name or "model"
        self.constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        self.inputs = [one for one in graph.input if one.name not in self.constants]
        self.outputs = list(graph.output)
        self.nodes = list(graph.node)
        self._domains = [one for one in model.opset_import if one.domain not in ("", "ai.onnx")]
        self._made = 0
        self._shapes: dict[str, tuple[int, ...]] | None = None

    def copy(self) -> Graph:
        """An independent copy."""
        return Graph(copy.deepcopy(self.to_model()))

    def to_model(self) -> onnx.ModelProto:
        """The model, nodes in an order of computation, without constants that nothing uses."""
        self._sort()
        used = {name for node in self.nodes for name in node.input} | {one.name for one in self.outputs}
        constants = [numpy_helper.from_array(array, name) for name, array in self.constants.items() if name in used]
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, constants)
        opsets = [helper.make_opsetid("", self.opset), *self._domains]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="omron-miner")

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def output_names(self) -> list[str]:
        """Names of the model's outputs."""
        return [one.name for one in self.outputs]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor; None when it is not known."""
        if name in self.constants:
            return tuple(self.constants[name].shape)
        if self._shapes is None:
            inferred = onnx.shape_inference.infer_shapes(self.to_model(), data_prop=True).graph
            tensors = [*inferred.value_info, *inferred.input, *inferred.output]
            self._shapes = {one.name: shape for one in tensors if (shape := _static_shape(one)) is not None}
        return self._shapes.get(name)

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that computes a tensor; None for inputs and constants."""
        return next((node for node in self.nodes if name in node.output), None)

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that use a tensor."""
        return [node for node in self.nodes if name in node.input]

    def used_only_by(self, name: str, node: onnx.NodeProto) -> bool:
        """Whether a tensor is not an output of the model and is used by this node alone."""
        return self.consumers(name) == [node] and name not in self.output_names

    def constant_inputs(self, node: onnx.NodeProto, first: int = 1) -> bool:
        """Whether all inputs of a node from the `first` on are constants."""
        return all(name in self.constants for name in node.input[first:] if name)

    # --- changing -----------------------------------------------------------------------------------------------------

    def constant(self, stem: str, values: Array) -> str:
        """A new constant; its name."""
        name = self._new_name(stem)
        self.constants[name] = np.ascontiguousarray(values)
        return name

    def node(self, op: str, inputs: list[str], stem: str, output: str | None = None, **attributes: object) -> str:
        """A new node; the name of what it computes, `output` when given."""
        name = output or self._new_name(stem)
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{name}.{op}", **attributes))
        self._shapes = None
        return name

    def reshape(self, source: str, shape: tuple[int, ...], stem: str, output: str | None = None) -> str:
        """A new Reshape; the name of what it computes."""
        wanted = self.constant(f"{stem}.shape", np.array(shape, np.int64))
        return self.node("Reshape", [source, wanted], stem, output)

    def remove(self, *nodes: onnx.NodeProto) -> None:
        """Removes nodes; another node must compute their outputs before the model is used."""
        gone = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in gone]
        self._shapes = None

    def rewire(self, old: str, new: str) -> None:
        """Makes every user of the tensor `old` use `new`."""
        for node in self.nodes:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new
        self._shapes = None

    def touch(self) -> None:
        """Must be called after changing a node in place: shapes are inferred again."""
        self._shapes = None

    def _new_name(self, stem: str) -> str:
        taken = {*self.constants, *(name for node in self.nodes for name in (*node.input, *node.output))}
        while True:
            self._made += 1
            if (name := f"{stem}~{self._made}") not in taken:
                return name

    def _sort(self) -> None:
        known = {"", *self.constants, *(one.name for one in self.inputs)}
        left, ordered = self.nodes, list[onnx.NodeProto]()
        while left:
            ready = [node for node in left if all(name in known for name in node.input)]
            if not ready:
                raise ConfigError(f"the model uses {left[0].input} which nothing computes", "export the model again")
            waiting = {id(node) for node in ready}
            left = [node for node in left if id(node) not in waiting]
            ordered += ready
            known |= {name for node in ready for name in node.output}
        self.nodes = ordered


def read_graph(path: Path, variables: Mapping[str, int] | None = None) -> Graph:
    """The model in a file, converted to the opset used here, symbolic sizes as in `variables`, others 1.

    Raises ConfigError when it cannot be used.
    """
    sizes = dict(variables or {})
    hint = "name an .onnx file of a model without control flow, exported with fixed sizes"
    try:
        model = onnx.load(path)
        for value in (*model.graph.input, *model.graph.output):
            for size in value.type.tensor_type.shape.dim:
                if not size.dim_value:
                    size.dim_value = sizes.get(size.dim_param, 1)
        del model.graph.value_info[:]  # old sizes; they are inferred again
        onnx.checker.check_model(model)
        version = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
        if version < OPSET:
            model = onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # onnx raises many types: protobuf's, RuntimeError, its own
        raise ConfigError(f"cannot read the model {path}: {str(error)[:300]}", hint) from error
    graph = Graph(model)
    if spoilt := [name for name, array in graph.constants.items() if array.dtype.kind == "f" and np.isnan(array).any()]:
        raise ConfigError(f"{path}: {spoilt[0]} contains NaN", "train or export the model again")
    for one in graph.inputs:
        if one.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            kind = onnx.TensorProto.DataType.Name(one.type.tensor_type.elem_type)
            raise ConfigError(f"{path}: input {one.name} is of {kind}", "only models of 32-bit floats are rewritten")
    return graph


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values."""
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def set_attributes(node: onnx.NodeProto, **values: object) -> None:
    """Sets a node's attributes, replacing those of the same name; None removes one."""
    kept = [one for one in node.attribute if one.name not in values]
    made = [helper.make_attribute(name, value) for name, value in values.items() if value is not None]
    del node.attribute[:]
    node.attribute.extend([*kept, *made])


def _static_shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or any(not size.HasField("dim_value") for size in kind.shape.dim):
        return None
    return tuple(size.dim_value for size in kind.shape.dim)

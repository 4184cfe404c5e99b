"""What onnx-ir drops or refuses survives load -> save all the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from io_canonical import canonical
from io_models import gemm_relu
from onnx import TensorProto as T
from onnx import helper as h

from onnxprune import io
from onnxprune.errors import LoadError, UnsupportedError


def through(model: onnx.ModelProto) -> onnx.ModelProto:
    return io.to_proto(io.load(model).model)


def assert_survives(model: onnx.ModelProto) -> onnx.ModelProto:
    after = through(model)
    assert canonical(model) == canonical(after)
    return after


def test_metadata_and_documentation_everywhere() -> None:
    model = gemm_relu(doc_string="graph doc")
    model.doc_string, model.producer_name, model.domain = "doc", "somebody", "org.example"
    model.producer_version, model.model_version = "3", 7
    model.graph.value_info.append(h.make_tensor_value_info("m", T.FLOAT, ["batch", 2], "info doc"))
    places = [
        model,
        model.graph,
        model.graph.node[0],
        model.graph.input[0],
        model.graph.output[0],
        model.graph.value_info[0],
        model.graph.initializer[0],
    ]
    for i, place in enumerate(places):
        place.metadata_props.add(key="k", value=str(i))
        place.metadata_props.add(key="a", value="ä")
    model.graph.node[0].doc_string = "node doc"
    model.graph.initializer[0].doc_string = "tensor doc"
    model.graph.node[0].attribute.append(h.make_attribute("extra", 1.5, doc_string="attr doc"))
    model.graph.input[0].type.denotation = "IMAGE"
    model.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    assert_survives(model)


def test_duplicate_and_missing_node_names() -> None:
    model = gemm_relu()
    model.graph.node[0].name = model.graph.node[1].name = "same"
    assert [n.name for n in assert_survives(model).graph.node] == ["same", "same"]
    for node in model.graph.node:
        node.ClearField("name")
    assert [n.name for n in assert_survives(model).graph.node] == ["", ""]


def test_overridable_initializer_stays_an_input() -> None:
    model = gemm_relu()
    model.graph.input.append(h.make_tensor_value_info("w", T.FLOAT, [3, 2]))
    assert_survives(model)


def test_initializer_that_is_an_output() -> None:
    model = gemm_relu()
    model.graph.output.append(h.make_tensor_value_info("w", T.FLOAT, [3, 2]))
    assert_survives(model)


def test_value_info_of_an_initializer_only_where_it_was() -> None:
    assert not len(assert_survives(gemm_relu()).graph.value_info)
    model = gemm_relu(value_info=[h.make_tensor_value_info("w", T.FLOAT, [3, 2])])
    assert [i.name for i in assert_survives(model).graph.value_info] == ["w"]


def test_value_info_that_names_nothing() -> None:
    assert_survives(gemm_relu(value_info=[h.make_tensor_value_info("ghost", T.INT8, [4])]))


def test_training_info() -> None:
    model = gemm_relu()
    info = model.training_info.add()
    info.algorithm.name = "step"
    info.algorithm.node.append(h.make_node("Add", ["w", "w"], ["w2"]))
    info.update_binding.add(key="w", value="w2")
    assert_survives(model)
    loaded = io.load(model).model
    loaded.graph.initializers["w"].const_value = ir.tensor(np.ones((3, 1), np.float32))
    with pytest.raises(UnsupportedError, match=r"training information that updates 'w'"):
        io.to_bytes(loaded)


def test_quantization_annotation() -> None:
    model = gemm_relu()
    for name in ["x", "m", "w", "y", "ghost"]:
        annotation = model.graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    assert_survives(model)


def test_input_that_is_also_an_output_keeps_both_descriptions() -> None:
    model = gemm_relu()
    model.graph.output.append(h.make_tensor_value_info("x", T.FLOAT, None))
    after = assert_survives(model)
    assert after.graph.input[0].type.tensor_type.HasField("shape")
    assert io.load(model).model.graph.inputs[0].shape is not None
    model.graph.quantization_annotation.add(tensor_name="x")
    model.graph.quantization_annotation[0].quant_parameter_tensor_names.add(key="k", value="w")
    assert_survives(model)


def test_map_and_opaque_and_untyped_values() -> None:
    model = gemm_relu()
    kind = onnx.TypeProto()
    kind.sequence_type.elem_type.map_type.key_type = T.INT64
    kind.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = T.FLOAT
    model.graph.node.append(h.make_node("ZipMap", ["y"], ["z"], domain="ai.onnx.ml"))
    model.graph.output.append(h.make_value_info("z", kind))
    opaque = onnx.TypeProto()
    opaque.opaque_type.name = "thing"
    model.graph.node.append(h.make_node("Make", ["y"], ["o"], domain="org.example"))
    model.graph.value_info.append(h.make_value_info("o", opaque))
    bare = onnx.TypeProto()
    bare.tensor_type.shape.dim.add().dim_value = 3
    model.graph.node.append(h.make_node("Make", ["y"], ["b"], domain="org.example"))
    model.graph.value_info.append(h.make_value_info("b", bare))
    model.opset_import.extend([h.make_opsetid("ai.onnx.ml", 3), h.make_opsetid("org.example", 1)])
    assert_survives(model)


def test_nested_types_survive() -> None:
    model = gemm_relu()
    inner = h.make_tensor_type_proto(T.FLOAT16, ["n", None, 4])
    kinds = [
        h.make_optional_type_proto(h.make_sequence_type_proto(inner)),
        h.make_sparse_tensor_type_proto(T.DOUBLE, [5, "k"]),
        h.make_sequence_type_proto(h.make_tensor_type_proto(T.STRING, None)),
    ]
    for i, kind in enumerate(kinds):
        model.graph.node.append(h.make_node("Make", ["y"], [f"v{i}"], domain="org.example"))
        model.graph.value_info.append(h.make_value_info(f"v{i}", kind))
    assert_survives(model)


@pytest.mark.parametrize("dim", ["N", "batch size", "2*seq+1", "a-b", "floor(x/2)", "?", "é", "1x"])
def test_symbolic_dimension_text_is_kept(dim: str) -> None:
    model = gemm_relu()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = dim
    assert_survives(model)


def test_attributes_of_every_type() -> None:
    model = gemm_relu()
    result = h.make_tensor_value_info("r", T.FLOAT, None)
    graph = h.make_graph([h.make_node("Relu", ["m"], ["r"])], "inner", [], [result])
    tensor = h.make_tensor("t", T.FLOAT, [2], [1.0, 2.0])
    sparse = h.make_sparse_tensor(
        h.make_tensor("", T.FLOAT, [1], [3.0]), h.make_tensor("", T.INT64, [1], [1]), [4]
    )
    kind = h.make_tensor_type_proto(T.FLOAT, [1])
    mapping = onnx.TypeProto()
    mapping.map_type.key_type = T.INT64
    values = [1, 2.5, "s", [1, 2], [0.1, 0.2], ["a", "b"], tensor, [tensor, tensor], graph]
    values += [
        [graph],
        sparse,
        [sparse],
        kind,
        [kind],
        mapping,
        [kind, mapping],
        b"\xff",
        [b"\xfe"],
    ]
    node = h.make_node("Odd", ["x"], ["odd"], domain="org.example")
    node.attribute.extend(h.make_attribute(f"a{i:02}", v) for i, v in enumerate(values))
    model.graph.node.append(node)
    model.opset_import.append(h.make_opsetid("org.example", 1))
    after = through(model)
    # What onnx-ir cannot hold comes back behind the others; the order means nothing.
    for held in (model, after):
        attributes = sorted(held.graph.node[2].attribute, key=lambda a: a.name)
        copies = [a.SerializeToString() for a in attributes]
        del held.graph.node[2].attribute[:]
        for data in copies:
            held.graph.node[2].attribute.add().ParseFromString(data)
    assert canonical(model) == canonical(after)


def test_attribute_without_type_is_understood() -> None:
    model = gemm_relu()
    model.graph.node[0].op_type = "Conv"
    model.graph.node[0].attribute.append(h.make_attribute("pads", [0, 0, 0, 0]))
    model.graph.node[0].attribute[0].ClearField("type")
    held = io.load(model).model.graph[0].attributes["pads"]
    assert held.type == ir.AttributeType.INTS
    assert list(held.as_ints()) == [0, 0, 0, 0]


def test_unknown_fields_of_model_graph_node_and_function() -> None:
    model = with_function()
    unknown = b"\xfa\x3e\x05hello" + b"\xf8\x3e\x96\x01"  # field 1007: 5 bytes, then varint 150
    unknown += b"\xfd\x3e\x01\x02\x03\x04" + b"\xf9\x3e" + bytes(8)
    places = [model, model.graph, model.graph.node[0], model.functions[0]]
    for place in [*places, model.functions[0].node[0]]:
        place.MergeFromString(unknown)
    before = model.SerializeToString()
    after = through(onnx.ModelProto.FromString(before)).SerializeToString()
    assert after.count(unknown) == before.count(unknown) == 5


def test_unknown_field_of_a_description_is_named() -> None:
    model = gemm_relu()
    model.graph.input[0].type.MergeFromString(b"\xfa\x3e\x05hello")
    with pytest.raises(UnsupportedError, match="'x'"):
        io.load(model)


def with_function() -> onnx.ModelProto:
    function = h.make_function(
        "org.example",
        "Twice",
        ["a"],
        ["b"],
        [
            h.make_node("Constant", [], ["two"], value=h.make_tensor("", T.FLOAT, [], [2.0])),
            h.make_node("Mul", ["a", "two"], ["b"]),
        ],
        [h.make_opsetid("", 18)],
        attributes=["alpha"],
    )
    function.attribute_proto.append(h.make_attribute("beta", 3))
    function.metadata_props.add(key="k", value="v")
    function.doc_string = "doubles"
    function.value_info.append(h.make_tensor_value_info("two", T.FLOAT, []))
    model = gemm_relu()
    model.functions.append(function)
    model.graph.node.append(h.make_node("Twice", ["y"], ["t"], domain="org.example"))
    model.opset_import.append(h.make_opsetid("org.example", 1))
    return model


def test_functions() -> None:
    assert_survives(with_function())


def test_domain_spelled_out() -> None:
    model = gemm_relu()
    model.opset_import[0].domain = "ai.onnx"
    assert io.load(model).model.graph.opset_imports == {"": 18}
    assert_survives(model)


DTYPES = [t for t in ir.DataType if t not in (ir.DataType.UNDEFINED, ir.DataType.STRING)]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.name)
def test_tensor_of_every_type(dtype: ir.DataType, raw: bool) -> None:
    model = gemm_relu()
    values = np.array([0, 1, 1, 0, 1], dtype=dtype.numpy())
    if raw:
        held = ir.serde.serialize_tensor(ir.Tensor(values, dtype=dtype, name="t"))
    else:
        try:
            held = h.make_tensor("t", dtype.value, [5], [0, 1, 1, 0, 1])
        except Exception:
            pytest.skip(f"onnx cannot make a typed {dtype.name} tensor")
    model.graph.initializer.append(held)
    model.graph.initializer.add(name="empty", data_type=dtype.value).dims.extend([0, 3])
    assert_survives(model)


def test_string_tensor() -> None:
    model = gemm_relu()
    model.graph.initializer.append(h.make_tensor("s", T.STRING, [2], [b"a", "ü".encode()]))
    model.graph.node.append(
        h.make_node("Constant", [], ["c"], value=h.make_tensor("c", T.STRING, [1], [b"\xff"]))
    )
    assert_survives(model)


def test_values_of_an_if_branch_from_outside() -> None:
    info = [h.make_tensor_value_info("o", T.FLOAT, None)]
    outer = h.make_tensor_value_info("m", T.FLOAT, ["batch", 2])
    branches = [
        h.make_graph([h.make_node(op, ["m"], ["o"])], op, [], info, value_info=[outer])
        for op in ("Relu", "Neg")
    ]
    model = gemm_relu(value_info=[outer])
    model.graph.initializer.append(h.make_tensor("c", T.BOOL, [], [True]))
    model.graph.node.append(
        h.make_node("If", ["c"], ["f"], then_branch=branches[0], else_branch=branches[1])
    )
    assert_survives(model)
    # After pruning, the description inside follows the value outside.
    loaded = io.load(model).model
    loaded.graph[0].outputs[0].shape = ir.Shape(["batch", 1])
    after = io.to_proto(loaded)
    inner = after.graph.node[2].attribute[0].g.value_info[0]
    assert inner.type.tensor_type.shape.dim[1].dim_value == 1


@pytest.mark.skipif(onnx.IR_VERSION < 11, reason="this onnx has no device configurations")
def test_device_configuration_needs_its_ir_version() -> None:
    model = gemm_relu()
    model.graph.node[0].device_configurations.add(configuration_id="c")
    with pytest.raises(UnsupportedError, match="'mm'"):
        io.load(model)
    model.ir_version = 11
    model.configuration.add(name="c", num_devices=1)
    assert_survives(model)


def test_nameless_initializer_is_an_error() -> None:
    model = gemm_relu()
    model.graph.initializer.append(h.make_tensor("", T.FLOAT, [1], [1.0]))
    with pytest.raises(UnsupportedError, match="without a name"):
        io.load(model)


def test_attribute_given_twice_is_an_error() -> None:
    model = gemm_relu()
    model.graph.node[0].attribute.extend([h.make_attribute("a", 1), h.make_attribute("a", 2)])
    with pytest.raises(LoadError, match=r"'mm'.*'a'"):
        io.load(model)


def test_functions_that_cannot_be_carried() -> None:
    model = with_function()
    model.functions.append(model.functions[0])
    with pytest.raises(LoadError, match=r"'org\.example::Twice' is defined twice"):
        io.load(model)
    model = with_function()
    held = model.functions[0].attribute_proto.add(name="default")
    held.type = onnx.AttributeProto.SPARSE_TENSOR
    with pytest.raises(UnsupportedError, match="'default' of function"):
        io.load(model)

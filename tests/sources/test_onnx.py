"""Networks from ONNX models, compared with ONNX Runtime's outputs; and models that are none, or lie."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest

import dasksdnn as sdnn
from dasksdnn.errors import InputError
from dasksdnn.sources.onnx import from_onnx

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'dasksdnn[formats]'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RNG = np.random.default_rng(7)


def model_of(
    nodes, constants, *, widths=(5, 3), opset=13, columns=False, inputs=("x",), outputs=("y",), dtype=np.float32
):
    """A model from nodes as (op, inputs, output, attributes)."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shapes = [[n, "samples"] if columns else ["samples", n] for n in widths]
    graph = helper.make_graph(
        [helper.make_node(op, takes, [gives], f"n{k}", **a) for k, (op, takes, gives, a) in enumerate(nodes)],
        "g",
        [helper.make_tensor_value_info(name, kind, shapes[0]) for name in inputs],
        [helper.make_tensor_value_info(name, kind, shapes[-1]) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def f4(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def agrees(model, net, tmp_path, columns=False):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime")
    onnx.checker.check_model(model)
    x = f4(11, net.widths[0])
    session = runtime.InferenceSession(model.SerializeToString())
    (right,) = session.run(None, {session.get_inputs()[0].name: x.T if columns else x})
    y = sdnn.infer(sdnn.save(net, tmp_path / "net.zarr"), x).compute()
    np.testing.assert_allclose(y, right.T if columns else right, rtol=1e-5, atol=1e-5)


CHAINS = {
    "gemm": ([("Gemm", ["x", "w", "b"], "y", {"transB": 1})], {"w": f4(3, 5), "b": f4(3)}),
    "gemm without bias": ([("Gemm", ["x", "w"], "y", {})], {"w": f4(5, 3)}),
    "alpha and beta": ([("Gemm", ["x", "w", "b"], "y", {"alpha": 0.5, "beta": -2.0})], {"w": f4(5, 3), "b": f4(1, 3)}),
    "beta zero": ([("Gemm", ["x", "w", "b"], "y", {"beta": 0.0})], {"w": f4(5, 3), "b": f4(3)}),
    "scalar bias": ([("Gemm", ["x", "w", "b"], "y", {})], {"w": f4(5, 3), "b": f4()}),
    "matmul": (
        [
            ("MatMul", ["x", "w"], "a", {}),
            ("Add", ["b", "a"], "c", {}),
            ("Relu", ["c"], "d", {}),
            ("MatMul", ["d", "v"], "y", {}),
        ],
        {"w": f4(5, 4), "b": f4(4), "v": f4(4, 3)},
    ),
    "clip": (
        [("Gemm", ["x", "w"], "a", {}), ("Relu", ["a"], "c", {}), ("Clip", ["c", "", "high"], "y", {})],
        {"w": f4(5, 3), "high": np.float32(0.5)},
    ),
    "clip that is relu": (
        [("Gemm", ["x", "w"], "a", {}), ("Clip", ["a", "low"], "y", {})],
        {"w": f4(5, 3), "low": np.float32(0)},
    ),
    "smooth": (
        [
            *[("Flatten", ["x"], "f", {}), ("Gemm", ["f", "w", "b"], "a", {}), ("Sigmoid", ["a"], "c", {})],
            *[("Gemm", ["c", "v"], "d", {}), ("Tanh", ["d"], "e", {}), ("Gemm", ["e", "v"], "g", {})],
            *[("LeakyRelu", ["g"], "h", {"alpha": 0.3}), ("Identity", ["h"], "y", {})],
        ],
        {"w": f4(5, 3), "b": f4(3), "v": f4(3, 3)},
    ),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_outputs_agree(kind, tmp_path):
    model = model_of(*CHAINS[kind])
    agrees(model, from_onnx(model), tmp_path)
    onnx.save(model, tmp_path / "m.onnx")
    for a, b in zip(from_onnx(tmp_path / "m.onnx"), from_onnx(model), strict=True):
        assert (a.weights != b.weights).nnz == 0


def test_samples_as_columns(tmp_path):
    nodes = [
        *[("MatMul", ["w", "x"], "a", {}), ("Add", ["a", "b"], "c", {}), ("Relu", ["c"], "d", {})],
        ("Gemm", ["v", "d", "e"], "y", {"transA": 1, "alpha": 2.0}),
    ]
    model = model_of(nodes, {"w": f4(4, 5), "b": f4(4, 1), "v": f4(4, 3), "e": f4(3, 1)}, columns=True)
    agrees(model, from_onnx(model), tmp_path, columns=True)


def test_constant_nodes_and_sparse_initializers(tmp_path):
    model = model_of([("Gemm", ["x", "w", "b"], "y", {})], {})
    dense = f4(5, 3)
    dense[dense < 0.2] = 0
    rows, columns = dense.nonzero()
    values = numpy_helper.from_array(dense[rows, columns], "w")
    flat = numpy_helper.from_array(rows * 3 + columns, "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, flat, [5, 3]))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["b"], value_floats=[1.0, 2.0, 3.0]))
    net = from_onnx(model)
    assert net.edges == rows.size
    agrees(model, net, tmp_path)
    pairs = numpy_helper.from_array(np.stack([rows, columns], 1), "i")
    model.graph.sparse_initializer[0].CopyFrom(helper.make_sparse_tensor(values, pairs, [5, 3]))
    assert (from_onnx(model)[0].weights != net[0].weights).nnz == 0
    for bad in (np.array([99]), np.array([-1]), np.array([[0, 7]]), np.array([0, 1])):
        one = numpy_helper.from_array(np.ones(1, np.float32), "w")
        places = numpy_helper.from_array(bad, "i")
        model.graph.sparse_initializer[0].CopyFrom(helper.make_sparse_tensor(one, places, [5, 3]))
        with pytest.raises(InputError, match="'w'"):
            from_onnx(model)[0]


def test_a_softmax_at_the_end(tmp_path):
    nodes = [("Gemm", ["x", "w"], "a", {}), ("Softmax", ["a"], "y", {})]
    model = model_of(nodes, {"w": f4(5, 3)})
    (note,) = (net := from_onnx(model)).notes
    assert "'n1' (Softmax)" in note
    agrees(
        model_of([("Gemm", ["x", "w"], "y", {})], {"w": numpy_helper.to_array(model.graph.initializer[0])}),
        net,
        tmp_path,
    )
    with pytest.raises(InputError, match=r"n1.*Softmax.*is along axis 0"):
        from_onnx(model_of([nodes[0], ("Softmax", ["a"], "y", {"axis": 0})], {"w": f4(5, 3)}))
    with pytest.raises(InputError, match=r"n1.*Softmax.*is along axis 5"):
        from_onnx(model_of([nodes[0], ("Softmax", ["a"], "y", {"axis": 5})], {"w": f4(5, 3)}))
    with pytest.raises(InputError, match=r"n1.*Softmax.*is followed by node 'n2' \(Relu\)"):
        from_onnx(model_of([nodes[0], ("Softmax", ["a"], "b", {}), ("Relu", ["b"], "y", {})], {"w": f4(5, 3)}))


def test_bounds_and_biases_that_are_sparse(tmp_path):
    model = model_of([("Gemm", ["x", "w", "b"], "a", {}), ("Clip", ["a", "low"], "y", {})], {"w": f4(5, 3)})
    for name, value, shape in (("b", 2, [1, 3]), ("low", 0, [1, 1])):
        values, places = numpy_helper.from_array(np.float32([value]), name), numpy_helper.from_array(np.array([0]), "i")
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, shape))
    (layer,) = from_onnx(model)
    assert (layer.bias.tolist(), str(layer.activation)) == ([2, 0, 0], "relu")


@pytest.mark.parametrize("dtype", [np.int8, np.int32])
def test_factors_of_whole_numbers(dtype):
    constants = {"w": np.array([[100], [3]], dtype), "b": np.array([3], dtype)}
    (layer,) = from_onnx(model_of([("Gemm", ["x", "w", "b"], "y", {"alpha": 2.5, "beta": 0.5})], constants))
    assert (layer.weights.toarray().tolist(), layer.bias.tolist()) == ([[250, 7.5]], [1.5])


def test_bounds_keep_their_decimals():
    nodes = [("Gemm", ["x", "w"], "a", {}), ("Clip", ["a", "low", "high"], "y", {})]
    bounds = {"low": np.float32(0), "high": np.float32(0.1)}
    assert str(from_onnx(model_of(nodes, {"w": f4(5, 3)} | bounds))[0].activation) == "clip:0.1"
    old = [nodes[0], ("Clip", ["a"], "y", {"min": 0.0, "max": 0.1})]
    assert str(from_onnx(model_of(old, {"w": f4(5, 3)}, opset=9))[0].activation) == "clip:0.1"


def test_clip_and_softmax_of_old_opsets():
    nodes = [("Gemm", ["x", "w"], "a", {}), ("Clip", ["a"], "b", {"min": 0.0, "max": 3.0}), ("Softmax", ["b"], "y", {})]
    net = from_onnx(model_of(nodes, {"w": f4(5, 3)}, opset=9))
    assert str(net[0].activation) == "clip:3"
    assert net.notes


def test_a_model_that_pytorch_wrote(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(6, 5), nn.ReLU6(), nn.Linear(5, 4), nn.LeakyReLU(0.1), nn.Linear(4, 3), nn.Tanh()
    )
    with warnings.catch_warnings():  # the exporter that needs no other package is not the one by default
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (torch.ones(2, 6),),
            tmp_path / "m.onnx",
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
    net = from_onnx(tmp_path / "m.onnx")
    assert [str(layer.activation) for layer in net] == ["clip:6", "leaky_relu:0.1", "tanh"]
    agrees(onnx.load(tmp_path / "m.onnx"), net, tmp_path)
    for mine, right in zip(net, sdnn.from_torch(model), strict=True):
        assert (mine.weights != right.weights).nnz == 0


def test_pruned_while_read_and_dtypes():
    model = model_of(*CHAINS["matmul"])
    assert from_onnx(model, density=0.25).edges == 5 + 3
    assert from_onnx(model, density=0.25, scope="global").edges == 8
    assert from_onnx(model, dtype="float64").dtype == np.float64
    half = model_of([("Gemm", ["x", "w"], "y", {})], {"w": f4(5, 3).astype(np.float16)}, dtype=np.float16)
    assert from_onnx(half)[0].weights.dtype == np.float32


W, V = {"w": f4(5, 3)}, {"w": f4(5, 4), "v": f4(3, 3)}
GEMM = ("Gemm", ["x", "w"], "a", {})


@pytest.mark.parametrize(
    ("nodes", "constants", "words"),
    [
        ([GEMM, ("Conv", ["a", "w"], "y", {})], W, r"node 'n1' \(Conv\): operator Conv is not supported; use Gemm"),
        ([GEMM, ("Softplus", ["a"], "y", {})], W, r"node 'n1' \(Softplus\)"),
        (
            [GEMM, ("Relu", ["a"], "b", {}), ("Add", ["a", "b"], "y", {})],
            W,
            r"n2.*\(Add\): takes 'a', which is no constant",
        ),
        ([GEMM, ("Gemm", ["x", "w"], "y", {})], W, r"n1.*\(Gemm\): does not take 'a' alone"),
        ([GEMM, ("Add", ["a", "a"], "y", {})], W, r"n1.*\(Add\): does not take 'a' alone"),
        (
            [GEMM, ("Gemm", ["a", "v"], "y", {})],
            V,
            r"n1.*\(Gemm\): 3 outputs x 3 inputs does not follow .*n0.* 4 outputs",
        ),
        ([GEMM, ("MatMul", ["w", "a"], "y", {})], W, r"n1.*multiplies from the other side"),
        ([("Gemm", ["x", "w"], "y", {"transA": 1})], W, r"n0.*transposes the samples"),
        ([("Relu", ["x"], "y", {})], W, r"n0.*\(Relu\): is an activation of the input"),
        (
            [GEMM, ("Relu", ["a"], "b", {}), ("Add", ["b", "c"], "y", {})],
            W | {"c": f4(3)},
            r"n2.*\(Add\): adds to what is no",
        ),
        ([GEMM, ("Add", ["a", "c"], "y", {})], W | {"c": f4(4)}, r"n1.*shape \(4,\) where a bias for 3 outputs"),
        ([GEMM, ("Add", ["a", "c"], "y", {})], W | {"c": f4(2, 3)}, r"n1.*shape \(2, 3\)"),
        ([GEMM, ("Clip", ["a", "c"], "y", {})], W | {"c": f4(3)}, r"n1.*bound of shape \(3,\)"),
        ([GEMM, ("Clip", ["a", "c"], "y", {})], W | {"c": np.float32(-1)}, r"n1.*bounds -1 to inf are none of"),
        ([GEMM, ("Clip", ["a", "c"], "y", {})], W | {"c": np.float32("nan")}, r"n1.*a bound that is no number"),
        ([GEMM, ("Tanh", ["a"], "b", {}), ("Sigmoid", ["b"], "y", {})], W, r"n2.*sigmoid follows another"),
        ([("Gemm", ["x", "w"], "y", {})], {"w": f4(5)}, "n0.*the weights: has 1 dimension"),
        ([("Gemm", ["x", "w"], "y", {"alpha": "half"})], W, "n0.*attribute 'alpha' is no number"),
        ([("Gemm", ["x", "w"], "y", {})], {"w": f4(5, 3) > 0, "b": f4(3)}, None),
        ([("Gemm", ["x", "w"], "y", {})], {"w": f4(5, 3).astype(complex)}, "'w': is of complex128"),
        ([GEMM, ("Relu", ["a"], "b", {})], W, "gives 'y', which is not the last"),
        ([("Flatten", ["x"], "f", {"axis": 0}), ("Gemm", ["f", "w"], "y", {})], W, "n0.*does not keep samples as rows"),
    ],
)
def test_graphs_that_are_no_chain(nodes, constants, words):
    if words is None:
        assert from_onnx(model_of(nodes, constants))[0].weights.dtype == np.float32
        return
    with pytest.raises(InputError, match=words) as caught:
        from_onnx(model_of(nodes, constants))
    assert "\n" not in str(caught.value)


def test_attributes_that_hold_nothing():
    model = model_of([("Gemm", ["x", "w"], "y", {})], W)
    for change in ({"type": 0}, {"type": 1, "ref_attr_name": "other"}):
        del model.graph.node[0].attribute[:]
        model.graph.node[0].attribute.add(name="alpha", **change)
        with pytest.raises(InputError, match=r"n0.*attribute 'alpha' is no number"):
            from_onnx(model)


@pytest.mark.parametrize("change", [{"type": 0}, {"type": 3, "s": b"abc"}, {"type": 5, "g": onnx.GraphProto(name="g")}])
def test_constant_nodes_that_lie(change):
    model = model_of([("Gemm", ["x", "w"], "y", {})], W)
    node = model.graph.node.add(op_type="Constant", output=["k"])
    node.attribute.add(name="value_float", **change)
    with pytest.raises(InputError, match=r"\(Constant\) holds value_float, which is no number"):
        from_onnx(model)


def test_more_than_one_input_or_output():
    nodes = [("Gemm", ["x", "w"], "y", {})]
    with pytest.raises(InputError, match="has 2 inputs; a network has one"):
        from_onnx(model_of(nodes, W, inputs=("x", "z")))
    with pytest.raises(InputError, match="has 2 outputs"):
        from_onnx(model_of(nodes, W, outputs=("y", "z")))
    other = model_of([("Gemm", ["x", "w"], "y", {})], W)
    other.graph.node[0].domain = "com.microsoft"
    with pytest.raises(InputError, match="operator Gemm is not supported"):
        from_onnx(other)
    with pytest.raises(InputError, match="int is no ONNX model"):
        from_onnx(3)


def test_files_that_are_none(tmp_path):
    path = tmp_path / "m.onnx"
    whole = model_of(*CHAINS["matmul"]).SerializeToString()
    for body in (b"", b"garbage" * 30, whole[: len(whole) // 2], whole[:-3]):
        path.write_bytes(body)
        with pytest.raises(InputError, match=r"m\.onnx") as caught:
            from_onnx(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        from_onnx(tmp_path / "none.onnx")


@pytest.mark.parametrize("dims", [[1 << 30, 1 << 30], [5, 4], [-1, 3], [5, -3]])
def test_tensors_that_lie_about_their_size(dims):
    model = model_of([("Gemm", ["x", "w"], "y", {})], {"w": f4(5, 3)})
    model.graph.initializer[0].dims[:] = dims
    with pytest.raises(InputError, match=r"'w': (does not hold|has shape)"):
        from_onnx(model)  # before anyone asks for a layer: a store of what is only claimed would be begun


@pytest.fixture
def external(tmp_path):
    """A model in a folder, its weights in a file beside it; `change(location=...)` writes it anew."""
    folder = tmp_path / "model"
    folder.mkdir()
    weights = f4(5, 3)

    def change(**entries):
        model = model_of([("Gemm", ["x", "w"], "y", {})], {"w": weights})
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in ({"location": "w.bin", "offset": 4, "length": weights.nbytes} | entries).items():
            tensor.external_data.add(key=key, value=str(value))
        (folder / "m.onnx").write_bytes(model.SerializeToString())
        return folder / "m.onnx"

    for place in (folder, tmp_path):
        (place / "w.bin").write_bytes(b"1234" + weights.tobytes())
    change.weights = weights
    return change


def test_data_beside_the_model(external, tmp_path, monkeypatch):
    np.testing.assert_array_equal(from_onnx(external())[0].weights.toarray(), external.weights.T)
    monkeypatch.chdir(external().parent)
    np.testing.assert_array_equal(from_onnx("m.onnx")[0].weights.toarray(), external.weights.T)
    with pytest.raises(InputError, match="its data are in another file"):
        from_onnx(onnx.load("m.onnx", load_external_data=False))[0]


def test_data_outside_the_models_folder_are_not_read(external, tmp_path):
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "w.bin")
    (tmp_path / "model2").mkdir()
    (tmp_path / "model2" / "w.bin").write_bytes((tmp_path / "w.bin").read_bytes())
    for location in ("../w.bin", tmp_path / "w.bin", "link.bin", "", "../model2/w.bin", "/dev/zero", "a\0b"):
        with pytest.raises(InputError, match="is not in the model's folder; not read"):
            from_onnx(external(location=location))[0]


@pytest.mark.parametrize(
    "entries",
    [{"offset": 5}, {"offset": -4}, {"length": 4}, {"length": 1 << 60}, {"offset": "x"}, {"location": "none.bin"}],
)
def test_data_beside_the_model_that_do_not_fit(entries, external):
    with pytest.raises(InputError, match=r"claims|no number|no such file"):
        from_onnx(external(**entries))[0]


def test_data_beside_the_model_may_be_a_pipe(external, tmp_path):
    os.mkfifo(tmp_path / "model" / "pipe")
    with pytest.raises(InputError, match="claims"):
        from_onnx(external(location="pipe"))[0]

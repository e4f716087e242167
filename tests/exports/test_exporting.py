"""Exports of every format: read again by us and by the tools they are for, whole or not at all, a layer at a time."""

from __future__ import annotations

import gc
import json
import os
import warnings
import weakref

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from networks import ACTIVATIONS, random_input

import dasksdnn as sdnn
from dasksdnn.errors import InputError, OutputExistsError, StoreError
from dasksdnn.exports.formats import FORMATS
from dasksdnn.network import Activation, Layer, Network
from dasksdnn.sources.arrays import from_mtx, from_npz

NEEDS = {"torch": "torch", "onnx": "onnx", "h5ad": "h5py"}
STREAMING = [name for name in FORMATS if name not in ("torch", "onnx")]
LAYOUTS = [(name, layout) for name, form in FORMATS.items() for layout in form.layouts]


def need(library):
    return pytest.importorskip(library, reason=f"{library} is not installed: pip install 'dasksdnn[test-formats]'")


def network(dtype="float32"):
    """Every activation, odd widths, an empty layer's rows, a stored zero."""
    rng = np.random.default_rng(2)
    widths = [7, 5, 9, 6, 8, 4, 3]
    layers = []
    for k, kind in enumerate(ACTIVATIONS):
        shape = (widths[k + 1], widths[k])
        weights = scipy.sparse.random_array(shape, density=0.4, rng=rng, dtype=np.dtype(dtype)).tocsr()
        layers.append(Layer(weights, rng.normal(size=shape[0]).astype(dtype), Activation.parse(kind)))
    layers[1].weights.data[2] = 0
    return Network.from_layers(layers)


@pytest.fixture(params=["float32", "float64"])
def net(request):
    return network(request.param)


@pytest.fixture
def x():
    return random_input(1, 12, 7)


def same(mine, net, zeros=True):
    assert mine.widths == net.widths
    assert mine.dtype == net.dtype
    for a, b in zip(mine, net, strict=True):
        assert (a.weights != b.weights).nnz == 0
        assert a.edges == (b.edges if zeros else b.weights.count_nonzero())
        np.testing.assert_array_equal(a.bias, b.bias)
        assert a.activation == b.activation


def agrees(net, x, given):
    y = x.astype(net.dtype).T
    for layer in net:
        z = layer.weights @ y + layer.bias[:, None]
        parameter = layer.activation.parameter
        y = {
            "relu": lambda z: np.maximum(z, 0),
            "clip": lambda z, p=parameter: np.clip(z, 0, p),
            "leaky_relu": lambda z, p=parameter: np.where(z > 0, z, p * z),
            "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
            "tanh": np.tanh,
            "identity": lambda z: z,
        }[layer.activation.name](z)
    np.testing.assert_allclose(given, y.T, rtol=1e-5, atol=1e-6)


def read_again(path, form):
    if form in ("npz", "mtx"):
        return {"npz": from_npz, "mtx": from_mtx}[form]([path])
    if form == "torch":
        return sdnn.from_torch(path)
    if form == "onnx":
        from dasksdnn.sources.onnx import from_onnx

        return from_onnx(path)
    from dasksdnn.sources.safetensors import from_safetensors

    need("safetensors")
    return from_safetensors(path)


@pytest.mark.parametrize(
    ("form", "layout"), [f for f in LAYOUTS if f[0] in ("npz", "mtx", "torch", "onnx", "safetensors")]
)
def test_we_read_it_again(form, layout, net, tmp_path):
    need(NEEDS.get(form, "numpy"))
    stored = sdnn.save(net, tmp_path / "net.zarr", partition=sdnn.partition(net, 2, method="block"))
    for source in (net, stored, tmp_path / "net.zarr", str(tmp_path / "net.zarr")):
        path = sdnn.export(source, tmp_path / "out", form, layout=layout, overwrite=True)
        same(read_again(path, form), net, zeros=layout != "dense")


# -- the tools that the formats are for


def test_scipy_and_numpy(net, tmp_path):
    for form, read in (("npz", scipy.sparse.load_npz), ("mtx", scipy.io.mmread)):
        sdnn.export(net, tmp_path / form, form)
        for k, layer in enumerate(net, 1):
            with warnings.catch_warnings():  # newer releases of SciPy will return arrays
                warnings.simplefilter("ignore", DeprecationWarning)
                found = read(tmp_path / form / f"layer-{k:04}.{form}")
            assert (scipy.sparse.csr_array(found).astype(net.dtype) != layer.weights).nnz == 0
            np.testing.assert_array_equal(np.load(tmp_path / form / f"bias-{k:04}.npy"), layer.bias)


def test_pydata_sparse(net, tmp_path):
    import sparse

    sdnn.export(net, tmp_path / "out", "sparse")
    for k, layer in enumerate(net, 1):
        found = sparse.load_npz(tmp_path / "out" / f"layer-{k:04}.npz")
        assert isinstance(found, sparse.GCXS)
        np.testing.assert_array_equal(found.todense(), layer.weights.toarray())


@pytest.mark.parametrize("layout", FORMATS["torch"].layouts)
def test_torch(layout, net, x, tmp_path):
    torch = need("torch")
    with warnings.catch_warnings():  # sparse layouts are in beta
        warnings.simplefilter("ignore", UserWarning)
        model = sdnn.to_torch(net, layout=layout)
        with torch.no_grad():
            agrees(net, x, model(torch.from_numpy(x.astype(net.dtype))).numpy())
        same(sdnn.from_torch(model), net, zeros=layout != "dense")
        state = torch.load(sdnn.export(net, tmp_path / "out.pt", "torch", layout=layout), weights_only=True)
        other = sdnn.to_torch(Network(net.widths, lambda k: zeroed(net[k]), net.dtype), layout=layout)
        other.load_state_dict(state)
        with torch.no_grad():
            agrees(net, x, other(torch.from_numpy(x.astype(net.dtype))).numpy())


def zeroed(layer):
    weights = layer.weights.copy()
    weights.data[:] = 0
    return Layer(weights, np.zeros_like(layer.bias), layer.activation)


def test_masked_training_keeps_the_pattern(tmp_path):
    torch = need("torch")
    net = sdnn.random_sparse([6, 5, 4], [0.5, 0.5])
    model = sdnn.to_torch(net, layout="masked")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.ones(3, 6)).square().sum().backward()
    optimizer.step()
    for a, b in zip(sdnn.from_torch(model), net, strict=True):
        np.testing.assert_array_equal(a.weights.indices, b.weights.indices)
    assert (sdnn.from_torch(model)[1].weights != net[1].weights).nnz


def test_torch_layouts_are_named():
    need("torch")
    with pytest.raises(InputError, match="layout 'sparse': use one of dense, masked, csr"):
        sdnn.to_torch(network(), layout="sparse")


def test_safetensors(net, x, tmp_path):
    torch = need("torch")
    need("safetensors")
    from safetensors.torch import load_file

    model = sdnn.to_torch(Network(net.widths, lambda k: zeroed(net[k]), net.dtype))
    model.load_state_dict(load_file(sdnn.export(net, tmp_path / "out.safetensors", "safetensors")))
    with torch.no_grad():
        agrees(net, x, model(torch.from_numpy(x.astype(net.dtype))).numpy())
    found = load_file(sdnn.export(net, tmp_path / "csr.safetensors", "safetensors", layout="csr"))
    np.testing.assert_array_equal(found["0.weight.values"].numpy(), net[0].weights.data)


def test_dense_rows_are_written_in_blocks(monkeypatch, tmp_path):
    from dasksdnn.exports import safetensors as writer

    need("safetensors")
    net = network()
    whole = sdnn.export(net, tmp_path / "a", "safetensors").read_bytes()
    monkeypatch.setattr(writer, "_BLOCK", 50)
    assert sdnn.export(net, tmp_path / "b", "safetensors").read_bytes() == whole


@pytest.mark.parametrize("layout", FORMATS["onnx"].layouts)
def test_onnxruntime(layout, net, x, tmp_path):
    onnx = need("onnx")
    runtime = need("onnxruntime")
    if net.dtype == np.float64:  # ONNX Runtime has no leaky_relu of it
        net = Network.from_layers(
            [Layer(v.weights, v.bias, Activation.parse("relu")) if k == 2 else v for k, v in enumerate(net)]
        )
    path = sdnn.export(net, tmp_path / "out.onnx", "onnx", layout=layout)
    onnx.checker.check_model(onnx.load(path))
    (given,) = runtime.InferenceSession(path).run(None, {"samples": x.astype(net.dtype)})
    agrees(net, x, given)


def test_slopes_that_onnx_would_change(tmp_path):
    need("onnx")
    for dtype, slope in (("float32", 1 / 3), ("float64", 0.1), ("float64", 1 / 3)):
        layer = Layer(scipy.sparse.csr_array(np.ones((2, 2), dtype)), np.zeros(2), Activation("leaky_relu", slope))
        net = Network.from_layers([layer])
        if (dtype, slope) != ("float64", 1 / 3):
            found = read_again(sdnn.export(net, tmp_path / "out", "onnx", overwrite=True), "onnx")
            assert np.dtype(dtype).type(found[0].activation.parameter) == np.dtype(dtype).type(slope)
            continue
        with pytest.raises(InputError, match=r"leaky_relu:0\.333.* of layer1: ONNX has slopes in float32"):
            sdnn.export(net, tmp_path / "other", "onnx")
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_name_that_is_no_text(form, tmp_path):
    need(NEEDS.get(form, "numpy"))
    net = Network.from_layers(list(network()), name=os.fsdecode(b"net-\xff"))
    assert sdnn.export(net, tmp_path / "out", form).exists()


def test_onnx_beyond_its_limit(monkeypatch, tmp_path):
    need("onnx")
    from dasksdnn.exports import onnx as writer

    monkeypatch.setattr(writer, "_MOST", 500)
    with pytest.raises(InputError, match=r"holds 2 GiB, the weights take 1\.8 KiB: use layout csr"):
        sdnn.export(network("float64"), tmp_path / "out", "onnx")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("form", ["anndata", "h5ad"])
def test_anndata(form, net, tmp_path):
    anndata = need("anndata")
    path = sdnn.export(net, tmp_path / f"out.{form}", form)
    found = (anndata.read_zarr if form == "anndata" else anndata.read_h5ad)(path)
    assert found.shape == (0, 0)
    assert sorted(found.uns) == [f"layer-{k:04}" for k in range(1, 7)]
    for k, layer in enumerate(net, 1):
        weights = found.uns[f"layer-{k:04}"]["weights"]
        assert weights.format == "csr"
        assert weights.nnz == layer.edges
        assert (scipy.sparse.csr_array(weights) != layer.weights).nnz == 0
        np.testing.assert_array_equal(found.uns[f"layer-{k:04}"]["bias"], layer.bias)


def test_anndata_elements_alone(tmp_path):
    anndata = need("anndata")
    import zarr

    net = network()
    root = zarr.open_group(sdnn.export(net, tmp_path / "out.zarr", "anndata"), mode="r")
    found = anndata.io.read_elem(root["uns/layer-0003/weights"])
    assert (scipy.sparse.csr_array(found) != net[2].weights).nnz == 0
    lazy = anndata.io.sparse_dataset(root["uns/layer-0003/weights"])
    np.testing.assert_array_equal(lazy[1:3].toarray(), net[2].weights[1:3].toarray())
    assert root["uns/layer-0002"].attrs["activation"] == "clip:2"


def test_binsparse(net, tmp_path):
    binsparse = need("binsparse")
    import zarr

    root = zarr.open_group(sdnn.export(net, tmp_path / "out.zarr", "binsparse"), mode="r")
    for k, layer in enumerate(net, 1):
        group = root[f"layer-{k:04}"]
        tensors = (
            binsparse.BinsparseTensor.parse(binsparse.ZarrBinsparseContainer(group[n])) for n in ("weights", "bias")
        )
        weights, bias = tensors
        assert isinstance(weights, binsparse.CSRMatrix)
        parts = (weights.values, weights.indices_1, weights.pointers_to_1)
        assert (scipy.sparse.csr_array(parts, shape=weights.shape) != layer.weights).nnz == 0
        np.testing.assert_array_equal(bias.values, layer.bias)
    assert root.attrs["activations"] == [str(layer.activation) for layer in net]


# -- whole or not at all, a layer at a time


@pytest.mark.parametrize("form", FORMATS)
def test_whole_or_not_at_all(form, tmp_path):
    need(NEEDS.get(form, "numpy"))
    net = network()

    def load(k):
        if k == 4:
            raise KeyboardInterrupt
        return net[k]

    path = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        sdnn.export(Network(net.widths, load), path, form)
    assert os.listdir(tmp_path) == []
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match="exists and is kept"):
        sdnn.export(net, path, form)
    with pytest.raises(KeyboardInterrupt):
        sdnn.export(Network(net.widths, load), path, form, overwrite=True)
    assert path.read_text() == "mine"
    sdnn.export(net, path, form, overwrite=True)
    assert os.listdir(tmp_path) == ["out"]
    assert path.is_dir() == (FORMATS[form].kind != "file")


@pytest.mark.parametrize("form", STREAMING)
def test_a_layer_at_a_time(form, tmp_path):
    need(NEEDS.get(form, "numpy"))
    net, living, most = network(), 0, 0

    def gone():
        nonlocal living
        living -= 1

    def load(k):
        nonlocal living, most
        layer = Layer(net[k].weights.copy(), net[k].bias, net[k].activation)
        weakref.finalize(layer.weights, gone)
        living += 1
        gc.collect()
        most = max(most, living)
        return layer

    events = []
    sdnn.export(Network(net.widths, load), tmp_path / "out", form, listener=events.append)
    assert most <= 2  # the one before is still held while the next is loaded
    assert [(e.task, e.done, e.total) for e in events] == [("export", k, 6) for k in range(1, 7)]


def test_bad_arguments(tmp_path):
    net = network()
    with pytest.raises(InputError, match="format 'keras' is unknown: use one of npz, mtx"):
        sdnn.export(net, tmp_path / "out", "keras")
    with pytest.raises(InputError, match="layout 'dense': npz has csr"):
        sdnn.export(net, tmp_path / "out", "npz", layout="dense")
    with pytest.raises(InputError, match="ndarray is no network"):
        sdnn.export(np.ones(3), tmp_path / "out", "npz")
    with pytest.raises(StoreError, match="does not exist"):
        sdnn.export(tmp_path / "none.zarr", tmp_path / "out", "npz")
    with pytest.raises(InputError, match="does not exist"):
        sdnn.export(net, tmp_path / "no" / "out", "npz")


# -- the folders that we read again


@pytest.fixture
def folder(tmp_path):
    return sdnn.export(network(), tmp_path / "out", "npz")


def test_a_folder_with_other_arguments(folder):
    net = from_npz(folder, biases=2, activation="relu", output_activation="tanh", dtype="float64")
    assert net.dtype == np.float64
    assert {str(layer.activation) for layer in net} == {"relu", "tanh"}
    assert all((layer.bias == 2).all() for layer in net)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "its format is 'other'"),
        ({"layers": 3}, "is damaged"),
        ({"dtype": ","}, "its dtype is ','"),
        ({"dtype": []}, r"its dtype is \[\]"),
        ({"layers": [{"weights": "a\0b", "bias": "b.npy", "activation": "relu"}]}, "no file of the folder"),
        ({"layers": [{"weights": "w.npz", "bias": "\ud800", "activation": "relu"}]}, "no file of the folder"),
        ({"layers": []}, "at least one layer"),
        ({"layers": [{"weights": "layer-0001.npz"}]}, "is damaged .*bias"),
        ({"layers": [{"weights": "../w.npz", "bias": "b.npy", "activation": "relu"}]}, r"names '\.\./w\.npz'"),
        (
            {"layers": [{"weights": "layer-0001.npz", "bias": "none.npy", "activation": "relu"}]},
            r"none\.npy: no such file",
        ),
        ({"layers": [{"weights": "layer-0001.npz", "bias": "bias-0001.npy", "activation": "odd"}]}, "activation 'odd'"),
    ],
)
def test_an_index_that_is_damaged(change, words, folder):
    index = folder / "network.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    with pytest.raises(InputError, match=words) as caught:
        from_npz([folder])
    assert "\n" not in str(caught.value)


def test_folders_that_are_none(folder, tmp_path):
    for body in ("", "[", "[" * 9999, "[]"):
        (folder / "network.json").write_text(body)
        with pytest.raises(InputError, match=r"network\.json: is damaged"):
            from_npz([folder])
    os.remove(folder / "network.json")
    with pytest.raises(InputError, match="was not exported; name the files"):
        from_npz([folder])


def test_biases_that_lie(folder):
    path = folder / "bias-0001.npy"
    whole = path.read_bytes()
    for body in (whole[:-1], whole + b"1", whole.replace(b"(5,)", b"(9,)"), b"rubbish", b""):
        path.write_bytes(body)
        with pytest.raises(InputError, match=r"bias-0001\.npy"):
            from_npz([folder])
    np.save(path, np.array([object()]))
    with pytest.raises(InputError, match="a bias is a row of"):
        from_npz([folder])

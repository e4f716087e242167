"""Networks from safetensors files: written by the library itself, by hand, and by whoever means harm."""

from __future__ import annotations

import json
import pickle
import struct

import numpy as np
import pytest

import dasksdnn as sdnn
from dasksdnn.errors import InputError
from dasksdnn.sources.safetensors import from_safetensors
from dasksdnn.sources.state import RECORD

library = pytest.importorskip(
    "safetensors.numpy", reason="safetensors is not installed: pip install 'dasksdnn[formats]'"
)


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def chain_of(rng, names, width=4, dtype=np.float32):
    state = {f"{name}.weight": rng.normal(size=(width, width)).astype(dtype) for name in names}
    return state | {f"{name}.bias": rng.normal(size=width).astype(dtype) for name in names}


def test_order_is_that_of_numbers(rng, tmp_path):
    names = [f"net.{2 * k}" for k in range(12)]
    state = chain_of(rng, names)
    library.save_file(state, tmp_path / "m.safetensors")
    net = pickle.loads(pickle.dumps(from_safetensors(tmp_path / "m.safetensors")))
    assert len(net) == 12
    for name, layer in zip(names, net, strict=True):
        np.testing.assert_array_equal(layer.weights.toarray(), state[f"{name}.weight"])
        np.testing.assert_array_equal(layer.bias, state[f"{name}.bias"])
    assert [str(layer.activation) for layer in net] == ["relu"] * 11 + ["identity"]
    assert from_safetensors(tmp_path / "m.safetensors", density=0.25, scope="global").edges == 4 * 12


def test_names_without_order_have_to_be_given_one(rng, tmp_path):
    state = chain_of(rng, ["encoder", "decoder"]) | {"step": np.ones(1)}
    path = tmp_path / "m.safetensors"
    library.save_file(state, path)
    with pytest.raises(InputError, match="'step' is neither weight nor bias"):
        from_safetensors(path)
    del state["step"]
    library.save_file(state, path)
    with pytest.raises(InputError, match=r"keeps no order of its layers.*--layers"):
        from_safetensors(path)
    net = from_safetensors(path, layers=["encoder", "decoder"], activation="tanh", dtype="float64")
    np.testing.assert_array_equal(net[0].weights.toarray(), state["encoder.weight"])
    assert [str(layer.activation) for layer in net] == ["tanh", "identity"]
    assert net.dtype == np.float64
    library.save_file(chain_of(rng, ["only"]), path)
    assert len(from_safetensors(path)) == 1


def test_masks_and_other_dtypes(rng, tmp_path):
    mask = (rng.random((5, 4)) < 0.5).astype(np.uint8)
    weights = rng.normal(size=(5, 4)).astype(np.float16)
    weights[np.argwhere(mask)[0][0], np.argwhere(mask)[0][1]] = 0
    library.save_file({"a.weight_orig": weights, "a.weight_mask": mask}, tmp_path / "m.safetensors")
    layer = from_safetensors(tmp_path / "m.safetensors")[0]
    assert layer.edges == mask.sum()
    np.testing.assert_array_equal(layer.weights.toarray(), weights * mask)
    assert not layer.bias.any()


def test_bfloat16(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.torch import save_file

    weights = torch.randn(3, 2).bfloat16()
    save_file({"a.weight": weights}, tmp_path / "m.safetensors")
    np.testing.assert_array_equal(from_safetensors(tmp_path / "m.safetensors")[0].weights.toarray(), weights.float())


def write(path, header, data=b"", length=None):
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(body) if length is None else length) + body + data)


def entry(shape, end, dtype="F32", first=0):
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, end]}


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        (b"{}", b"", 1 << 60),
        (b"{}", b"", 3),
        (b"garbage", b"", None),
        ({"a.weight": entry([1 << 29, 1 << 29], 1 << 60)}, b"", None),
        ({"a.weight": entry([1 << 30, 1 << 30], 4)}, b"1234", None),
        ({"a.weight": entry([1, 2], 8)}, b"1234", None),
        ({"a.weight": entry([1, 1], 8, first=4)}, b"12345678", None),
        ({"a.weight": entry([1, -1], 4)}, b"1234", None),
        ({"a.weight": entry([1, 1], 4, "F99")}, b"1234", None),
    ],
)
def test_headers_that_lie(header, data, length, tmp_path):
    path = tmp_path / "m.safetensors"
    write(path, header, data, length)
    with pytest.raises(InputError, match=r"m\.safetensors: is not a sound safetensors file") as caught:
        from_safetensors(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(rng, tmp_path):
    path = tmp_path / "m.safetensors"
    for body in (b"", b"1234567"):
        path.write_bytes(body)
        with pytest.raises(InputError, match="not a sound safetensors file"):
            from_safetensors(path)
    library.save_file(chain_of(rng, ["0"]), path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="not a sound safetensors file"):
        from_safetensors(path)
    with pytest.raises(InputError, match="no such file"):
        from_safetensors(tmp_path / "none")
    with pytest.raises(InputError, match="is a directory"):
        from_safetensors(tmp_path)


def record(*layers):
    return {"__metadata__": {RECORD: json.dumps({"layers": layers})}}


def test_records_that_are_damaged(tmp_path):
    path = tmp_path / "m.safetensors"
    sdnn.export(sdnn.random_network(6, 2, degree=2), path, "safetensors", layout="csr")
    assert len(from_safetensors(path)) == 2
    body = path.read_bytes()
    for old, new in [
        (b'\\"inputs\\": 6}', b'\\"inpots\\": 6}'),
        (b'\\"layers\\":', b'\\"leyers\\":'),
        (b'{\\"layers', b'[\\"layers'),
    ]:
        assert old in body
        path.write_bytes(body.replace(old, new))
        with pytest.raises(InputError, match=r"what it says of its layers .* is damaged"):
            from_safetensors(path)
    path.write_bytes(body.replace(b'\\"inputs\\": 6}', b'\\"inputs\\": 3}'))
    with pytest.raises(InputError, match="does not follow"):
        from_safetensors(path)
    path.write_bytes(body.replace(b"crow_indices", b"crow_indecis"))
    with pytest.raises(InputError, match="0: has no weights"):
        from_safetensors(path)


def test_csr_whose_indices_lie(tmp_path):
    path = tmp_path / "m.safetensors"
    good = {"crow_indices": np.array([0, 1, 2]), "col_indices": np.array([0, 1]), "values": np.ones(2, np.float32)}
    say = {RECORD: json.dumps({"layers": [{"name": "0", "activation": "relu", "inputs": 2}]})}
    for change in (
        {},
        {"col_indices": np.array([0, 2])},
        {"col_indices": np.array([-1, 1])},
        {"crow_indices": np.array([0, 3, 2])},
        {"col_indices": np.array([0.0, 1.0])},
    ):
        library.save_file({f"0.weight.{k}": v for k, v in (good | change).items()}, path, metadata=say)
        net = from_safetensors(path)
        if not change:
            assert net[0].weights.toarray().tolist() == [[1, 0], [0, 1]]
            continue
        with pytest.raises(InputError, match="0: is no sound CSR matrix"):
            net[0]
    for inputs, words in [
        ("9e9", "at most 4,294,967,295 neurons"),
        ("9e999", "is damaged"),
        ("-1", "at least one neuron"),
    ]:
        claim = {RECORD: say[RECORD].replace('"inputs": 2', f'"inputs": {inputs}')}
        library.save_file({f"0.weight.{k}": v for k, v in good.items()}, path, metadata=claim)
        with pytest.raises(InputError, match=words):
            from_safetensors(path)
    library.save_file({f"0.weight.{k}": v for k, v in good.items()}, path)
    with pytest.raises(InputError, match="nothing says how many inputs"):
        from_safetensors(path)
    library.save_file({f"0.weight.{k}": v for k, v in (good | {"values": np.ones(3)}).items()}, path, metadata=say)
    with pytest.raises(InputError, match="do not fit each other"):
        from_safetensors(path)

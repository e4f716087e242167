"""The commands for other tools' formats: every import and export, and what they refuse in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dasksdnn as sdnn
from dasksdnn.exports.formats import FORMATS

NEEDS = {"torch": "torch", "onnx": "onnx", "h5ad": "h5py", "safetensors": "safetensors"}


def same(store, net):
    assert (store.widths, store.dtype) == (net.widths, net.dtype)
    for mine, layer in zip(store.network, net, strict=True):
        assert (mine.weights != layer.weights).nnz == 0
        assert mine.edges == layer.edges
        np.testing.assert_array_equal(mine.bias, layer.bias)
        assert mine.activation == layer.activation


def need(library):
    return pytest.importorskip(library, reason=f"{library} is not installed: pip install 'dasksdnn[test-formats]'")


@pytest.mark.parametrize("form", FORMATS)
def test_export(form, store3, report, run, tmp_path):
    need(NEEDS.get(form, "numpy"))
    out = tmp_path / "out"
    found = report("export", store3, "--to", form, "--out", out)
    assert (found["command"], found["format"], found["layout"]) == ("export", form, FORMATS[form].layouts[0])
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    assert found["bytes"] == sum(path.stat().st_size for path in files) > 0
    assert "exists and is kept" in run("export", store3, "--to", form, "--out", out, status=2).err
    assert run("export", store3, "--to", form, "--out", out, "--overwrite").err == ""


@pytest.mark.parametrize("form", ["npz", "mtx", "torch", "safetensors", "onnx"])
def test_there_and_back(form, store3, net, run, tmp_path):
    need(NEEDS.get(form, "numpy"))
    layout = [] if form in ("npz", "mtx") else ["--layout", "csr"]
    run("export", store3, "--to", form, *layout, "--out", tmp_path / "out")
    os.rename(tmp_path / "out", tmp_path / "model")  # whatever its name
    run("import", form, tmp_path / "model", "--out", tmp_path / "again.zarr")
    same(sdnn.open_store(tmp_path / "again.zarr"), net)
    options = ["--density", 0.1, "--prune-scope", "global", "--overwrite"]
    run("import", form, tmp_path / "model", *options, "--out", tmp_path / "again.zarr")
    assert sdnn.open_store(tmp_path / "again.zarr").edges == round(0.1 * 64 * 64 * 4)


def test_torch_options(run, report, tmp_path):
    torch = need("torch")
    nn = torch.nn
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Softmax(dim=1))
    torch.save({"step": 3, "model": model.state_dict()}, tmp_path / "m.pt")
    options = ["--entry", "model", "--layers", "0,2", "--activation", "tanh", "--output-activation", "identity"]
    run("import", "torch", tmp_path / "m.pt", *options, "--dtype", "float64", "--out", tmp_path / "net.zarr")
    store = sdnn.open_store(tmp_path / "net.zarr")
    assert [str(a) for a in store.activations] == ["tanh", "identity"]
    assert store.dtype == np.float64
    torch.save(model, tmp_path / "whole.pt")
    found = report("import", "torch", tmp_path / "whole.pt", "--trusted", "--overwrite", "--out", tmp_path / "net.zarr")
    assert "logits" in found["notes"][0]
    assert found["name"] == "whole.pt"
    same(sdnn.open_store(tmp_path / "net.zarr"), sdnn.from_torch(model[:3]))


def test_what_is_printed_of_a_softmax(run, tmp_path):
    torch = need("torch")
    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Softmax(dim=1)), tmp_path / "m.pt")
    outcome = run("import", "torch", tmp_path / "m.pt", "--trusted", "--out", tmp_path / "net.zarr")
    assert outcome.err == ""
    assert "1 (Softmax) is left out: outputs are its logits" in " ".join(outcome.out.split())


class Attack:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_run_code(refused, tmp_path):
    torch = need("torch")
    torch.save({"0.weight": Attack(tmp_path / "ran")}, tmp_path / "m.pt")
    refused(
        "import", "torch", tmp_path / "m.pt", "--out", tmp_path / "net.zarr", says=["m.pt", "run code", "--trusted"]
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", ["torch", "safetensors", "onnx", "npz", "mtx"])
def test_files_that_are_none(form, refused, tmp_path):
    need(NEEDS.get(form, "numpy"))
    out = ["--out", tmp_path / "net.zarr"]
    refused("import", form, tmp_path / "none", *out, says=["none", "no such file"])
    (tmp_path / "m").write_bytes(b"garbage" * 50)
    refused("import", form, tmp_path / "m", *out, says=[tmp_path / "m"])
    (tmp_path / "folder").mkdir()
    refused("import", form, tmp_path / "folder", *out, says=[tmp_path / "folder"])


def test_safetensors_without_order(refused, run, tmp_path):
    need("safetensors")
    from safetensors.numpy import save_file

    save_file({"b.weight": np.ones((3, 3)), "a.weight": np.ones((3, 3))}, tmp_path / "m")
    refused("import", "safetensors", tmp_path / "m", "--out", tmp_path / "net.zarr", says=["--layers"])
    run("import", "safetensors", tmp_path / "m", "--layers", "b, a", "--out", tmp_path / "net.zarr")
    assert len(sdnn.open_store(tmp_path / "net.zarr")) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--density", 0], ["density 0.0"]),
        (["--density", "many"], ["many"]),
        (["--prune-scope", "row"], ["row"]),
        (["--activation", "relu,tanh"], ["2 for 4 layers"]),
        (["--activation", "odd"], ["odd", "relu"]),
    ],
)
def test_bad_options_of_imports(options, says, store, run, refused, tmp_path):
    run("export", store, "--to", "npz", "--out", tmp_path / "out")
    refused("import", "npz", tmp_path / "out", *options, "--out", tmp_path / "again.zarr", says=says)


def test_exports_that_are_refused(store, npy, refused, tmp_path):
    out = ["--out", tmp_path / "out"]
    refused("export", store, "--to", "keras", *out, says=["keras", "npz", "--help"])
    refused("export", store, "--to", "npz", "--layout", "dense", *out, says=["layout 'dense'", "csr"])
    refused("export", tmp_path / "none.zarr", "--to", "npz", *out, says=["none.zarr", "does not exist"])
    refused("export", npy, "--to", "npz", *out, says=[npy, "not a store"])
    refused("export", store, "--to", "npz", "--out", tmp_path / "no" / "out", says=["does not exist"])
    refused("export", store, "--to", "anndata", "--out", store, "--overwrite", says=[store, "read by this command"])


def test_only_like_replaces_like(store, run, refused, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    run("export", store, "--to", "npz", "--out", out)
    run("export", store, "--to", "mtx", "--out", out, "--overwrite")
    assert sorted(os.listdir(out))[-1] == "network.json"
    assert (out / "layer-0001.mtx").exists()
    (out / "mine.txt").write_text("mine")
    refused("export", store, "--to", "npz", "--out", out, "--overwrite", says=["other things than exported matrices"])
    refused("export", store, "--to", "anndata", "--out", out, "--overwrite", says=["other things than a Zarr store"])
    other.write_text("mine")
    refused(
        "export",
        store,
        "--to",
        "npz",
        "--out",
        other,
        "--overwrite",
        says=["is a file and is not replaced by a folder"],
    )


def test_a_file_does_not_replace_a_folder(store, refused, tmp_path):
    need("onnx")
    (tmp_path / "out").mkdir()
    refused(
        "export", store, "--to", "onnx", "--out", tmp_path / "out", "--overwrite", says=["is a folder", "by a file"]
    )


@pytest.mark.parametrize(("form", "library"), NEEDS.items())
def test_library_not_installed(form, library, store, tmp_path):
    """In a process of its own, which finds no such library."""
    code = "import sys; sys.modules[sys.argv[1]] = None\nfrom dasksdnn.cli.main import main; main(sys.argv[2:])"
    verb = ["import", form, str(tmp_path / "m")] if form != "h5ad" else ["export", str(store), "--to", form]
    (tmp_path / "m").write_bytes(b"x")
    command = [sys.executable, "-P", "-c", code, library, *verb, "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(sdnn.__file__).parents[1])},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert f"needs {library}, which is not installed: pip install 'dasksdnn[formats]'" in done.stderr


def test_the_index_is_json(store, run, tmp_path):
    run("export", store, "--to", "mtx", "--out", tmp_path / "out")
    index = json.loads((tmp_path / "out" / "network.json").read_text())
    assert [layer["activation"] for layer in index["layers"]] == ["clip:32"] * 4

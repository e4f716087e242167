"""Bad input: one line on stderr that names the thing and the remedy, status 2, and the disk as it was."""

from __future__ import annotations

import gzip
import json
import os
import shutil

import numpy as np
import pytest
import scipy.sparse
import zarr

import dasksdnn as sdnn

LINES = [f"{i}\t{o}\t0.5" for i in range(1, 5) for o in range(1, 5)]


def challenge(*arguments):
    return ["import", "graphchallenge", "--neurons", 4, "--layers", 1, "--edges-per-neuron", 4, *arguments]


@pytest.fixture
def layer(tmp_path):
    """Write the one layer file of a network of four neurons."""
    folder = tmp_path / "files"
    folder.mkdir()

    def write(lines=LINES, name="n4-l1.tsv"):
        text = "".join(line + "\n" for line in lines).encode()
        (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return folder / name

    return write


def change(place, line):
    return [*LINES[:place], line, *LINES[place + 1 :]]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (change(5, "2\t2"), ["line 6", "2 fields"]),
        (change(5, "2\t2\t0.5\t9"), ["line 6", "4 fields"]),
        (change(5, "2\tx\t0.5"), ["line 6", "'x'"]),
        (change(5, "2\t2\tabc"), ["line 6", "'abc'"]),
        (change(5, "0\t2\t0.5"), ["line 6", "count from 1"]),
        (change(5, "2\t5\t0.5"), ["line 6", "'5'", "4"]),
        (change(5, "1\t1\t0.5"), ["line 6", "line 1", "repeats"]),
        (change(5, "2\t2\tnan"), ["line 6", "not finite"]),
        (change(5, "2\t2\t-inf"), ["line 6", "not finite"]),
        (change(5, "2\t2\t1e39"), ["line 6", "too large"]),
        (LINES[:-1], ["15", "16", "truncated"]),
        ([], ["empty"]),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_layer_file(lines, says, suffix, layer, refused, tmp_path):
    path = layer(lines, "n4-l1.tsv" + suffix)
    refused(*challenge("--weights", path.parent, "--out", tmp_path / "net.zarr"), says=[path, *says])


def test_layer_files_missing_or_cut(layer, refused, tmp_path):
    path = layer(name="n4-l1.tsv.gz")
    out = ["--out", tmp_path / "net.zarr"]
    refused(*challenge("--weights", path.parent, *out), "--layers", 2, says=["n4-l2.tsv", "missing"])
    refused(*challenge("--weights", tmp_path / "nowhere", *out), says=["nowhere"])
    path.write_bytes(path.read_bytes()[:-9])
    refused(*challenge("--weights", path.parent, *out), says=[path, "truncated"])
    path.write_bytes(b"no gzip")
    refused(*challenge("--weights", path.parent, *out), says=[path, "gzip"])


def save_npz(folder, *shapes, spoil=None):
    files = [folder / f"layer{k}.npz" for k in range(len(shapes))]
    for path, shape in zip(files, shapes, strict=True):
        matrix = scipy.sparse.random_array(shape, density=0.5, rng=np.random.default_rng(1), format="csr")
        if spoil is not None:
            matrix.data[3] = spoil
        scipy.sparse.save_npz(path, matrix)
    return files


def test_matrices_that_do_not_chain(refused, tmp_path):
    files = save_npz(tmp_path, (5, 7), (6, 4))
    refused("import", "npz", *files, "--out", tmp_path / "net.zarr", says=[files[1], files[0], "6 outputs x 4 inputs"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(value, refused, tmp_path):
    (file,) = save_npz(tmp_path, (5, 7), spoil=value)
    refused("import", "npz", file, "--out", tmp_path / "net.zarr", says=[file, "NaN or infinite"])


def test_matrices_with_other_faults(refused, tmp_path):
    out = ["--out", tmp_path / "net.zarr"]
    rows = np.array([0, 0, 1])
    twice = scipy.sparse.coo_array((np.ones(3), (rows, np.array([1, 1, 0]))), shape=(2, 2))
    scipy.sparse.save_npz(tmp_path / "twice.npz", twice)
    refused("import", "npz", tmp_path / "twice.npz", *out, says=["twice.npz"])
    (tmp_path / "text.npz").write_text("no archive")
    refused("import", "npz", tmp_path / "text.npz", *out, says=["text.npz"])
    refused("import", "npz", tmp_path / "none.npz", *out, says=["none.npz", "no such file"])
    (tmp_path / "a.mtx").write_text("%%MatrixMarket matrix coordinate real general\n2 2 2\n1 1 1.0\n1 3 1.0\n")
    refused("import", "mtx", tmp_path / "a.mtx", *out, says=["a.mtx", "line 4"])
    (tmp_path / "empty.mtx").write_text("")
    refused("import", "mtx", tmp_path / "empty.mtx", *out, says=["empty.mtx"])
    good = save_npz(tmp_path, (3, 3))
    refused("import", "npz", *good, "--activation", "swish", *out, says=["swish"])
    refused("import", "npz", *good, "--bias", "nan", *out, says=["nan"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["radixnet", "--neurons", 100, "--layers", 2], ["100"]),
        (["radixnet", "--neurons", 64, "--layers", 0], ["layers"]),
        (["random", "--neurons", 16, "--layers", 2, "--degree", 17], ["17", "16"]),
        (["community", "--neurons", 16, "--layers", 2, "--degree", 0], ["degree"]),
        (["radixnet", "--neurons", 64, "--layers", 2, "--seed", -1], ["seed"]),
        (["radixnet", "--neurons", 64, "--layers", 2, "--clip", "nan"], ["clip"]),
    ],
)
def test_generators(arguments, says, refused, tmp_path):
    refused("generate", *arguments, "--out", tmp_path / "net.zarr", says=says)


def infer(store, source, *more):
    return ["infer", store, "--input", source, *more]


def test_inputs_that_do_not_fit(store, samples, refused, tmp_path):
    out = ["--output", tmp_path / "y.zarr", "--categories", tmp_path / "c.tsv"]
    np.save(tmp_path / "x.npy", samples[:, :63])
    refused(*infer(store, tmp_path / "x.npy", *out), says=["x.npy", "63 features", "64"])
    scipy.sparse.save_npz(tmp_path / "x.npz", scipy.sparse.csr_array(samples.T))
    refused(*infer(store, tmp_path / "x.npz", *out), says=["x.npz", "40 features", "64"])
    zarr.create_array(str(tmp_path / "x.zarr"), data=samples[0])
    refused(*infer(store, tmp_path / "x.zarr", *out), says=["x.zarr", "1 dimension"])
    np.save(tmp_path / "fits.npy", samples)
    refused(*infer(store, tmp_path / "fits.npy", "--samples", 41, *out), says=["fits.npy", "40", "41"])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.tsv", b"1\t1\t1\n2\t65\t1\n", ["line 2", "65"]),
        ("x.tsv", b"1\t1\t1\n2\t0\t1\n", ["line 2", "count from 1"]),
        ("x.tsv", b"1\t1\t1\n2\t3\n", ["line 2", "2 fields"]),
        ("x.tsv", b"1\t1\t1\n1\t1\t2\n", ["sample 1, feature 1", "more than once"]),
        ("x.tsv", b"", ["empty"]),
        ("x.tsv.gz", gzip.compress(b"1\t1\t1\n" * 9)[:-6], ["truncated"]),
        ("x.npy", b"", ["NPY"]),
        ("x.npy", b"\x93NUMPY but no more", ["NPY"]),
        ("x.npz", b"", ["NPZ"]),
        ("x.idx", b"", ["IDX"]),
        ("x.idx", b"\0\0\x08\x02\0\0\0\x05\0\0\0\x40", ["header promises"]),
        ("x.csv", b"1,2,3", [".npy"]),
    ],
)
def test_input_files(name, content, says, store, refused, tmp_path):
    (tmp_path / name).write_bytes(content)
    out = ["--output", tmp_path / "y.zarr", "--categories", tmp_path / "c.tsv"]
    refused(*infer(store, tmp_path / name, *out), says=[tmp_path / name, *says])


def test_inputs_that_are_not_finite_are_found_in_the_middle(store, samples, refused, tmp_path):
    spoiled = samples.copy()
    spoiled[33, 3] = np.nan
    np.save(tmp_path / "x.npy", spoiled)
    out = ["--output", tmp_path / "y.zarr", "--categories", tmp_path / "c.tsv"]
    refused(*infer(store, tmp_path / "x.npy", *out), says=["x.npy", "sample 33", "NaN"])


def test_input_missing(store, refused, tmp_path):
    refused(*infer(store, tmp_path / "none.npy"), says=["none.npy", "no such file"])
    refused("evaluate", tmp_path / "none.zarr", "--categories", tmp_path / "none.tsv", says=["none"])


def test_outputs_that_exist_are_kept(store, npy, layer, refused, tmp_path):
    old = tmp_path / "old.zarr"
    zarr.create_array(str(old), data=np.ones((2, 3)))
    (tmp_path / "old.tsv").write_text("1\n")
    says = ["exists", "--overwrite"]
    size = ["--neurons", 64, "--layers", 1]
    refused("generate", "radixnet", *size, "--out", old, says=[old, *says])
    refused(*challenge("--weights", layer().parent, "--out", old), says=[old, *says])
    refused("partition", store, "--nparts", 2, "--out", old, says=[old, *says])
    refused(*infer(store, npy, "--output", old), says=[old, *says])
    refused(*infer(store, npy, "--categories", tmp_path / "old.tsv"), says=["old.tsv", *says])
    # The second of two outputs is refused before the first is made.
    refused(*infer(store, npy, "--output", tmp_path / "new.zarr", "--categories", tmp_path / "old.tsv"), says=says)


def test_overwrite_replaces_like_by_like(store, npy, refused, tmp_path):
    """A slip of the hand must not cost a home directory."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    refused("partition", store, "--nparts", 2, "--out", home, "--overwrite", says=[home, "kept"])
    refused(*infer(store, npy, "--output", home, "--overwrite"), says=[home, "kept"])
    refused(*infer(store, npy, "--categories", home, "--overwrite"), says=[home])
    refused(*infer(store, npy, "--output", home / "thesis.tex", "--overwrite"), says=["thesis.tex"])
    refused("info", store, "--json", home, says=[home])
    refused("info", store, "--json", home / "thesis.tex", says=["thesis.tex"])


def test_one_path_for_two_things(store, npy, refused, tmp_path):
    twice = tmp_path / "twice"
    refused(*infer(store, npy, "--output", twice, "--categories", twice), says=[twice])
    refused(*infer(store, npy, "--categories", twice, "--json", twice), says=[twice])
    refused(*infer(store, npy, "--categories", npy, "--overwrite"), says=[npy])


def test_output_folder_missing(store, npy, refused, tmp_path):
    away = tmp_path / "no" / "such"
    says = [away.parent, "does not exist"]
    refused("generate", "radixnet", "--neurons", 64, "--layers", 1, "--out", away, says=says)
    refused("partition", store, "--nparts", 2, "--out", away, says=says)
    refused(*infer(store, npy, "--output", away), says=says)
    refused(*infer(store, npy, "--categories", away), says=says)
    for command in (["info", store], ["verify", store], infer(store, npy)):
        refused(*command, "--json", away, says=says)


def test_json_reports_are_replaced(store, run, tmp_path):
    for _ in range(2):
        run("info", store, "--json", tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["command"] == "info"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--nparts", 0], ["nparts 0", "at least 1"]),
        (["--nparts", -3], ["nparts -3"]),
        (["--nparts", 65], ["65", "64", "widest"]),
        (["--nparts", 2, "--method", "magic"], ["magic", "hypergraph", "metis"]),
        (["--nparts", 2, "--epsilon", -1], ["epsilon"]),
        (["--nparts", 2, "--epsilon", "nan"], ["epsilon"]),
        (["--nparts", "two"], ["two"]),
        ([], ["--nparts"]),
    ],
)
def test_partition(options, says, store, refused, tmp_path):
    refused("partition", store, *options, "--out", tmp_path / "out.zarr", says=says)


def test_narrow_layers_leave_parts_empty(run, tmp_path):
    net = sdnn.random_network([20, 3, 20], degree=2)
    sdnn.save(net, tmp_path / "net.zarr")
    run("partition", tmp_path / "net.zarr", "--nparts", 20, "--method", "metis", "--out", tmp_path / "out.zarr")
    assert sdnn.open_store(tmp_path / "out.zarr").nparts == 20


@pytest.mark.parametrize("library", ["kahypar", "mtkahypar", "pymetis"])
def test_library_not_installed(library, store, refused, tmp_path_factory, tmp_path, monkeypatch):
    shadow = tmp_path_factory.mktemp("shadow")
    (shadow / f"{library}.py").write_text(f"raise ModuleNotFoundError(name={library!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(shadow))
    method = {"pymetis": "metis"}.get(library, library)
    options = ["--nparts", 2, "--method", method, "--out", tmp_path / "out.zarr"]
    refused("partition", store, *options, says=[f"pip install {library}"])


@pytest.mark.parametrize("memory", ["1MiB", "100KiB", 5])
def test_budget_too_small(memory, store, npy, refused, run, tmp_path):
    outputs = ["--output", tmp_path / "y.zarr", "--categories", tmp_path / "c.tsv"]
    for command in (infer(store, npy, *outputs), ["plan", store, "--samples", 40]):
        refused(*command, "--memory", memory, says=["smallest"])


@pytest.mark.parametrize("memory", ["lots", "12QiB", "-5MiB", "0", "nan", ""])
def test_budget_that_is_no_amount(memory, store, npy, refused):
    refused(*infer(store, npy), "--memory", memory, says=["amount"])
    refused("plan", store, "--samples", 4, "--memory", memory, says=["amount"])


@pytest.mark.parametrize("threads", [0, -2, "many"])
def test_threads(threads, store, npy, refused):
    refused(*infer(store, npy), "--threads", threads, says=["threads", threads])


def attributes(path, name, value):
    record = json.loads((path / "zarr.json").read_text())
    record["attributes"][name] = value
    (path / "zarr.json").write_text(json.dumps(record))


def every_reader(store, npy, tmp_path):
    yield ["info", store]
    yield ["plan", store, "--samples", 4]
    yield infer(store, npy, "--output", tmp_path / "y.zarr", "--categories", tmp_path / "c.tsv")
    yield ["partition", store, "--nparts", 2, "--method", "block", "--out", tmp_path / "out.zarr"]


def test_store_of_a_newer_version(store, npy, refused, tmp_path):
    attributes(store, "version", 2)
    for command in [*every_reader(store, npy, tmp_path), ["verify", store]]:
        refused(*command, says=[store, "version 2"])


def test_store_that_is_none(npy, refused, run, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    zarr.create_array(str(tmp_path / "array.zarr"), data=np.ones((2, 3)))
    for path in (tmp_path / "none", empty, tmp_path / "array.zarr", npy):
        for command in every_reader(path, npy, tmp_path):
            refused(*command, says=[path])
        assert str(path) in run("verify", path, status=2).err


def test_manifest_missing(store3, npy, refused, run, tmp_path):
    shutil.rmtree(store3 / "manifest")
    for command in every_reader(store3, npy, tmp_path):
        refused(*command, says=[store3, "manifest"])
    outcome = run("verify", store3, status=2)
    assert "manifest" in outcome.err
    assert outcome.err.count("\n") == 1


def weights_of(store):
    return next(store.glob("parts/0000/0000/state*/data/c/0"))


def test_flipped_byte(store, npy, refused, tmp_path):
    path = weights_of(store)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for command in list(every_reader(store, npy, tmp_path))[2:]:
        refused(*command, says=[store, "data", "verify"])


def test_missing_chunk(store, npy, refused, tmp_path):
    os.remove(weights_of(store))
    for command in list(every_reader(store, npy, tmp_path))[2:]:
        refused(*command, says=[store, "data", "missing"])


@pytest.mark.parametrize(
    ("name", "content"),
    [("c.tsv", "1\nx\n"), ("c.tsv", "0\n"), ("c.tsv", "1\n1\n")],
)
def test_categories_that_are_none(name, content, refused, tmp_path):
    (tmp_path / name).write_text(content)
    (tmp_path / "good.tsv").write_text("1\n")
    refused("evaluate", tmp_path / "good.tsv", "--categories", tmp_path / name, says=[tmp_path / name])


def test_labels_that_do_not_fit(store, npy, run, refused, tmp_path):
    run(*infer(store, npy, "--output", tmp_path / "y.zarr"))
    np.save(tmp_path / "few.npy", np.arange(39))
    refused("evaluate", tmp_path / "y.zarr", "--labels", tmp_path / "few.npy", says=["39", "40"])
    np.save(tmp_path / "high.npy", np.full(40, 64))
    refused("evaluate", tmp_path / "y.zarr", "--labels", tmp_path / "high.npy", says=["64"])


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["generate", "magic"], ["infer"], ["info"], ["info", "a", "b"], ["info", "a", "--what"]]
)
def test_usage(arguments, refused):
    refused(*arguments, says=["--help"])

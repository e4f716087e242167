import gzip
from pathlib import Path

import numpy as np
import pytest

from dasksdnn.errors import InputError
from dasksdnn.sources.generators import radixnet
from dasksdnn.sources.graphchallenge import graphchallenge, read_categories, write_categories
from dasksdnn.sources.spool import SpooledText

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "graphchallenge"
published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="the published files are not beside the project (../shared)"
)


def write_layer(path, weights):
    coo = weights.T.tocoo()
    body = "".join(f"{i + 1}\t{o + 1}\t{v:e}\n" for i, o, v in zip(coo.row, coo.col, coo.data, strict=True)).encode()
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)


@pytest.fixture
def directory(tmp_path):
    net = radixnet(64, 3, weights="random", seed=2)
    for k, suffix in enumerate(["", ".gz", ""]):
        write_layer(tmp_path / f"n64-l{k + 1}.tsv{suffix}", net[k].weights)
    return tmp_path


def test_layers_are_read_back_transposed(directory):
    expected = radixnet(64, 3, weights="random", seed=2)
    net = graphchallenge(directory, 64, 3)
    assert net.widths == (64,) * 4
    assert net.edges == 64 * 32 * 3
    for mine, theirs in zip(net, expected, strict=True):
        assert np.array_equal(mine.weights.indices, theirs.weights.indices)
        np.testing.assert_allclose(mine.weights.data, theirs.weights.data, rtol=1e-6)
        assert np.array_equal(mine.bias, theirs.bias)
        assert mine.activation == theirs.activation
    assert graphchallenge(directory, 64, 3, bias=0.5, dtype="float64")[0].bias.tolist() == [0.5] * 64


def test_nothing_is_read_before_it_is_asked_for(directory):
    (directory / "n64-l2.tsv.gz").write_bytes(b"rubbish")
    net = graphchallenge(directory, 64, 3)
    assert net[0].edges == net[2].edges == 2048
    with pytest.raises(InputError, match=r"n64-l2\.tsv\.gz: is not a sound gzip file"):
        net[1]


def test_missing_files(directory, tmp_path):
    (directory / "n64-l2.tsv.gz").unlink()
    with pytest.raises(InputError, match=r"n64-l2\.tsv: no such file, nor n64-l2\.tsv\.gz; 3 of 5 layer files"):
        graphchallenge(directory, 64, 5)
    with pytest.raises(InputError, match="is not a directory"):
        graphchallenge(tmp_path / "nowhere", 64, 3)


def test_wrong_counts(directory):
    path = directory / "n64-l1.tsv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-5]))
    with pytest.raises(InputError, match=r"n64-l1\.tsv: 2,043 weights where 2,048 were expected: truncated\?"):
        graphchallenge(directory, 64, 3)[0]
    loose = graphchallenge(directory, 64, 3, edges_per_neuron=None)
    assert loose[0].edges == 2043
    assert loose.edges == 2043 + 2 * 2048
    with pytest.raises(InputError, match="of another network"):
        graphchallenge(directory, 64, 3, edges_per_neuron=16)[0]


def test_duplicates_are_named(directory):
    path = directory / "n64-l1.tsv"
    lines = path.read_text().splitlines(keepends=True)
    lines[9] = lines[3]
    path.write_text("".join(lines))
    fields = lines[3].split()
    with pytest.raises(InputError, match=f"line 10: repeats input {fields[0]}, output {fields[1]} of line 4"):
        graphchallenge(directory, 64, 3)[0]


def test_indices_beyond_the_network(directory):
    (directory / "n64-l1.tsv").write_text("1\t65\t1\n")
    with pytest.raises(InputError, match="line 1: the output '65' is beyond the largest allowed, 64"):
        graphchallenge(directory, 64, 3)[0]


def test_bad_arguments(directory):
    for options in ({"neurons": 0}, {"layers": 0}, {"edges_per_neuron": 0}, {"clip": -1}, {"bias": "x"}):
        with pytest.raises(InputError):
            graphchallenge(directory, **{"neurons": 64, "layers": 3, **options})


def test_categories(tmp_path):
    path = tmp_path / "categories.tsv"
    write_categories(path, np.array([7, 0, 3]))
    assert path.read_text() == "1\n4\n8\n"
    assert read_categories(path).tolist() == [0, 3, 7]
    assert read_categories(path).dtype == np.int64
    write_categories(path, [])
    assert read_categories(path).size == 0
    assert [p.name for p in tmp_path.iterdir()] == ["categories.tsv"]


def test_bad_categories(tmp_path):
    path = tmp_path / "categories.tsv"
    for body, words in [
        ("0\n", "line 1"),
        ("2\nx\n", "line 2: the sample 'x'"),
        ("5\n5\n", "sample 5 is listed twice"),
    ]:
        path.write_text(body)
        with pytest.raises(InputError, match=words):
            read_categories(path)
    with pytest.raises(InputError, match="no such file"):
        read_categories(tmp_path / "none")
    for ids in ([-1], [0.5], [[1]]):
        with pytest.raises(InputError, match="whole numbers"):
            write_categories(path, ids)
    with pytest.raises(InputError, match="cannot be written"):
        write_categories(tmp_path / "no" / "such", [1])
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_categories(tmp_path / "taken", [1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["categories.tsv", "taken"]


@published
def test_published_network_gives_the_published_categories(tmp_path):
    net = graphchallenge(PUBLISHED, 1024, 30)
    inputs = SpooledText(PUBLISHED / "sparse-images-1024_first1200.tsv.gz", 1024, 1200, tmp_path)
    x = inputs.read(0, 1200).T.toarray()
    inputs.close()
    for layer in net:
        x = np.clip(layer.weights @ x + layer.bias[:, None], 0, 32)
    expected = read_categories(PUBLISHED / "neuron1024-categories_first1200.tsv")
    assert np.flatnonzero(x.max(axis=0) > 0).tolist() == expected.tolist()

import gc
import gzip
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dasksdnn.errors import InputError
from dasksdnn.sources import spool
from dasksdnn.sources.datasets import open_dataset
from dasksdnn.sources.scratch import Scratch


def write(path, entries):
    body = "".join(f"{s + 1}\t{f + 1}\t{v!r}\n" for s, f, v in entries).encode()
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return path


def random_entries(samples, features, count, seed=0):
    rng = np.random.default_rng(seed)
    keys = rng.choice(samples * features, count, replace=False)
    return [
        (int(k // features), int(k % features), float(v)) for k, v in zip(keys, rng.integers(1, 9, count), strict=True)
    ]


def table(entries, shape):
    full = np.zeros(shape, np.float32)
    for s, f, v in entries:
        full[s, f] = v
    return full


@pytest.fixture
def scratch(tmp_path):
    path = tmp_path / "scratch"
    path.mkdir()
    return path


@pytest.mark.parametrize("name", ["x.tsv", "x.tsv.gz"])
def test_any_order(tmp_path, scratch, name):
    entries = random_entries(1000, 40, 5000)
    data = open_dataset(write(tmp_path / name, entries), features=40, scratch=scratch)
    full = table(entries, (1000, 40))
    assert (data.samples, data.features) == (max(e[0] for e in entries) + 1, 40)
    for start, stop in [(0, data.samples), (0, 256), (255, 257), (256, 512), (700, 711), (5, 5)]:
        block = data.read(start, stop)
        assert block.format == "csr"
        assert block.dtype == np.float32
        assert block.has_canonical_format
        np.testing.assert_array_equal(block.toarray(), full[start:stop])
        assert data.block_bytes(stop - start) >= block.data.nbytes + block.indices.nbytes
    with pytest.raises(InputError, match="asked for"):
        data.read(0, data.samples + 1)
    assert data.block_bytes(0) == 0
    data.close()
    data.close()
    assert not list(scratch.iterdir())


def test_samples_given(tmp_path, scratch):
    path = write(tmp_path / "x.tsv", [(4, 0, 1.0)])
    data = open_dataset(path, features=3, samples=10_000, scratch=scratch)
    assert data.samples == 10_000
    assert data.read(0, 10_000).nnz == 1
    assert data.read(9000, 9001).nnz == 0
    data.close()
    with pytest.raises(InputError, match="line 1: the sample '5' is beyond the largest allowed, 4"):
        open_dataset(path, features=3, samples=4, scratch=scratch)
    with pytest.raises(InputError, match="line 1: the feature '1000' is beyond the largest allowed, 3"):
        open_dataset(write(path, [(0, 999, 1.0)]), features=3, scratch=scratch)
    assert not list(scratch.iterdir())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sets(st.tuples(st.integers(0, 3000), st.integers(0, 5)), min_size=1, max_size=60),
    st.sampled_from([1, 5, 1 << 20]),
    st.sampled_from([1, 2, 8, 4096]),
    st.randoms(),
    st.data(),
)
def test_round_trip_with_few_buckets_and_small_buffers(tmp_path, cells, buffer, most, random, data):
    cells = list(cells)
    random.shuffle(cells)
    entries = [(s, f, float(k + 1)) for k, (s, f) in enumerate(cells)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "_BUFFER", buffer)
        patch.setattr(spool, "_MOST_BUCKETS", most)
        patch.setattr(spool, "_TEXT", 16)
        held = open_dataset(write(tmp_path / "x.tsv", entries), features=6, scratch=tmp_path)
    full = table(entries, (held.samples, 6))
    start = data.draw(st.integers(0, held.samples))
    stop = data.draw(st.integers(start, held.samples))
    np.testing.assert_array_equal(held.read(start, stop).toarray(), full[start:stop])
    assert held.read(0, held.samples).nnz == len(cells)
    held.close()


def test_one_far_sample_needs_few_files(tmp_path, scratch):
    data = open_dataset(write(tmp_path / "x.tsv", [(2**31 - 2, 0, 1.0), (3, 1, 2.0)]), features=2, scratch=scratch)
    assert data.samples == 2**31 - 1
    assert data.read(2**31 - 3, 2**31 - 1).toarray().tolist() == [[0, 0], [1, 0]]
    assert data.read(0, 5).toarray()[3].tolist() == [0, 2]
    data.close()


def test_duplicates_are_named(tmp_path, scratch):
    path = write(tmp_path / "x.tsv", [(1, 1, 1.0), (6, 2, 1.0), (6, 2, 1.0)])
    data = open_dataset(path, features=3, scratch=scratch)
    data.read(0, 6)
    with pytest.raises(InputError, match=r"x\.tsv: sample 7, feature 3 occurs more than once"):
        data.read(2, 7)
    data.close()
    with pytest.raises(InputError, match=r"scratch files in .* are gone"):
        data.read(0, 7)


def test_bad_text_leaves_no_scratch(tmp_path, scratch):
    path = tmp_path / "x.tsv"
    path.write_text("1\t1\t1\n1\t2\tx\n")
    with pytest.raises(InputError, match="line 2: the value 'x'"):
        open_dataset(path, features=3, scratch=scratch)
    with pytest.raises(InputError, match=r"scratch: .*no_such"):
        open_dataset(path, features=3, scratch=tmp_path / "no_such")
    assert not list(scratch.iterdir())


def test_a_full_disk_is_named(tmp_path, scratch, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool._Buckets, "flush", full)
    with pytest.raises(InputError, match="No space left on device; name a roomier directory as scratch"):
        open_dataset(write(tmp_path / "x.tsv", [(0, 0, 1.0)]), features=3, scratch=scratch)
    assert not list(scratch.iterdir())


def test_a_copy_reads_but_does_not_own(tmp_path, scratch):
    data = open_dataset(write(tmp_path / "x.tsv", [(0, 1, 2.0)]), features=3, scratch=scratch)
    again = pickle.loads(pickle.dumps(data))
    again.close()
    del again
    gc.collect()
    assert data.read(0, 1).toarray().tolist() == [[0, 2, 0]]
    del data
    gc.collect()
    assert not list(scratch.iterdir())


def test_scratch_vanishes_at_exit_and_memory_is_bounded(tmp_path, scratch):
    """Six million entries of 90 MB of text; 72 MB of them go to the disk, in less memory than that."""
    rng = np.random.default_rng(0)
    piece = b"".join(b"%d\t%d\t1\n" % (s, f) for s, f in rng.integers(1, 1025, (200_000, 2)).tolist())
    (tmp_path / "x.tsv").write_bytes(piece * 30)
    script = (
        "import resource, sys\n"
        "from dasksdnn.sources.datasets import open_dataset\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "data = open_dataset(sys.argv[1], features=1024, scratch=sys.argv[2])\n"
        "print(data.samples, peak() - before)\n"
    )
    command = [sys.executable, "-P", "-c", script, tmp_path / "x.tsv", scratch]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    samples, grown = map(int, found.stdout.split())
    assert samples == 1024
    assert grown < 110_000
    assert not list(scratch.iterdir())


def test_scratch_directories(tmp_path):
    held = Scratch(tmp_path, "test")
    assert held.path.parent == tmp_path
    assert held.path.name.startswith("dasksdnn-test-")
    with pytest.raises(KeyError), held.filling():
        raise KeyError
    assert not held.path.exists()


def test_block_bytes_cover_what_is_allocated(tmp_path, scratch):
    import tracemalloc

    entries = random_entries(600, 200, 60_000)
    data = open_dataset(write(tmp_path / "x.tsv", entries), features=200, scratch=scratch)
    for start, stop in [(0, 256), (100, 400), (0, 600), (30, 31)]:
        tracemalloc.start()
        block = data.read(start, stop)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert scipy.sparse.issparse(block)
        assert peak <= data.block_bytes(stop - start) + 20_000
    data.close()

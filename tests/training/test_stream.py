"""The stream of samples: each once an epoch, in an order of its own, in the memory that it says, and with no thread left."""

from __future__ import annotations

import threading
import time
import tracemalloc

import dask.array
import numpy as np
import pytest
import scipy.sparse
import sparse
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dasksdnn.errors import InputError
from dasksdnn.sources.datasets import as_dataset
from dasksdnn.training import stream as module
from dasksdnn.training.stream import SampleStream

F4, F8 = np.dtype(np.float32), np.dtype(np.float64)


class Recording:
    """A dataset that makes its rows when it is asked, and notes for what; row i holds i, 1, 2, ..."""

    name = "recording"

    def __init__(self, samples, features=3, block=4, dtype="f4", fault=None):
        self.samples, self.features, self.block = samples, features, block
        self.dtype, self.fault, self.spans, self.alive = np.dtype(dtype), fault, [], 0
        self.row_bytes = features * self.dtype.itemsize

    def read(self, start, stop):
        assert 0 <= start < stop <= self.samples
        self.spans.append((start, stop))
        if self.fault is not None and start <= self.fault < stop:
            raise InputError(f"sample {self.fault} cannot be read")
        rows = np.tile(np.arange(self.features, dtype=self.dtype), (stop - start, 1))
        rows[:, 0] = np.arange(start, stop)
        return rows

    def block_bytes(self, samples):
        return min(samples, self.samples) * self.row_bytes

    def close(self):
        """Nothing is open."""


def order(stream, epoch, skip=0):
    """Numbers of the samples of each batch, checked against the rows."""
    found = []
    for batch in stream.batches(epoch, skip):
        np.testing.assert_array_equal(np.asarray(batch.rows[:, 0]).ravel(), batch.samples)
        found.append(batch.samples.tolist())
    return found


def readers():
    return [t.name for t in threading.enumerate() if t.name.startswith("sdnn-samples")]


@settings(max_examples=150, deadline=None)
@given(
    samples=st.integers(0, 60),
    block=st.integers(1, 30),
    buffer=st.none() | st.integers(1, 70),
    batch=st.integers(1, 70),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
    skipped=st.integers(0, 70),
)
def test_every_sample_once_and_skipping_is_dropping(samples, block, buffer, batch, epoch, shuffle, skipped):
    def stream():
        return SampleStream(Recording(samples, block=block), F4, batch, 7, buffer, shuffle=shuffle)

    whole = order(stream(), epoch)
    flat = [i for each in whole for i in each]
    assert sorted(flat) == list(range(samples))
    assert [len(each) for each in whole] == [min(batch, samples - a) for a in range(0, samples, batch)]
    assert shuffle or flat == list(range(samples))
    assert order(stream(), epoch, skipped) == whole[skipped:]


def test_the_order_depends_on_seed_epoch_and_sizes_alone():
    def found(seed=1, epoch=0, dtype="f4", features=3, **how):
        return order(SampleStream(Recording(50, features, 10, dtype), F4, 7, seed, 30, **how), epoch)

    assert found() == found() == found(dtype="u1") == found(features=9)
    others = [found(), found(seed=2), found(epoch=1), found(epoch=2)]
    assert all(a != b for i, a in enumerate(others) for b in others[:i])


def test_samples_are_shuffled_within_a_buffer_and_between():
    """Of 1,000 samples in buffers of 200: a batch of 40 has samples of eight blocks, from all over the dataset."""
    batches = order(SampleStream(Recording(1000, block=25), F4, 40, 0, 200), 0)
    spread = [len({i // 25 for i in batch}) for batch in batches]
    assert min(spread) > 4
    assert np.mean([np.ptp(batch) for batch in batches]) > 600
    assert np.corrcoef(np.concatenate(batches), np.arange(1000))[0, 1] < 0.3


def test_what_is_skipped_is_not_read():
    data = Recording(1000, block=10)
    stream = SampleStream(data, F4, 16, 0, 100)
    whole = order(stream, 0)
    spans, data.spans = data.spans, []
    assert len(spans) == 100
    assert order(stream, 0, 50) == whole[50:]
    assert len(data.spans) == 20  # of ten buffers of ten blocks, 800 samples are skipped
    assert data.spans == spans[80:]
    data.spans = []
    assert order(stream, 0, 63) == []
    assert data.spans == []


def sources(table, folder):
    """The same rows behind every kind of source."""
    np.save(folder / "m.npy", table)
    array = zarr.create_array(folder / "z.zarr", shape=table.shape, dtype=table.dtype, chunks=(7, 5))
    array[:] = table
    return {
        "dense": table,
        "memmap": np.load(folder / "m.npy", mmap_mode="r"),
        "file": folder / "m.npy",
        "zarr": array,
        "dask": dask.array.from_array(table, chunks=(9, 4)),
        "sparse": scipy.sparse.csr_array(table),
        "pydata": sparse.COO.from_numpy(table),
        "sparse chunks": dask.array.from_array(table, chunks=(9, -1)).map_blocks(sparse.COO.from_numpy),
    }


@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("kind", ["u1", "i2", "?", "f4", "f8"])
@pytest.mark.parametrize("buffer", [None, 20])
def test_every_source_gives_its_rows_in_the_dtype(tmp_path, kind, dtype, buffer):
    rng = np.random.default_rng(0)
    table = (rng.integers(0, 200, (53, 11)) * (rng.random((53, 11)) < 0.4)).astype(kind)
    for name, source in sources(table, tmp_path).items():
        stream = SampleStream(as_dataset(source), dtype, 6, 3, buffer)
        seen = []
        for batch in stream.batches(1):
            rows = batch.rows
            assert rows.dtype == dtype
            assert scipy.sparse.issparse(rows) == (name in ("sparse", "pydata", "sparse chunks"))
            rows = rows.toarray() if scipy.sparse.issparse(rows) else rows
            np.testing.assert_array_equal(rows, table[batch.samples].astype(dtype), err_msg=name)
            seen.extend(batch.samples.tolist())
        assert sorted(seen) == list(range(53))


def test_the_users_array_is_neither_written_nor_given(tmp_path):
    table = np.arange(40, dtype=np.float32).reshape(20, 2)
    before = table.copy()
    for shuffle in (True, False):
        for batch in SampleStream(as_dataset(table), F4, 20, 0, shuffle=shuffle).batches(0):
            assert not np.shares_memory(batch.rows, table)
            batch.rows[:] = -1
    np.testing.assert_array_equal(table, before)


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
@pytest.mark.parametrize("value", [1e39, -1e300, np.nan, np.inf])
def test_a_value_that_the_dtype_cannot_hold_names_its_sample(form, value):
    table = np.ones((40, 3))
    table[17, 1] = value
    with pytest.raises(InputError, match=r"sample 17 \(from 0\)"):
        list(SampleStream(as_dataset(form(table)), F4, 8, 0, 16).batches(0))
    assert readers() == []


def test_large_values_are_no_fault_where_they_fit():
    for table in (np.full((9, 4), 1e308), np.full((9, 4), 2**64 - 1, np.uint64), np.array([[1e308, -1e308]] * 9)):
        for dtype in (F8, F4) if table.dtype.kind == "u" else (F8,):
            found = np.concatenate([b.rows for b in SampleStream(as_dataset(table), dtype, 4, 0).batches(0)])
            np.testing.assert_array_equal(found, table.astype(dtype))


@pytest.mark.parametrize("at", [0, 250])
def test_an_error_of_the_reader_surfaces(at):
    stream = SampleStream(Recording(400, block=10, fault=at), F4, 16, 0, 100, shuffle=False)
    seen = []
    with pytest.raises(InputError, match=f"sample {at} cannot be read"):
        seen.extend(batch.samples for batch in stream.batches(0))
    assert sum(map(len, seen)) == at // 100 * 100 // 16 * 16
    assert readers() == []


def test_closing_early_leaves_no_thread_and_reads_no_more():
    data = Recording(1000, block=10)
    for taken in range(4):
        batches = SampleStream(data, F4, 64, 0, 100).batches(0)
        for _ in range(taken):
            next(batches)
        assert bool(readers()) == bool(taken)
        batches.close()
        assert readers() == []
        before = len(data.spans)
        assert next(batches, None) is None
        assert len(data.spans) == before


def test_reading_is_one_buffer_ahead():
    """Once a buffer is in use the next one is read, without being asked for, and no other."""
    data, read = Recording(1000, block=10), threading.Semaphore(0)
    plain = data.read

    def counted(start, stop):
        try:
            return plain(start, stop)
        finally:
            read.release()

    data.read = counted
    batches = SampleStream(data, F4, 50, 0, 100).batches(0)
    for buffers in (2, 2, 3, 3, 4):
        next(batches)
        while len(data.spans) < 10 * buffers:
            assert read.acquire(timeout=60)
        assert len(data.spans) == 10 * buffers
    batches.close()
    assert len(data.spans) == 40


def test_a_dataset_of_one_buffer_is_read_once_and_in_one_piece():
    data = Recording(500, block=10)
    assert len(order(SampleStream(data, F4, 64, 0), 0)) == 8
    assert data.spans == [(0, 500)]
    table = np.zeros((1 << 12, 1 << 8), np.uint8)
    batches = SampleStream(as_dataset(table), F4, 64, 0).batches(0)
    next(batches)
    tracemalloc.start()
    try:
        for _ in batches:
            pass
        for _ in SampleStream(as_dataset(table), F4, 64, 0).batches(1):
            pass
        assert tracemalloc.get_traced_memory()[1] < table.nbytes / 2  # an array in memory is not copied
    finally:
        tracemalloc.stop()


def peak_of(stream):
    """Bytes allocated at the peak of an epoch, where a batch is held until the next one is there."""
    tracemalloc.start()
    try:
        for batch in stream.batches(1):
            assert len(batch.samples)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


#: Of futures, threads, generators.
FEW = 100_000


@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("kind", ["u1", "f8"])
@pytest.mark.parametrize(
    ("features", "buffer", "batch"),
    [
        (64, None, 64),
        (64, 2000, 64),
        (64, 2000, 2000),
        (64, 2000, 1999),
        (64, 500, 1700),
        (2, 3000, 64),
        (1, None, 999),
    ],
)
def test_nbytes_bounds_what_dense_rows_take(features, buffer, batch, kind, dtype):
    """Checked with rows that are made when they are read, so that whatever is held is counted."""
    data = Recording(12_000, features, 300, kind)
    data.read = lambda start, stop: np.zeros((stop - start, features), kind)
    stream = SampleStream(data, dtype, batch, 0, buffer)
    peak = peak_of(stream)
    assert peak <= stream.nbytes + FEW
    assert stream.nbytes <= 2.2 * peak


@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize(("buffer", "batch"), [(None, 64), (1000, 64), (1000, 3000)])
def test_nbytes_bounds_what_sparse_rows_take(buffer, batch, uneven, dtype):
    """Uneven: all entries are in the blocks of a fifth of the samples, and those may meet in one buffer."""
    rng = np.random.default_rng(0)
    share = np.where(np.arange(6000) // 125 % 5 == 0, 0.5, 0.0) if uneven else np.full(6000, 0.1)
    table = scipy.sparse.csr_array((rng.random((6000, 100)) < share[:, None]).astype(np.float32))
    stream = SampleStream(as_dataset(table), dtype, batch, 0, buffer)
    peak = peak_of(stream)
    assert peak <= stream.nbytes + FEW
    assert uneven or stream.nbytes <= 2.2 * peak


def test_nbytes_bounds_what_files_and_chunks_take(tmp_path):
    table = np.random.default_rng(0).random((12_000, 50))
    array = zarr.create_array(tmp_path / "z.zarr", shape=table.shape, dtype="f8", chunks=(1000, 50))
    array[:] = table
    np.save(tmp_path / "m.npy", table)
    for source in (array, tmp_path / "m.npy", np.load(tmp_path / "m.npy", mmap_mode="r")):
        for buffer in (None, 4000):
            stream = SampleStream(as_dataset(source), F4, 64, 0, buffer)
            list(stream.batches(0))  # what libraries keep for themselves from then on
            assert peak_of(stream) <= stream.nbytes + FEW


def test_the_buffer_is_of_a_size_in_bytes(monkeypatch):
    monkeypatch.setattr(module, "BUFFER_BYTES", 100_000)
    for data, most in ((Recording(10_000, 84, 64), 100_000), (Recording(10_000, 1, 64), 100_000)):
        stream = SampleStream(data, F4, 8, 0)
        rows = stream._buffer
        assert rows * (data.row_bytes + 16) <= most < (rows + 1) * (data.row_bytes + 16)
    whole = zarr.create_array({}, shape=(4000, 10), chunks=(4000, 10), dtype="f4")
    assert SampleStream(as_dataset(whole), F4, 8, 0)._buffer == 100_000 // 56  # chunks that are decoded do not count


def test_leaving_waits_for_one_block_and_not_for_its_buffer():
    data, leave = Recording(1000, block=10), threading.Event()
    plain, begun = data.read, threading.Semaphore(0)

    def waiting(start, stop):
        begun.release()
        assert leave.wait(60)
        return plain(start, stop)

    batches = SampleStream(data, F4, 100, 0, 100).batches(0)
    next(batches)
    while len(data.spans) < 20:
        time.sleep(0.001)
    data.read = waiting
    next(batches)  # the second buffer, which is there; the third is being read from now on
    assert begun.acquire(timeout=60)
    before = len(data.spans)
    threading.Timer(0.05, leave.set).start()
    batches.close()
    assert len(data.spans) == before + 1
    assert readers() == []


@pytest.mark.parametrize(
    ("chunk", "expected"), [(10, 10), (100, 10), (96, 12), (30, 10), (12, 12), (13, 7), (1, 1), (17, 9)]
)
def test_pieces_are_equal_parts_of_the_sources_blocks(chunk, expected):
    """Of chunks of 96 samples, pieces of 12 each lie within one; a buffer of 100 holds at least eight."""
    data = Recording(1000, block=chunk)
    assert sum(b.samples.size for b in SampleStream(data, F4, 64, 0, 100).batches(0)) == 1000
    assert max(b - a for a, b in data.spans) == expected <= 100 // 8

import gzip
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dasksdnn.errors import InputError
from dasksdnn.sources.files import read_integers, read_lines
from dasksdnn.sources.text import read_triplets


def read(path, **options):
    pieces = list(read_triplets(path, **options))
    return tuple(np.concatenate(arrays) for arrays in zip(*pieces, strict=True))


def put(path, body):
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return path


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
@pytest.mark.parametrize(
    "body",
    [
        b"1\t2\t0.5\n3\t4\t-1\n",
        b"1 2 0.5\n3 4 -1\n",
        b"1\t2\t0.5\r\n3\t4\t-1\r\n",
        b"1\t2\t0.5\n3\t4\t-1",
        b"1\t2\t0.5\n3\t4\t-1\n\n \n\n",
        b"  1   2\t5e-1\n3\t4\t-1.0E+0\n",
        b"1\t2\t+.5\n3\t4\t-1.\n",
        b"001\t2\t0.5\n3\t04\t-01\n",
    ],
)
def test_sound_variants(tmp_path, name, body):
    first, second, value = read(put(tmp_path / name, body))
    assert first.tolist() == [0, 2]
    assert second.tolist() == [1, 3]
    assert value.tolist() == [0.5, -1.0]


@pytest.mark.parametrize("place", [1, 4, 500])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"1\t2", "has 2 fields; expected 3: row, column, value"),
        (b"7", "has 1 field;"),
        (b"1\t2\t3\t4", "has 4 fields"),
        (b"1\t2\t3 4\t5\t6", "has 6 fields"),
        (b"x\t2\t3", "the row 'x' is not a whole number"),
        (b"1\t2y\t3", "the column '2y' is not a whole number"),
        (b"1\t-2\t3", "the column '-2' is not"),
        (b"1.0\t2\t3", "the row '1.0' is not"),
        (b"1e1\t2\t3", "the row '1e1' is not"),
        (b"1_0\t2\t3", "the row '1_0' is not"),
        (b"0\t2\t3", "the row is 0; indices count from 1"),
        (b"1\t0\t3", "the column is 0"),
        (b"101\t2\t3", "the row '101' is beyond the largest allowed, 100"),
        (b"1\t99999999999999999999\t3", "the column '99999999999999999999' is beyond"),
        (b"1\t" + b"9" * 5000 + b"\t3", "is beyond"),
        (b"1\t2\tnan", "the value 'nan' is not finite"),
        (b"1\t2\t-inf", "the value '-inf' is not finite"),
        (b"1\t2\t1e999", "the value '1e999' is too large for float64"),
        (b"1\t2\t3x", "the value '3x' is not a number"),
        (b"1\t2\t0x10", "the value '0x10' is not a number"),
        (b"1\t2\t1,5", "the value '1,5' is not a number"),
        (b"1\t2\t1d3", "not a number"),
        (b"1\t2\t5-", "not a number"),
        (b"1\t2\t5-3", "not a number"),
        (b"1\t2\t1e", "not a number"),
        (b"1\t2\t1e-", "not a number"),
        (b"1\t2\t1e5-", "not a number"),
        (b"1\t2\t1.5.2", "not a number"),
        (b"1\t2\t--5", "not a number"),
        (b"1\t2\t1_0", "not a number"),
        (b"1\t2\t.", "not a number"),
        (b"1\t2\t\xff", "not a number"),
        (b"# comment", "has 2 fields"),
        (b"", "is blank, with more lines after it"),
        (b"1\r2\t3\t4", "has 4 fields"),
    ],
)
def test_every_fault_is_named_by_its_line(tmp_path, place, line, words):
    lines = [b"5\t6\t-7.25e-01"] * 600
    lines[place - 1] = line
    path = put(tmp_path / "a.tsv", b"\n".join(lines) + b"\n")
    for chunk_bytes in (1 << 20, 256):
        with pytest.raises(InputError) as caught:
            read(path, limits=(100, 2**31 - 1), chunk_bytes=chunk_bytes)
        assert str(caught.value).startswith(f"{path} line {place}: ")
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_blank_lines_are_found_across_chunks(tmp_path):
    path = put(tmp_path / "a.tsv", b"1\t1\t1\n\n\n\n\n\n\n\n\n2\t2\t2\n")
    with pytest.raises(InputError, match="line 2: is blank"):
        read(path, chunk_bytes=8)


def test_overflow_of_float32(tmp_path):
    path = put(tmp_path / "a.tsv", b"1\t1\t1\n1\t2\t1e39\n")
    assert read(path)[2][1] == 1e39
    with pytest.raises(InputError, match="line 2: the value '1e39' is too large for float32"):
        read(path, dtype="float32")


def test_large_limits_and_types(tmp_path):
    path = put(tmp_path / "a.tsv", b"5000000000\t1\t1\n")
    first, _, value = read(path, limits=(2**40, 1), dtype=np.float32)
    assert first.dtype == np.int64
    assert first[0] == 4_999_999_999
    assert value.dtype == np.float32
    assert read(put(tmp_path / "b.tsv", b"5\t1\t1\n"))[0].dtype == np.int32


def test_skip(tmp_path):
    path = put(tmp_path / "a.tsv", b"% x\n% y\n1\t2\t3\n4\t5\tz\n")
    with pytest.raises(InputError, match="line 4: the value 'z'"):
        read(path, skip=2)
    assert read(put(tmp_path / "b.tsv", b"% x\n1\t2\t3\n"), skip=1, chunk_bytes=3)[2].tolist() == [3]


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
@pytest.mark.parametrize("body", [b"", b"\n", b"\n\n \n"])
def test_empty(tmp_path, name, body):
    with pytest.raises(InputError, match=r"a\.tsv.*: is empty; expected lines of row, column and value"):
        read(put(tmp_path / name, body))


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none.tsv")
    with pytest.raises(InputError, match="is a directory"):
        read(tmp_path)
    whole = gzip.compress(b"1\t2\t3\n" * 10_000)
    for body, words in [
        (whole[:-20], "end too early: truncated"),
        (whole[:-8] + b"\0" * 8, "not a sound gzip file"),
        (b"1\t2\t3\n", "not a sound gzip file"),
        (whole[:30] + b"\xff" * 20 + whole[50:], "gzip"),
    ]:
        bad = tmp_path / "bad.tsv.gz"
        bad.write_bytes(body)
        with pytest.raises(InputError, match=words):
            read(bad)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match="no permission to read it"):
        read(tmp_path / "bad.tsv.gz")


def test_concatenated_gzip_members(tmp_path):
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b"1\t2\t3\n") + gzip.compress(b"4\t5\t6\n"))
    assert read(path)[2].tolist() == [3, 6]


def test_a_binary_file_is_refused_before_it_fills_memory(tmp_path):
    path = put(tmp_path / "a.tsv", b"1\t1\t1\n" + b"x" * (3 << 20))
    with pytest.raises(InputError, match="line 2: longer than"):
        list(read_lines(path, 1 << 19))


def test_lines_are_whole_in_every_chunk_size(tmp_path):
    body = b"".join(b"%d\t%d\t1\n" % (k, k * k) for k in range(1, 300))
    path = put(tmp_path / "a.tsv", body)
    for size in (1, 7, 100, 10_000):
        pieces = list(read_lines(path, size))
        assert b"".join(pieces) == body
        assert all(piece.endswith(b"\n") for piece in pieces)


values = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=64),
    st.integers(-(10**9), 10**9).map(float),
)
formats = st.sampled_from(["{!r}", "{:.17e}", "{:.17E}", "{:+.17g}", "{:.17g}"])
gaps = st.sampled_from(["\t", " ", "  ", "\t ", " \t\t"])
entries = st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 50), values, formats, gaps, gaps), min_size=1)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entries,
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 13, 64, 1 << 20]),
)
def test_round_trip(tmp_path, rows, newline, uniform, last, zipped, chunk_bytes):
    if uniform:
        rows = [(a, b, v, "{!r}", "\t", "\t") for a, b, v, *_ in rows]
    lines = [f"{a}{g}{b}{h}{form.format(v)}" for a, b, v, form, g, h in rows]
    body = newline.join(lines) + (newline if last else "")
    path = put(tmp_path / ("a.tsv.gz" if zipped else "a.tsv"), body.encode())
    first, second, value = read(path, limits=(10**6, 50), chunk_bytes=chunk_bytes)
    assert first.tolist() == [row[0] - 1 for row in rows]
    assert second.tolist() == [row[1] - 1 for row in rows]
    assert value.tolist() == [row[2] for row in rows]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text("0123456789.-+eE\t x", max_size=9), min_size=1, max_size=4))
def test_whatever_is_accepted_is_what_python_reads(tmp_path, tails):
    """No line may be cut short in silence: compare with a plain reading of each line."""
    lines = [f"1\t2\t{tail}" for tail in tails]
    path = put(tmp_path / "a.tsv", "\n".join(lines).encode())
    try:
        expected = [float(line.split()[2]) for line in lines]
        sound = all(len(line.split()) == 3 for line in lines)
    except (ValueError, IndexError):
        sound = False
    if sound and np.isfinite(expected).all():
        assert read(path)[2].tolist() == expected
    else:
        with pytest.raises(InputError, match="line"):
            read(path)


def test_integers(tmp_path):
    assert read_integers(put(tmp_path / "a.txt", b"3\n-1\r\n 7\n\n"), "label", -5).tolist() == [3, -1, 7]
    for body, words in [
        (b"1\n2.5\n", "line 2: the label '2.5' is not a whole number of at least 0"),
        (b"1\n\n2\n", "line 2"),
        (b"-1\n", "line 1"),
        (b"", "is empty; expected a label a line"),
        (b"9" * 30, "line 1"),
    ]:
        with pytest.raises(InputError, match=words):
            read_integers(put(tmp_path / "b.txt", body), "label")


def test_memory_is_bounded(tmp_path):
    """40 MB of text are read within 60 MB more than the interpreter and SciPy take."""
    path = tmp_path / "a.tsv"
    path.write_bytes(b"".join(b"%d\t%d\t0.0625\n" % (k % 65536 + 1, k % 1000 + 1) for k in range(200_000)) * 12)
    script = (
        "import resource, sys\n"
        "from dasksdnn.sources.text import read_triplets\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "n = sum(v.size for _, _, v in read_triplets(sys.argv[1], chunk_bytes=4 << 20))\n"
        "print(n, peak() - before)\n"
    )
    found = subprocess.run([sys.executable, "-P", "-c", script, path], capture_output=True, text=True, check=True)
    count, grown = map(int, found.stdout.split())
    assert count == 2_400_000
    assert grown < 60_000

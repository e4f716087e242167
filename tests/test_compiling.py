"""Kernels are kept and loaded, whoever else starts, whatever is broken, and wherever nothing may be written."""

from __future__ import annotations

import ast
import errno
import fcntl
import logging
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import dask.config
import numpy as np
import pytest
from numba.core.compiler import CompileResult
from numba.core.errors import TypingError

import dasksdnn
from dasksdnn import compiling, keeping
from dasksdnn.compiling import compiled, warm_up
from dasksdnn.events import Progress

PACKAGE = Path(dasksdnn.__file__).parent


def double(x):
    return 2 * x


def triple(x):
    return 3 * x


@pytest.fixture
def forget():
    """Kernels, the digest and the notice are things of a process: tests start afresh."""

    def clear():
        compiling._log_once.cache_clear()
        keeping.digest.cache_clear()
        keeping.content.cache_clear()

    clear()
    yield clear
    clear()


@pytest.fixture
def cache(forget, tmp_path, monkeypatch):
    """An empty folder as the cache, and an empty temporary folder."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with dask.config.set({"dasksdnn.cache": str(tmp_path / "cache")}):
        yield tmp_path / "cache"


def call(function, argument=2.0, **options):
    """The result of a kernel that this process has not seen, and how often it was compiled."""
    kernel = compiled(function, **options)
    result = kernel(argument)
    return result, sum(kernel.stats.cache_misses.values())


def private(tmp_path):
    return tmp_path / "temporary" / f"dasksdnn-{os.geteuid()}"


def kept(folder):
    return sorted(folder.rglob("*.code"))


def test_compiled_once(cache):
    assert call(double) == (4.0, 1)
    assert call(double) == (4.0, 0)
    assert call(double, 2) == (4, 1)  # another type
    assert call(triple) == (6.0, 1)
    assert call(double, 2) == (4, 0)
    assert len(kept(cache)) == 3
    assert oct(cache.stat().st_mode)[-3:] == "700"
    assert {p.name for p in keeping.folder().iterdir()} == {"lock", *(p.name for p in kept(cache))}


def test_options_and_plain_use(cache):
    assert compiled(fastmath={"contract"})(double)(2.0) == 4.0
    assert compiled(double).targetoptions["nogil"]


def damage_by(kind, path, other):
    content = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "truncated": content[:-100],
            "garbage": b"x" * len(content),
            "flipped": content[:500] + bytes([content[500] ^ 1]) + content[501:],
            "another": other.read_bytes(),
        }[kind]
    )


@pytest.mark.parametrize("kind", ["empty", "truncated", "garbage", "flipped", "another"])
def test_what_is_damaged_is_compiled_again(kind, cache):
    call(triple)
    (other,) = kept(cache)
    call(double)
    (path,) = set(kept(cache)) - {other}
    damage_by(kind, path, other)
    assert call(double) == (4.0, 1)
    assert call(double) == (4.0, 0)


def test_what_cannot_be_rebuilt_is_compiled_again(cache, monkeypatch):
    call(double)
    (path,) = kept(cache)
    keeping.save(path.name, b"no pickle")
    assert call(double) == (4.0, 1)
    monkeypatch.setattr(CompileResult, "_rebuild", classmethod(lambda *_: 1 / 0))
    assert call(double) == (4.0, 1)


def test_another_numba_still_compiles(cache, monkeypatch):
    monkeypatch.setattr(CompileResult, "_reduce", lambda _: 1 / 0)
    assert call(double) == (4.0, 1)
    monkeypatch.delattr(CompileResult, "_reduce")
    assert compiled(double)(2.0) == 4.0
    monkeypatch.undo()
    monkeypatch.setattr(compiling, "global_compiler_lock", None)
    assert compiled(double)(2.0) == 4.0
    assert kept(cache) == []


@pytest.mark.parametrize("module", ["compiler", "compiler_lock", "serialize"])
def test_a_numba_without_these_modules(module, start):
    """`None` in sys.modules makes our import fail, as it would in a Numba that has moved it; its own have to work."""
    code = f"""
    import sys, numba
    held, sys.modules["numba.core.{module}"] = sys.modules["numba.core.{module}"], None
    import tiny
    sys.modules["numba.core.{module}"] = held
    tiny.run()
    """
    assert outcome(start(code), said="").startswith(RIGHT)


def kernel_for_others(x):
    return 4 * x


def test_kernels_travel(cache):
    """As to a Dask worker."""
    kernel = compiled(kernel_for_others)
    assert pickle.loads(pickle.dumps(kernel))(2.0) == 8.0


def test_changed_sources_are_noticed(cache, forget, monkeypatch, tmp_path):
    """A kernel's own file may be as it was: it inlines others."""
    changed = tmp_path / "microkernel.py"
    changed.write_text("old")
    monkeypatch.setattr(keeping, "sources", lambda: (Path(compiling.__file__), changed))
    call(double)
    changed.write_text("new")
    forget()
    assert call(double) == (4.0, 1)
    assert len(list(cache.iterdir())) == 2
    changed.unlink()
    forget()
    assert (keeping.digest(), call(double)) == (None, (4.0, 1))


def test_the_digest_covers_what_kernels_use():
    """What else they import tells no constant to a kernel."""
    apart = {f"dasksdnn.{name}" for name in ("config", "events", "errors", "host", "compiling", "kernels")} | {
        "dasksdnn"
    }
    covered = {".".join(["dasksdnn", *p.relative_to(PACKAGE).with_suffix("").parts]) for p in keeping.sources()}
    for path in (path for room in ("kernels", "partition") for path in (PACKAGE / room).glob("*.py")):
        assert path in keeping.sources()
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if "@compiled" in text and isinstance(node, ast.ImportFrom) and node.module != "dasksdnn":
                assert not node.module.startswith("dasksdnn") or node.module in covered | apart, (path, node.module)


def test_old_folders_go(cache):
    month = time.time() - keeping.UNUSED_SECONDS
    names = {"kernels-" + "0" * 16: -60, "kernels-" + "1" * 16: +3600, "kernels-mine": -60, "notes": -60}
    cache.mkdir()
    for name, age in names.items():
        (cache / name).mkdir()
        (cache / name / "file").touch()
        os.utime(cache / name, (month + age, month + age))
    (cache / ("kernels-" + "2" * 16)).symlink_to(cache / "notes")
    call(double)
    left = {p.name for p in cache.iterdir()} - {keeping.folder().name}
    assert left == {"kernels-" + "1" * 16, "kernels-" + "2" * 16, "kernels-mine", "notes"}
    assert (cache / "notes" / "file").exists()


def test_what_is_used_stays_young(cache):
    call(double)
    os.utime(keeping.folder(), (0, 0))
    call(double)
    assert keeping.folder().stat().st_mtime > time.time() - 3600


@pytest.mark.parametrize("who", ["group", "all", "owner"])
@pytest.mark.parametrize("what", ["base", "folder", "file"])
def test_what_others_can_write_is_not_loaded(what, who, cache, tmp_path):
    call(double)
    path = {"base": cache, "folder": keeping.folder(), "file": kept(cache)[0]}[what]
    if who == "owner":
        if os.geteuid():
            pytest.skip("needs root to give a file away")
        os.chown(path, 12345, -1)
    else:
        path.chmod(0o720 if who == "group" else 0o702)
    assert call(double) == (4.0, 1)
    assert call(double) == (4.0, 0)
    assert len(kept(private(tmp_path))) == (what != "file")  # a file of ours takes the place of the other


def test_the_temporary_folder_of_another(cache, tmp_path):
    """Who guesses its name must not get us to write through a link."""
    private(tmp_path).symlink_to(tmp_path)
    with dask.config.set({"dasksdnn.cache": "/dev/null/none"}):
        assert keeping.folder() is None
        assert call(double) == (4.0, 1)


def test_a_generous_umask(cache):
    before = os.umask(0)
    try:
        call(double)
    finally:
        os.umask(before)
    assert call(double) == (4.0, 0)


def test_a_full_disk(cache, monkeypatch):
    real = Path.replace

    def replace(self, target):
        if cache in self.parents:
            raise OSError(errno.ENOSPC, "full")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    assert call(double) == (4.0, 1)
    assert call(double) == (4.0, 0)  # from the temporary folder
    assert [p.name for p in keeping.folder().iterdir()] == ["lock"]


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_where(platform, forget, monkeypatch):
    import numba

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    home = {"linux": "/home/me/.cache/dasksdnn", "darwin": "/home/me/Library/Caches/dasksdnn"}[platform]
    for xdg in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
        assert keeping.chosen() == Path(home)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert keeping.chosen() == Path("/caches/dasksdnn" if platform == "linux" else home)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/numba")
    assert keeping.chosen() == Path("/numba/dasksdnn")
    with dask.config.set({"dasksdnn.cache": "~/here"}):
        assert keeping.chosen() == Path("/home/me/here")


def test_no_home_and_no_temporary_folder(cache, monkeypatch, caplog, tmp_path):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", none)
    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    with dask.config.set({"dasksdnn.cache": None}):
        assert keeping.folder().parent == private(tmp_path)
        monkeypatch.setattr(tempfile, "tempdir", "/dev/null")
        assert call(double) == (4.0, 1)
    assert "set dasksdnn.cache" in caplog.text


def test_told_once_and_only_where_something_compiles(cache, caplog, forget):
    call(double)
    call(triple)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("dasksdnn", logging.WARNING)
    assert record.getMessage() == f"compiling kernels for this machine, once: they are kept in {next(cache.glob('k*'))}"
    caplog.clear()
    forget()
    call(double)
    assert caplog.records == []


def test_a_listener_is_told_instead(cache, caplog):
    events = []
    warm_up([lambda: call(double), lambda: call(triple)], events.append)
    assert events == [Progress("compile", done, 2, "kernels") for done in (0, 1, 1, 2)]
    assert caplog.records == []
    warm_up([lambda: call(double), lambda: call(triple)], events.append)
    assert len(events) == 4
    warm_up([lambda: call(double, 2)])
    assert len(caplog.records) == 1


def wrong(x):
    return x.nothing


def lock():
    """The lock, as another process would open it."""
    return open(keeping.folder() / "lock", "w")


def test_a_kernel_that_does_not_compile_gives_the_turn_back(cache):
    with pytest.raises(TypingError):
        call(wrong)
    with lock() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_patience_ends(cache, monkeypatch):
    monkeypatch.setattr(compiling, "PATIENCE", 0.3)
    events = []
    with lock() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        warm_up([lambda: call(double)], events.append)
    assert len(events) > 3  # who waits is told so on the way
    assert call(double) == (4.0, 0)


def test_a_file_system_without_locks(cache, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert call(double) == (4.0, 1)
    assert call(double) == (4.0, 0)


def test_closures_are_not_kept(cache):
    for factor in (2, 3):
        assert call(lambda x, factor=factor: factor * x)[0] == 2.0 * factor  # a default is an argument
        assert call((lambda f: lambda x: f * x)(factor))[0] == 2.0 * factor


def test_compiling_again_on_purpose_does_not_load(cache):
    kernel = compiled(double)
    kernel(2.0)
    kernel.recompile()
    assert sum(kernel.stats.cache_misses.values()) == 2


TINY = """
import sys
import numpy as np
from dasksdnn.compiling import compiled

@compiled
def square(x):
    return x * x

@compiled(fastmath={"contract"})
def total(a):
    s = a.dtype.type(0)
    for i in range(a.size):
        s += square(a[i])
    return s

def run():
    results = [float(total(np.arange(10, dtype=dtype))) for dtype in ("f4", "f8", "i4")]
    print(results, sum(sum(kernel.stats.cache_misses.values()) for kernel in (square, total)))
"""
#: Sums of squares, as TINY prints them; it has two kernels, each for three types.
RIGHT = "[285.0, 285.0, 285.0]"


@pytest.fixture
def start(tmp_path):
    """Call `start(code)`: another process, in which `tiny` is a module; it is gone after the test."""
    (tmp_path / "tiny.py").write_text(TINY)
    started = []

    def go(code, lower=False, package=PACKAGE.parent, **environment):
        first = "import ctypes, os, sys\n"
        if lower and not os.geteuid():  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH open what modes close
            first += "for capability in (1, 2):\n    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)\n"
        first += f"os.execv(sys.executable, [sys.executable, '-P', '-c', {textwrap.dedent(code)!r}])"
        merged = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{tmp_path}", "PYTHONDONTWRITEBYTECODE": "1"}
        merged |= environment
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        kept = {name: value for name, value in merged.items() if value is not None}
        started.append(subprocess.Popen([sys.executable, "-c", first], env=kept, **pipes))
        return started[-1]

    yield go
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def outcome(process, said=None):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert said is None or err == said
    return out.strip()


def test_several_processes_at_once(start, tmp_path):
    code = "import tiny, sys; print('ready', flush=True); sys.stdin.readline(); tiny.run()"
    environment = {"DASK_DASKSDNN__CACHE": str(tmp_path / "cache")}
    processes = [start(code, **environment) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [outcome(process).rpartition(" ") for process in processes]
    assert {result for result, _, _ in results} == {RIGHT}
    assert sum(int(count) for _, _, count in results) == 6  # no two processes compiled the same
    assert outcome(start("import tiny; tiny.run()", **environment), said="") == f"{RIGHT} 0"
    assert len(kept(tmp_path / "cache")) == 6
    assert list((tmp_path / "cache").rglob("*.partial")) == []


def test_a_dead_process_blocks_nobody(start, cache):
    folder = keeping.folder()
    holder = start(
        f"""
        import fcntl, time
        file = open({str(folder / "lock")!r}, "w")
        fcntl.flock(file, fcntl.LOCK_EX)
        print("held", flush=True)
        time.sleep(600)
        """
    )
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    assert call(double) == (4.0, 1)


@pytest.fixture
def closed(tmp_path):
    """An installed package and a home folder where nothing may be written."""
    if os.geteuid() == 0 and sys.platform != "linux":
        pytest.skip("root can only give up its privileges on Linux")
    folder = tmp_path / "closed"
    shutil.copytree(PACKAGE, folder / "dasksdnn", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "own.py").write_text("import numba\n\ndef twice(x):\n    return 2 * x\n")
    (folder / "home").mkdir()
    (tmp_path / "temporary").mkdir()
    folders = [folder, *(p for p in folder.rglob("*") if p.is_dir())]
    for path in folders:
        path.chmod(0o555)
    yield folder
    for path in folders:
        path.chmod(0o755)


STOCK = """
import numba, own
try:
    numba.njit(cache=True)(own.twice)
except RuntimeError as error:
    print(error)
"""
OURS = (
    "import dasksdnn.kernels.spmm, dasksdnn.kernels.panels as p, numpy as np; print(p.alive_columns(np.eye(2), 2, 2))"
)


@pytest.mark.parametrize("home", ["read-only", "none"])
def test_nothing_may_be_written_but_temporary_files(home, closed, start, tmp_path):
    environment = dict.fromkeys(["XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "DASK_DASKSDNN__CACHE", "HOME"])
    environment |= {"TMPDIR": str(tmp_path / "temporary")}
    if home == "read-only":
        environment |= {"HOME": str(closed / "home")}
        # What Numba's own cache does here:
        assert "no locator available" in outcome(start(STOCK, lower=True, package=closed, **environment))
    else:  # the user's own home is not the tests' to write in
        environment |= {"XDG_CACHE_HOME": str(closed / "home")}
    first = start(OURS, lower=True, package=closed, **environment)
    printed, said = first.communicate(timeout=120)
    assert (first.returncode, printed.strip(), said.count("\n")) == (0, "[ True  True]", 1), said
    assert str(private(tmp_path)) in said
    assert outcome(start(OURS, lower=True, package=closed, **environment), said="") == "[ True  True]"
    assert list((closed / "home").iterdir()) == []


def test_results_are_arrays_as_ever(cache):
    np.testing.assert_array_equal(compiled(double)(np.arange(3)), [0, 2, 4])


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import numba.core.dispatcher as d
from dasksdnn.compiling import compiled
@compiled
def kernel(x):
    return 2 * x
real = kernel._compiler.compile
def slow(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    return real(*arguments)
kernel._compiler.compile = slow
try:
    kernel(2.0)
except KeyboardInterrupt:
    print("stopped", kernel.signatures)
"""


def test_ctrl_c_waits_for_the_compiler(cache):
    """LLVM calls back into Python, where an exception would be lost: it is raised when the kernel is there."""
    settings = {**os.environ, "DASK_DASKSDNN__CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], env=settings, capture_output=True, text=True, check=True)
    assert done.stdout == "stopped [(float64,)]\n"

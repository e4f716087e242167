"""The parent's side of the helper process (worker.py): calls with a time limit, and a clear error when it dies.

One helper serves a whole `partition()` call: it starts at the first call of a library and ends with the `with` block.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import IO, Any

import numpy as np

from dasksdnn.errors import PartitionerError
from dasksdnn.host import note_child
from dasksdnn.network import Array
from dasksdnn.partition import worker

#: Seconds that one library call may take.
TIMEOUT = 600.0
_PACKAGES = {"metis": "pymetis", "kahypar": "kahypar", "mtkahypar": "mtkahypar"}


class Helper:
    """A process in which native partitioners run; a context manager.

    Parameters
    ----------
    timeout : float
        Seconds that one call may take before the process is killed.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.timeout = timeout
        self._lock, self._ended = threading.Lock(), False
        self._process: subprocess.Popen[bytes] | None = None
        self._noise: IO[bytes] | None = None

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process, where one runs."""
        return self._process.pid if self._process else None

    def end(self) -> None:
        """Close for good: a thread that calls from now on is refused, and none that waits for an answer waits longer."""
        with self._lock:
            self._ended = True
        self.close()

    def close(self) -> None:
        """End the process, whatever it is doing (also after Ctrl-C in the middle of a call)."""
        if (process := self._process) is not None:
            note_child(process.pid)
            self._finalizer()
            self._process = None
        if self._noise is not None:
            self._noise.close()
            self._noise = None

    def call(self, library: str, nparts: int, epsilon: float, seed: int, **arrays: Array) -> Array:
        """Partition a graph or hypergraph.

        Parameters
        ----------
        library : {"metis", "kahypar", "mtkahypar"}
            The library.
        nparts, epsilon, seed : int, float, int
            Number of parts, allowed imbalance, and a seed below 2**31.
        **arrays : int arrays
            As the function of that name in worker.py takes them.

        Returns
        -------
        int64 array
            The part of each vertex.

        Raises
        ------
        PartitionerError
            If the library is not installed, fails, dies, hangs, or answers with something that is no partition.
        """
        with self._lock:
            if self._ended:
                raise PartitionerError(f"{library} was stopped")
            process = self._start()
        expired = threading.Event()
        timer = threading.Timer(self.timeout, self._expire, (process, expired))
        timer.daemon = True
        timer.start()
        try:
            reply = self._exchange(
                process, (library, self.timeout, dict(arrays, nparts=nparts, epsilon=epsilon, seed=seed))
            )
        finally:
            timer.cancel()
        if reply is None:
            raise PartitionerError(self._obituary(library, process, expired.is_set()))
        return self._checked(library, reply, arrays["vertex_weight"].size, nparts)

    @staticmethod
    def _expire(process: subprocess.Popen[bytes], expired: threading.Event) -> None:
        expired.set()
        process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._noise = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
            try:
                self._process = _spawn(self._noise)
            except OSError as error:
                raise PartitionerError(f"the partitioners' helper process cannot start: {error}") from error
            self._finalizer = weakref.finalize(self, _end, self._process)
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], message: object) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            worker.write(process.stdin, message)  # type: ignore[arg-type]
            return worker.read(process.stdout)  # type: ignore[arg-type]
        except BrokenPipeError:
            return None

    def _obituary(self, library: str, process: subprocess.Popen[bytes], expired: bool) -> str:
        """What to tell the user of a helper that ended; the next call starts a new one."""
        code = process.wait()
        last = self._last_words()
        self.close()
        if expired:
            return (
                f"{library} did not finish in {self.timeout:g} s and was stopped; allow more time or use another method"
            )
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended the process with exit code {code}"
        return f"{library} {how}{last}; use another method, or another nparts or seed"

    def _last_words(self) -> str:
        assert self._noise is not None
        self._noise.seek(0)
        lines = [line.strip() for line in _plain(self._noise.read().decode(errors="replace")).splitlines()]
        spoken = [line for line in lines if line]
        return f" ({spoken[-1][:200]})" if spoken else ""

    @staticmethod
    def _checked(library: str, reply: tuple[str, Any], vertices: int, nparts: int) -> Array:
        status, value = reply
        if status == "missing":
            package = _PACKAGES.get(library, library)
            raise PartitionerError(f"{library} is not installed: pip install {package}, or use another method")
        if status != "ok":
            raise PartitionerError(f"{library} failed: {_plain(value)}; use another method")
        part = np.asarray(value, np.int64)
        if part.shape != (vertices,) or (part.size and not 0 <= part.min() <= part.max() < nparts):
            raise PartitionerError(f"{library} answered with something that is no partition; use another method")
        return part


def _spawn(noise: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # -P: neither the current directory nor this package's own may shadow a module. PYTHONPATH still counts.
        [sys.executable, "-P", str(Path(worker.__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=noise,
        start_new_session=True,  # Ctrl-C is the parent's to handle: it kills the helper without a traceback
    )


def _plain(text: str) -> str:
    """Without the colours that the libraries give their complaints."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # closing flushes what the dead helper never read
                pipe.close()
    process.wait()

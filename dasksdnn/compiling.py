"""How kernels are compiled: one decorator for all of them, which keeps what it compiles and tells whoever waits for it.

    call --> compiled in this process? --> kept on the disk? --> wait for processes that compile --> kept by now?
                    | yes                      | yes                                                  | yes  | no
                    +--> run                   +--> load, run                                  load, run     compile, keep, run

Numba has a cache of its own, but it fails at import where it cannot write beside the sources or in the home folder, does
not see that a module which a kernel inlines has changed, and lets processes that save at once mix up their files.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from typing import Any

import numba

from dasksdnn import keeping
from dasksdnn.events import Listener, Progress, ignore, is_heard

try:  # these, and what `_is_as_known` lists, are Numba's inside
    from numba.core.compiler import CompileResult
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.serialize import dumps
except ImportError:
    CompileResult = global_compiler_lock = dumps = None

#: Seconds to wait, at most, for another process that compiles; then this one compiles too, which is slower but right.
PATIENCE = 60.0
_POLL = 0.1

#: A call that needs kernels, made so that they are compiled.
Call = Callable[[], object]


def compiled(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a kernel on its first call with each set of types, without the GIL; division by zero gives inf or NaN.

    Parameters
    ----------
    function : callable, optional
        The kernel, where this is written as `@compiled`.
    **options
        What else `numba.njit` takes: `@compiled(fastmath={"contract"})`.

    Returns
    -------
    callable
        The kernel; or, where only options are given, a decorator.
    """

    def make(function: Callable[..., Any]) -> Any:
        kernel = numba.njit(nogil=True, error_model="numpy", **options)(function)
        if _is_as_known(kernel):
            kernel._cache = _Kept(function)
            kernel.compile = _in_turn(kernel.compile)
        return kernel

    return make if function is None else make(function)


def warm_up(calls: Sequence[Call], listener: Listener = ignore) -> None:
    """Make calls, so that their kernels are there before time and memory count.

    Parameters
    ----------
    calls : sequence of callables
        `spmm.warm_up_calls`, `panels.warm_up_calls` and the like list them.
    listener : callable
        Told of each call, from the first on that has to compile; of none where all is kept on the disk. Without a
        listener, one line is logged.
    """
    done, missed = 0, False

    def tell() -> None:
        nonlocal missed
        missed = True
        listener(Progress("compile", done, len(calls), "kernels"))

    before = _tell.set(tell if is_heard(listener) else _log_once)
    try:
        for call in calls:
            call()
            done += 1
            if missed:
                listener(Progress("compile", done, len(calls), "kernels"))
    finally:
        _tell.reset(before)


@cache
def _log_once() -> None:
    logging.getLogger("dasksdnn").warning("compiling kernels for this machine%s", _kept_where())


def _kept_where() -> str:
    place = keeping.folder()
    if place is None:
        return "; no folder to keep them in can be written by this user alone: set dasksdnn.cache to one"
    return f", once: they are kept in {place}"


#: What to do when something has to be compiled: whoever waits is told why.
_tell: ContextVar[Callable[[], None]] = ContextVar("_tell", default=_log_once)


def _is_as_known(kernel: Any) -> bool:
    """Whether Numba is as this module knows it inside; where not, its own way of compiling serves, and nothing is kept."""
    needed = (
        (kernel, ("_cache", "compile", "targetctx")),
        (CompileResult, ("_reduce", "_rebuild", "codegen")),
        (global_compiler_lock, ("acquire", "release")),
    )
    return all(hasattr(owner, name) for owner, names in needed for name in names)


class _Turn:
    """The right to compile, of one process at a time: from the first kernel that is missing to the end of the call.

    It is a lock of the operating system on a file beside the kernels, so it ends with the process that holds it. Where
    the file system has no such locks, processes may compile the same twice; saving is safe without.
    """

    def __init__(self) -> None:
        self._depth, self._file = 0, -1  # guarded by Numba's lock: one thread at a time compiles

    def __enter__(self) -> None:
        global_compiler_lock.acquire()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        try:
            self._depth -= 1
            if self._depth == 0 and self._file >= 0:
                self._give_back()
        finally:
            global_compiler_lock.release()

    def take(self) -> bool:
        """Wait for the turn; False where there is nothing to wait for."""
        place = keeping.folder()
        if self._file >= 0 or self._depth == 0 or place is None:
            return False
        with suppress(OSError):
            self._file = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            self._wait(time.monotonic() + PATIENCE)
        return True

    def _wait(self, end: float) -> None:
        while time.monotonic() < end:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _tell.get()()
                time.sleep(_POLL)
            else:
                return

    def _give_back(self) -> None:
        file, self._file = self._file, -1
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough where a child has inherited the file
        os.close(file)


_turn = _Turn()


def _in_turn(compile: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def compile_in_turn(signature: Any) -> Any:
        with _turn, _uninterrupted():
            return compile(signature)

    return compile_in_turn


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold signals back while a kernel is compiled: LLVM calls back into Python, where what a handler raises is lost."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread alone
        return
    caught: list[tuple[int, Any]] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in handlers:
            signal.signal(number, lambda *told: caught.append(told))
        yield
    finally:
        for number, before in handlers.items():
            signal.signal(number, before)
    for told in caught[:1]:
        handler: Any = signal.getsignal(told[0])
        handler(*told)


class _Kept:
    """One kernel's cache, as Numba's dispatchers use it: asked before anything is compiled, told afterwards."""

    cache_path = None  # Numba shows it in the kernel's `stats`

    def __init__(self, function: Any) -> None:
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        code = function.__code__
        # Files are read here, at import: later, they may be those of an upgrade.
        content = keeping.content(code.co_filename) if keeping.digest() else None
        self._identity = (function.__module__, function.__qualname__, code.co_firstlineno, code.co_code, content)
        # What a closure holds is in the code too, and nothing tells when it is something else.
        self._enabled = content is not None and function.__closure__ is None

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The kernel for a signature, or None: then Numba compiles it."""
        target.refresh()
        name = self._file(signature, target.codegen())
        found = self._load(name, target)
        if found is None:
            _tell.get()()
            if _turn.take():
                found = self._load(name, target)
        return found

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep what was compiled; code that holds addresses of this process is not kept."""
        # Whatever goes wrong here, such as a later Numba that works otherwise, the kernel itself is sound.
        with suppress(Exception):
            if self._enabled and not result.library.has_dynamic_globals:
                keeping.save(self._file(signature, result.codegen), dumps(result._reduce()))

    def _load(self, name: str, target: Any) -> Any:
        with suppress(Exception):  # what cannot be loaded is compiled
            payload = keeping.load(name) if self._enabled else None
            if payload is not None:
                return CompileResult._rebuild(target, *pickle.loads(payload))
        return None

    def _file(self, signature: Any, codegen: Any) -> str:
        key = repr((self._identity, signature, codegen.magic_tuple()))
        return f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.code"

    def enable(self) -> None:
        """Keep what is compiled."""
        self._enabled = True

    def disable(self) -> None:
        """Keep nothing."""
        self._enabled = False

    def flush(self) -> None:
        """Forget what is kept: Numba asks for it where constants were changed by hand, which no digest shows."""
        self._enabled = False

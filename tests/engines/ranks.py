"""Ranks as threads of one process, and queues between them: the program of many ranks without anything that carries it."""

from __future__ import annotations

from queue import Queue
from threading import Barrier, Thread

import numpy as np


class Queues:
    def __init__(self, rank, size, queues):
        self.rank, self.size, self.sent, self.wire, self._queues = rank, size, 0, None, queues
        self.messages = []  # (to, bytes)

    def start(self, sends, receives):
        for to, values in sends:
            assert values.flags.c_contiguous
            self.sent += values.nbytes
            self.messages.append((to, values.nbytes))
            self._queues[self.rank, to].put(values.tobytes())

        def finish():
            for source, out in receives:
                content = self._queues[source, self.rank].get(timeout=60)
                assert len(content) == out.nbytes, (len(content), out.nbytes)
                out.reshape(-1).view(np.uint8)[:] = np.frombuffer(content, np.uint8)

        return finish

    def close(self):
        pass


def run_ranks(size, program):
    """What `program(transport)` returned at each rank."""
    queues = {(a, b): Queue() for a in range(size) for b in range(size)}
    found, failed, ready = [None] * size, [], Barrier(size)

    def work(rank):
        try:
            ready.wait(60)
            found[rank] = program(Queues(rank, size, queues))
        except BaseException as error:
            failed.append(error)

    threads = [Thread(target=work, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if failed:
        raise failed[0]
    assert not any(thread.is_alive() for thread in threads)
    return found

"""The inner loop of refinement: vertices of one layer are moved or swapped between parts, at a temperature.

    energy = words sent   (for time: and messages, and what the busiest part sends)   + penalty of overload
    a step is taken where it changes the energy by at most -T log(u), u uniform in (0, 1)

A step costs two passes over the nets of a vertex, because every net knows how many readers it has in each part. The
layers of even number depend on one another only through those of odd number, so threads take layers, not steps.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from dasksdnn.compiling import Call, compiled


@compiled(inline="always")
def _next(state):  # type: ignore[no-untyped-def]
    """64 random bits (xorshift; Marsaglia, 2003)."""
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return x


@compiled(inline="always")
def _below(state, n):  # type: ignore[no-untyped-def]
    """A random whole number from 0 to n - 1."""
    return np.int64(((_next(state) >> np.uint64(33)) * np.uint64(n)) >> np.uint64(31))


@compiled
def change(v, p, q, reads, owns):  # type: ignore[no-untyped-def]
    """Words that moving vertex v from part p to part q would add.

    reads : (ptr, nets, cost, owner, readers) of the vertices' nets as readers
    owns : the same of the next layer's nets, which the vertices own
    """
    ptr, nets, cost, owner, readers = reads
    words = 0
    for t in range(ptr[v], ptr[v + 1]):
        e = nets[t]
        if owner[e] != p and readers[e, p] == 1:
            words -= cost[e]
        if owner[e] != q and readers[e, q] == 0:
            words += cost[e]
    ptr, nets, cost, owner, readers = owns
    for t in range(ptr[v], ptr[v + 1]):
        e = nets[t]
        if readers[e, q] > 0:
            words -= cost[e]
        if readers[e, p] > 0:
            words += cost[e]
    return words


@compiled
def _move(v, p, q, part, reads, owns):  # type: ignore[no-untyped-def]
    part[v] = q
    ptr, nets, _, _, readers = reads
    for t in range(ptr[v], ptr[v + 1]):
        readers[nets[t], p] -= 1
        readers[nets[t], q] += 1
    ptr, nets, _, owner, _ = owns
    for t in range(ptr[v], ptr[v + 1]):
        owner[nets[t]] = q


@compiled
def _pass(send, load, sender, receiver, words, message):  # type: ignore[no-untyped-def]
    """Change what one part sends another; `load` is what a part sends, a message counted as so many words."""
    before = send[sender, receiver]
    send[sender, receiver] = before + words
    load[sender] += words
    if before == 0:
        load[sender] += message
    elif before + words == 0:
        load[sender] -= message


@compiled
def _move_traffic(v, p, q, part, reads, owns, send_in, load_in, send_out, load_out, message):  # type: ignore[no-untyped-def]
    """`_move`, keeping the send matrices of both layers."""
    ptr, nets, cost, owner, readers = reads
    for t in range(ptr[v], ptr[v + 1]):
        e = nets[t]
        o = owner[e]
        if o >= 0:
            if o != p and readers[e, p] == 1:
                _pass(send_in, load_in, o, p, -cost[e], message)
            if o != q and readers[e, q] == 0:
                _pass(send_in, load_in, o, q, cost[e], message)
    ptr, nets, cost, owner, readers = owns
    for t in range(ptr[v], ptr[v + 1]):
        e = nets[t]
        for r in range(load_out.size):
            if readers[e, r] > 0:
                if r != p:
                    _pass(send_out, load_out, p, r, -cost[e], message)
                if r != q:
                    _pass(send_out, load_out, q, r, cost[e], message)
    _move(v, p, q, part, reads, owns)


@compiled(inline="always")
def _energy(load_in, load_out):  # type: ignore[no-untyped-def]
    """Half of what all send, and half of what they would if each sent as much as the busiest."""
    total, busiest_in, busiest_out = 0.0, 0.0, 0.0
    for p in range(load_in.size):
        total += load_in[p] + load_out[p]
        busiest_in = max(busiest_in, load_in[p])
        busiest_out = max(busiest_out, load_out[p])
    return 0.5 * (total + load_in.size * (busiest_in + busiest_out))


@compiled(inline="always")
def _overload(p, q, weight, weight_back, load, cap, unit):  # type: ignore[no-untyped-def]
    """By how much the squared overloads of p and q grow, where `weight` goes from p to q and `weight_back` from q to p."""
    a, b = max(0, load[p] - cap) / unit, max(0, load[p] - weight + weight_back - cap) / unit
    c, d = max(0, load[q] - cap) / unit, max(0, load[q] + weight - weight_back - cap) / unit
    return b * b - a * a + d * d - c * c


@compiled
def _sorted_by_part(part, nparts):  # type: ignore[no-untyped-def]
    """Vertices part after part, where each part starts, and where each vertex stands."""
    start, place, order = np.zeros(nparts + 1, np.int64), np.empty(part.size, np.int64), np.empty(part.size, np.int64)
    for v in range(part.size):
        start[part[v] + 1] += 1
    for p in range(nparts):
        start[p + 1] += start[p]
    filled = start.copy()
    for v in range(part.size):
        p = part[v]
        place[v] = filled[p]
        order[filled[p]] = v
        filled[p] += 1
    return start, place, order


@compiled
def _shift(v, p, q, start, place, order):  # type: ignore[no-untyped-def]
    """Take v across the borders between p and q, each of which moves by one place."""
    i = place[v]
    while p != q:
        edge = start[p + 1] - 1 if p < q else start[p]
        other = order[edge]
        order[i], place[other] = other, i
        order[edge], place[v] = v, edge
        i = edge
        if p < q:
            p += 1
            start[p] -= 1
        else:
            start[p] += 1
            p -= 1


@compiled
def _target(v, p, nparts, reads, owns, state):  # type: ignore[no-untyped-def]
    """A part other than p, most often one that owns what v reads or reads what v owns."""
    first, count = reads[0][v], reads[0][v + 1] - reads[0][v]
    owned = owns[0][v + 1] - owns[0][v]
    q = p
    if count + owned > 0:
        t = _below(state, count + owned)
        if t < count:
            q = reads[3][reads[1][first + t]]
        else:
            e = owns[1][owns[0][v] + t - count]
            q = _below(state, nparts)
            for _ in range(nparts):
                if q != p and owns[4][e, q] > 0:
                    break
                q = q + 1 if q + 1 < nparts else 0
    if q == p or q < 0:
        q = _below(state, nparts - 1)
        if q >= p:
            q += 1
    return q


@compiled(fastmath={"contract"})
def anneal(part, weight, load, cap, reads, owns, traffic, message, temperature, strictness, steps, state):  # type: ignore[no-untyped-def]
    """Try so many steps on one layer; returns how many were taken.

    part, weight : int64 (vertices,), changed in place / nonzeros
    load, cap : int64 (nparts,) nonzeros of each part, changed in place / how many a part may hold
    reads, owns : as in `change`, changed in place
    traffic : (send, load) of this layer and of the next, or empty arrays where only words count
    message : words that a message costs as much as
    strictness : energy of an overload by the average vertex; 0: there may be none
    state : uint64 (1,) random state, not 0
    """
    nparts, vertices = load.size, part.size
    start, place, order = _sorted_by_part(part, nparts)
    send_in, load_in, send_out, load_out = traffic
    timed = load_in.size > 0
    unit = max(1.0, weight.sum() / max(1, vertices))
    taken = 0
    for _ in range(steps):
        v = _below(state, vertices)
        p = part[v]
        q = _target(v, p, nparts, reads, owns, state)
        uniform = (np.float64(_next(state) >> np.uint64(11)) + 0.5) / 9007199254740992.0
        limit = -temperature * math.log(uniform)
        w, size = weight[v], start[q + 1] - start[q]
        u, back = np.int64(-1), np.int64(0)
        if size > 0 and (_next(state) >> np.uint64(63) or (strictness == 0 and load[q] + w > cap)):
            u = order[start[q] + _below(state, size)]
            back = weight[u]
        if strictness == 0:
            # A part above the cap may become lighter, never heavier.
            if load[q] + w - back > max(cap, load[q]) or load[p] - w + back > max(cap, load[p]):
                continue
        elif w != back:
            limit -= strictness * _overload(p, q, w, back, load, cap, unit)
        if timed:
            before = _energy(load_in, load_out)
            _move_traffic(v, p, q, part, reads, owns, send_in, load_in, send_out, load_out, message)
            if u >= 0:
                _move_traffic(u, q, p, part, reads, owns, send_in, load_in, send_out, load_out, message)
            if _energy(load_in, load_out) - before > limit:
                if u >= 0:
                    _move_traffic(u, p, q, part, reads, owns, send_in, load_in, send_out, load_out, message)
                _move_traffic(v, q, p, part, reads, owns, send_in, load_in, send_out, load_out, message)
                continue
        else:
            words = change(v, p, q, reads, owns)
            if u >= 0:
                # Without regard to nets that both read, which can only add to it.
                if words + change(u, q, p, reads, owns) > limit:
                    continue
                _move(v, p, q, part, reads, owns)
                words += change(u, q, p, reads, owns)
                if words > limit:
                    _move(v, q, p, part, reads, owns)
                    continue
                _move(u, q, p, part, reads, owns)
            elif words > limit:
                continue
            else:
                _move(v, p, q, part, reads, owns)
        load[p] += back - w
        load[q] += w - back
        if u >= 0:
            i, j = place[v], place[u]
            order[i], order[j], place[u], place[v] = u, v, i, j
        else:
            _shift(v, p, q, start, place, order)
        taken += 1
    return taken


@compiled
def alignment(reads, into):  # type: ignore[no-untyped-def]
    """Add to into[reader's part, owner's part] the words that need not be sent if these two were one."""
    _, _, cost, owner, readers = reads
    for e in range(cost.size):
        if owner[e] >= 0:
            for p in range(readers.shape[1]):
                if readers[e, p] > 0:
                    into[p, owner[e]] += cost[e]


@compiled
def words_sent(reads):  # type: ignore[no-untyped-def]
    """Words of one layer: for each net, its readers' parts but one, the owner's where it has an owner."""
    _, _, cost, owner, readers = reads
    total = 0
    for e in range(cost.size):
        others = 0
        for p in range(readers.shape[1]):
            if readers[e, p] > 0 and p != owner[e]:
                others += 1
        total += cost[e] * (others if owner[e] >= 0 else max(0, others - 1))
    return total


@compiled
def traffic_of(reads, send):  # type: ignore[no-untyped-def]
    """Add each net's words to send[owner's part, reader's part]."""
    _, _, cost, owner, readers = reads
    for e in range(cost.size):
        if owner[e] >= 0:
            for p in range(readers.shape[1]):
                if readers[e, p] > 0 and p != owner[e]:
                    send[owner[e], p] += cost[e]


@compiled
def renamed(readers, name):  # type: ignore[no-untyped-def]
    """Permute the parts of a table of readers in place: column p becomes column name[p]."""
    row = np.empty(name.size, readers.dtype)
    for e in range(readers.shape[0]):
        for p in range(name.size):
            row[name[p]] = readers[e, p]
        readers[e, :] = row


def warm_up_calls() -> list[Call]:
    """Calls (see `compiling.warm_up`) that need all kernels here."""
    nets = (np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32))
    reads = (*nets, np.zeros((0, 2), np.uint16))
    one, none = np.zeros(1, np.int64), (np.zeros((0, 0), np.int64), np.zeros(0, np.float64))
    start = (one, one, np.zeros(2, np.int64), 1, reads, reads, (*none, *none), 0.0, 1.0, 0.0, 0, np.ones(1, np.uint64))
    square = np.zeros((2, 2), np.int64)
    return [
        partial(anneal, *start),
        partial(alignment, reads, square),
        partial(words_sent, reads),
        partial(traffic_of, reads, square),
        partial(renamed, reads[-1], np.arange(2)),
    ]

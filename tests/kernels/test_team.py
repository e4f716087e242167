"""Threads that meet in compiled code: all of them, every time, however many processors there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import BLOCKS, bits, block_of, random_block
from networks import random_input, random_net
from test_chain import chain_of

from dasksdnn.compiling import compiled
from dasksdnn.kernels.chain import run_chain
from dasksdnn.kernels.panels import new_panel
from dasksdnn.kernels.team import Team, boundary, meet


@compiled
def write_and_look(member, members, rounds, board, missed, counter):
    """Each round, everyone writes its round on the board, and then looks whether all others have."""
    for n in range(1, rounds + 1):
        board[member] = n
        meet(counter, members)
        for other in range(members):
            if board[other] != n:
                missed[member] += 1
        meet(counter, members)


@pytest.mark.parametrize("members", [1, 2, 5])
def test_nobody_goes_on_alone(members):
    board, missed = np.zeros(members, np.int64), np.zeros(members, np.int64)
    with Team(members) as team:
        for _ in range(3):
            team.run(lambda member, counter: write_and_look(member, members, 300, board, missed, counter))
    assert not missed.any()


@settings(max_examples=40, deadline=None)
@given(made=BLOCKS, members=st.integers(1, 6))
def test_shares_cover_the_rows(made, members):
    block = block_of(random_block(**made)[0])
    ends = [boundary(block.indptr, block.supernodes, member, members) for member in range(members + 1)]
    assert (ends[0], ends[-1]) == (0, block.supernodes.size - 1)
    assert ends == sorted(ends)


@pytest.mark.parametrize("seed", range(6))
def test_a_shared_chain_has_the_same_bits(seed):
    net = random_net(seed, layers=5)
    chain, x = chain_of(net), random_input(seed, 32, net.widths[0], alive=1.0)
    outputs = []
    with Team(3) as team:
        for crew in (None, team):
            a, b = (new_panel(max(net.widths), 32, "float32") for _ in range(2))
            a[...] = 0
            a[: net.widths[0]] = x.T
            out, _ = run_chain(chain, 0, len(chain), a, b, 32, crew)
            outputs.append(out[: net.widths[-1]].copy())
    np.testing.assert_array_equal(bits(outputs[0]), bits(outputs[1]))


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_before_the_meeting_is_told_and_nobody_waits(failing):
    board, missed = np.zeros(3, np.int64), np.zeros(3, np.int64)

    def work(member, counter):
        if member == failing:
            raise RuntimeError("one of them")
        write_and_look(member, 3, 10, board, missed, counter)

    with Team(3) as team:
        with pytest.raises(RuntimeError, match="one of them"):
            team.run(work)
        missed[:] = 0
        team.run(lambda member, counter: write_and_look(member, 3, 10, board, missed, counter))
    assert not missed.any()


def test_a_team_that_is_closed_lets_nobody_wait():
    board, missed = np.zeros(3, np.int64), np.zeros(3, np.int64)
    team = Team(3)
    submit = team._pool.submit

    def close_in_between(*arguments):
        started = submit(*arguments)
        team._pool.shutdown(wait=False)
        return started

    team._pool.submit = close_in_between
    with pytest.raises(RuntimeError, match="shutdown"):
        team.run(lambda member, counter: write_and_look(member, 3, 10, board, missed, counter))

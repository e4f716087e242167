"""The helper process: what kills a library must not kill us, and nothing may be left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import dasksdnn
from dasksdnn.errors import PartitionerError
from dasksdnn.partition import worker
from dasksdnn.partition.native import Helper

ROOT = Path(dasksdnn.__file__).parents[1]


def graph(**changed):
    """Two pairs of vertices, one net each."""
    arrays = {
        "vertex_weight": [1, 1, 1, 1],
        "net_ptr": [0, 2, 4],
        "pins": [0, 1, 2, 3],
        "net_cost": [1, 1],
        "fixed": [-1, -1, -1, -1],
    }
    return {name: np.array(value, np.int64) for name, value in (arrays | changed).items()}


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid, seconds=10.0):
    until = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


def run_script(directory, text, cwd=None, **how):
    script = directory / "script.py"
    # Whoever started the tests may have Ctrl-C ignored (nohup, jobs of a script), and children inherit that.
    heard = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script.write_text(heard + textwrap.dedent(text))
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, str(script)], cwd=cwd, env=env, stdout=subprocess.PIPE, text=True, **how)


@pytest.mark.parametrize("library", ["kahypar", "mtkahypar"])
def test_a_good_call(library):
    with Helper() as helper:
        for _ in range(2):  # one process serves many calls
            part = helper.call(library, 2, 0.03, 1, **graph())
            assert part[0] == part[1] != part[2] == part[3]
        pid = helper.pid
        assert alive(pid)
    assert gone(pid)
    assert helper.pid is None


def test_an_unused_helper_starts_nothing():
    with Helper() as helper:
        assert helper.pid is None


def test_a_crash_names_the_signal_and_the_next_call_works():
    single_pins = graph(net_ptr=[0, 1, 2], pins=[0, 1])
    with Helper() as helper:
        with pytest.raises(PartitionerError, match="kahypar was killed by SIGSEGV; use another method"):
            helper.call("kahypar", 2, 0.03, 0, **single_pins)
        assert helper.call("kahypar", 2, 0.03, 0, **graph()).size == 4


def test_an_exit_repeats_the_last_words():
    with (
        Helper() as helper,
        pytest.raises(PartitionerError, match=r"kahypar ended the process with exit code 1 \(.*weight 0.*\)"),
    ):
        helper.call("kahypar", 2, 0.03, 0, **graph(vertex_weight=[0, 1, 1, 1]))


def test_an_exception_is_an_answer():
    with Helper() as helper:
        with pytest.raises(
            PartitionerError, match=r"mtkahypar failed: InvalidInputError: .Invalid Input. +Hyperedge 1"
        ):
            helper.call("mtkahypar", 2, 0.03, 0, **graph(pins=[0, 1, 2, 99]))
        pid = helper.pid
        helper.call("mtkahypar", 2, 0.03, 0, **graph())
        assert helper.pid == pid


def test_killed_in_the_middle():
    with Helper() as helper:

        def kill():
            while helper.pid is None:
                time.sleep(0.001)
            killed.append(helper.pid)
            os.kill(helper.pid, signal.SIGKILL)

        killed = []
        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(PartitionerError, match="mtkahypar was killed by SIGKILL"):
            helper.call("mtkahypar", 2, 0.03, 0, **graph())
        killer.join()
        assert gone(killed[0])
        assert helper.call("mtkahypar", 2, 0.03, 0, **graph()).size == 4


def test_a_hang_is_ended():
    with Helper(timeout=20) as helper:
        helper.call("metis", 2, 0.03, 0, **path_graph())
        pid = helper.pid
        os.kill(pid, signal.SIGSTOP)
        helper.timeout = 0.3
        with pytest.raises(PartitionerError, match=r"metis did not finish in 0\.3 s and was stopped"):
            helper.call("metis", 2, 0.03, 0, **path_graph())
        assert gone(pid)


def path_graph():
    arrays = {"xadj": [0, 1, 3, 5, 6], "adjncy": [1, 0, 2, 1, 3, 2], "vertex_weight": [1] * 4, "edge_weight": [1] * 6}
    return {name: np.array(value, np.int64) for name, value in arrays.items()}


def test_a_missing_library_says_how_to_get_it(monkeypatch):
    def absent(**arguments):
        raise ModuleNotFoundError("No module named 'kahypar'")

    monkeypatch.setitem(worker.LIBRARIES, "kahypar", absent)
    reply = worker.answer("kahypar", {})
    with pytest.raises(PartitionerError, match="kahypar is not installed: pip install kahypar, or use another method"):
        Helper._checked("kahypar", reply, 4, 2)


@pytest.mark.parametrize("value", [[0, 1], [0, 1, 2, 0], [0, -1, 0, 0]])
def test_answers_are_checked(value):
    with pytest.raises(PartitionerError, match="no partition"):
        Helper._checked("metis", ("ok", value), 4, 2)


def test_no_process_can_be_started(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with Helper() as helper, pytest.raises(PartitionerError, match="helper process cannot start"):
        helper.call("metis", 2, 0.03, 0, **path_graph())


def test_a_forgotten_helper_ends_with_its_owner():
    helper = Helper()
    helper.call("metis", 2, 0.03, 0, **path_graph())
    pid = helper.pid
    helper._noise.close()
    del helper
    assert gone(pid)


STARTS = """
    import os, signal, sys, time
    import numpy as np
    from dasksdnn.partition.native import Helper
    a = lambda *x: np.array(x, np.int64)
    arrays = dict(xadj=a(0, 1, 2), adjncy=a(1, 0), vertex_weight=a(1, 1), edge_weight=a(1, 1))
    with Helper() as helper:
        helper.call("metis", 2, 0.03, 0, **arrays)
        print(helper.pid, flush=True)
"""
HANGS = (
    STARTS
    + """
        os.kill(helper.pid, signal.SIGSTOP)
        print("hangs", flush=True)
        helper.call("metis", 2, 0.03, 0, **arrays)
"""
)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_orphan(tmp_path, how):
    parent = run_script(tmp_path, HANGS, stderr=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == "hangs\n"
    time.sleep(0.1)
    parent.send_signal(how)
    _, complaint = parent.communicate(timeout=20)
    assert gone(pid)
    assert how == signal.SIGKILL or "KeyboardInterrupt" in complaint


def test_decoys_in_the_current_directory_are_not_imported(tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    for name in ("numpy", "pymetis", "pickle", "worker"):
        (here / f"{name}.py").write_text("raise SystemExit('imported a decoy')")
    with run_script(tmp_path, STARTS, cwd=here) as parent:
        out, _ = parent.communicate(timeout=20)
    assert parent.returncode == 0
    assert int(out) > 0


def test_settings_reach_kahypar_whole():
    assert worker.KAHYPAR_SETTINGS["objective"] == "km1"
    assert all(value and "\n" not in value for value in worker.KAHYPAR_SETTINGS.values())

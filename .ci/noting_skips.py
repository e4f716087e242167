"""A pytest plugin: `--note-skipped FILE` writes what a run skipped; `--only-skipped FILE` runs that alone, in a richer environment.

A file that is skipped as a whole stands there by its own name.
"""

from __future__ import annotations

from pathlib import Path

_skipped: list[str] = []


def pytest_addoption(parser):
    parser.addoption("--note-skipped", metavar="FILE", help="write the names of skipped tests")
    parser.addoption("--only-skipped", metavar="FILE", help="run tests that are named there alone")


def pytest_collectreport(report):
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_runtest_logreport(report):
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session):
    if path := session.config.getoption("--note-skipped"):
        Path(path).write_text("\n".join(dict.fromkeys(_skipped)), encoding="utf-8")


def pytest_collection_modifyitems(config, items):
    if path := config.getoption("--only-skipped"):
        names = set(Path(path).read_text(encoding="utf-8").splitlines())
        chosen = [item for item in items if {item.nodeid, item.nodeid.split("::")[0]} & names]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen

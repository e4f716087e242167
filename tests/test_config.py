"""Settings in dask.config, and where data go that were given no place."""

from __future__ import annotations

import sys
from pathlib import Path

import dask.config
import pytest

from dasksdnn import config


def test_defaults():
    assert {name: config.get(name) for name in ("memory", "threads", "data-root", "cache")} == dict.fromkeys(
        ("memory", "threads", "data-root", "cache")
    )


def test_a_setting():
    with dask.config.set({"dasksdnn.memory": "2GiB"}):
        assert config.get("memory") == "2GiB"
    assert config.get("memory") is None


def test_an_unknown_setting():
    with pytest.raises(KeyError):
        config.get("nothing")


def test_data_root_that_was_set(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with dask.config.set({"dasksdnn.data-root": "~/here"}):
        assert config.data_root() == tmp_path / "here"


def test_data_root_of_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "__file__", str(tmp_path / "dasksdnn" / "config.py"))
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "storage" / "spec").mkdir(parents=True)
    assert config.data_root() == tmp_path / "storage" / "data"


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("data_home", ["", "/data"])
def test_data_root_of_an_installed_package(platform, data_home, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "__file__", str(tmp_path / "site-packages" / "dasksdnn" / "config.py"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", data_home)
    monkeypatch.setattr(sys, "platform", platform)
    linux = Path(data_home or tmp_path / ".local" / "share") / "dasksdnn"
    assert config.data_root() == (linux if platform == "linux" else tmp_path / "Library/Application Support/dasksdnn")

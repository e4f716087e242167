"""`dasksdnn report`: a page of what another command wrote."""

from __future__ import annotations

import json

import dasksdnn as sdnn


def test_a_page_of_a_run(run, tmp_path):
    sdnn.save(sdnn.radixnet(64, 2), tmp_path / "net.zarr")
    run("info", tmp_path / "net.zarr", "--json", tmp_path / "run.json")
    out = run("report", tmp_path / "run.json", "--html", tmp_path / "page.html").out
    assert "page.html" in out
    made = (tmp_path / "page.html").read_text()
    assert made.startswith("<!DOCTYPE html>")
    assert "radixnet-64" in made


def test_refusals(refused, run, tmp_path):
    record, page = tmp_path / "run.json", tmp_path / "page.html"
    refused("report", record, "--html", page, says=[record, "cannot be read"])
    record.write_text("not JSON")
    refused("report", record, "--html", page, says=[record, "is no JSON"])
    record.write_text(json.dumps({"command": "train", "epochs": [3]}))
    refused("report", record, "--html", page, says=["is not what 'dasksdnn train' writes"])
    record.write_text(json.dumps({"command": "train"}))
    refused("report", record, "--html", record, "--overwrite", says=[record])
    refused("report", record, "--html", tmp_path / "none" / "page.html", says=["none"])
    run("report", record, "--html", page)
    refused("report", record, "--html", page, says=[page])
    run("report", record, "--html", page, "--overwrite")

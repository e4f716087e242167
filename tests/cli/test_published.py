"""The Graph Challenge's published files, through the command line."""

from __future__ import annotations


def test_published_categories(published, run, report, tmp_path):
    net, net8, found = tmp_path / "net.zarr", tmp_path / "net8.zarr", tmp_path / "c.tsv"
    run("import", "graphchallenge", "--neurons", 1024, "--layers", 30, "--weights", published, "--out", net)
    run("partition", net, "--nparts", 8, "--method", "metis", "--out", net8)
    images, right = published / "sparse-images-1024_first1200.tsv.gz", published / "neuron1024-categories_first1200.tsv"
    result = report("infer", net8, "--input", images, "--samples", 1200, "--categories", found)
    assert result["categories"] == [int(n) for n in right.read_text().split()]
    assert len(result["categories"]) == 19
    assert report("evaluate", found, "--categories", right)["match"] is True
    assert "yes" in run("evaluate", found, "--categories", right).out

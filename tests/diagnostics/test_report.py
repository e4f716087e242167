"""Records of commands as pages."""

from __future__ import annotations

import numpy as np
import pytest

import dasksdnn as sdnn
from dasksdnn.diagnostics.report import ROWS, read_record, render
from dasksdnn.diagnostics.tables import write_json
from dasksdnn.engines.traffic import Traffic
from dasksdnn.errors import InputError


def pages(tmp_path, **record):
    """The page of a record that was written and read as commands do."""
    write_json(tmp_path / "run.json", record)
    return render(read_record(tmp_path / "run.json"), "run.json")


def test_a_run_of_ranks(tmp_path):
    tally = np.arange(2 * 2 * 5 * 5).reshape(2, 2, 5, 5) * 1000
    plan = {"budget_bytes": 1 << 30, "projected_bytes": 1 << 29, "settings": {"tile": 64}}
    traffic = Traffic(tally, 4).as_dict()
    made = pages(
        tmp_path,
        command="infer",
        store="a.zarr",
        samples=5,
        seconds=1.5,
        peak_rss_bytes=1 << 28,
        plan=plan,
        traffic=traffic,
    )
    assert "<h1>dasksdnn infer: a.zarr</h1>" in made
    for text in ("1.5 s", "256.0 MiB", "512 MiB", "Time of each rank", "rank 1", "Sent before each layer", "tile 64"):
        assert text in made, text
    assert f"{sum(map(sum, traffic['bytes'][1])) / 1e6:.3g} MB" in made


def test_a_run_of_training(tmp_path):
    net = sdnn.random_sparse([8, 16, 2], 0.5)
    store = sdnn.save(net, tmp_path / "net.zarr")
    x = np.random.default_rng(0).random((60, 8)).astype(np.float32)
    history = sdnn.train(store, x, (x[:, 0] > x[:, 1]).astype(int), epochs=3, evolve="set")
    made = pages(tmp_path, command="train", store="net.zarr", **history.as_dict())
    assert made.count("<polyline") == 2  # loss and accuracy: nothing was held back for validation
    assert "weights stay" in made
    assert "edges before" in made


def test_a_partition(tmp_path):
    net = sdnn.radixnet(neurons=64, layers=3)
    metrics = sdnn.partition(net, 4, method="block").metrics
    made = pages(tmp_path, command="partition", store="a.zarr", nparts=4, recount=metrics.as_dict())
    assert made.count("<svg") == 2
    assert "Words a sample that parts send each other" in made


def test_methods_and_contenders(tmp_path):
    row = {"nparts": 4, "method": "metis", "volume": 123, "volume_per_layer": [100, 23]}
    failed = {"nparts": 4, "method": "kahypar", "why": "it <crashed>"}
    made = pages(tmp_path, command="partition", store="a.zarr", compare={"network": "n", "rows": [row, failed]})
    assert "123 words" in made
    assert "it &lt;crashed&gt;" in made
    contender = {"name": "ours", "threads": 1, "seconds": {"median": 0.25, "least": 0.2}}
    case = {"title": "radixnet", "contenders": [contender], "missing": [{"name": "torch", "why": "not installed"}]}
    made = pages(tmp_path, command="bench kernels", cases=[case])
    assert "250 ms" in made
    assert "not installed" in made
    made = pages(tmp_path, command="bench dask", cases={"inference": [{"name": "a", "seconds": 2.0}]})
    assert "<h2>inference</h2>" in made


def test_nothing_is_left_out_without_a_word(tmp_path):
    many = [{"number": i} for i in range(ROWS + 5)]
    made = pages(
        tmp_path, command="verify", sound=False, findings=many, odd={"a": [1, 2]}, names=list(range(9)), none=[]
    )
    for text in ("... and 5 more", "1, 2", "0, 1, 2, 3, 4, 5, ... (9 in all)", "<td>no</td>", "<td>none</td>"):
        assert text in made, text


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"command": 3}', "\x00"])
def test_what_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json: is"):
        read_record(tmp_path / "run.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_record(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    "record", [{"epochs": [{"epoch": 1}]}, {"traffic": {"bytes": 3}}, {"cases": [1]}, {"compare": {"rows": [1]}}]
)
def test_a_record_of_another_shape_is_refused(tmp_path, record):
    with pytest.raises(InputError, match="is not what 'dasksdnn infer' writes"):
        pages(tmp_path, command="infer", **record)

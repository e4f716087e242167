"""The history: kept as JSON and read again, and its table."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import pytest

from dasksdnn.training.history import Epoch, History

EPOCH = Epoch(
    epoch=1, steps=10, samples=640, loss=0.1 + 0.2, accuracy=1 / 3, validation_loss=1e-17, validation_accuracy=0.5,
    learning_rate=0.001, seconds=1.25, bytes_read=1 << 40, bytes_written=3, volume=0, edges=1234567,
)  # fmt: skip
PLAIN = replace(EPOCH, epoch=2, loss=2.0, accuracy=None, validation_loss=None, validation_accuracy=None)


def test_it_goes_through_json_to_the_last_bit():
    history = History((EPOCH, PLAIN), {"strategy": "resident", "budget": 1 << 30, "settings": {"slabs": [[0, 2]]}})
    record = json.loads(json.dumps(history.as_dict(), allow_nan=False))
    assert History.from_dict(record) == history
    assert set(record["epochs"][0]) == {f.name for f in fields(Epoch)}
    assert History.from_dict({"epochs": record["epochs"]}) == History((EPOCH, PLAIN))
    assert History.from_dict(History().as_dict()) == History()


def test_the_table():
    header, first, second = History((EPOCH, PLAIN)).rows()
    assert first == ("1", "0.3000", "0.3333", "0.0000", "0.5000", "0.001", "1.25", "1,234,567")
    assert second == ("2", "2.0000", "-", "-", "-", "0.001", "1.25", "1,234,567")
    assert header[0] == "epoch"
    assert len(header) == len(first)


def test_the_text_is_the_table_aligned():
    lines = repr(History((EPOCH, PLAIN))).splitlines()
    assert lines[0] == "<dasksdnn.History: 2 epochs>"
    assert len({len(line) for line in lines[1:]}) == 1
    assert lines[2].split() == list(History((EPOCH, PLAIN)).rows()[1])
    assert repr(History()).splitlines()[0] == "<dasksdnn.History: 0 epochs>"


@pytest.mark.parametrize("losses", [(3.0, 1.0, 2.0), (1.0, 1.0, 2.0), (math.inf, 5.0, 4.0)])
def test_the_best_epoch(losses):
    trained = tuple(replace(PLAIN, epoch=n, loss=loss) for n, loss in enumerate(losses, 1))
    looked_at = tuple(replace(EPOCH, epoch=n, loss=-n, validation_loss=loss) for n, loss in enumerate(losses, 1))
    for epochs in (trained, looked_at):
        assert History(epochs).best.epoch == losses.index(min(losses)) + 1  # of equal ones the first
    assert History().best is None

"""Options: what is refused, and what a checkpoint's must have in common to go on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dasksdnn.errors import InputError
from dasksdnn.kernels.update import SGD, Adam, Momentum
from dasksdnn.training.losses import LOSSES
from dasksdnn.training.options import Every, Options
from dasksdnn.training.schedules import Schedule

NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "values", "match"),
    [
        *(
            (name, (0, -1, 1.5, "3", True, np.float64(2)), "it must be a whole number from 1 up")
            for name in ("epochs", "batch_size", "patience", "shuffle_buffer")
        ),
        ("epochs", (None,), "it must be a whole number"),
        ("batch_size", (None,), "it must be a whole number"),
        ("seed", (-1, None, 0.5), "it must be a whole number from 0 up"),
        ("loss", ("hinge", None, ["mse"]), "use one of softmax, mse, bce"),
        ("optimizer", ("lion", None), "use one of sgd, momentum, adam, adamw"),
        ("lr", (-1, NAN, float("inf"), "1", None, True), "it must be a number from 0 up"),
        ("weight_decay", (-1, NAN, "1", None), "it must be a number from 0 up"),
        ("momentum", (1, -0.5, NAN, "0.9", None), "it must be from 0 to less than 1"),
        ("dropout", (1, -0.5, NAN, "0.9", None, False), "it must be from 0 to less than 1"),
        ("clip_norm", (0, -1, NAN, float("inf"), "1", True), "it must be positive, or left out"),
        ("nesterov", (1, "yes", None), "it must be True or False"),
        ("schedule", ("linear", None), "use one of constant, step, cosine"),
        ("warmup", (-1, 2.5, "3", None, True), "it must be a number of steps from 0 up"),
    ],
)
def test_what_is_refused(name, values, match):
    for value in values:
        with pytest.raises(InputError, match=f"{name}.*{match}"):
            Options(**{name: value})


def test_bounds_are_taken():
    Options(
        epochs=1, batch_size=1, seed=0, patience=1, shuffle_buffer=1, lr=0, weight_decay=0, momentum=0, dropout=0,
        clip_norm=1e-30, warmup=0,
    )  # fmt: skip


def test_numbers_of_numpy_become_those_of_python():
    given = Options(
        epochs=np.int64(3), batch_size=np.uint8(7), lr=np.float32(0.5), weight_decay=np.float64(0.25), dropout=np.float16(0.5),
        clip_norm=np.int32(2), patience=np.int8(1), nesterov=np.True_, warmup=np.int64(4), shuffle_buffer=np.int16(9),
        seed=np.uint32(1),
    )  # fmt: skip
    plain = Options(
        epochs=3, batch_size=7, lr=0.5, weight_decay=0.25, dropout=0.5, clip_norm=2, patience=1, nesterov=True, warmup=4,
        shuffle_buffer=9, seed=1,
    )  # fmt: skip
    assert given == plain
    assert json.dumps(given.as_dict()) == json.dumps(plain.as_dict())


def test_what_they_stand_for():
    options = Options(optimizer="momentum", lr=0.2, momentum=0.5, nesterov=True, weight_decay=0.1, loss="mse")
    assert options.rule() == Momentum(0.2, 0.5, 0.1, True)
    assert options.loss_function() is LOSSES["mse"]
    assert Options(optimizer="sgd", lr=0.2).rule() == SGD(0.2)
    assert Options(optimizer="adamw", weight_decay=0.1).rule() == Adam(1e-3, decay=0.1, decoupled=True)
    assert Options(schedule="step", warmup=3).rates() == Schedule("step", warmup=3)


#: Another usable value of each option, beside what else it needs.
OTHERS = {
    "batch_size": 65, "loss": "mse", "optimizer": "sgd", "lr": 0.002, "momentum": 0.8, "nesterov": True,
    "weight_decay": 0.1, "schedule": "step", "warmup": 3, "dropout": 0.1, "clip_norm": 1.0, "patience": 2, "seed": 1,
    "shuffle_buffer": 100,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_going_on_with_another_option_is_refused(name):
    record = json.loads(json.dumps(Options().as_dict()))
    Options().check_same(record, "net.zarr")
    changed = Options(**{name: OTHERS[name]})
    shown = f"net.zarr: its checkpoint was trained with {name} {record[name]!r}, not {OTHERS[name]!r}: "
    with pytest.raises(InputError) as caught:
        changed.check_same(record, "net.zarr")
    assert str(caught.value).startswith(shown)
    with pytest.raises(InputError, match=f"trained with {name} "):
        Options().check_same(json.loads(json.dumps(changed.as_dict())), "net.zarr")


def test_more_epochs_are_no_other_run_where_no_rate_depends_on_them():
    for schedule in ("constant", "step"):
        Options(epochs=9, schedule=schedule).check_same(Options(schedule=schedule).as_dict(), "net.zarr")
    with pytest.raises(InputError, match="trained with epochs 5, not 9"):
        Options(epochs=9, schedule="cosine").check_same(Options(schedule="cosine").as_dict(), "net.zarr")


def test_what_an_older_checkpoint_does_not_say_is_the_default():
    record = {name: value for name, value in Options(lr=0.5).as_dict().items() if name not in ("clip_norm", "warmup")}
    Options(lr=0.5).check_same({**record, "unknown": 3}, "net.zarr")
    with pytest.raises(InputError, match="trained with warmup 0, not 2"):
        Options(lr=0.5, warmup=2).check_same(record, "net.zarr")


@pytest.mark.parametrize(
    ("text", "count", "unit"),
    [
        (1, 1, "epochs"), ("3", 3, "epochs"), ("1 epoch", 1, "epochs"), (" 12 epochs ", 12, "epochs"), ("500steps", 500, "steps"),
        ("1 step", 1, "steps"), ("10 min", 600, "seconds"), ("2 minutes", 120, "seconds"), ("1 minute", 60, "seconds"),
        ("90 s", 90, "seconds"), ("90 seconds", 90, "seconds"), ("1 second", 1, "seconds"),
    ],
)  # fmt: skip
def test_how_often(text, count, unit):
    assert Every.parse(text) == Every(count, unit)


@pytest.mark.parametrize(
    "text", [0, -1, "", "0 steps", "1.5 epochs", "2 hours", "steps", "ten epochs", 2.5, None, True]
)
def test_how_often_it_cannot_be(text):
    with pytest.raises(InputError, match="write it as 2, '2 epochs', '500 steps' or '10 min'"):
        Every.parse(text)

"""Networks from PyTorch, compared with the outputs of the modules; and files that would run code."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile

import numpy as np
import pytest

import dasksdnn as sdnn
from dasksdnn.errors import InputError

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'dasksdnn[formats]'")

from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(9, 8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Sequential(nn.Linear(8, 7, bias=False), nn.LeakyReLU(0.2), nn.Linear(7, 6)),
        nn.Hardtanh(-1.0, 2.0),
        nn.ReLU(),
        nn.Linear(6, 5),
        nn.ReLU6(),
        nn.Linear(5, 6),
        nn.Sigmoid(),
        nn.Identity(),
        nn.Linear(6, 4),
        nn.Tanh(),
        nn.Linear(4, 3),
    ).eval()


def outputs(net, x, tmp_path):
    return sdnn.infer(sdnn.save(net, tmp_path / "net.zarr", overwrite=True), x).compute()


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(13, 9)).astype(np.float32)


def agrees(model, net, x, tmp_path):
    with torch.no_grad():
        right = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(outputs(net, x, tmp_path), right, rtol=1e-5, atol=1e-6)


def test_outputs_agree(x, tmp_path):
    model = mlp()
    net = sdnn.from_torch(model)
    assert net.widths == (9, 8, 7, 6, 5, 6, 4, 3)
    kinds = ["relu", "leaky_relu:0.2", "clip:2", "clip:6", "sigmoid", "tanh", "identity"]
    assert [str(layer.activation) for layer in net] == kinds
    assert net.dtype == np.float32
    assert net.notes == ()
    agrees(model, net, x, tmp_path)


def test_double_and_half(x):
    assert sdnn.from_torch(mlp().double()).dtype == np.float64
    half = mlp().bfloat16()
    net = sdnn.from_torch(half)
    assert net.dtype == np.float32
    np.testing.assert_array_equal(net[0].weights.toarray(), half[1].weight.detach().float().numpy())
    assert sdnn.from_torch(mlp(), dtype="float64").dtype == np.float64


def test_a_mask_is_the_pattern(x, tmp_path):
    model = mlp()
    prune.random_unstructured(model[1], "weight", 0.6)
    with torch.no_grad():
        rows, columns = model[1].weight_mask.nonzero(as_tuple=True)
        model[1].weight_orig[rows[0], columns[0]] = 0.0  # kept by the mask: an edge of weight zero
        model[1].weight_orig *= 2  # an optimizer's step, after which `weight` is stale until the next forward
    net = sdnn.from_torch(model)
    assert net[0].edges == int(model[1].weight_mask.sum())
    agrees(model, net, x, tmp_path)
    assert (
        sdnn.from_torch(model.state_dict(), layers=["1", "4.0", "4.2", "7", "9", "12", "14"])[0].edges == net[0].edges
    )


def test_a_bias_is_pruned_too(x, tmp_path):
    model = mlp()
    prune.random_unstructured(model[1], "bias", 0.6)
    with torch.no_grad():
        model[1].bias_orig *= 2
    agrees(model, sdnn.from_torch(model), x, tmp_path)
    mine = sdnn.from_torch(model.state_dict(), layers=["1", "4.0", "4.2", "7", "9", "12", "14"])
    np.testing.assert_array_equal(mine[0].bias, sdnn.from_torch(model)[0].bias)
    assert 0 < np.count_nonzero(mine[0].bias) < 8
    plain = nn.Sequential(nn.Linear(9, 5))
    prune.random_unstructured(plain[0], "bias", 0.5)
    agrees(plain, sdnn.from_torch(plain.state_dict()), x, tmp_path)


def test_a_mask_of_other_numbers_than_one(x, tmp_path):
    model = nn.Sequential(nn.Linear(9, 5))
    prune.custom_from_mask(model[0], "weight", torch.full((5, 9), 0.5))
    agrees(model, sdnn.from_torch(model), x, tmp_path)
    agrees(model, sdnn.from_torch(model.state_dict()), x, tmp_path)


@pytest.mark.parametrize("part", ["weight_orig", "weight_mask"])
def test_a_sparse_mask_or_original(part):
    state = {"a.weight_orig": torch.ones(2, 3), "a.weight_mask": torch.ones(2, 3)}
    with warnings.catch_warnings():  # checks of sparse tensors are neither on nor off
        warnings.simplefilter("ignore", UserWarning)
        state[f"a.{part}"] = state[f"a.{part}"].to_sparse()
    with pytest.raises(InputError, match="a: weight: the original or its mask is sparse; make both dense"):
        sdnn.from_torch(state)[0]


def test_a_module_whose_own_forward_was_replaced():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    model[1].forward = torch.neg
    with pytest.raises(InputError, match=r"1 \(ReLU\): is not supported"):
        sdnn.from_torch(model)


def test_hooks_and_layers_without_weights():
    model = mlp()
    model[1].register_forward_hook(lambda module, given, made: made + 1)
    with pytest.raises(InputError, match=r"1 \(Linear\): has a hook"):
        sdnn.from_torch(model)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    np.testing.assert_array_equal(sdnn.from_torch(model)[0].weights.toarray(), model[0].weight.detach().numpy())
    with pytest.raises(InputError, match=r"0 \(LazyLinear\): has no weights yet"):
        sdnn.from_torch(nn.Sequential(nn.LazyLinear(3)))


@pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
def test_sparse_weights(layout, x, tmp_path):
    model = nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))
    with warnings.catch_warnings():  # sparse layouts are in beta
        warnings.simplefilter("ignore", UserWarning)
        dense = torch.where(torch.rand(8, 9) < 0.4, model[0].weight.detach(), 0)
        weight = getattr(dense, f"to_sparse_{layout}")() if layout != "coo" else dense.to_sparse()
    model[0].weight = nn.Parameter(weight)
    net = sdnn.from_torch(model)
    assert net[0].edges == int((dense != 0).sum())
    model[0].weight = nn.Parameter(dense)
    agrees(model, net, x, tmp_path)


def test_a_softmax_at_the_end(x, tmp_path, caplog):
    model = mlp()
    net = sdnn.from_torch(nn.Sequential(*model, nn.Softmax(dim=1)))
    (note,) = net.notes
    assert "15 (Softmax)" in note
    assert "logits" in note
    assert note in caplog.text
    agrees(model, net, x, tmp_path)


class Odd(nn.ReLU):
    def forward(self, x):
        return x + 1


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([nn.Conv2d(1, 1, 3)], r"0 \(Conv2d\): is not supported; a chain may hold .*Linear.*relu"),
        ([nn.Linear(4, 3), nn.BatchNorm1d(3)], r"1 \(BatchNorm1d\)"),
        ([nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 3), nn.GELU())], r"1\.1 \(GELU\): is not supported"),
        ([nn.Linear(4, 3), Odd()], r"1 \(Odd\): is not supported"),
        ([nn.Linear(4, 3), nn.Linear(4, 2)], r"1 \(Linear\): 2 outputs x 4 inputs does not follow .*0 \(Linear\)"),
        ([nn.ReLU(), nn.Linear(4, 3)], r"0 \(ReLU\): is an activation of the input"),
        ([nn.Linear(4, 3), nn.Tanh(), nn.ReLU()], r"2 \(ReLU\): follows tanh"),
        ([nn.Linear(4, 3), nn.ReLU(), nn.Tanh()], r"2 \(Tanh\): tanh follows another activation"),
        (
            [nn.Linear(4, 3), nn.Hardtanh()],
            r"1 \(Hardtanh\): bounds -1 to 1 are none of our activations: identity, relu",
        ),
        ([nn.Linear(4, 3), nn.Softmax(1), nn.Linear(3, 3)], r"1 \(Softmax\): is followed by 2 \(Linear\)"),
        ([nn.Linear(4, 3), nn.Softmax(0)], r"1 \(Softmax\): is along dimension 0"),
        ([nn.Flatten(0), nn.Linear(4, 3)], r"0 \(Flatten\): begins at dimension 0"),
        ([nn.Dropout()], "holds no layer"),
        ([nn.Linear(4, 3).to("meta")], r"on meta"),
    ],
)
def test_modules_that_are_no_chain(layers, words):
    with pytest.raises(InputError, match=words) as caught:
        sdnn.from_torch(nn.Sequential(*layers))
    assert "\n" not in str(caught.value)


def test_pruning_while_reading():
    net = sdnn.from_torch(mlp(), density=0.1, scope="global")
    assert net.edges == round(0.1 * sum(a * b for a, b in zip(net.widths, net.widths[1:], strict=False)))
    assert [layer.edges for layer in sdnn.from_torch(mlp(), density=0.5)][:2] == [36, 28]


# -- state dicts and files


def test_state_dicts(x, tmp_path):
    model = nn.Sequential(nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3))
    agrees(model, sdnn.from_torch(model.state_dict()), x, tmp_path)
    net = sdnn.from_torch(model.state_dict(), activation="tanh,identity")
    assert [str(layer.activation) for layer in net] == ["tanh", "identity"]
    net = sdnn.from_torch(model.state_dict(), activation="tanh")
    assert [str(layer.activation) for layer in net] == ["tanh", "identity"]
    net = sdnn.from_torch(model.state_dict(), activation=["sigmoid", "tanh"])
    assert [str(layer.activation) for layer in net] == ["sigmoid", "tanh"]
    net = sdnn.from_torch(model.state_dict(), activation="clip:3", output_activation="sigmoid")
    assert [str(layer.activation) for layer in net] == ["clip:3", "sigmoid"]
    for given, words in [
        ({"activation": "relu,relu,relu"}, "activation: 3 for 2 layers"),
        ({"layers": ["0", "1"]}, r"1: has no weights; there are '0\.weight'"),
        ({"layers": ["2", "0"]}, "0: 5 outputs x 9 inputs does not follow .*2: 3 outputs"),
        ({"layers": []}, "holds no layer"),
    ]:
        with pytest.raises(InputError, match=words):
            sdnn.from_torch(model.state_dict(), **given)
    with pytest.raises(InputError, match="are the module's own"):
        sdnn.from_torch(model, activation="relu")
    with pytest.raises(InputError, match="int is no module"):
        sdnn.from_torch(3)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "holds more than tensors"),
        ({"a.weight": 3}, "holds more than tensors .*'a.weight'"),
        ({"a.weight": torch.ones(3)}, "a: the weights: has 1 dimension"),
        ({"a.weight": torch.ones(2, 3), "a.bias": torch.ones(3)}, r"a: bias has shape \(3,\), expected \(2,\)"),
        (
            {"a.weight": torch.ones(2, 3), "a.running_mean": torch.ones(2)},
            "'a.running_mean' is neither weight nor bias",
        ),
        ({"a.weight": torch.ones(2, 3, dtype=torch.complex64)}, "values of torch.complex64"),
        (
            {"a.weight_orig": torch.ones(2, 3), "a.weight_mask": torch.ones(3, 2)},
            r"a: weight: the original has shape \(2, 3\), its mask \(3, 2\)",
        ),
        ({"a.weight_orig": torch.ones(2, 3)}, "a: has no weights"),
    ],
)
def test_bad_state_dicts(state, words):
    with pytest.raises(InputError, match=words):
        sdnn.from_torch(state)


def test_files(x, tmp_path):
    model = nn.Sequential(nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3))
    path = tmp_path / "model.pt"
    torch.save(model.state_dict(), path)
    agrees(model, sdnn.from_torch(path), x, tmp_path)
    torch.save({"epoch": 3, "nets": {"student": model.state_dict()}}, path)
    agrees(model, sdnn.from_torch(path, entry="nets.student"), x, tmp_path)
    with pytest.raises(InputError, match=r"holds more than tensors .*'epoch', 'nets'; name its state dict: --entry"):
        sdnn.from_torch(path)
    with pytest.raises(InputError, match="has no entry 'model'; there is 'epoch', 'nets'"):
        sdnn.from_torch(path, entry="model")


def test_whole_modules_are_read_when_they_are_trusted(x, tmp_path):
    model = mlp()
    torch.save(model, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"holds more than tensors, which could run code: .*--trusted"):
        sdnn.from_torch(tmp_path / "model.pt")
    agrees(model, sdnn.from_torch(tmp_path / "model.pt", trusted=True), x, tmp_path)


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_not_run(kind, tmp_path):
    state = {"0.weight": torch.ones(2, 3), "0.bias": Attack(tmp_path / "ran")}
    path = tmp_path / "model.pt"
    if kind == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state["0.bias"]))
    with pytest.raises(InputError, match="could run code"):
        sdnn.from_torch(path)
    assert not (tmp_path / "ran").exists()


def test_older_releases_read_no_files(tmp_path, monkeypatch):
    torch.save(mlp().state_dict(), tmp_path / "model.pt")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(InputError, match=r"PyTorch 2\.5\.1\+cpu cannot read weights safely"):
        sdnn.from_torch(tmp_path / "model.pt")


def test_damaged_files(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(40, 30).state_dict(), path)
    whole = path.read_bytes()
    for spoilt in (b"", b"garbage" * 99, whole[: len(whole) // 2], whole[:-30], whole[:20] + bytes(90) + whole[110:]):
        path.write_bytes(spoilt)
        for trusted in (False, True):
            with pytest.raises(InputError, match=r"model\.pt: is ") as caught:
                sdnn.from_torch(path, trusted=trusted)
            assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        sdnn.from_torch(tmp_path / "none.pt")
    with pytest.raises(InputError, match="is a directory"):
        sdnn.from_torch(tmp_path)
    with pytest.raises(InputError, match="import safetensors"):
        sdnn.from_torch("model.safetensors")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.zeros(1).expand(1 << 31, 1 << 31), "is expanded"),
        (lambda: torch.sparse_coo_tensor(torch.tensor([[0, 1]]), torch.ones(2, 2), (3, 2)), "is sparse, and no matrix"),
        (lambda: torch.ones(3).to_sparse(), "is sparse, and no matrix"),
    ],
)
@pytest.mark.parametrize("key", ["weight", "bias"])
def test_tensors_that_hold_less_than_they_claim(key, make, words, tmp_path):
    with warnings.catch_warnings():  # checks of sparse tensors are neither on nor off
        warnings.simplefilter("ignore", UserWarning)
        torch.save({"weight": torch.ones(3, 2), key: make()}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=f"{key}: {words}"):
        sdnn.from_torch(tmp_path / "model.pt")


def test_nested_tensors():
    with warnings.catch_warnings():  # nested tensors are a prototype
        warnings.simplefilter("ignore", UserWarning)
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(InputError, match=r"weight: layout .* is not usable"):
        sdnn.from_torch({"weight": nested})


def test_a_view_that_is_negated():
    state = {"weight": torch.full((3, 2), 1 + 2j).conj().imag}
    assert (sdnn.from_torch(state)[0].weights.toarray() == -2).all()


def test_a_file_that_unpacks_to_more_than_it_has(tmp_path):
    torch.save({"0.weight": torch.zeros(500, 500)}, tmp_path / "model.pt")
    with (
        zipfile.ZipFile(tmp_path / "model.pt") as old,
        zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    for trusted in (False, True):
        with pytest.raises(InputError, match=r"m\.pt: has [0-9,]+ bytes, and claims 1,0[0-9,]+; write it again"):
            sdnn.from_torch(tmp_path / "m.pt", trusted=trusted)


def test_the_format_before_archives(tmp_path):
    state = nn.Linear(3, 2).state_dict()
    torch.save(state, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(sdnn.from_torch(tmp_path / "model.pt")[0].weights.toarray(), state["weight"])


@pytest.mark.parametrize("metadata", [3, {"": 3}, {"": {"dasksdnn": 3}}, {"": {}}])
def test_metadata_of_any_kind(metadata):
    state = nn.Linear(3, 2).state_dict()
    state._metadata = metadata
    assert sdnn.from_torch(state).widths == (3, 2)


def test_csr_that_is_not_sound(tmp_path):
    with warnings.catch_warnings():  # sparse layouts are in beta
        warnings.simplefilter("ignore", UserWarning)
        bad = torch.sparse_csr_tensor(
            torch.tensor([0, 1, 2]), torch.tensor([0, 99]), torch.ones(2), size=(2, 3), check_invariants=False
        )
    torch.save({"0.weight": bad}, tmp_path / "model.pt")
    net = sdnn.from_torch(tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"0\.weight: is no sound CSR matrix"):
        net[0]

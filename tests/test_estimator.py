"""The estimators as scikit-learn sees them: its own checks, pipelines and searches, data of all kinds, pickles, and the bits."""

from __future__ import annotations

import gc
import pickle

import dask.array as da
import numpy as np
import pytest
import scipy.sparse
import scipy.special
import sparse
import zarr
from sklearn.base import clone
from sklearn.datasets import load_digits, make_regression
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import dasksdnn as sdnn
from dasksdnn import SparseDNNClassifier, SparseDNNRegressor, estimator
from dasksdnn.errors import InputError, OutputExistsError
from dasksdnn.sources.blocks import DenseRows

SMALL = {"hidden_layer_sizes": (16,), "density": 0.5, "learning_rate": 0.02, "epochs": 3, "random_state": 0}
CHECKED = {**SMALL, "density": 1.0, "epochs": 30, "batch_size": 16}


@pytest.fixture(scope="module")
def task():
    x = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    return x, np.array(["no", "yes", "perhaps"])[(x[:, 0] > 0).astype(int) + (x[:, 1] > 1)]


@pytest.fixture(scope="module")
def fitted(task):
    return SparseDNNClassifier(**SMALL).fit(*task)


def parameters(fitted):
    """All weights and biases, in one array."""
    return np.concatenate([part for layer in fitted.network_ for part in (layer.weights.data, layer.bias)])


def forward(net, x):
    """A network's outputs, plainly."""
    for layer in net:
        z = x @ layer.weights.toarray().T + layer.bias
        x = np.maximum(z, 0) if layer.activation.name == "relu" else z
    return x


@parametrize_with_checks([SparseDNNClassifier(**CHECKED), SparseDNNRegressor(**CHECKED)])
def test_conventions_of_scikit_learn(estimator, check):
    check(estimator)


def test_digits():
    x, y = load_digits(return_X_y=True)
    kept, aside, of_kept, of_aside = train_test_split(x / 16, y, test_size=1 / 3, random_state=0, stratify=y)
    net = SparseDNNClassifier(hidden_layer_sizes=(200,), density=0.2, learning_rate=3e-3, random_state=0)
    assert net.fit(kept, of_kept).score(aside, of_aside) >= 0.95
    assert net.network_.edges == 200 * 13 + 10 * 200
    assert net.n_iter_ == len(net.loss_curve_) == len(net.history_.epochs) == 20
    assert net.loss_curve_[-1] == net.history_.epochs[-1].loss < net.loss_curve_[0] / 4


def test_predictions_are_those_of_the_network(task, fitted):
    z = forward(fitted.network_, task[0].astype(np.float64))
    np.testing.assert_allclose(fitted.decision_function(task[0]), z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fitted.predict_proba(task[0]), scipy.special.softmax(z, axis=1), rtol=1e-4, atol=1e-6)
    assert (fitted.predict(task[0]) == np.array(["no", "perhaps", "yes"])[z.argmax(axis=1)]).all()
    two = SparseDNNClassifier(**SMALL).fit(task[0], task[0][:, 0] > 0)
    z = forward(two.network_, task[0].astype(np.float64))
    np.testing.assert_allclose(two.decision_function(task[0]), z[:, 1] - z[:, 0], rtol=1e-4, atol=1e-5)
    assert (two.predict(task[0]) == (z[:, 1] > z[:, 0])).all()


def test_probabilities_of_huge_outputs(task):
    flat = SparseDNNClassifier(**SMALL).fit(task[0], task[1]).predict_proba(task[0] * 1e6)
    assert np.isfinite(flat).all()
    np.testing.assert_allclose(flat.sum(axis=1), 1)


def test_a_seed_decides_all_bits(task, fitted):
    again = SparseDNNClassifier(**SMALL)
    assert (parameters(again.fit(*task)) == parameters(fitted)).all()
    assert (parameters(again.fit(*task)) == parameters(fitted)).all()  # begins anew
    other = clone(fitted).set_params(random_state=1).fit(*task)
    assert (parameters(other) != parameters(fitted)).any()
    one, same = (SparseDNNClassifier(**SMALL).set_params(random_state=np.random.RandomState(7)) for _ in range(2))
    first = parameters(one.fit(*task))
    assert (parameters(same.fit(*task)) == first).all()
    assert (parameters(one.fit(*task)) != first).any()  # goes on drawing


KINDS = {
    "float64": lambda x, _: x.astype(np.float64),
    "list": lambda x, _: x.tolist(),
    "csr matrix": lambda x, _: scipy.sparse.csr_matrix(x),
    "coo array": lambda x, _: scipy.sparse.coo_array(x),
    "pydata": lambda x, _: sparse.COO.from_numpy(x),
    "dask": lambda x, _: da.from_array(x, chunks=(-1, 4)),
    "dataset": lambda x, _: DenseRows(x),
    "memory map": lambda x, folder: np.load(_saved(x, folder), mmap_mode="r"),
    "zarr": lambda x, folder: zarr.array(x, chunks=x.shape, store=folder / "x.zarr"),
}


def _saved(x, folder):
    np.save(folder / "x.npy", x)
    return folder / "x.npy"


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_data_gives_the_same(task, fitted, name, tmp_path):
    x, y = task
    given = KINDS[name](x, tmp_path)
    found = SparseDNNClassifier(**SMALL).fit(given, y)
    assert found.n_features_in_ == 6
    np.testing.assert_allclose(parameters(found), parameters(fitted), rtol=1e-5, atol=1e-6)
    predicted = fitted.predict_proba(given)
    assert isinstance(predicted, da.Array if name == "dask" else np.ndarray)
    np.testing.assert_allclose(np.asarray(predicted), fitted.predict_proba(x), rtol=1e-5, atol=1e-7)
    assert (np.asarray(fitted.predict(given)) == fitted.predict(x)).all()
    if name != "list":
        with pytest.raises(ValueError, match=r"6 features|network reads 6"):
            fitted.predict(KINDS[name](x[:, :5], tmp_path / "narrow") if name != "zarr" else x[:, :5])


@pytest.fixture(autouse=True)
def _narrow(tmp_path):
    (tmp_path / "narrow").mkdir()


def test_lazy_predictions(task, fitted):
    x = da.from_array(task[0], chunks=(64, -1))
    net = SparseDNNClassifier(**SMALL).fit(x, da.from_array(task[1], chunks=64))
    assert net.predict(x).dtype == task[1].dtype
    assert net.predict(x).chunks == ((64, 64, 64, 8),)
    assert net.predict_proba(x).chunks == ((64, 64, 64, 8), (3,))
    assert net.score(x, task[1]) > 0.6
    values = SparseDNNRegressor(**SMALL).fit(x, x[:, :2]).predict(x)
    assert values.shape == (200, 2)
    assert values.dtype == np.float64
    expected, lazy = net.predict(task[0]), net.predict(x)
    del net
    gc.collect()
    assert (lazy.compute() == expected).all()  # the graph keeps the temporary store


def test_the_temporary_store_goes_with_the_estimator(task):
    net = SparseDNNClassifier(**SMALL).fit(*task)
    first = net.store_.path
    net.fit(*task)
    second = net.store_.path
    assert (first.exists(), second.exists()) == (False, True)
    del net
    gc.collect()
    assert not second.exists()


@pytest.mark.parametrize("nparts", [1, 3])
def test_pickles(task, nparts):
    net = SparseDNNClassifier(**SMALL, nparts=nparts, partition_method="random").fit(*task)
    expected, before = net.predict_proba(task[0]), parameters(net)
    content = pickle.dumps(net)
    assert net.store_.path.as_posix().encode() not in content
    del net
    gc.collect()
    copy = pickle.loads(pickle.dumps(pickle.loads(content)))
    assert copy.loss_curve_
    assert (copy.predict_proba(task[0]) == expected).all()
    assert (parameters(copy) == before).all()
    assert copy.store_.nparts == nparts
    copy.partial_fit(*task)
    assert (parameters(copy) != before).any()
    assert copy.n_iter_ == 4
    assert not hasattr(clone(copy), "store_")


def test_unfitted():
    with pytest.raises(NotFittedError):
        SparseDNNClassifier().predict(np.ones((2, 2)))
    assert not hasattr(SparseDNNClassifier(), "network_")


def test_going_on_is_as_training_longer(task, fitted):
    longer = SparseDNNClassifier(**{**SMALL, "epochs": 5}).fit(*task)
    net = SparseDNNClassifier(**SMALL).fit(*task)
    net.partial_fit(*task).partial_fit(*task, classes=["perhaps", "no", "yes"])
    assert (parameters(net) == parameters(longer)).all()
    assert net.loss_curve_ == longer.loss_curve_
    assert [e.epoch for e in net.history_.epochs] == [1, 2, 3, 4, 5]


def test_batches_of_any_size(task):
    x, y = task
    found = []
    for _ in range(2):
        net = SparseDNNClassifier(**SMALL, schedule="cosine", warmup=3, patience=1)
        for start in [*range(0, 200, 60)] * 6:
            net.partial_fit(x[start : start + 60], y[start : start + 60], classes=np.unique(y))
        found.append(parameters(net))
    assert (found[0] == found[1]).all()
    assert net.score(x, y) > 0.7 > (y == "yes").mean() + 0.2
    assert net.n_iter_ == 24


def test_classes_of_partial_fit(task, fitted):
    x, y = task
    with pytest.raises(InputError, match="classes must be passed"):
        SparseDNNClassifier(**SMALL).partial_fit(x, y)
    with pytest.raises(InputError, match=r"'perhaps' of sample .* none of the classes"):
        SparseDNNClassifier(**SMALL).partial_fit(x, y, classes=["no", "yes"])
    with pytest.raises(InputError, match="1 class"):
        SparseDNNClassifier(**SMALL).partial_fit(x, y, classes=["no"])
    with pytest.raises(InputError, match="not those of before"):
        pickle.loads(pickle.dumps(fitted)).partial_fit(x, y, classes=["no", "yes"])
    one = SparseDNNClassifier(**SMALL).partial_fit(x[y == "no"], y[y == "no"], classes=["yes", "no"])
    assert list(one.classes_) == ["no", "yes"]
    assert one.predict_proba(x).shape == (200, 2)


def test_a_network_that_is_given(task, tmp_path):
    net = sdnn.random_sparse([6, 20, 20, 3], [0.5, 0.3, 1.0], dtype="float64")
    clf = SparseDNNClassifier(net, **SMALL)
    first = parameters(clf.fit(*task))
    assert (parameters(clf.fit(*task)) == first).all()
    assert first.dtype == np.float64
    assert clf.network_.widths == net.widths
    store = sdnn.save(net, tmp_path / "net.zarr")
    for given in (store, store.path, str(store.path)):
        trained = SparseDNNClassifier(given, **SMALL).fit(*task)
        assert trained.store_.path == store.path
        assert (parameters(trained) == first).all() == (given is store)  # the others go on from there
    assert sdnn.open_store(store.path).digest == trained.store_.digest
    with pytest.raises(InputError, match="6 inputs and 3 outputs, the data 6 features and 2 classes"):
        SparseDNNClassifier(net, **SMALL).fit(task[0], task[1] == "no")
    with pytest.raises(InputError, match="the data 5 features"):
        SparseDNNClassifier(store, **SMALL).fit(task[0][:, :5], task[1])


def test_a_place_for_the_store(task, tmp_path):
    place = tmp_path / "net.zarr"
    net = SparseDNNClassifier(**SMALL, path=place).fit(*task)
    first = sdnn.open_store(place)
    assert first.digest == net.store_.digest
    assert net.set_params(random_state=1).fit(*task).store_.digest != first.digest  # its own may be replaced
    for other in (clone(net), pickle.loads(pickle.dumps(net))):
        with pytest.raises(OutputExistsError, match="exists and is kept"):
            other.fit(*task)
    assert sdnn.verify(place) == []
    copy = pickle.loads(pickle.dumps(net))
    assert copy.store_.path != place
    assert (copy.predict(task[0]) == net.predict(task[0])).all()


@pytest.mark.parametrize("kind", ["array", "dask"])
def test_validation(task, kind):
    x = task[0] if kind == "array" else da.from_array(task[0], chunks=(30, -1))
    noise = np.random.default_rng(0).integers(0, 2, 200)
    net = SparseDNNClassifier(**{**SMALL, "epochs": 50}, validation_fraction=0.25, patience=2).fit(x, noise)
    assert net.n_iter_ < 50
    assert all(e.samples == 150 and e.validation_loss is not None for e in net.history_.epochs)
    best = net.history_.best
    z = np.asarray(net.decision_function(task[0][150:]))
    loss = np.logaddexp(0, np.where(noise[150:] == 1, -z, z)).mean()
    assert np.isclose(loss, best.validation_loss, rtol=1e-4) == (kind == "dask")  # there, the last are set aside


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"engine": "mpi"}, "engine 'mpi' cannot train: use one of local"),
        ({"optimizer": "lbfgs"}, "optimizer 'lbfgs'"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"epochs": 2.5}, "epochs: 2.5 is not a whole number"),
        ({"batch_size": 0}, "batch_size"),
        ({"density": (0.5, 0.5)}, "density has 2 shares for 1 hidden layers"),
        ({"density": 0}, "density"),
        ({"hidden_layer_sizes": (16, -1)}, r"widths\[2\]"),
        ({"activation": "gelu"}, "activation 'gelu'"),
        ({"dtype": "float16"}, "dtype float16"),
        ({"validation_fraction": 1}, "validation_fraction is 1"),
        ({"nparts": 0}, "nparts"),
        ({"nparts": 2, "partition_method": "luck"}, "luck"),
        ({"threads": 0}, "threads"),
    ],
)
def test_wrong_parameters(task, tmp_path, wrong, match):
    with pytest.raises(InputError, match=match):
        SparseDNNClassifier(**{**SMALL, "path": tmp_path / "net.zarr", **wrong}).fit(*task)
    assert (tmp_path / "net.zarr").exists() == ("threads" in wrong)


def test_wrong_data(task):
    x, y = task
    for given, labels, match in (
        (x, np.full(200, "no"), "1 class"),
        (da.from_array(x), None, "requires y"),
        (da.from_array(x), y[:-1], "199 targets for 200 samples"),
        (da.from_array(x), np.where(x[:, 0] > 0, np.nan, 1.0), "NaN"),
        (da.from_array(x[0]), y[:6], "1 dimension"),
        (x, x[:, 0], "Unknown label type"),
    ):
        with pytest.raises(ValueError, match=match):
            SparseDNNClassifier(**SMALL).fit(given, labels)


def test_a_pipeline_in_a_search():
    x, y = load_digits(n_class=4, return_X_y=True)
    net = SparseDNNClassifier(hidden_layer_sizes=32, random_state=0, epochs=np.int64(4), learning_rate=0.01)
    grid = {f"sparsednnclassifier__{k}": v for k, v in {"density": [0.02, 0.5], "batch_size": np.array([16])}.items()}
    search = GridSearchCV(make_pipeline(StandardScaler(), net), grid, cv=2).fit(x, y)
    assert search.best_params_["sparsednnclassifier__density"] == 0.5
    assert search.best_score_ > 0.9
    assert search.predict(x[:3]).shape == (3,)


def test_values_of_several_outputs():
    x, y = make_regression(300, 10, n_targets=3, random_state=0)
    y /= y.std(axis=0)
    net = SparseDNNRegressor(**{**SMALL, "hidden_layer_sizes": np.array([40, 20]), "density": (0.5, 0.3), "epochs": 30})
    assert net.fit(x, y).score(x, y) > 0.95
    assert net.n_outputs_ == 3
    np.testing.assert_allclose(net.predict(x), forward(net.network_, x), rtol=1e-3, atol=1e-4)
    column, flat = clone(net).fit(x, y[:, :1]), clone(net).fit(x, y[:, 0])
    assert (column.predict(x).shape, flat.predict(x).shape) == ((300, 1), (300,))
    assert (column.predict(x)[:, 0] == flat.predict(x)).all()
    going, longer = clone(net).fit(x, y), clone(net).set_params(epochs=31).fit(x, y)
    assert (parameters(going.partial_fit(x, y)) == parameters(longer)).all()


def test_no_hidden_layers_and_a_listener(task):
    seen = []
    net = SparseDNNClassifier(hidden_layer_sizes=(), random_state=0, epochs=2, listener=seen.append).fit(*task)
    assert net.network_.widths == (6, 3)
    assert ("train", 400, 400) in [(e.task, e.done, e.total) for e in seen]
    assert clone(net).listener is not None


def test_names_are_public():
    assert sdnn.SparseDNNClassifier is estimator.SparseDNNClassifier

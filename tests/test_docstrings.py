"""What users call is documented: its parameters by name, with an example that runs; and every other example runs, too."""

from __future__ import annotations

import doctest
import inspect
import re
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest

import dasksdnn

PACKAGE = Path(dasksdnn.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"
PLOTS = ("history", "load", "memory", "roofline", "sends", "spy", "volume", "MemoryWatch")
METHODS = {
    "Activation": ("parse",),
    "Network": ("from_layers",),
    "Partition": ("from_owner", "save", "load"),
    "Store": ("row_block", "layer", "network", "dask_layer", "comm_plan", "part_edges"),
    "SparseDNNClassifier": ("fit", "partial_fit", "predict", "predict_proba", "decision_function"),
    "SparseDNNRegressor": ("fit", "partial_fit", "predict"),
}
FORMATS = (("sources.onnx", "from_onnx"), ("sources.safetensors", "from_safetensors"))
#: Full name -> where it is found. `plots` is a module, whose functions are listed one by one.
PUBLIC = {
    **{f"dasksdnn.{n}": ("dasksdnn", n) for n in dasksdnn.__all__ if n not in ("__version__", "plots")},
    **{f"dasksdnn.{kind}.{n}": ("dasksdnn", f"{kind}.{n}") for kind, names in METHODS.items() for n in names},
    **{f"dasksdnn.plots.{n}": ("dasksdnn.diagnostics.plots", n) for n in PLOTS},
    **{f"dasksdnn.{module}.{n}": (f"dasksdnn.{module}", n) for module, n in FORMATS},
}
#: Classes that functions make for users, who do not call them.
MADE = {"dasksdnn.Store", "dasksdnn.DaskSDNNError"}
#: What the examples of a name, or of a module, need beside the package.
NEEDS = {
    "dasksdnn.dashboard": "bokeh",
    "dasksdnn.from_torch": "torch",
    "dasksdnn.to_torch": "torch",
    "dasksdnn.sources.onnx.from_onnx": "onnx",
    "dasksdnn.sources.safetensors.from_safetensors": "safetensors",
    **{f"dasksdnn.plots.{name}": "matplotlib" for name in PLOTS if name != "MemoryWatch"},
}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = sorted(
    ".".join(["dasksdnn", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>>" in path.read_text()
)


def find(name):
    module, path = PUBLIC[name]
    found = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def sections(text):
    """Sections of a numpydoc docstring by title."""
    pieces = re.split(r"^(\S.*)\n-{3,}\n", inspect.cleandoc(text), flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def described(text, *titles):
    """Names that the sections describe: those before " : ", or alone on a line that is not indented."""
    lines = [line for title in titles for line in sections(text).get(title, "").splitlines() if re.match(r"\S", line)]
    return {name.strip(" *") for line in lines for name in line.partition(" : ")[0].split(",")}


def taken(function):
    return {name for name in inspect.signature(function).parameters if name not in ("self", "cls")}


def run(test):
    """Run the examples of a docstring; what failed is the assertion's message."""
    said = StringIO()
    failed = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=said.write).failed
    assert failed == 0, said.getvalue()


@pytest.mark.parametrize("name", PUBLIC)
def test_examples(name, tmp_path, monkeypatch):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed, which the example needs")
    text = sections(find(name).__doc__)["Examples"]
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)  # no names are given: an example stands alone
    assert any(example.want for example in test.examples), "no example shows a result"
    monkeypatch.chdir(tmp_path)
    run(test)
    assert not list(tmp_path.iterdir()), "an example leaves files where it is run"


@pytest.mark.parametrize("name", [name for name in PUBLIC if callable(find(name)) and name not in MADE])
def test_parameters(name):
    found = find(name)
    text = found.__doc__
    if inspect.isclass(found):  # attributes of a dataclass are what it is made of
        assert taken(found) <= described(text, "Parameters", "Attributes")
    else:
        assert taken(found) == described(text, "Parameters")


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isroutine(find(name))])
def test_results(name):
    """What gives something back says what."""
    said = inspect.signature(find(name)).return_annotation
    assert ("Returns" in sections(find(name).__doc__)) == (said != "None")


@pytest.mark.parametrize("module", MODULES)
def test_other_examples(module, tmp_path, monkeypatch):
    """Examples of what is not public, which may use their module's names."""
    if module in NEEDS:
        pytest.importorskip(NEEDS[module], reason=f"{NEEDS[module]} is not installed, which the example needs")
    public = {find(name).__doc__ for name in PUBLIC}
    monkeypatch.chdir(tmp_path)
    for test in doctest.DocTestFinder().find(import_module(module), module):
        if test.examples and test.docstring not in public:
            run(test)


def listed():
    """What the pages of the reference list: module and name."""
    for page in DOCS.glob("*.rst"):
        module, listing = "", False
        for line in page.read_text().splitlines():
            if line.startswith(".. "):
                module = line.partition("currentmodule:: ")[2] or module
                listing = line.startswith(".. autosummary::")
            elif listing and re.match(r"   \w", line):
                yield module, line.strip()


def test_the_reference_lists_what_is_public():
    names = list(listed())
    assert set(PUBLIC.values()) <= set(names)
    assert len(names) == len(set(names))
    assert not [name for _, name in names if re.search(r"(^|\.)_", name)]


def test_sections():
    text = "Do.\n\n    Parameters\n    ----------\n    a, *b : int\n        Of c : d.\n    e\n\n    Returns\n    -------\n    int\n"
    assert described(text, "Parameters") == {"a", "b", "e"}
    assert set(sections(text)) == {"Parameters", "Returns"}
    with pytest.raises(AssertionError, match="Expected"):
        run(doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0))

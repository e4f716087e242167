"""The examples in the documentation of what reads and writes other tools' formats."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

EXAMPLES = [
    ("dasksdnn.sources.pruning", "prune_network", ()),
    ("dasksdnn.sources.torch", "from_torch", ("torch",)),
    ("dasksdnn.sources.safetensors", "from_safetensors", ("safetensors",)),
    ("dasksdnn.sources.onnx", "from_onnx", ("onnx",)),
    ("dasksdnn.exports.exporting", "export", ()),
    ("dasksdnn.exports.torch", "to_torch", ("torch",)),
]


@pytest.mark.parametrize(("module", "name", "libraries"), EXAMPLES)
def test_examples(module, name, libraries):
    for library in libraries:
        pytest.importorskip(library, reason=f"{library} is not installed: pip install 'dasksdnn[formats]'")
    function = getattr(import_module(module), name)
    (found,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={name: function})
    assert found.examples
    assert doctest.DocTestRunner().run(found).failed == 0

"""The API reference, built from the docstrings alone: sphinx-build -W --keep-going -b html docs build/docs."""

from __future__ import annotations

import dasksdnn

project = "dasksdnn"
copyright = "the dasksdnn developers"
version = release = dasksdnn.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
templates_path = ["templates"]
exclude_patterns = ["templates"]
html_theme = "alabaster"
html_theme_options = {"description": "Sparse deep neural networks, out of core", "page_width": "70em"}
html_copy_source = False

# Types stand in the docstrings' own words.
autodoc_typehints = "none"
# The pages name what users call: a class's other members are for the package's own use.
numpydoc_show_class_members = False

"""Sphinx settings of the documentation: ``sphinx-build -W -b html docs docs/_build``."""

import cnnsplitter

project = "CNNSplitter"
author = "The CNNSplitter developers"
copyright = "The CNNSplitter developers, Apache-2.0"
release = cnnsplitter.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": False}

html_theme = "furo"
html_title = "CNNSplitter"

"""How the site is built: `nox -s docs`. Every warning is an error, and nothing is fetched."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "The ODE suite"
author = "The developers of the ODE suite"
version = release = metadata.version("ode-core")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "catalogue"]
exclude_patterns = ["_ext"]
myst_heading_anchors = 3
# Docstrings are written for readers of the code: a word in backticks is code.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
maximum_signature_line_length = 88
napoleon_use_rtype = False

html_theme = "furo"
html_title = "The ODE suite"
html_static_path = ["_static"]
html_css_files = ["suite.css"]
html_copy_source = False
# A summary is fetched from the page that was found, which a browser refuses where pages are files.
html_show_search_summary = False
html_show_sphinx = False
html_show_copyright = False

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from wenable.version import __version__

project = "wenable"
author = "The developers of wenable"
copyright = "the developers of wenable, Apache-2.0"
release = version = __version__

# No intersphinx: the documentation builds without a network.
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"wenable {release}"

# Docstrings write code between single backticks, as the pages do.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
myst_heading_anchors = 3

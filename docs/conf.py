"""Sphinx configuration. Nothing is fetched from the network while the pages are built."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import farabio_like  # noqa: E402

project = "farabio_like"
author = "farabio_like developers"
copyright = f"the {author}"
release = version = farabio_like.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.graphviz"]
exclude_patterns = ["_build"]
default_role = "py:obj"
highlight_language = "python"
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = False
# Napoleon's own form of this section splits "model, optimizer : type" wrongly.
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False

graphviz_output_format = "svg"

html_theme = "furo"
html_title = f"farabio_like {release}"
html_show_sourcelink = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["custom.css"]

"""Sphinx configuration. Nothing is fetched from the network while the pages are built."""

import importlib.util
import inspect
import pkgutil
import sys
from pathlib import Path

from sphinx.roles import XRefRole
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).parents[1]))

import farabio_like  # noqa: E402
import farabio_like.callbacks  # noqa: E402
import farabio_like.losses  # noqa: E402
import farabio_like.models.segmentation  # noqa: E402
from farabio_like.config.settings import DEFINITIONS  # noqa: E402

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
# Modules of services are described where what they need is not installed too.
autodoc_mock_imports = [
    name for name in ("starlette", "uvicorn", "faststream") if importlib.util.find_spec(name) is None
]
autodoc_typehints_format = "short"
# So that a callback shows what it adds, not every event that it listens to.
autodoc_inherit_docstrings = False
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


class ShippedCallbacks(SphinxDirective):
    """A table of all callbacks that ship, each with the first line of its documentation."""

    def run(self):
        lines = [".. list-table::", "   :widths: 30 70", ""]
        for callback in shipped_callbacks():
            first = inspect.getdoc(callback).partition("\n\n")[0].replace("\n", " ")
            if first.startswith("Base of "):
                continue
            lines += [f"   * - `~{callback.__module__}.{callback.__qualname__}`", f"     - {first}"]
        return self.parse_text_to_nodes("\n".join(lines))


class SettingsTable(SphinxDirective):
    """A table of all settings."""

    def run(self):
        return self.parse_text_to_nodes("\n".join(settings_table()))


class CallbackRole(XRefRole):
    """A link to a callback by its name alone; one that does not ship is a warning."""

    def process_link(self, env, refnode, has_explicit_title, title, target):
        refnode.update_all_atts({"refdomain": "py", "reftype": "class"}, replace=True)
        return title, target


def link_by_public_name(app, env, node, contnode):
    """Find what is written as users import it: `ConvnetTrainer.train`, `EMA`, `DiceLoss`, `Unet`."""
    target = node.get("reftarget", "")
    modules = {callback.__name__: callback.__module__ for callback in shipped_callbacks()}
    for package in (farabio_like.losses, farabio_like.models.segmentation):
        modules.update((name, getattr(package, name).__module__) for name in package.__all__)
    for full in (f"farabio_like.{target}", f"{modules.get(target.partition('.')[0], '')}.{target}"):
        found = env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, contnode)
        if found is not None:
            return found
    return None


def shipped_callbacks():
    """Yield every public callback in the modules of `farabio_like.callbacks`, those of `base` excepted."""
    for found in sorted(pkgutil.iter_modules(farabio_like.callbacks.__path__), key=lambda module: module.name):
        if found.name.startswith("_") or found.name == "base":
            continue
        module = importlib.import_module(f"farabio_like.callbacks.{found.name}")
        for name, value in vars(module).items():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and issubclass(value, farabio_like.Callback) and not name.startswith("_"):
                yield value


def settings_table():
    """Return the lines of a table of all settings: default, whether a stage may change it, meaning."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 22 12 8 58", ""]
    lines += ["   * - setting", "     - default", "     - stage", "     - meaning"]
    for name, setting in DEFINITIONS.items():
        default = f'"{setting.default}"' if isinstance(setting.default, str) else setting.default
        stage = "     - yes" if setting.of_a_stage else "     -"
        lines += [f"   * - ``{name}``", f"     - ``{default}``", stage, f"     - {setting.help}"]
    return lines


def setup(app):
    """Add what these pages use."""
    app.add_directive("shipped-callbacks", ShippedCallbacks)
    app.add_directive("settings-table", SettingsTable)
    app.add_role("callback", CallbackRole(warn_dangling=True))
    app.connect("missing-reference", link_by_public_name)

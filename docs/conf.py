"""Sphinx: `ci/docs` builds the site and runs the examples for its gallery."""

import os
import pydoc
import re
import sys
from importlib.metadata import version as installed
from pathlib import Path

from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).parent))  # for looks.py

project = "kmeans_xp"
author = "the kmeans_xp developers"
version = release = installed("kmeans_xp")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
default_role = "code"  # what docstrings and examples have in single backticks
html_theme = "furo"
html_title = f"kmeans_xp {version}"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_show_copyright = False
if "GITHUB_REPOSITORY" in os.environ:  # otherwise nothing here knows where the repository is
    repository = f"{os.environ['GITHUB_SERVER_URL']}/{os.environ['GITHUB_REPOSITORY']}"
    html_theme_options = {
        "footer_icons": [{"name": "Repository", "url": repository, "html": "Repository", "class": ""}]
    }
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_typehints = "none"  # the docstrings say it, with shapes
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = False  # as fields, `labels_` would be a link called labels

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "/",  # all of them are run
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
    "plot_gallery": not tags.has("pages"),  # noqa: F821  # Sphinx's tags: `ci/docs --pages`
    "capture_repr": (),
    "reset_modules": ("matplotlib", "looks.light_and_dark"),
    "write_computation_times": False,
    "within_subsection_order": "looks.tutorial_first",
}


def setup(app):
    app.connect("env-check-consistency", names_are_whole)


def names_are_whole(app, env):
    """Every fitted attribute of a class on the pages is there by its whole name: a last underscore is easily lost."""
    objects = env.get_domain("py").objects
    for path in [path for path, found in objects.items() if found.objtype == "class" and not found.aliased]:
        for name in re.findall(r"^    (\w+_) : ", pydoc.locate(path).__doc__, re.MULTILINE):
            if f"{path}.{name}" not in objects:
                logging.getLogger(__name__).warning("The pages lack %s.%s", path, name)

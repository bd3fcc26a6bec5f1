"""Sphinx: `ci/docs` builds the site and runs the examples for its gallery."""

from importlib.metadata import version as installed

project = "kmeans_xp"
author = "the kmeans_xp developers"
version = release = installed("kmeans_xp")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "kmeans_xp"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_typehints = "none"  # the docstrings say it, with shapes
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "/",  # all of them are run
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
    "plot_gallery": True,
    "capture_repr": (),
    "write_computation_times": False,
    "within_subsection_order": "ExampleTitleSortKey",
}

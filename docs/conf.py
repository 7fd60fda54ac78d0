"""How Sphinx builds the pages: ``make docs``. Nothing here needs the network."""

from __future__ import annotations

from importlib import metadata

project = "person_repo"
author = "the person_repo authors"
release = metadata.version("person-repo")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"person_repo {release}"
html_copy_source = False

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

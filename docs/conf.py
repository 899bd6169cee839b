"""How Sphinx builds these pages: python -m sphinx -W -b html docs site"""

project = "mnistgen"
author = "the mnistgen authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "mnistgen"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# Files of the repository that pages link to are copied beside them.
suppress_warnings = ["myst.xref_missing"]
exclude_patterns = ["_build"]

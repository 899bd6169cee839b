"""How Sphinx builds these pages: python -m sphinx -W -b html docs site"""

import os
import sys
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "benchmarks")]  # pages.py, tables.py
os.environ["MNISTGEN_DATA"] = "no-data"  # so that tutorials give the same on every machine: they need no files

project = "mnistgen"
author = "the mnistgen authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "pages"]
html_theme = "furo"
html_title = "mnistgen"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"  # the tutorials run where they have changed, and always in a fresh clone
nb_execution_cache_path = str(Path(__file__).parents[1] / "build" / "notebooks")
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
python_maximum_signature_line_length = 88
smartquotes = False  # of --steps they make a dash
autodoc_member_order = "bysource"
exclude_patterns = ["_build"]

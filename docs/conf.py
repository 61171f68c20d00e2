# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""How Sphinx builds the documentation; see `make docs`."""

project = "nova-compute-nvidia-vgpu"
copyright = "2026, the nova-compute-nvidia-vgpu authors"  # noqa: A001  # Sphinx's name

extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["upstream", "requirements.txt"]

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_copy_source = False
html_show_sphinx = False

language = "en_GB"
myst_heading_anchors = 3
# Outputs of the charm are shown as they are.
highlight_options = {"console": {"stripnl": False}}
suppress_warnings = ["misc.highlighting_failure"]
copybutton_prompt_text = "$ "

# The builder `spelling` checks the words.
spelling_lang = "en_GB"
spelling_word_list_filename = "words.txt"
# Tests write the first, and the second consists of names of tests.
spelling_exclude_patterns = ["reference/faults*", "traps*"]

"""Sphinx's settings for the site. `make site` runs it on the pages that shared/workflow/site.py writes."""

project = "Replications"
author = "the authors of this repository"
copyright = "MIT for code; data keep their owners' licences"
extensions = ["myst_nb"]
nb_execution_mode = "off"
nb_render_markdown_format = "gfm"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_dmath_double_inline = True
suppress_warnings = ["myst.header"]  # a notebook's outputs may start at any level

html_theme = "pydata_sphinx_theme"
html_title = "Replications, claim by claim"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_copy_source = False
html_show_search_summary = False  # it would fetch pages, which a browser forbids on file://
html_context = {"default_mode": "auto"}
html_sidebars = {"index": [], "gallery": [], "verdicts": [], "papers/index": []}
html_theme_options = {
    "logo": {"text": "Replications"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "show_nav_level": 1,
    "footer_start": ["copyright"],
    "footer_center": [],
    "footer_end": [],
    "article_header_start": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
mathjax_path = "mathjax/tex-svg.js"  # one file, fonts included; from sphinx-mathjax-offline

"""How Sphinx builds the documentation; `make docs` treats every warning as an error."""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

from steadygrad import __version__

project = "steadygrad"
author = "The steadygrad developers"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"steadygrad {__version__}"
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the Args sections say it, with shapes and units
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
myst_heading_anchors = 3
suppress_warnings = ["ref.python"]  # several classes have a `total_norm`; which one a plain mention means does not matter


def _inline(translator, node):
    translator.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def _block(translator, node):
    translator.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app):
    """Formulas become MathML, which browsers show by themselves: the pages fetch nothing from elsewhere."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    return {"parallel_read_safe": True}

"""Formulas as MathML, which browsers set by themselves: nothing to load, readable offline."""

import re
from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)
# The source stays in the page as an annotation: what is copied from it is the LaTeX.
_convert = LatexToMathML(annotation=True, fancy_error=False).convert_with_local_state
# Sphinx numbers equations; environments that number their own lines are set as their plain kin.
_PLAIN = {"align": "aligned", "split": "aligned", "gather": "gathered", "equation": "gathered"}


def _mathml(node: nodes.Node, display: bool) -> str:
    latex = node.astext().strip()
    for numbered, plain in _PLAIN.items():
        latex = re.sub(rf"\\(begin|end)\{{{numbered}\*?\}}", rf"\\\1{{{plain}}}", latex)
    try:
        return _convert(latex, displaystyle=display)
    except LatexError as error:
        logger.warning("no MathML for %r: %s", latex, error, location=node)
        return ""


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    """Set a formula within a line."""
    self.body.append(self.starttag(node, "span", "", CLASS="math") + _mathml(node, display=False) + "</span>")
    raise nodes.SkipNode


def visit_math_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Set a formula on a line of its own, with its number if it has one."""
    self.body.append(self.starttag(node, "div", CLASS="math") + _mathml(node, display=True))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer under the name `mathml`."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The list of references is no list to a screen reader: its entries carry a role of their own, which lists refuse."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

LIST = '<div role="list" class="citation-list">'


def plain(app: Sphinx, page: str, template: str, context: dict[str, Any], document: nodes.document | None) -> None:
    """Take the role off."""
    if "body" in context:
        context["body"] = context["body"].replace(LIST, '<div class="citation-list">')


def setup(app: Sphinx) -> dict[str, Any]:
    """Look at each page before it is written."""
    app.connect("html-page-context", plain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

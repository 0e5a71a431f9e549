"""A figure that a notebook has glued, shown on another page with a caption and the description it has there."""

from typing import Any, ClassVar

import nbformat
from docutils import nodes
from docutils.parsers.rst import directives
from myst_nb.ext.glue.utils import create_pending_glue_ref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)


class Picture(SphinxDirective):
    """`../notebooks/page.ipynb::key`, with the caption as content; glue's own figure cannot look into another page."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: ClassVar = {"name": directives.unchanged, "class": directives.class_option}

    def run(self) -> list[nodes.Node]:
        """A figure around a reference that myst-nb resolves once all pages have been read."""
        page, _, key = self.arguments[0].partition("::")
        source, line = self.get_source_info()
        _, path = self.env.relfn2path(page, self.env.docname)
        self.env.note_dependency(path)
        reference = create_pending_glue_ref(self.state.document, source, line, page, key)
        figure = nodes.figure("", reference, picture=description(path, key), classes=self.options.get("class", []))
        self.set_source_info(figure)
        if not figure["picture"]:
            logger.warning("%s has no described figure %r", page, key, location=figure)
        self.add_name(figure)
        parsed = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, parsed)
        if parsed.children:
            figure += nodes.caption("", "", *parsed.children[0].children)
            if len(parsed.children) > 1:
                figure += nodes.legend("", *parsed.children[1:])
        return [figure]


def description(path: str, key: str) -> str:
    """What the notebook says, in the metadata of the cell that glued it, about a figure; empty if it says nothing."""
    for cell in nbformat.read(path, as_version=4).cells:
        glued = [output.get("metadata", {}).get("scrapbook", {}).get("name") for output in cell.get("outputs", [])]
        if key in glued:
            return cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
    return ""


class Describe(SphinxPostTransform):
    """Gives the picture its description, right after myst-nb has put it in."""

    default_priority = 6

    def run(self, **_: Any) -> None:
        """Describe every picture of the page."""
        for figure in self.document.findall(nodes.figure):
            for image in figure.findall(nodes.image):
                if figure.get("picture"):
                    image["alt"] = figure["picture"]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive `picture`."""
    app.add_directive("picture", Picture)
    app.add_post_transform(Describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""A figure that a notebook has glued, shown on another page with a caption and the description it has there."""

from pathlib import Path
from typing import Any, ClassVar

import nbformat
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)

# Where drawings lie in the staged tree, which Sphinx takes images from.
FOLDER = "_pictures"


class Picture(SphinxDirective):
    """`../notebooks/page.ipynb::key`, with the caption as content; glue shows no drawing (SVG) of another page."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: ClassVar = {"name": directives.unchanged, "class": directives.class_option}

    def run(self) -> list[nodes.Node]:
        """A figure of the drawing that is stored in the notebook."""
        page, _, key = self.arguments[0].partition("::")
        _, path = self.env.relfn2path(page, self.env.docname)
        self.env.note_dependency(path)
        drawing, description = glued(path, key)
        figure = nodes.figure("", classes=self.options.get("class", []))
        self.set_source_info(figure)
        if drawing and description:
            file = Path(self.env.srcdir) / FOLDER / f"{key}.svg"
            file.parent.mkdir(exist_ok=True)
            file.write_text(drawing, encoding="utf-8")
            figure += nodes.image("", uri=f"/{FOLDER}/{file.name}", alt=description)
        else:
            logger.warning("%s has no described figure %r", page, key, location=figure)
        self.add_name(figure)
        parsed = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, parsed)
        if parsed.children:
            figure += nodes.caption("", "", *parsed.children[0].children)
            if len(parsed.children) > 1:
                figure += nodes.legend("", *parsed.children[1:])
        return [figure]


def glued(path: str, key: str) -> tuple[str, str]:
    """The drawing that a notebook glued, and what the metadata of its cell say about it; empty if there is none."""
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if output.get("metadata", {}).get("scrapbook", {}).get("name") == key:
                described = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
                return output["data"].get("image/svg+xml", ""), described
    return "", ""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive `picture`."""
    app.add_directive("picture", Picture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

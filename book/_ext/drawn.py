"""Drawings (SVG) stand in the page itself: they follow its theme, and nothing moves when they arrive."""

import re
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

_OPENING = re.compile(r"<svg\b[^>]*>", re.DOTALL)
_SIZE = re.compile(r'viewBox="([^"]*)"')
# A mark that is drawn many times: the rules of a dark theme reach the many, and not what they are copies of.
_MARK = re.compile(r'(<path id="[^"]*"[^>]*?) style="[^"]*"')
_NAMED = re.compile(r'\bid="([^"]*)"')


def visit_image(self: HTML5Translator, node: nodes.image) -> None:
    """Put a drawing into the page, and leave any other picture to Sphinx."""
    path = Path(self.builder.srcdir) / node["uri"]
    if path.suffix != ".svg" or not path.is_file():
        return HTML5Translator.visit_image(self, node)
    count = self.__dict__["drawings"] = self.__dict__.get("drawings", 0) + 1
    self.body.append(inline(path.read_text(encoding="utf-8"), node.get("alt", ""), f"d{count}-"))
    raise nodes.SkipNode


def inline(text: str, description: str, prefix: str) -> str:
    """A drawing as part of a page.

    Args:
        text: A file of SVG.
        description: What is seen, for who does not see it.
        prefix: Of the names within it, so that two drawings of a page share none.
    """
    opening = _OPENING.search(text)
    if opening is None or (box := _SIZE.search(opening[0])) is None:
        raise ValueError("a drawing without a view box")
    inside = text[opening.end() :].strip()
    used = set(re.findall(r'(?:url\(#|href="#)([^")]*)', inside))
    inside = re.sub(r"<metadata>.*?</metadata>", "", inside, flags=re.DOTALL)
    inside = _MARK.sub(r"\g<1>", inside)
    inside = _NAMED.sub(lambda name: f'id="{prefix}{name[1]}"' if name[1] in used else "", inside)
    inside = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", inside).replace("xlink:href", "href")
    return f'<svg class="drawn" viewBox="{box[1]}" role="img" aria-label="{escape(description)}">{inside}\n'


def setup(app: Sphinx) -> dict[str, Any]:
    """Take over how pages show images."""
    app.add_node(nodes.image, override=True, html=(visit_image, HTML5Translator.depart_image))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

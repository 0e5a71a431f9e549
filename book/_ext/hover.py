"""A word of the glossary says what it means where it is used: the definition's first sentence, as the link's title."""

import re
from collections.abc import Iterable
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform


def first_sentence(text: str) -> str:
    """The text up to the first full stop, question or exclamation mark that ends a word, on one line."""
    return re.split(r"(?<=[.?!])\s", " ".join(text.split()), maxsplit=1)[0]


def collect(app: Sphinx, tree: nodes.document) -> None:
    """Remember what the glossaries of the page just read say of each word, by its anchor."""
    for glossary in tree.findall(addnodes.glossary):
        for item in glossary.findall(nodes.definition_list_item):
            meaning = " ".join(part.astext() for part in item.findall(nodes.definition))
            for term in item.findall(nodes.term):
                for anchor in term["ids"]:
                    _meanings(app.env)[app.env.docname, anchor] = first_sentence(meaning)


class Hover(SphinxPostTransform):
    """Gives links to the glossary their title, once references have been resolved."""

    default_priority = 20

    def run(self, **_: Any) -> None:
        """Title every such link of the page."""
        known = {anchor: meaning for (_, anchor), meaning in _meanings(self.env).items()}
        for link in self.document.findall(nodes.reference):
            anchor = link.get("refid") or link.get("refuri", "").partition("#")[2]
            if link.get("internal") and anchor in known:
                link["reftitle"] = known[anchor]
                link["classes"].append("glossary-word")


def forget(app: Sphinx, env: BuildEnvironment, page: str) -> None:
    """Drop a page that is read again."""
    for key in [key for key in _meanings(env) if key[0] == page]:
        del _meanings(env)[key]


def merge(app: Sphinx, env: BuildEnvironment, pages: Iterable[str], other: BuildEnvironment) -> None:
    """Take over what another process has collected."""
    _meanings(env).update({key: meaning for key, meaning in _meanings(other).items() if key[0] in pages})


def _meanings(env: BuildEnvironment) -> dict[tuple[str, str], str]:
    if not hasattr(env, "glossary_meanings"):
        env.glossary_meanings = {}
    return env.glossary_meanings


def setup(app: Sphinx) -> dict[str, Any]:
    """Collect while pages are read, and title links while they are written."""
    app.connect("doctree-read", collect)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.add_post_transform(Hover)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 1}

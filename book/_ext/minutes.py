"""How long a page takes to read, counted at the build: under each title, and as a role for tables of pages."""

from collections.abc import Iterable
from fnmatch import fnmatch
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

logger = logging.getLogger(__name__)

WORDS_A_MINUTE = 200
SECONDS_A_FIGURE = 12
# Looked up or copied rather than read.
_LEFT_OUT = (nodes.literal_block, nodes.table, nodes.math, nodes.math_block, nodes.raw, nodes.Invisible)


class Minutes(nodes.Inline, nodes.Element):
    """Where the minutes of some pages go, once all pages have been read."""


class MinutesRole(SphinxRole):
    """The minutes of one page, or of several with commas between, relative to this one."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Leave a mark that `fill_in` replaces."""
        pages = [self.env.relfn2path(page.strip(), self.env.docname)[0] for page in self.text.split(",")]
        mark = Minutes(pages=pages)
        self.set_source_info(mark)
        return [mark], []


def seconds(tree: nodes.Node) -> float:
    """Seconds that a part of a page takes: its words and figures; code, tables and formulas left out."""
    if isinstance(tree, nodes.Text):
        return len(tree.split()) * 60 / WORDS_A_MINUTE
    if isinstance(tree, _LEFT_OUT):
        return 0
    if isinstance(tree, nodes.image):
        return SECONDS_A_FIGURE + sum(map(seconds, tree.children))
    if isinstance(tree, nodes.container) and tree.get("nb_element") == "mime_bundle":
        forms = {form.get("mime_type"): form for form in tree.children}
        if any(kind.startswith("image/") for kind in forms):
            return SECONDS_A_FIGURE
        # Other forms of an output are tables, or say the same once more.
        return seconds(forms["text/markdown"]) if "text/markdown" in forms else 0
    return sum(map(seconds, tree.children))


def spelled(minutes: int) -> str:
    """The minutes in words for a line under a title."""
    return "1 minute to read" if minutes == 1 else f"{minutes} minutes to read"


def count(app: Sphinx, tree: nodes.document) -> None:
    """Count the page just read, and say so under its title."""
    page = app.env.docname
    _counted(app.env)[page] = minutes = max(1, round(seconds(tree) / 60))
    first = next(tree.findall(nodes.section), None)
    if first is not None and not any(fnmatch(page, hidden) for hidden in app.config.minutes_not_shown):
        title = next(i for i, child in enumerate(first.children) if isinstance(child, nodes.title))
        line = spelled(minutes)
        first.insert(title + 1, nodes.paragraph(line, line, classes=["minutes"]))


def fill_in(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Put the minutes where the role left marks."""
    for mark in list(tree.findall(Minutes)):
        known = _counted(app.env)
        unknown = [name for name in mark["pages"] if name not in known]
        if unknown:
            logger.warning("minutes of %s: no such page in the contents", unknown[0], location=mark)
        total = f"{sum(known.get(name, 0) for name in mark['pages'])} min"
        mark.replace_self(nodes.inline(total, total, classes=["minutes"]))


def forget(app: Sphinx, env: BuildEnvironment, page: str) -> None:
    """Drop a page that is read again."""
    _counted(env).pop(page, None)


def merge(app: Sphinx, env: BuildEnvironment, pages: Iterable[str], other: BuildEnvironment) -> None:
    """Take over what another process has counted."""
    _counted(env).update({page: minutes for page, minutes in _counted(other).items() if page in pages})


def _counted(env: BuildEnvironment) -> dict[str, int]:
    if not hasattr(env, "minutes"):
        env.minutes = {}
    return env.minutes


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the role, the line under each title, and the list of pages that go without it."""
    app.add_config_value("minutes_not_shown", [], "env", [list])
    app.add_node(Minutes)
    app.add_role("minutes", MinutesRole())
    app.connect("doctree-read", count)
    app.connect("doctree-resolved", fill_in)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 1}

"""Pages load what they use: a few icons in place of two thousand, the rules that apply, the scripts that have work."""

import logging
import re
import shutil
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import tinycss2
from fontTools import subset
from sphinx.application import Sphinx

# A style of the theme has every library report to stderr, and this one does so for each table that it cuts.
logging.getLogger("fontTools").setLevel(logging.WARNING)

# What a page must have for a file to be of use to it; files of other names are loaded by all pages.
_HOOKS = {
    "fontawesome": r"(?!)",  # the theme's icons as a script; its style sheet has them as a font, too
    **dict.fromkeys(["searchtools", "language_data", "searchindex"], r'id="search-results"'),
    **dict.fromkeys(["clipboard", "copybutton", "pygments"], r'class="highlight'),
    "togglebutton": r'class="(?:[^"]* )?toggle(?:-details)?[ "]|class="[^"]*\badmonition\b[^"]*\bdropdown\b',
    "design-tabs": r"\bsd-tab-label\b",
    "explorer": r"\bcramming-explorer\b",
    "replay": r"\bcramming-replay\b",
}
_LOADED = re.compile(
    r'\s*<(?:script|link)\b[^>]*"((?:[^"?]*/)?([\w-]+)[^"/?]*\.(?:js|css))(?:\?[^"]*)?"[^>]*>(?:</script>)?'
)
_MARKUP = re.compile(r"<script\b.*?</script>|<[a-z][^<>]*>", re.DOTALL)
_WORD = re.compile(r"[\w-]+")
_FACE = re.compile(r"@font-face\s*\{[^}]*?url\(\"?([^)\"]+\.woff2)\"?\)[^}]*\}")
_SIGN = re.compile(r"[\ue000-\uf8ff]")  # where fonts have their icons
_ICON = re.compile(r'<(i|span) class="(?=(?:[^"]* )?fa(?:[brs]|-\w+)[ "])')
_READ = re.compile(r"var\(\s*(--[\w-]+)")
# Parts of Bootstrap, whose script names them all: their rules stay where a page names them.
_PARTS = ("carousel", "modal", "offcanvas", "popover", "toast")


def pruned(sheet: str, used: Iterable[str]) -> str:
    """A style sheet without rules for a class or an id that is not in use, and without variables that are not.

    Args:
        sheet: CSS.
        used: Words in use; one that ends with a hyphen begins others, which scripts put together.

    Raises:
        ValueError: If it is no CSS.
    """
    words = set(used)
    begun = tuple(word for word in words if len(word) > 2 and word[0] != "-" and word[-1] == "-")

    def serves(name: str) -> bool:
        return name in words or name.startswith(begun) or not _WORD.fullmatch(name)

    def applies(selector: list[Any]) -> bool:
        # What stands in brackets, as in `:not(.shown)`, asks for nothing.
        pairs = zip([None, *selector], selector, strict=False)
        return all(serves(b.value) for a, b in pairs if b.type == "hash" or (b.type == "ident" and a == "."))

    def said(content: list[Any]) -> str:
        lines = tinycss2.parse_blocks_contents(content, skip_comments=True, skip_whitespace=True)
        if any(line.type != "declaration" for line in lines):
            return tinycss2.serialize(content).strip()
        return ";".join(
            line.serialize().strip() for line in lines if not line.name.startswith("--") or line.name in words
        )

    def kept(rules: Iterable[Any]) -> Iterable[str]:
        for rule in rules:
            if rule.type == "error":
                raise ValueError(f"{rule.message}: not a style sheet")
            if rule.type == "qualified-rule":
                selectors = [tinycss2.serialize(one).strip() for one in _split(rule.prelude) if applies(one)]
                if selectors and (inner := said(rule.content)):
                    yield f"{','.join(selectors)}{{{inner}}}"
            elif rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports"):
                if inner := "".join(kept(tinycss2.parse_rule_list(rule.content, True, True))):
                    yield f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inner}}}"
            elif rule.type != "comment" or rule.value.startswith("!"):  # the terms of a licence stay
                yield rule.serialize()

    return "".join(kept(tinycss2.parse_stylesheet(sheet, skip_whitespace=True)))


def _split(tokens: list[Any]) -> list[list[Any]]:
    parts: list[list[Any]] = [[]]
    for token in tokens:
        if token == ",":
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def few(font: Path, signs: set[int]) -> bytes:
    """A font (WOFF2) that has these code points alone; empty if it has none of them."""
    options, file = subset.Options(flavor="woff2"), BytesIO()
    with subset.load_font(font, options) as whole:
        if signs & whole.getBestCmap().keys():
            cut = subset.Subsetter(options)
            cut.populate(unicodes=signs)
            cut.subset(whole)
            subset.save_font(whole, file, options)
    return file.getvalue()


def lighten(app: Sphinx, error: Exception | None) -> None:
    """Cut style sheets and icons down to what the built pages use, and take off each page what it has no use for."""
    if error or app.builder.format != "html":
        return
    site = Path(app.outdir)
    static, pages = site / "_static", sorted(site.rglob("*.html"))
    (static / "scripts" / "fontawesome.js").unlink(missing_ok=True)
    scripts = [path.read_text(encoding="utf-8") for path in static.rglob("*.js")]
    used = {word for text in scripts for word in _WORD.findall(text) if not word.startswith(_PARTS)}
    for path in pages:
        used.update(word for tag in _MARKUP.findall(path.read_text(encoding="utf-8")) for word in _WORD.findall(tag))
    sheets = {path: path.read_text(encoding="utf-8") for path in static.rglob("*.css")}
    for _ in range(2):  # a variable may be read by a rule that goes
        read = set(_READ.findall("".join(sheets.values())))
        sheets = {path: pruned(text, used | read) for path, text in sheets.items()}
    signs = {ord(sign) for text in sheets.values() for sign in _SIGN.findall(text)}
    for path, text in sheets.items():

        def face(found: re.Match[str], folder: Path = path.parent) -> str:
            file = few(folder / found[1], signs)
            source = f'src:url(data:font/woff2;base64,{b64encode(file).decode()}) format("woff2")'
            return re.sub(r"src:[^;}]*", source, found[0]) if file else ""

        sheets[path] = _FACE.sub(face, text)
    shutil.rmtree(static / "vendor", ignore_errors=True)
    for path in static.rglob("*.map"):
        path.unlink()
    stamps = dict[str, str]()
    for path, text in sheets.items():
        path.write_text(text, encoding="utf-8")
        stamps[path.name] = sha256(text.encode()).hexdigest()[:8]
    for path in pages:
        text = path.read_text(encoding="utf-8")

        def load(found: re.Match[str], text: str = text) -> str:
            if re.search(_HOOKS.get(found[2], ""), text) is None:
                return ""
            name = found[1].rpartition("/")[2]
            return re.sub(r"\.css(\?[^\"]*)?", f".css?v={stamps[name]}", found[0]) if name in stamps else found[0]

        text = _ICON.sub(r'<\1 aria-hidden="true" class="', _LOADED.sub(load, text))
        # A screen reader is told what the theme leaves to the icon.
        text = text.replace('<summary><span class="toctree', '<summary aria-label="Pages below"><span class="toctree')
        path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Wait for the whole site."""
    app.connect("build-finished", lighten, priority=900)  # after the theme, which writes a style sheet then
    return {"parallel_read_safe": True, "parallel_write_safe": True}

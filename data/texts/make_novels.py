"""Cut the passages of data/texts/novels from eight novels in plain text.

    python data/texts/make_novels.py FOLDER

FOLDER holds the raw novels under the file names of `WORKS`; data/texts/README.md says where they come from and how
they are cut. Writes novels/<slug>-NN.txt, one paragraph a line with a blank line between, and novels/index.csv.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import NamedTuple

PASSAGES_PER_WORK = 7
MIN_WORDS = 2000


class Work(NamedTuple):
    """One novel; the passages begin at the line that starts with `begin`."""

    file: str
    slug: str
    title: str
    author: str
    year: int
    begin: str


AUSTEN = "Jane Austen"
ALICE = "Alice's Adventures in Wonderland"
WORKS = [
    Work(
        "austen_sensesensibility.txt", "sense-and-sensibility", "Sense and Sensibility", AUSTEN, 1811, "The family of"
    ),
    Work("austen_prideprejudice.txt", "pride-and-prejudice", "Pride and Prejudice", AUSTEN, 1813, "It is a truth"),
    Work("austen_mansfieldpark.txt", "mansfield-park", "Mansfield Park", AUSTEN, 1814, "About thirty years ago"),
    Work("austen_emma.txt", "emma", "Emma", AUSTEN, 1815, "Emma Woodhouse, handsome"),
    Work("austen_northangerabbey.txt", "northanger-abbey", "Northanger Abbey", AUSTEN, 1817, "No one who had ever"),
    Work("austen_persuasion.txt", "persuasion", "Persuasion", AUSTEN, 1817, "Sir Walter Elliot, of"),
    # Alice starts after its first page, which models are likeliest to know by heart; from the longer novels the
    # first passage is never taken.
    Work("alice_in_wonderland.txt", "alice", ALICE, "Lewis Carroll", 1865, "  The rabbit-hole went"),
    Work("botchan.txt", "botchan", "Botchan", "Natsume Soseki", 1906, "Because of an hereditary"),
]

END = re.compile(r"^\W*(THE END|Finis|A NOTE ON THE TEXT)\W*$", re.MULTILINE)
HEADING = re.compile(r"\s*(CHAPTER|VOLUME) [IVXLC\d]+\.?\s*", re.IGNORECASE)
# A volume's end as noted by the digitiser, or a row of stars: the prose runs on across it.
RULE = re.compile(r"\s*(\[(At this point|End volume)[^]]*\]|[*\s]+)", re.DOTALL)
# Botchan's notes: [Footnote 1: ...] on lines of their own, and marks such as [A] and [1] in the text.
FOOTNOTE = re.compile(r"^\[Footnote[^]]*\]\n", re.MULTILINE)
MARK = re.compile(r" ?\[[A-Z\d]+\]")


def main(folder: Path) -> None:
    """Cut every work and write the passages and their index."""
    target = Path(__file__).resolve().parent / "novels"
    with (target / "index.csv").open("w", newline="", encoding="utf-8") as file:
        index = csv.writer(file, lineterminator="\n")
        index.writerow(["id", "title", "author", "year", "words"])
        for work in WORKS:
            text = (folder / work.file).read_bytes().decode("utf-8").replace("\r\n", "\n")
            for number, passage in enumerate(spread(cut(paragraphs(text, work.begin))), start=1):
                name = f"{work.slug}-{number:02d}"
                (target / f"{name}.txt").write_text("\n\n".join(passage) + "\n", encoding="utf-8", newline="\n")
                index.writerow([name, work.title, work.author, work.year, sum(map(count_words, passage))])


def paragraphs(text: str, begin: str) -> list[str | None]:
    """Paragraphs of a novel in order, each on one line; None where something that is not prose has been left out."""
    text = text[text.index("\n" + begin) + 1 :]
    end = END.search(text)
    text = text[: end.start()] if end else text
    result: list[str | None] = []
    after_heading = False
    for block in blocks(text):
        line = unwrap(block)
        if HEADING.fullmatch(block) or RULE.fullmatch(block):
            after_heading = bool(HEADING.fullmatch(block))
            continue
        if after_heading and block.startswith(" " * 8):
            continue  # the chapter's title, centred, in Alice
        after_heading = False
        result.append(line if is_prose(block, line) else None)
    return result


def blocks(text: str) -> list[str]:
    """Split a novel at its blank lines or, where it has none (Botchan), at lines that end early."""
    if "\n\n" in text:
        return [block for block in re.split(r"\n\s*\n", text) if block.strip()]
    lines = MARK.sub("", FOOTNOTE.sub("", text)).splitlines()
    result = [lines[0]]
    for line in lines[1:]:
        block = result[-1]
        set_off = line.startswith(" ") != block.startswith(" ")
        if set_off or HEADING.fullmatch(block) or HEADING.fullmatch(line) or ends_early(block, line):
            result.append(line)
        else:
            result[-1] += "\n" + line
    return result


def ends_early(block: str, following: str) -> bool:
    """Whether a paragraph ends here: it stops at a full stop or the like, though the next word would have fitted."""
    last = block.splitlines()[-1]
    room = len(last) + 1 + len(following.split()[0]) <= 72
    in_speech = block.count('"') % 2 == 1 and not following.startswith('"')
    return room and last[-1] in ".?!:;\"'-)" and not following[0].islower() and not in_speech


def unwrap(block: str) -> str:
    """One line for a hard-wrapped block; `_emphasis_` loses its marks, double spaces become one."""
    text = "\n".join(line.strip() for line in block.replace("_", "").splitlines())
    # A line broken after a hyphen or a dash, or before a dash, had no space there.
    text = re.sub(r"(?<=-)\n|\n(?=--)", "", text)
    return " ".join(text.split())


def is_prose(block: str, line: str) -> bool:
    """Whether a block is running prose: not verse, not a letter set off, not a signature, no note or gap in it.

    Botchan's one ethnic slur counts as a gap, since the passages are shown on pages.
    """
    indented = all(row.startswith("  ") for row in block.splitlines()) and "\n" in block
    far_in = block.startswith(" " * 4)
    finished = line[-1] in ".?!:;,\"')-"
    return not (indented or far_in or line.isupper() or re.search(r"[\[\]*]|\(\)|\bChink\b", line)) and finished


def cut(parts: list[str | None]) -> list[list[str]]:
    """All passages of a work, end to end: each stops at the paragraph end just past `MIN_WORDS` and has no gap."""
    result: list[list[str]] = []
    passage: list[str] = []
    for part in parts:
        passage = [] if part is None else [*passage, part]
        if sum(map(count_words, passage)) >= MIN_WORDS:
            result.append(passage)
            passage = []
    return result


def spread(candidates: list[list[str]]) -> list[list[str]]:
    """`PASSAGES_PER_WORK` of the passages, evenly spread over the work."""
    step = len(candidates) / PASSAGES_PER_WORK
    if step < 1:
        raise SystemExit(f"only {len(candidates)} passages of {MIN_WORDS} words in a work, {PASSAGES_PER_WORK} wanted")
    return [candidates[int((i + 0.5) * step)] for i in range(PASSAGES_PER_WORK)]


def count_words(text: str) -> int:
    """Number of runs of non-blank characters."""
    return len(text.split())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))

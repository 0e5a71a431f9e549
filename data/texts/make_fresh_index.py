"""Write data/texts/fresh/index.csv, moving the header of each new text into it.

    python data/texts/make_fresh_index.py

A new text is a file fresh/<id>.txt that begins with a line `# Title | genre` and a blank line. The header becomes a
row of the index and the file keeps the prose alone. Texts without a header keep the row they have.
"""

from __future__ import annotations

import csv
from pathlib import Path

FRESH = Path(__file__).resolve().parent / "fresh"
MIN_WORDS = 600


def main() -> None:
    """Rewrite the index, and the texts that still have a header."""
    index = FRESH / "index.csv"
    known = {}
    if index.exists():
        with index.open(encoding="utf-8", newline="") as file:
            known = {row["id"]: (row["title"], row["genre"]) for row in csv.DictReader(file)}
    rows = []
    for path in sorted(FRESH.glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        if text.startswith("# "):
            header, text = text.split("\n", 1)
            title, genre = header.removeprefix("# ").split(" | ")
            known[path.stem] = (title.strip(), genre.strip())
        words = len(text.split())
        if path.stem not in known or words < MIN_WORDS:
            raise SystemExit(f"{path.name}: {words} words, expected {MIN_WORDS}, and a header '# Title | genre'")
        path.write_text(text.strip() + "\n", encoding="utf-8", newline="\n")
        rows.append([path.stem, *known[path.stem], words])
    with index.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["id", "title", "genre", "words"], *rows])


if __name__ == "__main__":
    main()

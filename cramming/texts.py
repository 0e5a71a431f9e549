"""Passages: runs of token ids from prose or from random words, the same on every machine for the same seed."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from numbers import Integral
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from cramming.errors import CrammingError
from cramming.paths import TEXTS

SHIPPED = ("novels", "fresh")
HUB = {"pg19": "yurakuratov/pg19_valid_1k_chunks", "fanfics": "yurakuratov/fanfics_1k_chunks"}
SOURCES = (*SHIPPED, "random", *HUB)
RANDOM_WORDS = 100_000


@dataclass(frozen=True)
class Passage:
    """A run of token ids taken from a text.

    Attributes:
        id: Source and text, such as ``novels/emma-03``, or source, seed and index, such as ``random/0-0007``.
        source: One of `SOURCES`, or ``text`` for a text of the reader's own.
        token_ids: The tokens, without any special token.
        text: What the tokenizer makes of the token ids. Where the cut falls inside a character, or the tokenizer
            normalises, this differs from the characters of the source.
        digest: 16 hex digits of the SHA-256 of the token ids, written in decimal and joined by commas.
        tokenizer: The tokenizer the passage was made with.
    """

    id: str
    source: str
    token_ids: tuple[int, ...]
    text: str
    digest: str
    tokenizer: PreTrainedTokenizerBase | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.token_ids)

    def prefix(self, n: int) -> Passage:
        """The first n tokens, under the same id, with their own text and digest.

        Raises:
            CrammingError: If n is below 1 or above the length.
        """
        if not 1 <= n <= len(self):
            raise CrammingError(
                f"prefix of {n} tokens: passage {self.id} has {len(self)}, so ask for 1 to {len(self)}"
            )
        if self.tokenizer is None:
            raise CrammingError(
                f"passage {self.id} has no tokenizer to cut it with: make it with passages or from_text"
            )
        return from_tokens(self.id, self.source, self.token_ids[:n], self.tokenizer)


def passages(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n: int,
    length: int,
    seed: int = 0,
    offset: int = 0,
    folder: str | Path | None = None,
) -> list[Passage]:
    """The first `length` tokens of each of n texts, or those that follow the first `offset`.

    The same arguments give the same passages on any machine: texts are ordered, and random words drawn, by SHA-256.
    A larger n, or another length, changes none of the passages before.

    - ``novels``: 56 cuts of 8 public-domain novels by 3 authors. The order is by hash but cycles over the novels, so
      that the first 8 passages are from 8 novels, the next 8 again. Pretrained models know these novels.
    - ``fresh``: texts written for this project, which no model has seen before its publication.
    - ``random``: words drawn uniformly, with replacement, from the 100,000 most frequent of English (`random_words`),
      with single spaces between. The paper draws from the first 100,000 of GloVe 6B, which are lower-case too, and
      it draws the length of each passage as well; here `length` holds for all.
    - ``pg19``, ``fanfics``: the authors' texts, from the Hugging Face hub: the second half, by sentences, of each.
      Seed 0 takes them in the published order, as the paper takes its first 50; other seeds shuffle by hash. The paper
      splits sentences with nltk's trained model; here it is done by a rule (`sentences`), so the half may begin
      a few sentences away. The paper's tokenizer call also adds special tokens, such as Llama's BOS; this does not.

    Args:
        source: One of `SOURCES`.
        tokenizer: Of the model that will be crammed.
        n: Number of passages.
        length: Tokens in each.
        seed: Which order, or which random words.
        offset: Tokens of each text to pass over. They precede the passage: its id ends in ``+offset``, and
            `preceding` gives them.
        folder: For ``pg19`` and ``fanfics``: a local folder of parquet, JSON or CSV files, or another hub id, to read
            in place of the authors' dataset. It needs a column ``text`` and a split ``train``.

    Raises:
        CrammingError: If the source is unknown, n or length is not positive, there are fewer than n texts, one of them
            is shorter than length, or the hub cannot be reached.

    Examples:
        >>> from cramming.models import load
        >>> [p] = passages("random", load("tiny-llama").tokenizer, n=1, length=20)
        >>> p.id, len(p)
        ('random/0-0000', 20)
    """
    if source not in SOURCES:
        raise CrammingError(f"source {source!r} is unknown: use one of {', '.join(SOURCES)}")
    _check_positive("n", n)
    _check_positive("length", length)
    if offset:
        _check_positive("offset", offset)
        whole = passages(source, tokenizer, n=n, length=offset + length, seed=seed, folder=folder)
        return [from_tokens(f"{p.id}+{offset}", source, p.token_ids[offset:], tokenizer) for p in whole]
    if folder is not None and source not in HUB:
        raise CrammingError(
            f"folder {str(folder)!r} has no use with source {source!r}: it replaces {' or '.join(HUB)}"
        )
    if source == "random":
        return [_random_passage(tokenizer, length, seed, index) for index in range(n)]
    texts = _shipped(source, seed) if source in SHIPPED else _hub(source, seed, folder)
    if n > len(texts):
        raise CrammingError(
            f"n={n} is more than the {len(texts)} texts of source {source!r}: use {len(texts)} or fewer"
        )
    chosen = texts[:n]
    if source in HUB:
        chosen = [(name, second_half(text)) for name, text in chosen]
    return [_first_tokens(f"{source}/{name}", source, text, tokenizer, length) for name, text in chosen]


def preceding(id: str, tokenizer: PreTrainedTokenizerBase) -> Passage:
    """The tokens that `passages` passed over before a passage made with an offset, by the passage's id.

    Raises:
        CrammingError: If the id is not that of a shipped or random passage with an offset.

    Examples:
        >>> from cramming.models import load
        >>> tokenizer = load("tiny-llama").tokenizer
        >>> [p] = passages("novels", tokenizer, n=1, length=4, offset=6)
        >>> [whole] = passages("novels", tokenizer, n=1, length=10)
        >>> preceding(p.id, tokenizer).token_ids + p.token_ids == whole.token_ids
        True
    """
    match = re.fullmatch(r"(?:(novels|fresh)/([a-z0-9-]+)|random/(\d+)-(\d+))\+(\d+)", id)
    if match is None:
        raise CrammingError(f"passage {id!r} has nothing before it that is kept: make it with passages(offset=...)")
    source, name, seed, index, offset = match.groups()
    before = id.rpartition("+")[0]
    if source is None:
        return replace(_random_passage(tokenizer, int(offset), int(seed), int(index)), id=before)
    file = TEXTS / source / f"{name}.txt"
    if not file.is_file():
        raise CrammingError(f"passage {id!r} names no text of {source}: see data/texts/{source}/index.csv")
    return _first_tokens(before, source, file.read_text(encoding="utf-8"), tokenizer, int(offset))


def from_text(
    text: str, tokenizer: PreTrainedTokenizerBase, *, length: int | None = None, id: str = "text"
) -> Passage:
    """A passage from a text of the reader's own: its first `length` tokens, or all of it.

    Raises:
        CrammingError: If the text is empty, or shorter than length.

    Examples:
        >>> from cramming.models import load
        >>> from_text("To be or not to be", load("tiny-llama").tokenizer, length=5).text
        'To be'
    """
    if length is not None:
        _check_positive("length", length)
    return _first_tokens(id, "text", text, tokenizer, length)


def random_words(count: int, seed: int = 0, index: int = 0) -> list[str]:
    """The first words of random passage `index` under a seed.

    The words are the 100,000 most frequent of wordfreq's large English list that are ASCII; the rest, under 1 %, are
    mostly emoji and signs. Word i is the one with the number SHA-256("random:seed:index:i") mod 100,000 (the first 8
    bytes of the hash, big-endian), so that no library's random stream is involved.

    Examples:
        >>> random_words(3) == random_words(5)[:3]
        True
    """
    words = _frequent_words()
    return [words[int(_sha256(f"random:{seed}:{index}:{i}")[:16], 16) % RANDOM_WORDS] for i in range(count)]


def sentences(text: str) -> list[str]:
    """Split a text into sentences, by a rule; white space within becomes single spaces.

    A sentence ends at a full stop, question or exclamation mark, perhaps with closing quotes or brackets, before white
    space and a capital, digit or opening quote; but not after a common title or a single capital such as an initial.
    A rule of our own, because nltk's model is a download, and pysbd, measured on 8,000 words without line breaks,
    took 3 seconds and left stretches of many sentences whole.

    Examples:
        >>> sentences("Mr. J. Smith came. 'Why?' he asked. \\"No!\\" Then 3 left.")
        ['Mr. J. Smith came.', "'Why?' he asked.", '"No!"', 'Then 3 left.']
    """
    return _SENTENCE_END.sub("\n", " ".join(text.split())).split("\n")


def second_half(text: str) -> str:
    """The second half of a text by sentences, which is what the paper crams; of an odd number, the larger half."""
    parts = sentences(text)
    return " ".join(parts[len(parts) // 2 :])


_TITLES = ("Mr", "Mrs", "Ms", "Dr", "St", "Rev", "Hon", "Esq", "Prof", "Capt", "Col", "Gen", "Lt", "Sgt", "vs", "etc")
_NOT_A_TITLE = "".join(rf"(?<!\b{title}\.)" for title in _TITLES)
_SENTENCE_END = re.compile(
    rf"""(?:(?<=[.!?])|(?<=[.!?]["'”’)\]]))   # a full stop or the like, perhaps with one closing quote
         {_NOT_A_TITLE} (?<!\b[A-Z]\.)       # but no title and no initial
         [ ] (?=["'“‘(\[]?[A-Z0-9])           # then the start of a sentence""",
    re.VERBOSE,
)


def _check_positive(name: str, value: int) -> None:
    if not isinstance(value, Integral) or value < 1:
        raise CrammingError(f"{name}={value}: expected a whole number of 1 or more")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _token_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    # verbose=False: a text longer than the model's context is no mistake here, since it is cut afterwards.
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def from_tokens(id: str, source: str, token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Passage:
    """A passage from tokens that are known already, such as those of a row of the store."""
    text = str(tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False))
    digest = _sha256(",".join(map(str, token_ids)))[:16]
    return Passage(id, source, tuple(token_ids), text, digest, tokenizer)


def _first_tokens(id: str, source: str, text: str, tokenizer: PreTrainedTokenizerBase, length: int | None) -> Passage:
    if not text.strip():
        raise CrammingError(f"text {id!r} is empty: expected at least one word to cram")
    ids = _token_ids(text, tokenizer)
    if length is not None and length > len(ids):
        raise CrammingError(f"text {id!r} has {len(ids)} tokens, fewer than length={length}: use {len(ids)} or fewer")
    return from_tokens(id, source, ids[:length], tokenizer)


@cache
def _frequent_words() -> list[str]:
    from wordfreq import top_n_list  # takes most of a second, and few need it

    return top_n_list("en", RANDOM_WORDS, wordlist="large", ascii_only=True)


def _random_passage(tokenizer: PreTrainedTokenizerBase, length: int, seed: int, index: int) -> Passage:
    # A word is at least one token; a few more words keep the last tokens from depending on where the text stops.
    ids = _token_ids(" ".join(random_words(length + 8, seed, index)), tokenizer)
    return from_tokens(f"random/{seed}-{index:04d}", "random", ids[:length], tokenizer)


def _shipped(source: str, seed: int) -> list[tuple[str, str]]:
    """Names and texts of a shipped source, by hash within each work, and cycling over the works."""
    index = TEXTS / source / "index.csv"
    with index.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    works: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: _sha256(f"{seed}:{row['id']}")):
        works.setdefault(row["title"], []).append(row["id"])
    # Works come in the order of their first text; round 0 takes the first text of each, round 1 the second.
    rounds = [(turn, order, name) for order, names in enumerate(works.values()) for turn, name in enumerate(names)]
    return [(name, (index.parent / f"{name}.txt").read_text(encoding="utf-8")) for _, _, name in sorted(rounds)]


def _hub(source: str, seed: int, folder: str | Path | None) -> list[tuple[str, str]]:
    """Row numbers and texts of a dataset on the hub, or in a local folder."""
    import datasets

    place = str(folder or HUB[source])
    try:
        rows = datasets.load_dataset(place, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).split("\n")[0]
        raise CrammingError(
            f"source {source!r} needs the dataset {place}, which cannot be read ({reason}): "
            "go online once, or give folder= (on the command line --folder) a local copy"
        ) from error
    if "text" not in rows.column_names:
        raise CrammingError(f"dataset {place} has columns {', '.join(rows.column_names)}: expected one named text")
    texts = [(f"{row:04d}", text) for row, text in enumerate(rows["text"])]
    return texts if seed == 0 else sorted(texts, key=lambda text: _sha256(f"{seed}:{text[0]}"))


def other_of(passages: Sequence[Passage]) -> dict[int, int]:
    """For each passage another one: the next of its source, around the end, or else simply the next."""
    n = len(passages)
    return {
        i: min(((i + step) % n for step in range(1, n)), key=lambda j: passages[j].source != passages[i].source)
        for i in range(n if n > 1 else 0)
    }

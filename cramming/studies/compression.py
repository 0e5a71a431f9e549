"""What a passage takes as a file: by general compressors, by a coder that the model drives, and as its mem vector.

Every size is that of a file, and every file is read back: what counts is whether the same text comes out.
"""

from __future__ import annotations

import contextlib
import gzip
import lzma
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import brotli
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import zstandard
from constriction import stream
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from cramming import decode, metrics, recipes, rounding
from cramming.decode import carried, generated
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.results.published import hub_id, published
from cramming.results.rows import crammed, gains
from cramming.studies import _words as words
from cramming.studies._figures import WIDTH, source_marks, styled
from cramming.studies._page import Answer, Exhibit, Fold, glue
from cramming.studies._page import Page as AnyPage
from cramming.texts import Passage, from_tokens

TEXT, GZIP, BY_MODEL, FEWEST = "text", "gzip", "model and range coder", "vector, fewest bits"  # what the page compares
COUNT_BYTES = 2  # at the head of files that do not know their own end: tokens of the passage, the low byte first
NUMBER_BITS = 16  # that a number of a vector counts where no file is written
PUBLISHED = ("meta-llama/Llama-3.1-8B", "pg19")  # model and text of the title
_WORD = 4  # bytes that the range coder writes at a time
_ZSTD = zstandard.FORMAT_ZSTD1_MAGICLESS
_LZMA = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "pb": 0}]


class Page(AnyPage):
    """The exact horizons of two tokens or more, each written to files in every way."""

    def __init__(self, scale: str) -> None:
        super().__init__("compression", scale)
        self.results = self.results.query("length >= 2").sort_values(["source", "passage"])
        self.shown = [(scale, self.results)]
        self.passages = crammed(self.results, self.lm)

    @cached_property
    def files(self) -> pd.DataFrame:
        """From `files`, of all passages and coders."""
        vectors = {row.passage: self.vectors[row.key] for row in self.results.itertuples()}
        return files(self.passages, [*general(), *by_model(self.lm), *by_vector(self.lm, vectors)])

    @cached_property
    def together(self) -> pd.DataFrame:
        """From `files`, of all passages written as one, by the coders that can."""
        ids, _ = by_model(self.lm)
        return files([joined(self.passages)], [*general(), ids])

    @cached_property
    def sizes(self) -> pd.DataFrame:
        """From `file_sizes`."""
        return file_sizes(self.files, self.together)

    @cached_property
    def best(self) -> str:
        """The general compressor with the smallest files."""
        _, *names = (coder.name for coder in general())  # the first is `TEXT`
        return str(self.sizes.loc[names, "mean"].idxmin())

    def over(self, coder: str) -> dict[str, float]:
        """Files of the vectors at their fewest bits over those of a coder, from `file_ratio`."""
        return file_ratio(self.files, FEWEST, coder)

    @cached_property
    def units(self) -> pd.DataFrame:
        """From `units`."""
        return units(self.results, self.files)

    @cached_property
    def said(self) -> pd.Series:
        """Published ratios of text over vector, by unit."""
        return self.units.loc[self.units.index[0][0]]["ratio"]


@dataclass(frozen=True)
class Coder:
    """A way to write a passage to a file, and to get its text back from nothing but the file (and the model).

    Attributes:
        name: What the pages call it.
        settings: What it was set to, in a phrase.
        write: From a passage to the bytes of the file.
        read: From the bytes of files to their texts in UTF-8; several at once, since vectors decode faster
            side by side.
    """

    name: str
    settings: str
    write: Callable[[Passage], bytes]
    read: Callable[[Sequence[bytes]], list[bytes]]


def general() -> list[Coder]:
    """Plain text and general compressors, which see the UTF-8 bytes and need no model.

    Of each the setting with the smallest files. gzip and xz appear twice: as the files that everybody knows, and as
    the same method without the header and checksum, which weigh a lot on a short text.
    """

    def coder(name: str, settings: str, to: Callable[[bytes], bytes], back: Callable[[bytes], bytes]) -> Coder:
        return Coder(name, settings, lambda passage: to(passage.text.encode()), _each(back))

    bare_zstd = zstandard.ZstdCompressionParameters.from_level(
        zstandard.MAX_COMPRESSION_LEVEL, format=_ZSTD, write_content_size=0, write_checksum=0, write_dict_id=0
    )
    return [
        coder(TEXT, "UTF-8, as it is", bytes, bytes),
        coder(GZIP, "level 9", lambda text: gzip.compress(text, 9, mtime=0), gzip.decompress),
        coder(
            "xz",
            "preset 9, extreme",
            lambda text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME),
            lzma.decompress,
        ),
        coder(
            "gzip, bare",
            "deflate, level 9",
            lambda text: zlib.compress(text, 9, wbits=-zlib.MAX_WBITS),
            lambda data: zlib.decompress(data, wbits=-zlib.MAX_WBITS),
        ),
        coder(
            "xz, bare",
            "LZMA, preset 9, extreme, lc and pb 0",
            lambda text: lzma.compress(text, lzma.FORMAT_RAW, filters=_LZMA),
            lambda data: lzma.decompress(data, lzma.FORMAT_RAW, filters=_LZMA),
        ),
        coder(
            "zstd, bare",
            f"level {zstandard.MAX_COMPRESSION_LEVEL}",
            lambda text: zstandard.ZstdCompressor(compression_params=bare_zstd).compress(text),
            lambda data: zstandard.ZstdDecompressor(format=_ZSTD).decompressobj().decompress(data),
        ),
        coder(
            "brotli",
            "quality 11, for text",
            lambda text: brotli.compress(text, mode=brotli.MODE_TEXT, quality=11),
            brotli.decompress,
        ),
    ]


def by_model(lm: FrozenLM) -> list[Coder]:
    """Token ids as numbers of a fixed size, and by an arithmetic coder driven by the model (`encode_tokens`)."""
    number = np.min_scalar_type(lm.vocab_size - 1).newbyteorder("<")
    return [
        Coder(
            "token ids",
            f"{8 * number.itemsize} bits each",
            lambda passage: np.array(passage.token_ids, number).tobytes(),
            _each(lambda data: _text(lm, np.frombuffer(data, number).tolist())),
        ),
        Coder(
            BY_MODEL,
            f"constriction; {COUNT_BYTES} bytes of length",
            lambda passage: encode_tokens(lm, passage.token_ids),
            _each(lambda data: _text(lm, decode_tokens(lm, data))),
        ),
    ]


def by_vector(lm: FrozenLM, vectors: Mapping[str, torch.Tensor]) -> list[Coder]:
    """The mem vectors of passages: at the fewest bits a number that keep them exact, and as numbers of 16 and 32 bits.

    Read back by greedy decoding. In front of the numbers stands the number of tokens, in `COUNT_BYTES` bytes.

    Args:
        lm: The frozen model.
        vectors: By passage id, shape (k, d), the same k for all.
    """

    def coder(
        name: str, settings: str, pack: Callable[[Passage], bytes], unpack: Callable[[bytes], torch.Tensor]
    ) -> Coder:
        def read(data: Sequence[bytes]) -> list[bytes]:
            counts = [_count(one) for one in data]
            said = _greedy(lm, torch.stack([unpack(one[COUNT_BYTES:]) for one in data]), max(counts))
            return [_text(lm, tokens[:n]) for tokens, n in zip(said, counts, strict=True)]

        return Coder(name, settings, lambda passage: _head(passage) + pack(passage), read)

    def plain(name: str, settings: str, dtype: torch.dtype) -> Coder:
        return coder(
            name,
            settings,
            lambda passage: vectors[passage.id].to(dtype).view(torch.uint8).numpy().tobytes(),
            lambda data: torch.frombuffer(bytearray(data), dtype=dtype).float().view(-1, lm.width),
        )

    return [
        coder(
            FEWEST,
            "one scale a vector",
            lambda passage: fewest_bits(lm, vectors[passage.id], passage.token_ids),
            lambda data: rounding.decode(data, lm.width),
        ),
        plain("vector, bfloat16", "16 bits a number", torch.bfloat16),
        plain("vector, float32", "32 bits a number, as found", torch.float32),
    ]


def encode_tokens(lm: FrozenLM, token_ids: Sequence[int]) -> bytes:
    """Tokens through a range coder that spends on each what the model's surprise at it says.

    The model reads one token after the other, and its softmax over the vocabulary says how the next one is coded; the
    first token, before which nothing stands, is coded as if all were equally likely. Both sides have to arrive at the
    very same probabilities, so the decoder takes the same steps in the same shapes. On another machine, or with
    another number of threads, rounding may differ, and then nothing but noise comes out.

    Args:
        lm: The frozen model.
        token_ids: 1 to 65,535 of them, no more than the model has positions for.

    Returns:
        `COUNT_BYTES` bytes with the number of tokens, then the code. That is cut to the fewest bytes that decode: the
        coder itself writes four at a time.

    Raises:
        CrammingError: If there are no tokens or too many.

    Examples:
        >>> from cramming.models import load
        >>> lm = load("tiny-llama")
        >>> decode_tokens(lm, encode_tokens(lm, [104, 105, 33]))
        [104, 105, 33]
    """
    most = min(256**COUNT_BYTES - 1, lm.context_length or 256**COUNT_BYTES)
    if not 1 <= len(token_ids) <= most:
        raise CrammingError(f"{len(token_ids)} tokens cannot be coded with {lm.name}: give 1 to {most}")
    encoder, ahead, expected = stream.queue.RangeEncoder(), _predictions(lm), []
    for i, token in enumerate(token_ids):
        expected.append(ahead.send(token_ids[i - 1]) if i else next(ahead))
        encoder.encode(token, expected[-1])
    return _head(token_ids) + _shortest(encoder.get_compressed(), token_ids, expected)


def decode_tokens(lm: FrozenLM, data: bytes) -> list[int]:
    """The tokens that `encode_tokens` wrote with the same model on the same machine.

    Raises:
        CrammingError: If the bytes are too few to hold a length, or are seen to be from elsewhere. Most often they are
            not: then the tokens are noise.
    """
    decoder, ahead, tokens = _decoder(data[COUNT_BYTES:]), _predictions(lm), list[int]()
    for i in range(_count(data)):
        tokens.append(_next(decoder, ahead.send(tokens[-1]) if i else next(ahead)))
    return tokens


def fewest_bits(lm: FrozenLM, mem: torch.Tensor, token_ids: Sequence[int]) -> bytes:
    """Mem vectors rounded to the fewest bits a number that keep them exact, with one scale a vector.

    Exact means here that every token is the argmax given the true ones before it. Greedy decoding then finds the same
    tokens one by one, and does so when the file is read back.

    Args:
        lm: The frozen model.
        mem: Shape (k, d).
        token_ids: What they hold.

    Returns:
        What `cramming.rounding.encode` makes of them. If no number of bits it knows is enough, that with the most.
    """
    blobs = [rounding.encode(mem, bits) for bits in range(1, recipes.MOST_BITS + 1)]
    rounded = torch.stack([rounding.decode(blob, lm.width) for blob in blobs])
    exact = [tokens == len(token_ids) for tokens in decode.exact_prefix(lm, rounded, token_ids)]
    return blobs[exact.index(True) if any(exact) else -1]


def joined(passages: Sequence[Passage]) -> Passage:
    """All passages as a single one, one after the other: what a compressor can do with a longer text."""
    tokenizer = passages[0].tokenizer
    if tokenizer is None:
        raise CrammingError(f"passage {passages[0].id} has no tokenizer: make it with passages or from_text")
    return from_tokens("together", "together", [token for p in passages for token in p.token_ids], tokenizer)


def files(passages: Sequence[Passage], coders: Sequence[Coder]) -> pd.DataFrame:
    """Write every passage with every coder to a file, and read it back.

    Returns:
        One row a coder and passage: coder, settings, source, passage, tokens, characters, utf8 (bytes of the text),
        bytes (of the file), same (whether the text that came back is the same, byte for byte).
    """
    rows = list[tuple[Any, ...]]()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "passage.bin"
        for coder in coders:
            data = []
            for passage in passages:
                path.write_bytes(coder.write(passage))
                data.append(path.read_bytes())
            for passage, file, text in zip(passages, data, coder.read(data), strict=True):
                utf8 = passage.text.encode()
                about = (passage.source, passage.id, len(passage), len(passage.text), len(utf8))
                rows.append((coder.name, coder.settings, *about, len(file), text == utf8))
    columns = ["coder", "settings", "source", "passage", "tokens", "characters", "utf8", "bytes", "same"]
    return pd.DataFrame(rows, columns=columns)


def _predictions(lm: FrozenLM) -> Generator[Any, int, None]:
    """What the model expects next, as the coder wants it: at first all tokens alike, then after each token sent."""
    state = dict[str, Any]()
    token = yield stream.model.Uniform(lm.vocab_size)
    while True:
        with torch.no_grad():
            out = lm.model(input_ids=torch.tensor([[token]], device=lm.device), use_cache=True, **state)
        state = carried(out)
        token = yield stream.model.Categorical(out.logits[0, -1].float().softmax(0).cpu().numpy(), lazy=True)


@torch.no_grad()
def _greedy(lm: FrozenLM, mems: torch.Tensor, n: int) -> list[list[int]]:
    """n tokens from each of the mems (B, k, d), all side by side."""
    steps = generated(lm, {"inputs_embeds": mems.to(lm.device, lm.dtype), "use_cache": True}, n)
    return torch.stack([logits.argmax(1) for logits in steps], dim=1).tolist()


def _each(read: Callable[[bytes], bytes]) -> Callable[[Sequence[bytes]], list[bytes]]:
    return lambda data: [read(one) for one in data]


def _shortest(code: np.ndarray, token_ids: Sequence[int], expected: Sequence[Any]) -> bytes:
    """The fewest leading bytes of a code, the last of them rounded up, that still decode to these tokens."""
    whole = code.astype(">u4").tobytes()
    number = int.from_bytes(whole, "big")
    for n in range(max(0, len(whole) - 2 * _WORD), len(whole)):
        rounded = -(-number >> 8 * (len(whole) - n))
        short = rounded.to_bytes(n + 1, "big")[1:]  # a carry out of the first byte is lost, and the check sees it
        decoder = _decoder(short)
        with contextlib.suppress(CrammingError):
            if all(_next(decoder, model) == token for token, model in zip(token_ids, expected, strict=True)):
                return short
    return whole


def _decoder(code: bytes) -> Any:
    """A decoder of a code whose bytes may have been cut off at the end: zeros take their place."""
    whole = code.ljust(2 * _WORD, b"\0")
    whole += bytes(-len(whole) % _WORD)
    return stream.queue.RangeDecoder(np.frombuffer(whole, ">u4").astype(np.uint32))


def _next(decoder: Any, expected: Any) -> int:
    try:
        return int(decoder.decode(expected))
    except AssertionError as error:
        raise CrammingError(
            "the code does not fit the model: read it with the model, machine and number of threads that wrote it"
        ) from error


def _head(tokens: Sized) -> bytes:
    return len(tokens).to_bytes(COUNT_BYTES, "little")


def _count(data: bytes) -> int:
    if len(data) < COUNT_BYTES:
        raise CrammingError(f"{len(data)} bytes hold no number of tokens: give a whole file")
    return int.from_bytes(data[:COUNT_BYTES], "little")


def _text(lm: FrozenLM, token_ids: Sequence[int]) -> bytes:
    return from_tokens("read", "text", token_ids, lm.tokenizer).text.encode()


def file_sizes(files: pd.DataFrame, together: pd.DataFrame) -> pd.DataFrame:
    """What passages take as files, one row a way of writing them.

    Args:
        files: From `cramming.studies.compression.files`, plain text among them.
        together: The same of all passages written as one, by those coders that can.

    Returns:
        Index coder, in the order given; columns settings, n (passages), same (how many came back byte for byte), mean,
        sd (bytes a file), times, times_low, times_high (bytes over those of the text in UTF-8, see `file_ratio`),
        per_token (bits, of sums), together_of_text (bytes of one file for all over the text's; of coders that wrote
        none, the sum).
    """
    one = together.set_index("coder")
    rows = {}
    for coder, some in files.groupby("coder", sort=False):
        sums, times = some[["bytes", "utf8", "tokens"]].sum(), file_ratio(files, str(coder), TEXT)
        whole = one.loc[coder] if coder in one.index else sums
        rows[str(coder)] = {
            "settings": some["settings"].iloc[0],
            "n": len(some),
            "same": int(some["same"].sum()),
            "mean": some["bytes"].mean(),
            "sd": some["bytes"].std(),
            "times": times["mean"],
            "times_low": times["low"],
            "times_high": times["high"],
            "per_token": 8 * sums["bytes"] / sums["tokens"],
            "together_of_text": whole["bytes"] / whole["utf8"],
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("coder")


def file_ratio(files: pd.DataFrame, over: str, under: str) -> dict[str, float]:
    """How many times as large the files of one coder are as those of another, passage by passage.

    Args:
        files: From `cramming.studies.compression.files`.
        over: A coder.
        under: Another one.

    Returns:
        n (passages), mean, low and high (95 % bootstrap interval of the mean), least, most.

    Raises:
        CrammingError: If the files lack one of the coders.
    """
    sizes = files.pivot_table("bytes", "passage", "coder")
    for coder in (over, under):
        if coder not in sizes:
            raise CrammingError(f"no file was written by {coder!r}: choose from {', '.join(sizes)}")
    ratio = sizes[over] / sizes[under]
    low, high = metrics.bootstrap_ci(ratio)
    return {"n": len(ratio), "mean": ratio.mean(), "low": low, "high": high, "least": ratio.min(), "most": ratio.max()}


def units(results: pd.DataFrame, files: pd.DataFrame) -> pd.DataFrame:
    """What goes into one vector, over that vector, by the unit that both are counted in; published and here.

    Published numbers: the capacity in tokens and the information gain (capacity.csv), width, vocabulary and what a
    token costs the model without mem (models.csv, over the first 512 of a text). How many characters and bytes a token
    has is not published: there, those of the passages here stand in, though of another tokenizer.

    Args:
        results: Horizon rows of the store with one mem vector, at least two tokens each.
        files: From `cramming.studies.compression.files`, of the same passages.

    Returns:
        Indexed by model and unit (of text over of vector): text and vector (means over passages), ratio (text over
        vector).
    """
    hub, source = PUBLISHED
    about = published("models").set_index("hub_id").loc[hub]
    capacity = published("capacity")
    said = capacity[(capacity["model"].map(hub_id) == hub) & (capacity["source"] == source)].iloc[0]
    sizes = files[files["coder"] == files["coder"].iloc[0]]
    per_token = sizes[["characters", "utf8"]].sum() / sizes["tokens"].sum()
    cases = {
        f"{about['name']} (published)": (
            said["decoding_capacity_tokens"],
            int(about["hidden_size"]),
            int(about["vocab_size"]),
            about["text_cross_entropy_nats_512_tokens_pg19"] / 512 * said["decoding_capacity_tokens"],
            metrics.nats_to_bits(said["information_gain_nats_mean"]),
        ),
        f"{results['model'].iloc[0]} (here)": (
            results["length"].mean(),
            int(results["width"].iloc[0]),
            int(results["vocab_size"].iloc[0]),
            results["nats_without"].mean(),
            gains(results)["bits"].mean(),
        ),
    }
    rows = {}
    for model, (tokens, width, vocab_size, nats, gain) in cases.items():
        vector = width * NUMBER_BITS
        for unit, text, size in (
            ("tokens over vectors", tokens, 1),
            ("characters over vectors", tokens * per_token["characters"], 1),
            ("tokens over numbers", tokens, width),
            ("bytes of UTF-8 over bytes", tokens * per_token["utf8"], vector / 8),
            ("bits of token ids over bits", tokens * np.log2(vocab_size), vector),
            ("bits the model lacks over bits", metrics.nats_to_bits(nats), vector),
            ("information gain over bits", gain, vector),
        ):
            rows[model, unit] = {"text": text, "vector": size, "ratio": text / size}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "unit"])


def file_table(sizes: pd.DataFrame) -> pd.DataFrame:
    """`file_sizes` as a page shows it."""
    return pd.DataFrame(
        {
            "bytes a passage": [words.spread(r.mean, r.sd, 0) for r in sizes.itertuples()],
            "times its text": [words.within(r.times, r.times_low, r.times_high, 2) for r in sizes.itertuples()],
            "bits a token": sizes["per_token"].map("{:.1f}".format),
            "all in one, times its text": sizes["together_of_text"].map("{:.2f}".format),
            "came back": [f"{r.same} of {r.n}" for r in sizes.itertuples()],
            "settings": sizes["settings"],
        }
    )


def unit_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`units` as a page shows it: one row a unit, the ratio of each model first, and then what it is of."""
    by_model = {model: frame.loc[model] for model in frame.index.get_level_values("model").unique()}
    ratios = {model: some["ratio"].map(_times) for model, some in by_model.items()}
    parts = {
        f"{model}: text / vector": [f"{row.text:,.0f} / {row.vector:,.0f}" for row in some.itertuples()]
        for model, some in by_model.items()
    }
    return pd.DataFrame(ratios | parts)


def _times(ratio: float) -> str:
    return f"× {ratio:,.0f}" if ratio >= 10 else f"× {ratio:.2g}"


@styled
def file_sizes_figure(files: pd.DataFrame) -> Figure:
    """Bytes of each file by coder, one mark a passage, with the mean of each coder as a stroke.

    Args:
        files: From `cramming.studies.compression.files`.
    """
    order = {coder: place for place, coder in enumerate(files["coder"].unique())}
    figure, axis = plt.subplots(figsize=(WIDTH, 0.36 * len(order) + 1.3))
    marks = source_marks(files["source"])
    for i, (source, (colour, marker)) in enumerate(marks.items()):
        some = files[files["source"] == source]
        beside = 0.56 * ((i + 0.5) / len(marks) - 0.5)  # of a row's height, so that texts do not hide each other
        axis.plot(some["bytes"], some["coder"].map(order) + beside, marker, color=colour, markersize=4.5,
                  markeredgecolor="black", markeredgewidth=0.4, alpha=0.85,
                  label=f"{source} (n = {some['passage'].nunique()})")  # fmt: skip
    means = files.groupby("coder", sort=False)["bytes"].mean()
    for coder, mean in means.items():
        axis.plot([mean] * 2, order[str(coder)] + np.array([-0.3, 0.3]), color="black", linewidth=1.6)
        axis.annotate(f"{mean:,.0f}", (1.02, order[str(coder)]), va="center", fontsize="small",
                      xycoords=("axes fraction", "data"))  # fmt: skip
    axis.set_yticks(range(len(order)), list(order))
    axis.set(xscale="log", xlabel="bytes of the file (log scale)", ylim=(len(order) - 0.5, -0.5))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.grid(visible=False, axis="y")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=len(marks))
    return figure


def show_answer(page: Page) -> Answer:
    """The vector's bytes over the text's and the coder's."""
    text, zipped, coder = page.over(TEXT), page.over(GZIP), page.over(BY_MODEL)
    verdict = "no" if text["low"] > 1 else "yes" if text["high"] < 1 else "undecided"
    by_budget = (page.results["ended"] == "budget").sum()
    return Answer(
        page.setting,
        "Is a vector smaller than the text it holds?",
        f"Counted as tokens over vectors, yes; as a file, {verdict}: at the fewest bits a number that keep it exact, "
        f"the vector takes **{text['mean']:.2f} times the bytes of its text** (95 % interval {text['low']:.2f} to "
        f"{text['high']:.2f}), {words.within(zipped['mean'], zipped['low'], zipped['high'], 2)} those of {GZIP}, and "
        f"{words.within(coder['mean'], coder['low'], coder['high'], 1)} those of the same model as an entropy coder.",
        rests=f"Means over {words.counted(page.results)} passages, exact horizons of "
        f"{words.range(page.results['length'])} tokens, {words.budgets(page.results)} each",
        sure="open" if verdict == "undecided" else "holds here only",
        why=f"one small model, and {by_budget} of {len(page.results)} horizons ended with their budget, so that the "
        "vectors may hold more",
    )


def show_files(page: Page) -> Exhibit:
    """Sizes of files by coder, passage by passage, and in numbers."""
    best, coder = page.over(page.best), page.over(BY_MODEL)
    same = pd.concat([page.files["same"], page.together["same"]])
    caption = (
        f"**At its fewest bits the vector takes {words.within(best['mean'], best['low'], best['high'], 1)} times the "
        f"bytes of {page.best} and {words.within(coder['mean'], coder['low'], coder['high'], 1)} times those of the "
        "coder driven by the model.** In brackets: 95 % intervals. One mark a file, n = "
        f"{len(page.results)} passages; strokes and numbers are means. Of {len(same)} files {same.sum()} gave their "
        "text back, byte for byte."
    )
    name = "All sizes: mean ± standard deviation, ratios with 95 % intervals, settings"
    return Exhibit(caption, file_sizes_figure(page.files), Fold(name, file_table(page.sizes)))


def show_numbers(page: Page) -> Exhibit:
    """Bits a number of the vector, and what the coder needs beyond the model's surprise."""
    results, bytes_of = page.results, page.files.set_index("coder")["bytes"]
    numbers = 8 * bytes_of[FEWEST] / (results["width"].iloc[0] * results["n_vectors"].iloc[0])
    own = metrics.nats_to_bits(results["nats_without"].sum()) / 8 / len(results)
    return Exhibit(
        f"**The vector at its fewest bits takes {numbers.mean():.1f} bits a number (range {numbers.min():.1f} to "
        f"{numbers.max():.1f}), its length and its scale among them.** The model's own surprise at a passage adds up "
        f"to {own:.1f} bytes; the coder's file is {bytes_of[BY_MODEL].mean() - own:.1f} bytes longer, of which "
        f"{COUNT_BYTES} are the length. Means, n = {len(results)}."
    )


def show_units(page: Page) -> Exhibit:
    """Text over vector by unit."""
    said, tokens = page.said.map(_times), page.results["length"]
    caption = (
        f"**The paper's largest capacity is {said['tokens over vectors']} in tokens over vectors, "
        f"{said['bytes of UTF-8 over bytes']} in bytes and {said['bits the model lacks over bits']} in bits that the "
        "model lacks; below 1 the vector is larger.** Text over vector, published without an interval; here means of "
        f"n = {len(tokens)}, {words.spread(tokens.mean(), tokens.std(), 0)} tokens. A vector's number counts "
        f"{NUMBER_BITS} bits, a token id log2 of the vocabulary."
    )
    return Exhibit(caption, unit_table(page.units))


def show_effort(page: Page) -> Exhibit:
    """What model and search weigh beside the tokens."""
    count, passes = page.lm.model.num_parameters(), page.results["token_passes"]
    tokens = page.results["length"].sum()
    return Exhibit(
        f"**For each token that they hold, the vectors took {passes.sum() / tokens:,.0f} tokens through forward and "
        f"backward pass.** That is {words.spread(passes.mean(), passes.std(), 0)} a passage (n = {len(passes)}); the "
        "coder takes one forward pass a token to write and one to read. The model has "
        f"{count:,} numbers, {4 * count / tokens / 1e6:.1f} MB for each token held here."
    )


def glue_numbers(page: Page) -> None:
    """What other pages quote."""
    glue(
        vector_over_coder=f"{page.over(BY_MODEL)['mean']:.1f}",
        vector_over_text=f"{page.over(TEXT)['mean']:.2f}",
        coder_bits_per_token=f"{page.sizes.loc[BY_MODEL, 'per_token']:.1f}",
        published_in_bits=f"{page.said['bits the model lacks over bits']:.2f}",
        n_compression=f"{len(page.results)}",
    )

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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import brotli
import numpy as np
import pandas as pd
import torch
import zstandard
from constriction import stream  # an attribute of a compiled module, not a module of its own

from cramming import precision
from cramming.decode import carried
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.texts import Passage, from_tokens

COUNT_BYTES = 2  # at the head of files that do not know their own end: tokens of the passage, the low byte first
_WORD = 4  # bytes that the range coder writes at a time

_ZSTD = zstandard.FORMAT_ZSTD1_MAGICLESS
_LZMA = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "pb": 0}]


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

    def bare_zstd(text: bytes) -> bytes:
        how = zstandard.ZstdCompressionParameters.from_level(
            zstandard.MAX_COMPRESSION_LEVEL, format=_ZSTD, write_content_size=0, write_checksum=0, write_dict_id=0
        )
        return zstandard.ZstdCompressor(compression_params=how).compress(text)

    ways: dict[str, tuple[str, Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
        "text": ("UTF-8, as it is", bytes, bytes),
        "gzip": ("level 9", lambda text: gzip.compress(text, 9, mtime=0), gzip.decompress),
        "xz": ("preset 9, extreme", lambda text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
        "gzip, bare": (
            "deflate of level 9, no header, no checksum",
            lambda text: zlib.compress(text, 9, wbits=-zlib.MAX_WBITS),
            lambda data: zlib.decompress(data, wbits=-zlib.MAX_WBITS),
        ),
        "xz, bare": (
            "LZMA, preset 9, extreme, lc and pb 0, no header, no checksum",
            lambda text: lzma.compress(text, lzma.FORMAT_RAW, filters=_LZMA),
            lambda data: lzma.decompress(data, lzma.FORMAT_RAW, filters=_LZMA),
        ),
        "zstd, bare": (
            f"level {zstandard.MAX_COMPRESSION_LEVEL}, no magic number, size or checksum",
            bare_zstd,
            lambda data: zstandard.ZstdDecompressor(format=_ZSTD).decompressobj().decompress(data),
        ),
        "brotli": (
            "quality 11, for text",
            lambda text: brotli.compress(text, mode=brotli.MODE_TEXT, quality=11),
            brotli.decompress,
        ),
    }
    return [
        Coder(name, settings, lambda passage, to=to: to(passage.text.encode()), _each(back))  # type: ignore[misc]
        for name, (settings, to, back) in ways.items()
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
            "model and range coder",
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
        name: str,
        settings: str,
        pack: Callable[[Passage], bytes],
        unpack: Callable[[bytes], torch.Tensor],
    ) -> Coder:
        def read(data: Sequence[bytes]) -> list[bytes]:
            mems = torch.stack([unpack(one[COUNT_BYTES:]) for one in data])
            counts = [_count(one) for one in data]
            said = _greedy(lm, mems, max(counts))
            return [_text(lm, tokens[:n]) for tokens, n in zip(said, counts, strict=True)]

        return Coder(name, settings, lambda passage: _head(passage) + pack(passage), read)

    def floats(data: bytes) -> torch.Tensor:
        return torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32)).view(-1, lm.width)

    def halves(data: bytes) -> torch.Tensor:
        bits = torch.from_numpy(np.frombuffer(data, "<i2").astype(np.int16))
        return bits.view(torch.bfloat16).float().view(-1, lm.width)

    return [
        coder(
            "vector, fewest bits",
            "one scale a vector",
            lambda passage: fewest_bits(lm, vectors[passage.id], passage.token_ids),
            lambda data: precision.decode(data, lm.width),
        ),
        coder(
            "vector, bfloat16",
            "16 bits a number",
            lambda passage: vectors[passage.id].bfloat16().view(torch.int16).numpy().astype("<i2").tobytes(),
            halves,
        ),
        coder(
            "vector, float32",
            "32 bits a number, as found",
            lambda passage: vectors[passage.id].numpy().astype("<f4").tobytes(),
            floats,
        ),
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
        What `cramming.precision.encode` makes of them. If no number of bits it knows is enough, that with the most.
    """
    blobs = [precision.encode(mem, bits) for bits in range(1, precision.MOST_BITS + 1)]
    rounded = torch.stack([precision.decode(blob, lm.width) for blob in blobs])
    exact = [tokens == len(token_ids) for tokens in precision.exact_prefix(lm, rounded, token_ids)]
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
        for coder in coders:
            paths = [Path(folder) / f"{i}.bin" for i in range(len(passages))]
            for path, passage in zip(paths, passages, strict=True):
                path.write_bytes(coder.write(passage))
            texts = coder.read([path.read_bytes() for path in paths])
            for path, passage, text in zip(paths, passages, texts, strict=True):
                utf8 = passage.text.encode()
                about = (passage.source, passage.id, len(passage), len(passage.text), len(utf8))
                rows.append((coder.name, coder.settings, *about, path.stat().st_size, text == utf8))
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
    inputs, state, tokens = mems.to(lm.device, lm.dtype), dict[str, Any](), []
    for _ in range(n):
        out = lm.model(inputs_embeds=inputs, use_cache=True, **state)
        state = carried(out)
        tokens.append(out.logits[:, -1].argmax(1, keepdim=True))
        inputs = lm.model.get_input_embeddings()(tokens[-1])
    return torch.cat(tokens, dim=1).tolist()


def _each(read: Callable[[bytes], bytes]) -> Callable[[Sequence[bytes]], list[bytes]]:
    return lambda data: [read(one) for one in data]


def _shortest(words: np.ndarray, token_ids: Sequence[int], expected: Sequence[Any]) -> bytes:
    """The fewest leading bytes of a code, the last of them rounded up, that still decode to these tokens."""
    whole = words.astype(">u4").tobytes()
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

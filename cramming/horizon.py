"""The horizon of a passage: its longest prefix that is exact, found by growing the prefix while it is crammed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from cramming.decode import Certificate, certify
from cramming.engine import Checkpoints, Cram, cram
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.recipes import Recipe
from cramming.texts import Passage


@dataclass(frozen=True)
class Horizon:
    """The longest certified prefix of a passage.

    Attributes:
        passage: The whole passage on offer.
        length: The horizon in tokens; 0 if not even the first token is exact.
        certificate: Of the prefix of that length; None if the horizon is 0.
        run: The cram behind it, with the kept vectors, the trace and the cost.
    """

    passage: Passage
    length: int
    certificate: Certificate | None
    run: Cram


def horizon(
    lm: FrozenLM,
    passages: Sequence[Passage],
    recipe: Recipe,
    *,
    n_vectors: int = 1,
    seed: int = 0,
    start: Sequence[torch.Tensor] | None = None,
    batch: int = 4,
    path: bool = False,
    progress: bool = True,
    on_result: Callable[[Horizon], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> list[Horizon]:
    """Grow the exact prefix of each passage until its budget ends, and certify what was reached.

    The engine keeps the vectors with the longest prefix right. That prefix is then decoded from the vectors alone; if
    decoding falls short of it, the horizon is what decoding gives, never what the optimiser claims.

    Args:
        lm: The frozen model.
        passages: Prefixes grow up to the length of each; make them longer than any horizon you expect.
        recipe: A recipe with growth.
        n_vectors: k, mem vectors a passage, see `cramming.engine.cram`.
        seed: Of the noise that mem starts from.
        start: Vectors to start from instead, one (k, d) tensor a passage.
        batch: Most passages at once.
        path: Whether to keep the vectors on the way too, see `cramming.engine.Cram`.
        progress: Whether to show a bar.
        on_result: Called with each horizon as soon as it is certified. Interrupted passages do not reach it.
        checkpoints: Where runs under way are kept, see `cramming.engine.cram`.

    Raises:
        CrammingError: If the recipe has no growth or leaves out token 0, and as `cramming.engine.cram` does.
    """
    if recipe.growth is None:
        raise CrammingError(f"recipe {recipe.name!r} has no growth: take one that has, such as horizon or progressive")
    if not recipe.score_first:
        raise CrammingError(f"recipe {recipe.name!r} does not score token 0, where a horizon begins: set score_first")
    results: list[Horizon] = []

    def finish(run: Cram) -> None:
        results.append(certified(lm, run))
        if on_result:
            on_result(results[-1])

    runs = cram(
        lm,
        passages,
        recipe,
        n_vectors=n_vectors,
        seed=seed,
        start=start,
        batch=batch,
        path=path,
        progress=progress,
        on_result=finish,
        checkpoints=checkpoints,
    )
    by_run = {id(result.run): result for result in results}
    return [by_run.get(id(run)) or certified(lm, run) for run in runs]


def certified(lm: FrozenLM, run: Cram) -> Horizon:
    """Shorten a run's claim until decoding bears it out."""
    length, certificate = run.length, None
    while length > 0:
        certificate = certify(lm, run.mem, run.passage.token_ids[:length], memory=run.memory)
        if certificate.exact:
            break
        # A prefix is decoded by other matrix shapes than the whole, so the shorter claim is checked again.
        length, certificate = min(certificate.agreed, length - 1), None
    return Horizon(run.passage, length, certificate, run)

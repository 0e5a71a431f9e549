"""The batched optimiser: many passages at once, each with mem vectors of its own, each retired alone.

One step is: put mem in front of the passage's tokens, run the frozen model, score every token, follow the gradient to
mem. Nothing couples the passages of a batch, so a passage ends the same way in any company, up to rounding.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from tqdm import tqdm

from cramming.errors import CrammingError
from cramming.memories import MEMORIES, VECTORS, Feed, Vectors
from cramming.models import FrozenLM, linear
from cramming.recipes import Recipe
from cramming.rounding import quantise
from cramming.sphere import along_sphere, onto_sphere
from cramming.texts import Passage

PACKED_POSITIONS = 128  # about how long a sequence of short rows gets: attention costs grow with its square
CHECKPOINT_SECONDS = 120.0
BAR_SECONDS = 0.5
HEAD_ROWS = 256  # hidden states that go through the output head together; bounds the logits held at once

# What a run under way is made of, as tensors, enough to go on as if nothing had happened.
State = Mapping[str, torch.Tensor]


class Step(NamedTuple):
    """One row of a trace: what a step saw."""

    step: int
    length: int  # tokens under optimisation
    loss: float  # nats, mean over the scored tokens
    accuracy: float
    token_passes: int  # so far


class Checkpoints(Protocol):
    """Where runs under way are kept, so that an interrupted one goes on from there."""

    def load(self, passage: Passage) -> State | None:
        """What `save` was last given for the passage, if anything."""

    def save(self, passage: Passage, state: State) -> None:
        """Keep the state of a run under way."""


@dataclass
class Cram:
    """What a cram of one passage came to.

    Attributes:
        passage: The passage as given; with growth, only its first `length` tokens were crammed.
        mem: The kept vectors, float32, shape (n_vectors, d), or what else is trained: see `memory`.
        length: Tokens of the passage that count: all of them, or with growth the longest prefix found right.
        correct: Whether each token is the argmax given mem and the true tokens before, shape (length,). Measured
            before the step that made `mem` if the recipe keeps the vector after it. An unscored token 0 is False.
        nats: Cross-entropy of each token, shape (length,); an unscored token 0 is NaN.
        ended: Why it ended: solved, budget, patience, stage or interrupted.
        steps: Steps taken.
        token_passes: Tokens, mem included and padding not, through forward and backward, summed over steps.
        seconds: Wall time; the time of a step is shared out among the passages of the batch by their tokens.
        cpu_seconds: The same of processor time, which does not depend on what else the machine does.
        trace: One row a step.
        path: If it was asked for, the vectors kept on the way, float32, shape (n, n_vectors, d): entry i is the first
            that had i + 1 tokens right, with growth the first i + 1. One that won several tokens at once is there as
            often.
        memory: What mem is, see `cramming.memories`.
        starts: How often it began from noise: more than once where the recipe gives a stuck start up.
    """

    passage: Passage
    mem: torch.Tensor
    length: int
    correct: np.ndarray
    nats: np.ndarray
    ended: str
    steps: int
    token_passes: int
    seconds: float
    cpu_seconds: float
    trace: list[Step] = field(repr=False)
    path: torch.Tensor | None = field(default=None, repr=False)
    memory: Vectors = VECTORS
    starts: int = 1

    @property
    def solved(self) -> bool:
        """Whether every scored token was right, by the recipe's margin, at the end."""
        return self.ended == "solved"


def cram(
    lm: FrozenLM,
    passages: Sequence[Passage],
    recipe: Recipe,
    *,
    n_vectors: int = 1,
    seed: int = 0,
    start: Sequence[torch.Tensor] | None = None,
    batch: int = 8,
    path: bool = False,
    progress: bool = True,
    on_result: Callable[[Cram], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> list[Cram]:
    """Cram passages into `n_vectors` mem vectors each.

    Args:
        lm: The frozen model.
        passages: What to cram; lengths may differ. A retired passage frees its place for the next one.
        recipe: How; see `cramming.recipes`.
        n_vectors: k, mem vectors a passage, or parts of what else the recipe trains: see `cramming.memories`.
        seed: Of the noise that mem starts from. The noise depends on the seed and the passage alone.
        start: Vectors to start from instead of noise, one (k, d) tensor a passage.
        batch: Most passages at once.
        path: Whether to keep the vectors on the way too, see `Cram`.
        progress: Whether to show a bar.
        on_result: Called with each result as soon as it is there, so that an interrupted run loses nothing finished.
        checkpoints: Where to look for runs to go on with, and to save those under way now and then and on Ctrl-C.

    Returns:
        One result a passage, in the order given. After Ctrl-C the passages still in flight come back as they are, with
        `ended` set to interrupted, and those never begun are left out.

    Raises:
        CrammingError: If there is nothing to cram, a passage does not fit the model's context, or the model does
            something to its logits after the output head.
    """
    _check(lm, passages, recipe, n_vectors, batch, start, path)
    starts = [None] * len(passages) if start is None else start
    runs = [_Run(lm, p, recipe, n_vectors, seed, first, path) for p, first in zip(passages, starts, strict=True)]
    for run in runs:
        if checkpoints is not None and (state := checkpoints.load(run.passage)) is not None:
            run.restore(state)
    waiting, active, results = list(runs), list[_Run](), dict[int, Cram]()
    saved = shown = time.monotonic()
    pack, total = packs(lm), sum(run.scored for run in runs)
    with progress_bar(total, "token", f"cram {recipe.name}", wanted=progress) as bar:
        try:
            while waiting or active:
                while waiting and len(active) < batch:
                    active.append(waiting.pop(0))
                _step(lm, active, pack)
                bar.n = sum(run.best for run in runs)
                bar.set_postfix_str(_postfix(active, len(results), len(runs)), refresh=False)
                if time.monotonic() - shown > BAR_SECONDS:
                    bar.refresh()
                    shown = time.monotonic()
                for run in [run for run in active if run.ended]:
                    active.remove(run)
                    results[id(run)] = run.result()
                    if on_result:
                        on_result(results[id(run)])
                if checkpoints is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                    for run in active:
                        checkpoints.save(run.passage, run.state())
                    saved = time.monotonic()
        except KeyboardInterrupt:
            for run in active:
                if checkpoints is not None and run.whole and not run.ended:
                    checkpoints.save(run.passage, run.state())
                run.ended = run.ended or "interrupted"  # another may have ended in the same step
                results[id(run)] = run.result()
        bar.refresh()
    return [results[id(run)] for run in runs if id(run) in results]


_TENSORS = ("param", "moment1", "moment2", "weight", "mem")
_AVERAGING = ("iterate", "average")  # further tensors of a run that averages
_COUNTS = ("length", "steps", "token_passes", "best", "best_step", "starts", "began", "held", "held_step")
NUMBERS = (*_COUNTS, "seconds", "cpu_seconds")


class _Run:
    """One passage under way: its parameters, what its optimiser remembers, and what was best so far."""

    def __init__(
        self,
        lm: FrozenLM,
        passage: Passage,
        recipe: Recipe,
        k: int,
        seed: int,
        start: torch.Tensor | None,
        path: bool = False,
    ) -> None:
        self.passage, self.recipe, self.memory = passage, recipe, MEMORIES[recipe.memory]
        self.first = 0 if recipe.score_first else 1  # the first token that is scored
        self.scored = len(passage) - self.first
        self.tokens, self.device = torch.tensor(passage.token_ids), lm.device
        self.noise = lambda start: first_mem(lm, passage, recipe, k, seed, start)
        self.tensors = _TENSORS + (_AVERAGING if recipe.averaging else ())
        self.steps = self.token_passes = self.best = self.best_step = self.starts = 0
        self._begin(self.noise(0) if start is None else start.float().clone())
        self.ended = ""
        self.whole = True  # False within a step: half a step is nothing to go on from
        self.mem = self.to_mem(self.param)
        self.correct = np.zeros(len(passage), dtype=bool)
        self.nats = np.full(len(passage), np.nan)
        self.seconds = self.cpu_seconds = 0.0
        self.trace: list[Step] = []
        self.path = self.mem.new_zeros(0, *self.mem.shape) if path else None

    def _begin(self, first: torch.Tensor) -> None:
        """Start from these vectors, with nothing remembered but the best of earlier starts."""
        self.param = _projected(self.recipe, first.to(self.device))
        self.iterate = self.average = self.param
        self.moment1, self.moment2 = torch.zeros_like(self.param), torch.zeros_like(self.param)
        self.weight = torch.ones(len(self.passage))  # as the tokens on the processor, where steps are laid out
        growth = self.recipe.growth
        self.length = min(growth.start, len(self.passage)) if growth else len(self.passage)
        self.starts += 1
        self.began = self.held_step = self.steps  # held: tokens that this start has had right
        self.held = 0

    def state(self) -> State:
        """All that changes while the run goes on."""
        tensors = {name: getattr(self, name) for name in self.tensors}
        arrays = {"correct": torch.from_numpy(self.correct), "nats": torch.from_numpy(self.nats)}
        numbers = torch.tensor([getattr(self, name) for name in NUMBERS], dtype=torch.float64)
        trace = torch.tensor(self.trace, dtype=torch.float64).reshape(-1, 5)
        path = {} if self.path is None else {"path": self.path}
        return {**tensors, **arrays, **path, "numbers": numbers, "trace": trace}

    def restore(self, state: State) -> None:
        """Go on from what `state` gave."""
        for name in self.tensors:
            setattr(self, name, state[name].to("cpu" if name == "weight" else self.device))
        self.correct, self.nats = state["correct"].numpy().copy(), state["nats"].numpy().copy()
        for name, number in zip(NUMBERS, state["numbers"].tolist(), strict=True):
            setattr(self, name, type(getattr(self, name))(number))
        self.trace = [Step(int(a), int(b), c, d, int(e)) for a, b, c, d, e in state["trace"].tolist()]
        if self.path is not None:
            self.path = state["path"].to(self.device)

    @property
    def fed(self) -> int:
        """Positions the next step feeds to the model, such as the mem vectors and all tokens but the last."""
        return self.memory.positions(len(self.param), self.length)

    def to_mem(self, param: torch.Tensor) -> torch.Tensor:
        """The vectors the model sees, shape (k, d).

        Where they are rounded, the gradient at the rounded ones moves the unrounded ones ("straight through", Bengio,
        Léonard and Courville 2013, arXiv 1308.3432): rounding itself has a gradient of 0 almost everywhere.
        """
        mem = param * self.recipe.radius if self.recipe.parametrisation == "sphere" else param
        return quantise(mem, self.recipe.bits, self.recipe.block) if self.recipe.bits else mem

    def learning_rate(self) -> float:
        """Of the step under way, from the share of the budget that is used up or the prefix that is crammed."""
        recipe = self.recipe
        if (taken := self.steps - self.began) <= recipe.warmup_steps:
            return recipe.lr * taken / recipe.warmup_steps
        if recipe.schedule == "constant":
            return recipe.lr
        if recipe.schedule == "by_length":
            return recipe.lr * math.sqrt(min(1.0, recipe.full_rate_length / self.length))
        if recipe.max_steps:
            used = (self.steps - recipe.warmup_steps) / max(1, recipe.max_steps - recipe.warmup_steps)
        else:
            used = self.token_passes / recipe.max_token_passes if recipe.max_token_passes else 0.0
        return recipe.lr_min + (recipe.lr - recipe.lr_min) * 0.5 * (1 + math.cos(math.pi * min(1.0, used)))

    def count_step(self) -> None:
        """Count the step under way; it is whole again once `take` has digested it."""
        self.whole = False
        self.steps += 1
        self.token_passes += self.fed

    def take(self, before: torch.Tensor, nats: torch.Tensor, gaps: torch.Tensor) -> None:
        """Digest a step that has moved `param`: keep what was best, decide whether to go on, grow.

        Args:
            before: The vectors that the step saw, shape (k, d).
            nats, gaps: Of the tokens under optimisation, shape (n,), on the processor: a device waits for nothing.
        """
        recipe, n = self.recipe, self.length
        won = gaps > recipe.stop_margin  # (n,)
        solved = bool(won[self.first :].all())
        hits = (gaps > 0)[self.first :].float()  # (n,), or (n - 1,) where token 0 is given
        # With growth the longest prefix counts, without it the number of right tokens.
        count = int((won[self.first :].int().cumprod(0) if recipe.growth else hits).sum())
        self.trace.append(Step(self.steps, n, nats[self.first :].mean().item(), hits.mean().item(), self.token_passes))
        better = count > self.best or (solved and count == self.best)
        self._refocus(won)
        if better:
            if self.path is not None:
                self.path = torch.cat([self.path, before.expand(count - self.best, -1, -1)])  # (count, k, d)
            self.best, self.best_step = count, self.steps
            self.mem = before if recipe.keep == "measured" else self.to_mem(self.param)
        if count > self.held:
            self.held, self.held_step = count, self.steps
        if better or self.steps == 1:  # a run that never gets a token right still says what its start cost
            self.correct[:n], self.nats[:n] = (gaps > 0).numpy(), nats.numpy()
            if self.first:
                self.correct[0], self.nats[0] = False, np.nan
        if solved and n == len(self.passage):
            self.ended = "solved"
        elif self.steps >= (recipe.max_steps or math.inf) or self.token_passes >= (
            recipe.max_token_passes or math.inf
        ):
            self.ended = "budget"
        elif recipe.patience and self.steps - self.best_step >= recipe.patience:
            self.ended = "patience"
        elif recipe.restart_steps and self._stuck(recipe.restart_steps):
            self._begin(self.noise(self.starts))
        elif recipe.growth:
            stage = recipe.growth.stage_steps
            if stage and self.steps - self.best_step >= stage:
                self.ended = "stage"
            exact = self.first + self.held
            ahead = max(recipe.growth.block, int(recipe.growth.fraction * exact))
            self.length = min(len(self.passage), max(n, exact + ahead))
        self.whole = True

    def _stuck(self, steps: int) -> bool:
        """Whether this start has won nothing for so many steps, early enough that another one may be worth more."""
        return self.steps - self.held_step >= steps and self.held < self.recipe.restart_below

    def _refocus(self, won: torch.Tensor) -> None:
        """Raise the weight of tokens not won, let that of the others fall back to 1."""
        if self.recipe.focus > 1:
            part = self.weight[: len(won)]
            part *= torch.where(won, 1 / self.recipe.focus, self.recipe.focus)
            part.clamp_(1.0, self.recipe.focus_max)

    def result(self) -> Cram:
        """The outcome so far."""
        length = self.first + self.best if self.recipe.growth else len(self.passage)
        return Cram(
            passage=self.passage,
            mem=self.mem.detach().float().cpu().clone(),
            length=length,
            correct=self.correct[:length],
            nats=self.nats[:length],
            ended=self.ended,
            steps=self.steps,
            token_passes=self.token_passes,
            seconds=self.seconds,
            cpu_seconds=self.cpu_seconds,
            trace=self.trace,
            path=None if self.path is None else self.path.float().cpu(),
            memory=self.memory,
            starts=self.starts,
        )


def _step(lm: FrozenLM, active: list[_Run], pack: bool) -> None:
    """One forward and backward pass and one move for the whole batch; each run then digests its share.

    A device is waited for once, when losses and gaps come back.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    longest = max(run.length for run in active)
    shares = [run.fed for run in active]
    tokens = torch.zeros(len(active), longest, dtype=torch.long)
    weights = torch.zeros(len(active), longest)
    for row, run in enumerate(active):
        tokens[row, : run.length] = run.tokens[: run.length]
        weights[row, run.first : run.length] = run.weight[run.first : run.length]
    weights /= weights.sum(1, keepdim=True)
    mem = torch.stack([run.to_mem(run.param) for run in active]).requires_grad_(True)  # (B, k, d)
    memory, temperature = active[0].memory, active[0].recipe.temperature
    loss, nats, gaps = score(lm, mem, tokens, weights, pack=pack, memory=memory, temperature=temperature)
    (gradient,) = torch.autograd.grad(loss, mem)
    for run in active:
        run.count_step()
    _move(active, gradient)
    seen = torch.stack([nats, gaps]).cpu()  # (2, B, L)
    for row, run in enumerate(active):
        run.take(mem[row].detach(), *seen[:, row, : run.length])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    for run, share in zip(active, shares, strict=True):
        run.seconds += wall * share / sum(shares)
        run.cpu_seconds += cpu * share / sum(shares)


def _move(active: list[_Run], gradient: torch.Tensor) -> None:
    """One step of Adam with decoupled weight decay, with momentum or a running average of its iterates.

    All runs move at once, so that a device gets a few dozen small operations a step, however many passages there are.

    Args:
        active: The runs, of one recipe.
        gradient: To the vectors that the model saw, shape (B, k, d).
    """
    recipe, (beta1, beta2) = active[0].recipe, active[0].recipe.betas

    def each(*numbers: float) -> torch.Tensor:  # (B, 1, 1)
        return torch.tensor(numbers, dtype=gradient.dtype).to(gradient.device, non_blocking=True)[:, None, None]

    def all_of(name: str) -> torch.Tensor:  # (B, k, d)
        return torch.stack([getattr(run, name) for run in active])

    ages = [run.steps - run.began for run in active]
    rates = [run.learning_rate() for run in active]
    lr, decay = each(*rates), each(*(1 - rate * recipe.weight_decay for rate in rates))
    param = all_of("param")
    if recipe.parametrisation == "sphere":
        # The radial part of the gradient would only be undone by the projection, but disturb Adam's moments.
        gradient = along_sphere(gradient, param)
    if recipe.clip_norm:
        norm = gradient.norm(dim=(1, 2), keepdim=True).double()
        gradient = gradient * (recipe.clip_norm / (norm + 1e-6)).clamp(max=1).to(gradient)
    moment2 = beta2 * all_of("moment2") + (1 - beta2) * gradient**2
    scale = (moment2 / each(*(1 - beta2**t for t in ages))).sqrt() + recipe.eps
    moved = {"moment2": moment2}
    if recipe.averaging:
        iterate = _projected(recipe, all_of("iterate") * decay - lr * gradient / scale)
        average = torch.lerp(all_of("average"), iterate, each(*(max(recipe.averaging, 1 / t) for t in ages)))
        moved |= {"iterate": iterate, "average": average, "param": torch.lerp(iterate, average, beta1)}
    else:
        moment1 = beta1 * all_of("moment1") + (1 - beta1) * gradient
        step = lr * moment1 / each(*(1 - beta1**t for t in ages)) / scale
        moved |= {"moment1": moment1, "param": param * decay - step}
    moved["param"] = _projected(recipe, moved["param"])
    for name, values in moved.items():
        for run, value in zip(active, values.unbind(), strict=True):
            setattr(run, name, value)


def _projected(recipe: Recipe, param: torch.Tensor) -> torch.Tensor:
    """The trained direction, shape (..., d), held on the sphere of radius sqrt(d) if the recipe asks for it."""
    return onto_sphere(param) if recipe.parametrisation == "sphere" else param


def score(
    lm: FrozenLM,
    mem: torch.Tensor,
    tokens: torch.Tensor,
    weights: torch.Tensor,
    *,
    pack: bool = False,
    memory: Vectors = VECTORS,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Teacher-forced loss of each token given mem and the true tokens before it.

    The last scored token is not fed, since nothing that follows it is predicted. Padding goes to the right, where a
    causal model cannot see it, so no mask is needed.

    Args:
        lm: The frozen model.
        mem: Shape (B, k, d), or what the memory asks for.
        tokens: Shape (B, L).
        weights: Shape (B, L); tokens of weight 0 are neither scored nor trained on. On the processor, as tokens too,
            where no device has to be waited for.
        pack: Whether to lay rows of unequal length end to end instead of padding them; see `packs`.
        memory: What mem is, see `cramming.memories`.
        temperature: What the logits are divided by in the loss, and only there.

    Returns:
        loss: Weighted sum of the cross-entropies at that temperature, a scalar with a gradient to `mem`.
        nats: Cross-entropy of each token, shape (B, L); NaN where the weight is 0.
        gaps: Logit of the true token minus the best other one, shape (B, L); -inf where the weight is 0.
    """
    feed = memory.feed(lm, mem, tokens.to(mem.device))
    scored = weights > 0
    places = torch.arange(1, tokens.shape[1] + 1, device=scored.device)
    ahead = feed.embeds.shape[1] - tokens.shape[1]  # positions before the one that predicts token 0
    fed = (ahead + (scored * places).amax(1)).tolist()
    # The mask of packed rows holds for every layer: local attention would see too much of a row beyond its window.
    near = lm.window is None or feed.embeds.shape[1] + bool(feed.past) <= lm.window
    if pack and near and min(fed) < feed.embeds.shape[1]:
        hidden = _Packing(fed).run(lm, feed)[:, ahead:]
    else:
        hidden = lm.model.base_model(**feed.inputs()).last_hidden_state[:, ahead:]
    at = scored.flatten().nonzero()[:, 0].to(mem.device)  # (N,), of the N scored tokens among all B * L
    head = lm.model.get_output_embeddings()
    loss, *found = _FusedHead.apply(
        hidden.flatten(0, 1)[at].to(head.weight.dtype),  # Mamba hands on float32 in any format
        head.weight,
        head.bias,
        tokens.flatten().to(mem.device)[at],
        weights.flatten().to(mem.device)[at],
        temperature,
    )
    nats, gaps = (
        loss.new_full((scored.numel(),), none).scatter(0, at, some).view(scored.shape)
        for none, some in zip((torch.nan, -torch.inf), found, strict=True)
    )
    return loss, nats, gaps


class _Packing:
    """Rows of unequal length laid end to end in a few sequences, each row seeing itself alone.

    Padding every row to the longest wastes work on the padding: half of it, where horizons differ twofold. Sequences
    are filled evenly, since the shorter ones are padded to the longest.

    Args:
        fed: Positions of each row.
    """

    def __init__(self, fed: list[int]) -> None:
        self.fed = fed
        self.sequences = -(-sum(fed) // max(PACKED_POSITIONS, *fed))
        filled = [0] * self.sequences
        self.slots: list[tuple[int, int]] = [(0, 0)] * len(fed)  # sequence and offset of each row
        for row in sorted(range(len(fed)), key=lambda r: -fed[r]):  # the longest first, each where there is most room
            sequence = min(range(self.sequences), key=filled.__getitem__)
            self.slots[row] = sequence, filled[sequence]
            filled[sequence] += fed[row]
        self.size = max(filled)

    def run(self, lm: FrozenLM, feed: Feed) -> torch.Tensor:
        """Last hidden states of the rows, (B, T, h), from what they are fed. Past a row's end: noise."""
        embeds, ahead = feed.embeds, int(bool(feed.past))  # (B, T, d)
        shape = self.sequences, self.size
        owner = torch.full(shape, -1)  # (S, N): S sequences of N positions, -1 where there is padding
        source, position = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        target = torch.zeros(embeds.shape[:2], dtype=torch.long)  # (B, T)
        for row, ((sequence, offset), n) in enumerate(zip(self.slots, self.fed, strict=True)):
            here = slice(offset, offset + n)
            owner[sequence, here] = row
            position[sequence, here] = torch.arange(ahead, ahead + n)
            source[sequence, here] = row * embeds.shape[1] + torch.arange(n)
            target[row, :n] = sequence * self.size + offset + torch.arange(n)
        sees = (owner[:, :, None] == owner[:, None, :]) & torch.ones(self.size, self.size, dtype=torch.bool).tril()
        # sees: (S, N, N), or (S, N, B + N) behind prefixes
        if ahead:  # in front of every sequence stand the prefixes of all rows, and each row sees its own
            sees = torch.cat([owner[:, :, None] == torch.arange(len(self.fed)), sees], dim=2)
        past = tuple(
            (
                keys.transpose(0, 2).expand(self.sequences, -1, -1, -1),
                values.transpose(0, 2).expand(self.sequences, -1, -1, -1),
            )
            for keys, values in feed.past
        )
        mask = torch.zeros(sees.shape, dtype=embeds.dtype).masked_fill(~sees, torch.finfo(embeds.dtype).min)
        packed = embeds.flatten(0, 1)[source.to(embeds.device)]  # (S, N, d)
        hidden = lm.model.base_model(
            **Feed(packed, past).inputs(),
            attention_mask=mask[:, None].to(embeds.device),
            position_ids=position.to(embeds.device),
        ).last_hidden_state  # (S, N, h)
        return hidden.flatten(0, 1)[target.to(embeds.device)]  # (B, T, h)


class _FusedHead(torch.autograd.Function):
    """Output head and cross-entropy in one, a few rows at a time, so that the (B, L, V) logits are never held."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, token_weights, temperature):  # type: ignore[no-untyped-def]
        loss, nats, gaps, gradient = hidden.new_zeros((), dtype=torch.float32), [], [], torch.empty_like(hidden)
        for part in torch.arange(len(hidden), device=hidden.device).split(HEAD_ROWS):
            logits = linear(hidden[part], weight, bias).float()
            rows, target = torch.arange(len(part), device=hidden.device), targets[part]
            true = logits[rows, target]
            logits[rows, target] = -torch.inf
            other = logits.amax(1)
            logits[rows, target] = true
            top = torch.maximum(true, other)
            logits.sub_(top[:, None])
            if temperature != 1:
                nats.append(logits.exp().sum(1).log() + top - true)
                logits.div_(temperature)
            # softmax in place
            total = logits.exp_().sum(1)
            nll = total.log() + (top - true) / temperature
            if temperature == 1:
                nats.append(nll)
            # gradient of the weighted sum of cross-entropies: w / T * (softmax - one-hot)
            share = token_weights[part] / temperature
            logits.mul_((share / total)[:, None])
            logits[rows, target] -= share
            gradient[part] = linear(logits.to(weight.dtype), weight.t())
            loss += (nll * token_weights[part]).sum()
            gaps.append(true - other)
        ctx.save_for_backward(gradient)
        every_nats, every_gap = torch.cat(nats), torch.cat(gaps)
        ctx.mark_non_differentiable(every_nats, every_gap)
        return loss, every_nats, every_gap

    @staticmethod
    def backward(ctx, loss_gradient, *_):  # type: ignore[no-untyped-def]
        (gradient,) = ctx.saved_tensors
        return gradient * loss_gradient.to(gradient.dtype), None, None, None, None, None


def first_mem(lm: FrozenLM, passage: Passage, recipe: Recipe, k: int, seed: int, start: int = 0) -> torch.Tensor:
    """The noise that a cram starts from, shape (k, d) for vectors, before a sphere takes its direction.

    Args:
        lm: The frozen model.
        passage: What is crammed.
        recipe: How.
        k: Mem vectors.
        seed: See `cram`.
        start: Starts given up before this one.
    """
    table: torch.Tensor = lm.model.get_input_embeddings().weight  # type: ignore[assignment]
    std = float(table.std()) if recipe.init == "embedding_std" else recipe.init_std
    shape = MEMORIES[recipe.memory].shape(lm, k)
    return torch.randn(shape, generator=_generator(passage, seed, start)) * std


def progress_bar(total: int, unit: str, title: str, *, wanted: bool) -> tqdm:
    """A bar on stderr. If it is wanted, TQDM_DISABLE in the environment still has the last word."""
    options: dict[str, Any] = {} if wanted else {"disable": True}
    return tqdm(total=total, unit=unit, desc=title, smoothing=0.05, **options)


def _generator(passage: Passage, seed: int, start: int) -> torch.Generator:
    """Randomness that depends on the seed, the passage and the start, not on the company a passage is in."""
    again = f":{start}" if start else ""
    digest = hashlib.sha256(f"{seed}:{passage.id}:{passage.digest}{again}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _postfix(active: list[_Run], done: int, total: int) -> str:
    losses = [run.trace[-1].loss for run in active]
    longest = max(run.steps for run in active)
    return f"{done}/{total} passages done, loss {sum(losses) / len(losses):.3f} nats, step {longest}"


def _check(
    lm: FrozenLM,
    passages: Sequence[Passage],
    recipe: Recipe,
    n_vectors: int,
    batch: int,
    start: Sequence[torch.Tensor] | None,
    path: bool,
) -> None:
    if not passages:
        raise CrammingError("no passages to cram: give at least one")
    if n_vectors < 1:
        raise CrammingError(f"n_vectors is {n_vectors}: give at least 1 mem vector")
    if batch < 1:
        raise CrammingError(f"batch is {batch}: give at least 1 passage at once")
    if start is not None and len(start) != len(passages):
        raise CrammingError(f"start has {len(start)} tensors for {len(passages)} passages: give one a passage")
    if path and recipe.restart_steps:
        raise CrammingError(
            f"recipe {recipe.name!r} may begin anew, and has no one path then: set restart_steps to null"
        )
    memory = MEMORIES[recipe.memory]
    shape = memory.shape(lm, n_vectors)
    for tensor in start or []:
        if tensor.shape != shape:
            raise CrammingError(f"start has a tensor of shape {tuple(tensor.shape)}: expected {shape}")
    if recipe.memory != "vectors" and not recipe.score_first:
        raise CrammingError(f"memory {recipe.memory!r} makes the model say token 0 as well: set score_first")
    if recipe.budget == "none":
        raise CrammingError(f"recipe {recipe.name!r} has no budget: set max_steps, max_token_passes or patience")
    longest = max(len(p) for p in passages)
    least = 1 if recipe.score_first else 2
    if min(len(p) for p in passages) < least:
        raise CrammingError(f"recipe {recipe.name!r} needs passages of at least {least} tokens, one has fewer")
    limit = lm.context_length
    if limit is not None and memory.positions(n_vectors, longest) + 1 > limit:
        raise CrammingError(
            f"{n_vectors} mem vectors and {longest} tokens exceed the {limit} positions of {lm.name}: "
            "shorten the passage"
        )
    with torch.no_grad():
        # Tokens of the passage, and not token 0: where that pads, its embedding may be zero, and its logits with it.
        embeds = lm.model.get_input_embeddings()(torch.tensor([passages[0].token_ids[:2]], device=lm.device))
        head = lm.model.get_output_embeddings()
        hidden = lm.model.base_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        logits = torch.nn.functional.linear(hidden.to(head.weight.dtype), head.weight, head.bias).float()
        theirs = lm.model(inputs_embeds=embeds, use_cache=False).logits.float()
        if not torch.allclose(logits, theirs, rtol=1e-2, atol=1e-2):
            raise CrammingError(f"{lm.name} changes its logits after the output head, which the engine does not model")


def packs(lm: FrozenLM) -> bool:
    """Whether the model keeps packed rows apart: recurrent layers let them mix, and of the others it is tried."""
    if not lm.attends:
        return False
    ids = torch.arange(10, 16, device=lm.device).view(2, 3) % lm.vocab_size
    with torch.no_grad():
        embeds = lm.model.get_input_embeddings()(ids)
        alone = lm.model.base_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        try:
            packed = _Packing([3, 2]).run(lm, Feed(embeds))
        except (TypeError, ValueError, RuntimeError, IndexError):
            return False
        return all(
            torch.allclose(alone[row, :n], packed[row, :n], rtol=1e-2, atol=1e-2) for row, n in ((0, 3), (1, 2))
        )

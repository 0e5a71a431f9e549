"""Plans: which passages, which recipe, which model; the key of each run, and what of a plan is offered."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cramming.errors import CrammingError
from cramming.files import inside, read_yaml
from cramming.models import FrozenLM, paper_models
from cramming.paths import PLANS, RESULTS
from cramming.recipes import Recipe, recipe
from cramming.results.store import Store, run_key
from cramming.texts import HUB, Passage, passages


class Experiment(BaseModel):
    """Passages of one source, or of several, under one recipe: one entry of a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["cram", "horizon"]
    recipe: str
    changes: dict[str, Any] = Field(default_factory=dict, description="fields of the recipe that differ")
    source: str | tuple[str, ...]
    n: int = Field(ge=1, description="passages of each source")
    skip: int = Field(0, ge=0, description="passages of each source to pass over, such as those that others report")
    lengths: tuple[int, ...] = Field(min_length=1, description="tokens of a passage; for a horizon, tokens on offer")
    n_vectors: int = Field(1, ge=1, description="mem vectors, or parts of what else the recipe trains")
    offset: int = Field(0, ge=0, description="tokens at the head of each text to pass over, so that some precede")
    seed: int = Field(
        0, description="of the noise that mem starts from, and unless text_seed is given of the passages"
    )
    text_seed: int | None = Field(
        None, description="which passages, where the same ones are crammed from several seeds"
    )
    folder: str | None = Field(None, description="of texts, for pg19 and fanfics, in place of the hub: see texts")
    path: bool = Field(False, description="keep the vectors on the way too, for `Store.paths`")
    batch: int = Field(4, ge=1)
    models: tuple[str, ...] = Field((), description="models of the plan that it is for, by name; none: all")
    pages: tuple[str, ...] = Field((), description="notebooks that show it, or parts of them, by name; none: all")

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, however many."""
        return (self.source,) if isinstance(self.source, str) else self.source

    def resolved(self) -> Recipe:
        """The recipe with its changes.

        Raises:
            CrammingError: If the recipe refuses a change, or its growth does not go with the kind.
        """
        how = recipe(self.recipe, **self.changes)
        if (how.growth is not None) != (self.kind == "horizon"):
            raise CrammingError(
                f"kind {self.kind!r} and recipe {how.name!r} do not go together: "
                "a horizon needs a recipe with growth, such as horizon, and a cram one without, such as best"
            )
        return how


class Plan(BaseModel):
    """One or more models and the experiments to run on each; one file under data/plans."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | tuple[str, ...]
    dtype: str = "float32"
    experiments: tuple[Experiment, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, however many."""
        return (self.model,) if isinstance(self.model, str) else self.model

    def on(self, model: str) -> tuple[Experiment, ...]:
        """The experiments for a model, by its name."""
        return tuple(e for e in self.experiments if not e.models or model in e.models)

    def of(self, page: str | None) -> Plan:
        """The part of the plan that a page shows; without a page, all of it.

        Raises:
            CrammingError: If the plan has nothing for that page.
        """
        some = tuple(e for e in self.experiments if page is None or not e.pages or page in e.pages)
        if not some:
            known = ", ".join(sorted({name for e in self.experiments for name in e.pages}))
            raise CrammingError(f"the plan has nothing for page {page!r}: it has some for {known}")
        return self.model_copy(update={"experiments": some})

    def narrowed(self, *, model: str | None = None, n: int | None = None, folder: Path | None = None) -> Plan:
        """The plan for one model, for fewer passages, or with texts that lie elsewhere.

        Args:
            model: One of the plan's, as `cramming.models.load` takes it, such as a hub id or a folder that ends in it.
            n: Most passages of each source and length.
            folder: With folders pg19 and fanfics, to read in place of the hub's texts.

        Raises:
            CrammingError: If the plan has no such model, or no passages are left.
        """
        if n is not None and n < 1:
            raise CrammingError(f"n is {n}: give at least 1 passage")
        known = [name for name in self.models if model is None or name in names_of(model)]
        if not known:
            raise CrammingError(f"the plan has no model {model!r}: it has {', '.join(self.models)}")
        some: list[Experiment] = []
        for experiment in self.experiments if model is None else self.on(known[0]):
            changes = {"n": min(n or experiment.n, experiment.n)} | ({} if model is None else {"models": ()})
            if folder is None or not set(HUB) & set(experiment.sources):
                some.append(experiment.model_copy(update=changes))
                continue
            for source in experiment.sources:
                lies = {"source": source} | ({"folder": str(folder / source)} if source in HUB else {})
                some.append(experiment.model_copy(update=changes | lies))
        return self.model_copy(update={"model": model or self.model, "experiments": tuple(some)})


def load_plan(scale: str) -> Plan:
    """The plan of a scale (smoke, laptop, paper), or of any YAML file.

    Raises:
        CrammingError: If there is no such plan, or it does not say what a plan must.
    """
    path = Path(scale) if scale.endswith((".yaml", ".yml")) else PLANS / f"{scale}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PLANS.glob("*.yaml")))
        raise CrammingError(f"scale {scale!r} has no plan: use one of {known}, or the path of a YAML file")
    plan = read_yaml(path, "the plan is not valid, see data/plans for ones that are")
    try:
        found = Plan.model_validate(plan)
    except (ValidationError, RecursionError) as error:
        raise CrammingError(f"plan {path.name} is not valid: {' '.join(str(error).split())[:1000]}") from error
    for name in (*found.models, *(e.folder for e in found.experiments if e.folder)):
        stays(name, f"plan {path.name}")
    return found


def stays(name: str, where: str) -> None:
    """Refuse a model, or texts, that a file names by a path out of the present folder."""
    if not inside(name):
        raise CrammingError(
            f"{where} names {name[:80]!r}, a path out of this folder: put what it is, or a link to it, here"
        )


def names_of(model: str) -> set[str]:
    """What a model may go by in a plan or store: a local folder or GGUF file goes by less than what loads it.

    Examples:
        >>> "Pythia-160M" in names_of("weights/EleutherAI/pythia-160m")
        True
    """
    path, table = Path(model), paper_models()
    asked = (model.casefold(), "/".join(path.parts[-2:]).casefold())
    return {model, path.name, path.stem} | {
        name
        for name, hub_id in zip(table["name"], table["hub_id"], strict=True)
        if asked[0] == name.casefold() or hub_id.casefold() == asked[1]
    }


def store_of(scale: str) -> Store:
    """The store that a scale, or a plan of one's own, reads and writes unless told otherwise: data/results/<name>.

    The environment variable CRAMMING_RESULTS names another folder for data/results.
    """
    return Store(RESULTS / Path(scale).stem)


def key_of(lm: FrozenLM, experiment: Experiment, passage: Passage) -> str:
    """The key of one run: everything that decides its result, and nothing that does not (batch, threads, machine)."""
    return run_key(
        {
            "kind": experiment.kind,
            "recipe": experiment.resolved().deciding(),
            "model_digest": lm.digest,
            "passage": passage.id,
            "passage_digest": passage.digest,
            "n_vectors": experiment.n_vectors,
            "seed": experiment.seed,
            "dtype": str(lm.dtype).removeprefix("torch."),
            **({"path": True} if experiment.path else {}),  # no result of its own, but a run without it lacks it
        }
    )


def offered(experiment: Experiment, lm: FrozenLM) -> list[Passage]:
    """The passages of an experiment, of every length it asks for."""
    return [
        passage
        for length in experiment.lengths
        for source in experiment.sources
        for passage in passages(
            source,
            lm.tokenizer,
            n=experiment.skip + experiment.n,
            length=length,
            seed=experiment.seed if experiment.text_seed is None else experiment.text_seed,
            offset=experiment.offset,
            folder=experiment.folder,
        )[experiment.skip :]
    ]

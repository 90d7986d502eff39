"""One differentiable search, from a fresh supernet to learned logits, and what is found by them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from hiernas.budget import Budget
from hiernas.data.split import ImageData, shares
from hiernas.errors import ConfigError, LimitError, Settings
from hiernas.problem import Found, Problem, training_work
from hiernas.randomness import torch_generator
from hiernas.search.alphas import AlphaArchitect, AlphaSettings, Encoding, Extra, by_strength, rounded
from hiernas.search.decided import Verdict, regular
from hiernas.search.ranking import Ledger
from hiernas.space import Architecture, SearchSpace
from hiernas.train.recipes import Phase, Recipe


@dataclass(frozen=True)
class SearchSettings(Settings):
    """A differentiable search; the defaults are DARTS' (arXiv 1806.09055, appendix A.1) on its own scale."""

    epochs: PositiveInt = 50  # in which weights and logits learn by turns
    warmup_epochs: NonNegativeInt = 0  # before them, in which the weights learn alone, under equal logits
    lr: PositiveFloat = 0.025  # initial learning rate of the weights
    train: Recipe = field(
        default_factory=lambda: Recipe(weight_decay=3e-4, schedule="cosine", lr_min=1e-3, grad_clip=5.0)  # 0.001: the code's
    )
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5  # of the training images: those that the logits learn from
    images: NonNegativeInt = 0  # training images that are used, drawn once; 0: all
    alpha: AlphaSettings = field(default_factory=AlphaSettings)
    cost_weight: NonNegativeFloat = 1.0  # of the expected costs' relative excess over the limits
    decided: Annotated[float, Field(ge=0, lt=1)] = 0.01  # share of the logits' entropy to be gone, or else the control
    keep: Literal["last", "best"] = "last"  # epoch whose logits are kept; best: of the supernet's accuracy on their images

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images == 1:
            raise ConfigError("images is 1; it must be 0, for all, or at least 2")
        if self.train.lr_min > self.lr:
            raise ConfigError(f"train.lr_min={self.train.lr_min} is above lr={self.lr}, which it ends; make it smaller")
        if self.train.precision == "16-mixed":
            raise ConfigError("train.precision=16-mixed scales the gradients of the logits; use bf16-mixed or 32-true")


SEARCH = Recipe(batch_size=64, weight_decay=3e-4, schedule="cosine", grad_clip=5.0)  # of the presets for 2 cores
LOGITS = AlphaSettings(lr=0.1)  # a few hundred steps: with DARTS' rate they would end where they were drawn
QUICK = SearchSettings(epochs=10, warmup_epochs=5, lr=0.03, train=replace(SEARCH, batch_size=32), alpha=LOGITS)
SMALL = SearchSettings(epochs=2, warmup_epochs=1, lr=0.03, train=replace(SEARCH, batch_size=32), alpha=LOGITS, images=6000)


def search_work(settings: SearchSettings, data: ImageData) -> float:
    """The work of one search: the logits' half of a step needs no gradients of weights, and is not done in the warm-up."""
    images = round((1 - settings.share) * min(settings.images or len(data.train), len(data.train)))
    return training_work(settings.warmup_epochs, images) + training_work(settings.epochs, round(images * (1 + 2 / 3)))


def plan(config: Any, data: ImageData) -> dict[str, float]:
    """Work per phase of a method that is one such search."""
    return {"train1": search_work(config.search, data)}


def proxy(space: SearchSpace, config: Any) -> SearchSpace:
    """The smaller network of the same choices that is searched in; where the cells are given, there are as many of them."""
    return space.proxy(config.channels, config.cells)


def learn(
    encoding: Encoding, problem: Problem, settings: SearchSettings, phase: str, extra: Extra | None = None,
    apart: Extra | None = None,
) -> tuple[Any, AlphaArchitect, Verdict]:  # fmt: skip
    """A supernet of the encoding's space and the logits of its sites, trained by turns, and whether they have decided anything.

    Where they have not, the architect's strengths are those of the control.
    """
    space, data, trainer = encoding.space, problem.data, problem.trainer
    images, validation = shares(data.train, settings.share, problem.seed, settings.images)
    supernet = problem.supernet(space, phase)
    generator = torch_generator(problem.seed, phase, "alphas")
    epochs, batch = settings.warmup_epochs + settings.epochs, settings.train.batch_size
    architect = AlphaArchitect(encoding, validation, settings.alpha, generator, extra, apart, settings.warmup_epochs / epochs)

    def validate(epoch: int) -> float:
        reached = trainer.accuracy(supernet, validation, batch, architect.gates())
        if epoch > settings.warmup_epochs:
            architect.mark(reached)
        return reached

    looks = validate if settings.keep == "best" else None
    trainer.fit(supernet, images, Phase(phase, epochs, settings.lr), settings.train, architect=architect, validate=looks)
    architect.take_marked()  # where there are any
    reached = trainer.accuracy(supernet, data.val, batch, architect.gates())
    verdict = Verdict.of(space, architect.logits(), settings.decided, reached, data.val.labels)
    architect.control = None if verdict.decided else regular(space)
    for doubt in verdict.doubts():
        problem.run.event("undecided", phase=phase, doubt=doubt)
    return supernet, architect, verdict


def counted(architecture: Architecture, budget: Budget) -> tuple[int, int, float | None]:
    """Parameters, multiply-adds and latency in ms of a network as built; tables count its dead cells, too, and dropped filters.

    Raises `LimitError` where it does not meet the limits on them (nor on that in INT8) without these.
    """
    params, macs = budget.count(architecture)
    tables = {} if budget.latency is None else {"latency_ms": budget.latency, "latency_int8_ms": budget.latency.int8}
    took = {metric: float(table.predict(architecture)) for metric, table in tables.items() if table is not None}
    for limit in budget.limits:
        value: Any = {"params": params, "macs": macs, **took}.get(limit.metric)
        if value is not None and limit.excess(value) > 1e-12:  # a sum in another order is no other latency
            what = f"without its dead cells and dropped filters the network found has {limit.metric} {value:,.7g}"
            raise LimitError(f"{what}, and {limit} was asked; search again with another --seed, or widen the limits")
    return params, macs, took.get("latency_ms")


def found(learned: tuple[Any, AlphaArchitect, Verdict], problem: Problem, config: Any, phase: str = "train1") -> Found:
    """The derived architecture that meets the limits; its details say where DARTS' rule alone would have gone."""
    supernet, architect, verdict = learned
    space, proxy = problem.space, architect.space
    genes = problem.budget.best(space, architect.strengths())
    plain = by_strength(proxy, architect.strengths())
    chosen = space.decode(genes)
    names = space.skeleton.site_names
    named = dict(zip(names, chosen.options, strict=True))
    evaluate = problem.trainer.evaluator(supernet, config.search.train, config.calibration_images, paths=False)

    def by_proxy(architectures: Any) -> list[float]:
        return evaluate([proxy.architecture(dict(zip(names, a.options, strict=True))) for a in architectures])

    ledger = Ledger(space, by_proxy, config.objective, "evolve2", problem)
    params, macs, took = counted(chosen, problem.budget)
    candidate = replace(ledger.evaluate(genes[None])[0], params=params, macs=macs, latency_ms=took)
    moved = [site for site in named if named[site] != plain[site]]
    weights = rounded(proxy, [a.detach().softmax(0) for a in architect.alphas])
    details = {"decided": {phase: verdict.record()}, "weights": weights, **({"moved": moved} if verdict.decided else {})}
    return Found(space, (candidate,), candidate, (), details, doubts=verdict.doubts())

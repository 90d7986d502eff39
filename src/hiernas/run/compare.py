"""Networks found in one supernet side by side: without training, fine-tuned from the supernet's weights, from scratch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from hiernas.problem import Found, Problem, Rival
from hiernas.run.folder import RunFolder
from hiernas.train.loop import accuracy
from hiernas.train.recipes import Phase

Train = Callable[..., nn.Module]
WAYS = ("fine_tuned", "from_scratch")


def compare(
    problem: Problem, run: RunFolder, config: Any, found: Found, test_accuracy: float, measured: Mapping[str, Any], train: Train
) -> list[dict[str, Any]]:
    """The rivals of a search, each trained in both ways, as result.json has them; [] where there are none.

    What the chosen network has been trained for already is taken over. Every accuracy is kept as it comes in. `train`:
    `finish.train_network`.
    """
    known: dict[str, float] = run.read_json("checkpoint/compared.json") or {}
    own = WAYS[0] if found.start is not None else WAYS[1]
    rows, trained = [], 0
    for i, rival in enumerate(found.rivals):
        reached = {}
        for way in WAYS:
            if i == 0 and way == own:
                reached[way] = test_accuracy
                continue
            trained += 1
            phase = f"compare{trained}"
            if phase not in known:
                known[phase] = _trained(problem, run, config, rival, way, phase, train)
                run.write_json("checkpoint/compared.json", known)
            reached[way] = known[phase]
        rows.append(_row(rival, reached, measured))
    return rows


def _trained(problem: Problem, run: RunFolder, config: Any, rival: Rival, way: str, phase: str, train: Train) -> float:
    inherits = way == WAYS[0]
    network = train(
        rival.architecture, problem.data, Phase(phase, config.final_epochs, rival.start.lr if inherits else config.final_lr),
        config.train, run, rival.start.weights if inherits else None,
    )  # fmt: skip
    return accuracy(network, problem.data.test, problem.data)


def _row(rival: Rival, reached: Mapping[str, float], measured: Mapping[str, Any]) -> dict[str, Any]:
    candidate, whole = rival.candidate, measured.get(",".join(rival.architecture.labels), {})
    return {
        "name": rival.name,
        "sites": rival.architecture.to_json()["sites"],
        "untrained": candidate.val_accuracy,
        **reached,
        "params": candidate.params,
        "macs": candidate.macs,
        "latency_ms": {"predicted": candidate.latency_ms, "measured": whole.get("measured")},
    }

"""From what a search found to what a user takes home: trained, measured, exported, reported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hiernas.data import ImageData
from hiernas.data.batches import at_once, normalise
from hiernas.data.split import Split
from hiernas.errors import LatencyError, RunError
from hiernas.export import export
from hiernas.latency.runtimes import make_runtime
from hiernas.methods import METHODS
from hiernas.problem import Candidate, Found, Problem
from hiernas.randomness import seeded, torch_generator
from hiernas.report.doubts import of_latency, of_predictions, of_ranking
from hiernas.report.page import write_report
from hiernas.run.compare import compare
from hiernas.run.folder import RunFolder
from hiernas.run.settings import from_dict
from hiernas.space import Architecture, SearchSpace
from hiernas.train.evaluate import batch_for, calibrate, calibration_indices
from hiernas.train.loop import fit, predictions
from hiernas.train.recipes import Phase, Recipe
from hiernas.version import VERSION

PARITY_IMAGES = 16  # real test images that exported files are compared on
MEASURED_RUNS = 100
CALIBRATION_IMAGES = 2000  # for the batch-norm statistics of a trained network


@dataclass(frozen=True)
class Joined:
    """Two sets of images as one."""

    first: Split
    second: Split

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def fetch(self, indices: Tensor) -> Tensor:
        """uint8 [B, C, H, W] of indices [B] into the first set's images, then the second's."""
        ours = indices < len(self.first)
        if bool(ours.all()):
            return self.first.images.fetch(indices)
        b = self.second.images.fetch(indices[~ours] - len(self.first))
        if not bool(ours.any()):
            return b
        a = self.first.images.fetch(indices[ours])
        out = torch.empty((len(indices), *a.shape[1:]), dtype=a.dtype)
        out[ours], out[~ours] = a, b
        return out


def joined(first: Split, second: Split) -> Split:
    """Training and validation images together: what a stand-alone network is trained on."""
    return Split(Joined(first, second), torch.cat([first.labels, second.labels]))


def complete(
    problem: Problem, run: RunFolder, latency: Any, config: Any, found: Found, doubts: Sequence[str] = ()
) -> None:
    """Everything after the search: final training, whole-network latencies, files, result and report.

    `latency`: the table that the search went by, or None. `doubts`: what was doubtful before the search began.
    """
    data, architecture, limits = problem.data, found.architecture, problem.budget.limits
    run.write_json("best.json", architecture.to_json())
    start = found.start
    phase = Phase("final", config.final_epochs, config.final_lr if start is None else start.lr)
    network = train_network(architecture, data, phase, config.train, run, None if start is None else start.weights)
    test_accuracy, of_network = tested(network, data)
    outputs = write_network(network, architecture, data, run)
    measured = measure_front(data, run, latency, found)
    chosen = _member(found.chosen, measured)
    of_search = found.doubts or of_ranking(found.chosen.val_accuracy, data.val.labels.numpy())
    compared = compare(problem, run, config, found, test_accuracy, measured, train_network)
    result = {
        **_header(run),
        "space": {"name": found.space.name, "arguments": _arguments(architecture), "size": found.space.size()},
        "data": describe_data(data),
        "objective": config.objective,
        "limits": [_limit(x) for x in limits],
        "automatic_limit": run.config["automatic_limit"],
        "device": device_of(latency or meter(run, latency)),
        "front": [_member(c, measured) for c in found.front],
        "chosen": {**chosen, "test_accuracy": test_accuracy, "sites": architecture.to_json()["sites"]},
        "inherited": start is not None,
        **({"compared": compared} if compared else {}),
        "latency_error": _latency_error(found, measured),
        "evaluated": run.count_candidates(),
        "stages": [{**p.summary(), "sites": p.frequency} for p in found.prunings],
        "details": dict(found.details),
        "doubts": [*of_network, *of_search, *of_latency(chosen, limits), *doubts],
        "fitted": run.config.get("fitted", ""),
        "outputs": outputs,
        "seconds": run.seconds(),
    }
    run.write_json("result.json", result)
    write_report(run.path)
    run.event("finished", test_accuracy=test_accuracy)


def train_only(run: RunFolder, data: ImageData) -> None:
    """The run of `hiernas train`: one architecture of the run's config, from scratch or from inherited weights."""
    asked = run.config["train"]
    architecture = Architecture.from_json(asked["architecture"], source=f"{run.path}/config.yaml")
    phase = Phase("final", asked["epochs"], asked["lr"])
    recipe = from_dict(Recipe, asked["recipe"])
    run.write_json("best.json", architecture.to_json())
    weights = run.load_tensors("inherited")
    if asked["inherit"] and weights is None:
        raise RunError(f"{run.path} was stopped before its inherited weights were written; start the training again")
    network = train_network(architecture, data, phase, recipe, run, None if weights is None else weights[0])
    test_accuracy, doubts = tested(network, data)
    outputs = write_network(network, architecture, data, run)
    result = {
        **_header(run),
        "data": describe_data(data),
        "doubts": doubts,
        "fitted": run.config.get("fitted", ""),
        "chosen": {"sites": architecture.to_json()["sites"], "test_accuracy": test_accuracy},
        "inherited": weights is not None,
        "outputs": outputs,
        "seconds": run.seconds(),
    }
    run.write_json("result.json", result)
    run.event("finished", test_accuracy=test_accuracy)


def tested(network: nn.Module, data: ImageData) -> tuple[float, list[str]]:
    """Test accuracy, and what is doubtful in it."""
    named, labels = predictions(network, data.test, data).numpy(), data.test.labels.numpy()
    return float((named == labels).mean()), of_predictions(named, labels, data.classes)


def train_network(
    architecture: Architecture,
    data: ImageData,
    phase: Phase,
    recipe: Recipe,
    run: RunFolder,
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """The stand-alone network, trained on training and validation images, from scratch or from given weights.

    Batch-norm statistics are re-estimated in the end: the running ones are those of augmented images, and after few steps
    those of a network that is no more.
    """
    seed = run.config["seed"]
    with seeded(seed, "network"):
        network = architecture.build()
    if weights is not None:
        network.load_state_dict(dict(weights))
    images = joined(data.train, data.val)

    def finish(model: nn.Module) -> None:
        chosen = torch.randperm(len(images), generator=torch_generator(seed, "statistics"))[:CALIBRATION_IMAGES]
        device = next(model.parameters()).device
        batches = chosen.tensor_split(-(-len(chosen) // at_once(data.input_size)))  # of about equal size
        calibrate(model, (normalise(images.images.fetch(b), data, device) for b in batches))

    fit(network, images, data, phase, recipe, seed=seed, run=run, finish=finish)
    return network.cpu().eval()


def inherited_weights(run: RunFolder, architecture: Architecture, data: ImageData, recipe: Recipe) -> dict[str, Tensor]:
    """The weights an architecture has in the last supernet of a run, batch-norm statistics re-estimated."""
    found = run.load_tensors("found")
    if found is not None:  # written by the search itself
        if architecture != Architecture.load(run.path / "best.json", architecture.skeleton.space()):  # type: ignore[attr-defined]
            raise RunError(f"{run.path} holds the weights of its chosen network only; leave --inherit out")
        return found[0]
    if run.config["method"] not in METHODS or not METHODS[run.config["method"]].inherits:
        raise RunError(
            f"{run.path} was searched by '{run.config['method']}' in a smaller network than the one it found: there are no "
            "weights to inherit; leave --inherit out"
        )
    supernet = last_supernet(run, architecture.skeleton.space())  # type: ignore[attr-defined] # chains have one
    if supernet is None:
        raise RunError(f"{run.path} has no finished supernet; name the run of a finished search")
    network = supernet.subnet(architecture)
    images, batch = run.config["config"]["calibration_images"], batch_for(supernet.space)
    batches = calibration_indices(data, run.config["seed"], images, batch)
    calibrate(network, [normalise(data.train.images.fetch(i), data, torch.device("cpu")) for i in batches])
    return dict(network.state_dict())


def last_supernet(run: RunFolder, space: SearchSpace) -> Any | None:
    """The supernet that chose in a finished search by single paths, which holds all networks of its own space.

    Its space is what the last pruning left; `space`: the one that was searched. None for other methods, and where the
    search has not finished.
    """
    if run.config["method"] not in METHODS or not METHODS[run.config["method"]].inherits:
        return None
    names = sorted((p.stem for p in (run.path / "checkpoint").glob("train*.safetensors")), key=lambda n: int(n[5:]))
    result = run.read_json("result.json")
    loaded = run.load_tensors(names[-1]) if names else None
    if loaded is None or result is None or "stages" not in result:
        return None
    kept = result["stages"][-1]["kept"] if result["stages"] else run.config["space"]["options"]
    supernet: Any = space.restrict(kept).supernet()
    supernet.load_state_dict({k[6:]: v for k, v in loaded[0].items() if k.startswith("model.")})
    return supernet


def write_network(
    network: nn.Module, architecture: Architecture, data: ImageData, run: RunFolder
) -> dict[str, dict[str, Any]]:
    """best.safetensors and best.onnx; what was written, with the measured parity."""
    metadata = network_metadata(architecture, data)
    save_weights(network, run, metadata)
    images = normalise(data.test.images.fetch(torch.arange(min(PARITY_IMAGES, len(data.test)))), data, torch.device("cpu"))
    written = export(network, images, run.path / "best.onnx", "onnx", metadata)
    return {"onnx": {"file": "best.onnx", "largest_difference": written.largest_difference}}


def network_metadata(architecture: Architecture, data: ImageData) -> dict[str, str]:
    """What a trained network's file says of itself: enough to be used alone."""
    values = {
        "architecture": architecture.to_json(),
        "classes": list(data.classes),
        "mean": list(data.mean),
        "std": list(data.std),
        "input_size": list(data.input_size),
    }
    return {"hiernas": VERSION, **{k: json.dumps(v) for k, v in values.items()}}


def save_weights(network: nn.Module, run: RunFolder, metadata: Mapping[str, str]) -> None:
    """best.safetensors: the state dict of `Architecture.load("best.json").build()`."""
    from safetensors.torch import save

    data = save({k: v.contiguous() for k, v in network.state_dict().items()}, dict(metadata))
    run.write_bytes("best.safetensors", data)


def meter(run: RunFolder, table: Any) -> Any | None:
    """What measures whole networks: the runtime of the latency table or, without a table, the one that was asked for.

    None where it is not here: another device's table, a package that is missing, more threads than cores.
    """
    asked = run.config
    name, threads = (asked["runtime"], asked["threads"]) if table is None else (table.runtime, table.threads)
    try:
        runtime = make_runtime(name, threads)
    except LatencyError:
        return None
    return runtime if table is None or runtime.device == table.device else None


def measure_front(data: ImageData, run: RunFolder, latency: Any, found: Found) -> dict[str, Any]:
    """Whole-network latencies of the front and the chosen member, by their options; kept as they come in."""
    runtime = meter(run, latency)
    measured: dict[str, Any] = run.read_json("checkpoint/measured.json") or {}
    if runtime is None:
        return measured
    members = {",".join(rival.architecture.labels): rival.architecture for rival in found.rivals}
    members |= {",".join(c.options): found.space.architecture(c.options) for c in found.front if c != found.chosen}
    members[",".join(found.chosen.options)] = found.architecture
    for i, (key, architecture) in enumerate(members.items()):
        if key in measured:
            continue
        network = architecture.build()
        entry = runtime.measure(network, data.input_size, runs=MEASURED_RUNS, warmup=10)
        # like a table's entries, a network counts with the tenth percentile of its runs: see `latency.table`
        measured[key] = {"measured": entry.p10_ms, "median": entry.median_ms, "p10": entry.p10_ms, "p90": entry.p90_ms}
        run.write_json("checkpoint/measured.json", measured)
        run.event("measured", done=i + 1, total=len(members), latency_ms=entry.p10_ms)
    return measured


def _member(candidate: Candidate, measured: Mapping[str, Any]) -> dict[str, Any]:
    whole = measured.get(",".join(candidate.options), dict.fromkeys(("measured", "median", "p10", "p90")))
    return {
        "options": list(candidate.options),
        "val_accuracy": candidate.val_accuracy,
        "params": candidate.params,
        "macs": candidate.macs,
        "latency_ms": {"predicted": candidate.latency_ms, **whole},
    }


def _latency_error(found: Found, measured: Mapping[str, Any]) -> dict[str, Any] | None:
    pairs = [
        (c.latency_ms, measured[",".join(c.options)]["measured"])
        for c in {c.options: c for c in (*found.front, found.chosen)}.values()
        if c.latency_ms is not None and ",".join(c.options) in measured
    ]
    if not pairs:
        return None
    errors = np.array([100.0 * (predicted - real) / real for predicted, real in pairs])
    return {
        "mean_absolute_percent": float(np.abs(errors).mean()),
        "bias_percent": float(errors.mean()),
        "networks": len(pairs),
    }


def _header(run: RunFolder) -> dict[str, Any]:
    config = run.config
    return {
        "format": 1,
        "hiernas": VERSION,
        "method": config["method"],
        "preset": config["preset"],
        "seed": config["seed"],
    }


def describe_data(data: ImageData) -> dict[str, Any]:
    """The data as a result reports them."""
    sizes = {"train": len(data.train), "val": len(data.val), "test": len(data.test)}
    return {
        "name": data.name, "classes": list(data.classes), **sizes, "input_size": list(data.input_size),
        "notes": list(data.notes),
    }  # fmt: skip


def device_of(source: Any) -> dict[str, Any] | None:
    """Where latencies come from: a table's, or those that a runtime measures."""
    if source is None:
        return None
    runtime = source.runtime if hasattr(source, "runtime") else source.name
    return {"device": source.device, "runtime": runtime, **{k: getattr(source, k) for k in ("version", "threads", "batch")}}


def _arguments(architecture: Architecture) -> dict[str, Any]:
    return dict(architecture.to_json()["arguments"])


def _limit(limit: Any) -> dict[str, Any]:
    low = None if np.isinf(limit.low) else limit.low
    high = None if np.isinf(limit.high) else limit.high
    return {"metric": limit.metric, "low": low, "high": high, "text": str(limit)}

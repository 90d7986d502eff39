"""From what a search found to what a user takes home: trained, tested, measured, compared, exported, reported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from hiernas import ranks
from hiernas.budget import Limit
from hiernas.costs import MEMORY
from hiernas.costs.tables import cost, memory
from hiernas.data import ImageData, at_once, normalise
from hiernas.data.images import small_png
from hiernas.data.load import joined
from hiernas.errors import ExportError, LatencyError, LimitError, RunError
from hiernas.export import export
from hiernas.latency import BELONGS_TO
from hiernas.latency.calibrate import measured_whole
from hiernas.latency.runner import cpu_name
from hiernas.latency.runtimes import make_runtime
from hiernas.methods import METHODS
from hiernas.names import VERSION
from hiernas.problem import CALIBRATION_IMAGES, Candidate, Found, Start
from hiernas.randomness import seeded, torch_generator
from hiernas.report.page import result_of, write_report
from hiernas.report.trust import WORST, Evaluation, of_latency, of_ranking, of_test
from hiernas.run.folder import RunFolder
from hiernas.run.request import Prepared, in_short, retraining_of
from hiernas.run.trained import in_int8, read_weights
from hiernas.space import Architecture, SearchSpace
from hiernas.train.evaluate import batch_for, calibrate, calibration_indices
from hiernas.train.loop import accuracy, fit, logits
from hiernas.train.recipes import Phase, Recipe

PARITY_IMAGES = 16  # real test images that exported files are compared on
WAYS = ("fine_tuned", "from_scratch")  # in which networks are trained that are compared


class Latencies(TypedDict):
    """Of a whole network, in ms."""

    measured: float
    median: float
    p10: float
    p90: float


def complete(prepared: Prepared, run: RunFolder, found: Found) -> None:
    """Everything after the search: final training, whole-network latencies, files, result and report."""
    architecture, data, limits = found.architecture, prepared.data, prepared.limits
    needs = {options: memory(network.build, data.input_size).bytes for options, network in _networks(found).items()}
    _check_memory(needs[found.chosen.options], limits)
    run.write_json("best.json", architecture.to_json())
    network = _trained(prepared, run, "final", architecture, found.start)
    own = _taken_home(run, architecture, data, network, found.start is not None)
    int8, not_in_int8 = _in_int8(run, data, network) if prepared.int8 else ({}, [])
    meter = _meter(prepared)
    source = prepared.latency or meter  # of latencies: a table, or what measures them
    measured = _measured(run, data, meter, found)
    chosen = {**_member(found.chosen, measured, needs), **own["chosen"]}
    compared = _compared(prepared, run, found, chosen["test_accuracy"], measured)
    ranked = () if "control" in found.details else of_ranking(found.chosen.val_accuracy, data.val.labels.numpy())
    bounds = zip(run.config["limits"], limits, strict=True)
    result = {
        **own,
        "space": _in_short(found.space, architecture),
        "objective": prepared.config.objective,
        "limits": [{**values, "text": str(limit)} for values, limit in bounds],
        "automatic_limit": prepared.automatic_limit,
        "device": source and {k: prepared.runtime if k == "runtime" else getattr(source, k) for k in BELONGS_TO},
        "front": [_member(c, measured, needs) for c in found.front],
        "chosen": chosen,
        **({"compared": compared} if compared else {}),
        **int8,
        "latency_error": _latency_error(found, measured),
        "evaluated": len(run.table()) or len(found.candidates),
        "stages": [{**p.summary(), "sites": p.frequency} for p in found.prunings],
        "details": dict(found.details),
        "doubts": [*own["doubts"], *(found.doubts or ranked), *of_latency(chosen, limits), *not_in_int8, *prepared.doubts],
    }
    run.event("finished", test_accuracy=chosen["test_accuracy"])
    run.write_json("result.json", {**result, "seconds": run.seconds()})
    ranks.by_first(write_report)(run)


def train_only(run: RunFolder, data: ImageData) -> None:
    """The run of `hiernas train`: one architecture of the run's config, from scratch or from inherited weights."""
    asked, how = run.config["train"], retraining_of(run)
    told = {"data": in_short(data), "timed": run.config.get("timed")}
    run.event("start", plan={"final": 1.0}, run=str(run.path), limits=["none"], **told)
    architecture = Architecture.from_json(asked["architecture"], source=f"{run.path}/config.yaml")
    run.write_json("best.json", architecture.to_json())
    weights, _ = run.load_tensors("inherited") or (None, {})
    if asked["inherit"] and weights is None:
        raise RunError(f"{run.path} was stopped before its inherited weights were written; start the training again")
    network = train_network(architecture, data, Phase("final", how.epochs, how.lr), how.recipe, run, weights)
    result, counted = _taken_home(run, architecture, data, network, weights is not None), cost(architecture)
    chosen = {**{metric: getattr(counted, metric) for metric in ("params", "macs", *MEMORY)}, **result["chosen"]}
    space: SearchSpace = architecture.skeleton.space()  # type: ignore[attr-defined] # all of ours have one
    result |= {"space": _in_short(space, architecture), "chosen": chosen}
    run.event("finished", test_accuracy=chosen["test_accuracy"])
    run.write_json("result.json", {**result, "seconds": run.seconds()})
    ranks.by_first(write_report)(run)


def _in_short(space: SearchSpace, architecture: Architecture) -> dict[str, Any]:
    return {"name": space.name, "arguments": architecture.to_json()["arguments"], "size": space.size()}


# -- trained and tested ------------------------------------------------------------------------------------------------


def train_network(
    architecture: Architecture, data: ImageData, phase: Phase, recipe: Recipe, run: RunFolder,
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Module:  # fmt: skip
    """The stand-alone network, trained on training and validation images, from scratch or from given weights.

    Batch-norm statistics are re-estimated in the end: the running ones are those of augmented images, and after few steps
    those of a network that is no more.
    """
    seed = run.config["seed"]
    with seeded(seed, "network"):
        network = architecture.build()
    if weights is not None:
        with run.fitting("checkpoint/inherited.safetensors"):
            network.load_state_dict(dict(weights))
    images = joined(data.train, data.val)

    def finish(model: nn.Module) -> None:
        chosen = torch.randperm(len(images), generator=torch_generator(seed, "statistics"))[:CALIBRATION_IMAGES]
        device = next(model.parameters()).device
        batches = chosen.tensor_split(-(-len(chosen) // at_once(data.input_size)))  # of about equal size
        calibrate(model, (normalise(images.images.fetch(b), data, device) for b in batches))

    fit(network, images, data, phase, recipe, seed=seed, run=run, finish=finish)
    return network.cpu().eval()


def _trained(prepared: Prepared, run: RunFolder, phase: str, architecture: Architecture, start: Start | None) -> nn.Module:
    """A network after the final training: from a start, or from scratch."""
    final = prepared.final
    lr, weights = (final.lr, None) if start is None else (start.lr, start.weights)
    return train_network(architecture, prepared.data, Phase(phase, final.epochs, lr), final.recipe, run, weights)


@ranks.told
def _taken_home(
    run: RunFolder, architecture: Architecture, data: ImageData, network: nn.Module, inherited: bool
) -> dict[str, Any]:
    """Test the trained network and write its files: best.safetensors, the state dict of `Architecture.load("best.json")
    .build()`, and best.onnx. Returns what every result.json has."""
    from safetensors.torch import save

    said = logits(network, data.test, data)
    tested = Evaluation.of(data.classes, data.test.labels.numpy(), said.argmax(1).numpy())
    shown = {"classes": data.classes, "mean": data.mean, "std": data.std, "input_size": data.input_size}
    values = {"architecture": architecture.to_json(), **shown}  # enough for a file to be used alone
    metadata = {"hiernas": VERSION, **{k: json.dumps(v) for k, v in values.items()}}
    weights = {k: v.contiguous() for k, v in network.state_dict().items()}
    run.write_bytes("best.safetensors", save(weights, metadata))
    images = normalise(data.test.images.fetch(torch.arange(min(PARITY_IMAGES, len(data.test)))), data, torch.device("cpu"))
    written = export(network, images, run.path / "best.onnx", "onnx", metadata)
    run.record("best.onnx")
    return {
        "format": 1,
        "hiernas": VERSION,
        **{k: run.config[k] for k in ("method", "preset", "seed")},
        "data": in_short(data),
        "chosen": {"test_accuracy": tested.accuracy, "sites": architecture.to_json()["sites"]},
        "tested": {**tested.kept(), "worst": _worst(data, said)},
        "inherited": inherited,
        "environment": {"began": run.config.get("environment"), "ended": environment(run.config)},
        "doubts": of_test(tested),
        "fitted": run.config.get("fitted", ""),
        **{k: run.config[k] for k in ("timed", "corrected") if run.config.get(k)},
        "outputs": {"onnx": {"file": "best.onnx", "largest_difference": written.largest_difference}},
    }  # fmt: skip


@ranks.told
def _in_int8(run: RunFolder, data: ImageData, network: nn.Module) -> tuple[dict[str, Any], list[str]]:
    """The trained network in INT8, as best.int8.onnx: what that gains and loses, or a doubt where it cannot be had."""
    try:
        _, metadata = read_weights(run.path / "best.safetensors")
        return {"int8": in_int8(run, network, data, metadata, run.path / "best.int8.onnx")}, []
    except ExportError as error:
        return {}, [f"there is no network in INT8: {error}"]


def _worst(data: ImageData, logits: Tensor) -> list[dict[str, Any]]:
    """The test images that a network is wrong about and most sure of, each as a small PNG file in base64."""
    named, labels = logits.argmax(1), data.test.labels
    sure = logits.softmax(1).nan_to_num().gather(1, named[:, None])[:, 0]
    wrong = (named != labels).nonzero()[:, 0]
    found = []
    for row in wrong[sure[wrong].argsort(descending=True, stable=True)[:WORST]].tolist():
        pixels = data.test.images.fetch(torch.tensor([row]))[0]  # [C, H, W]
        true, taken = (data.classes[int(x[row])] for x in (labels, named))
        found.append({"row": row, "class": true, "named": taken, "probability": float(sure[row]), "png": small_png(pixels)})
    return found


# -- measured and compared ---------------------------------------------------------------------------------------------


def _meter(prepared: Prepared) -> Any | None:
    """What measures whole networks: the runtime of the latency table or, without a table, the one that was asked for.

    None where it is not here: another device's table, a package that is missing, more threads than cores.
    """
    try:
        runtime = make_runtime(prepared.runtime, prepared.threads)
    except LatencyError:
        return None
    return runtime if prepared.latency is None or runtime.device == prepared.latency.device else None


def _networks(found: Found) -> dict[tuple[str, ...], Architecture]:
    """The front's members by their options and, last, the chosen one."""
    others = {c.options: found.space.architecture(c.options) for c in found.front if c.options != found.chosen.options}
    return {**others, found.chosen.options: found.architecture}


def _check_memory(needed: Mapping[str, int], limits: Sequence[Limit]) -> None:
    """Raise `LimitError` where the chosen network as a whole needs more than was asked."""
    for limit in limits:
        if needed.get(limit.metric, 0) > limit.high:
            raise LimitError(
                f"the network that was found needs {limit.metric} {needed[limit.metric]:,}, and {limit} was asked; search "
                "again with another --seed, or widen the limit"
            )


@ranks.told
def _measured(run: RunFolder, data: ImageData, meter: Any | None, found: Found) -> dict[str, Any]:
    """Whole-network latencies of front, chosen member and rivals, by their options; kept as they come in."""
    measured: dict[str, Any] = run.read_json("checkpoint/measured.json", dict[str, Latencies]) or {}
    if meter is None:
        return measured
    members = {",".join(rival.architecture.labels): rival.architecture for rival in found.rivals}
    members |= {",".join(options): architecture for options, architecture in _networks(found).items()}
    left = {key: architecture.build for key, architecture in members.items() if key not in measured}
    for key, entry in measured_whole(left, data.input_size, meter):
        # like a table's entries, a network counts with the tenth percentile of its runs: see `hiernas.latency`
        measured[key] = {"measured": entry.p10_ms, "median": entry.median_ms, "p10": entry.p10_ms, "p90": entry.p90_ms}
        run.event("measured", done=len(measured), total=len(members), latency_ms=entry.p10_ms)
        run.write_json("checkpoint/measured.json", measured)
    return measured


def _member(candidate: Candidate, measured: Mapping[str, Any], needs: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    whole = measured.get(",".join(candidate.options), dict.fromkeys(Latencies.__annotations__))
    return {
        "options": list(candidate.options),
        "val_accuracy": None if isnan(candidate.val_accuracy) else candidate.val_accuracy,
        "params": candidate.params,
        "macs": candidate.macs,
        **needs[candidate.options],
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
    mean, bias = float(np.abs(errors).mean()), float(errors.mean())
    return {"mean_absolute_percent": mean, "bias_percent": bias, "networks": len(pairs)}


def _compared(
    prepared: Prepared, run: RunFolder, found: Found, test_accuracy: float, measured: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The rivals of a search, each trained in both ways; every accuracy is kept as it comes in.

    What the chosen network, the first of them, has been trained for already is taken over.
    """
    known: dict[str, float] = run.read_json("checkpoint/compared.json", dict[str, float]) or {}
    own = WAYS[0] if found.start is not None else WAYS[1]
    rows, trained = [], 0
    for i, rival in enumerate(found.rivals):
        reached = {own: test_accuracy} if i == 0 else {}
        for way in (way for way in WAYS if way not in reached):
            trained += 1
            phase = f"compare{trained}"
            if phase not in known:
                network = _trained(prepared, run, phase, rival.architecture, rival.start if way == WAYS[0] else None)
                known[phase] = accuracy(network, prepared.data.test, prepared.data)
                run.write_json("checkpoint/compared.json", known)
            reached[way] = known[phase]
        candidate, whole = rival.candidate, measured.get(",".join(rival.architecture.labels), {})
        rows.append({
            "name": rival.name, "sites": rival.architecture.to_json()["sites"], "untrained": candidate.val_accuracy,
            **{way: reached[way] for way in WAYS}, "params": candidate.params, "macs": candidate.macs,
            "latency_ms": {"predicted": candidate.latency_ms, "measured": whole.get("measured")},
        })  # fmt: skip
    return rows


# -- weights of a search's last supernet -------------------------------------------------------------------------------


@ranks.told
def inherited_weights(run: RunFolder, architecture: Architecture, data: ImageData) -> dict[str, Tensor]:
    """The weights an architecture has in the last supernet of a run, batch-norm statistics re-estimated."""
    space: SearchSpace = architecture.skeleton.space()  # type: ignore[attr-defined] # all of ours have one
    found = run.load_tensors("found")
    if found is not None:  # written by the search itself
        run.check("best.json")
        if architecture != Architecture.load(run.path / "best.json", space):
            raise RunError(f"{run.path} holds the weights of its chosen network only; leave --inherit out")
        return found[0]
    if not _inherits(run):
        raise RunError(
            f"{run.path} was searched by '{run.config['method']}' in a smaller network than the one it found: there are no "
            "weights to inherit; leave --inherit out"
        )
    supernet = last_supernet(run, space)
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
    names = sorted((p.stem for p in (run.path / "checkpoint").glob("train*.safetensors")), key=lambda n: int(n[5:]))
    loaded = run.load_tensors(names[-1]) if names and _inherits(run) else None
    result = result_of(run) or {}
    if loaded is None or "stages" not in result:
        return None
    kept = result["stages"][-1]["kept"] if result["stages"] else run.config["space"]["options"]
    supernet: Any = space.restrict(kept).supernet()
    with run.fitting(f"checkpoint/{names[-1]}.safetensors"):
        supernet.load_state_dict({k[6:]: v for k, v in loaded[0].items() if k.startswith("model.")})
    return supernet


def _inherits(run: RunFolder) -> bool:
    method = METHODS.get(run.config["method"])
    return method is not None and method.inherits


# -- what the bits of a run depend on beside what was asked: versions, processes, threads and device ---------------------


def environment(config: Mapping[str, Any]) -> dict[str, Any]:
    """This process', for a run of this configuration: a GPU counts where a training may use it."""
    device = cpu_name()
    if torch.cuda.is_available() and set(_accelerators(config)) != {"cpu"}:
        device = f"{torch.cuda.get_device_name()}, {device}"
    processes, threads = ranks.started(), torch.get_num_threads()
    return {"hiernas": VERSION, "torch": str(torch.__version__), "processes": processes, "threads": threads, "device": device}


def _accelerators(config: Mapping[str, Any]) -> list[Any]:
    own = [config["accelerator"]] if "accelerator" in config else []
    return own + [name for value in config.values() if isinstance(value, Mapping) for name in _accelerators(value)]


def tell_changes(run: RunFolder) -> None:
    """An event where a run goes on under another environment than it began under."""
    began, now = run.config.get("environment", {}), environment(run.config)
    changed = [f"{name} {began[name]} -> {now[name]}" for name in now if name in began and began[name] != now[name]]
    if changed:
        run.event("environment", changed=", ".join(changed))

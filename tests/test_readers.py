"""Files from elsewhere: whatever they hold, every reader takes it or says in a sentence what is wrong, at once."""

from __future__ import annotations

import copy
import json
import random
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from hiernas.errors import HiernasError
from hiernas.latency import Entry, LatencyTable, load_table
from hiernas.latency.measure import fingerprint, plan_of
from hiernas.latency.pack import import_measurement
from hiernas.latency.runner import RESULT_KIND, CannotMeasure, read_manifest
from hiernas.networks.genotype import read_genotype
from hiernas.report import kit
from hiernas.run.folder import RunFolder
from hiernas.run.request import Request, prepare, restore
from hiernas.run.search import make_problem
from hiernas.run.settings import sealed
from hiernas.run.study import Study, begin, entries_of
from hiernas.run.trained import load_network
from hiernas.search.evolution import evolve
from hiernas.space import Architecture
from hiernas.spaces import darts, hdas_stages, tiny
from hiernas.train.loop import _optimizer, _restore
from hiernas.train.recipes import Phase, Recipe
from report import report_runs
from toy import RUN, toy_space

TRIES = 50  # of each kind
SECONDS = 5.0  # for one file, at most
ODD = (
    None, True, -1, 0, 3.5, 10**9, 10**30, float("nan"), float("inf"), "", "x", "5", "\x1b[2J\n", "../x", [], {}, [[]],
    ["x", 1], {"x": {}}, {"": None},
)  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON value with every key of it."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def mutated(value: Any, rng: random.Random) -> Any:
    """One to three places replaced, dropped, doubled or renamed."""
    changed = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        spots = list(places(changed))
        if not spots:
            break
        holder, key = rng.choice(spots)
        how = rng.randrange(4)
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[rng.choice(["x", "", "é\u202e", "constructor"])] = holder.pop(key)
        elif how == 2 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
    return changed


def damaged(text: str, rng: random.Random) -> str:
    """The text cut off, with a character changed, or nested beyond all reason."""
    at = rng.randrange(len(text))
    return rng.choice([text[:at], text[:at] + rng.choice('{}[]",:&*!0\x00é') + text[at + 1 :], text[:at] + "[" * 100_000])


def architectures(folder: Path) -> Any:
    kinds = [space().sample(np.random.default_rng(0)).to_json() for space in (tiny, darts, hdas_stages)]
    return [{**kind, "arguments": json.loads(json.dumps(kind["arguments"]))} for kind in kinds]


def read_architecture(path: Path) -> None:
    Architecture.load(path)


def table(folder: Path) -> Any:
    LatencyTable("cpu", "onnxruntime", "1", 1, 1, 0.1, {"a": Entry(2.0, 1.0, 3.0, 45)}).save(folder / "t.json")
    return [json.loads((folder / "t.json").read_text())]


def phone(folder: Path) -> Any:
    return [{"Conv-input:1": {"count": 3, "mean": 1.5}, "Logits-input:2": {"count": 3, "mean": 1.5}}]


def manifest(folder: Path) -> Any:
    (folder / "operations").mkdir()
    (folder / "operations" / "0000.onnx").write_bytes(b"")
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of nothing
    probe = {"key": "k", "file": "operations/0000.onnx", "shape": [1, 1, 8, 8], "bytes": 9, "sha256": digest}
    kind = re.search(r'MANIFEST_KIND = "(.*)"', Path(read_manifest.__code__.co_filename).read_text())
    assert kind is not None
    batches = [{"runs": 45, "warmup": 3, "probes": [probe]}]
    return [{"kind": kind[1], "hiernas": "1", "space": "tiny", "plan": "p", "batch": 1, "batches": batches}]


def study(folder: Path) -> Any:
    shared = {"settings": [], "data": "digits"}
    begin(folder / "s", entries_of("random,plain"), ["params<=60k"], 2, shared)
    return [yaml.safe_load((folder / "s" / "study.yaml").read_text())]


def read_study(path: Path) -> None:
    list(Study.open(path.parent).jobs())


def measured(folder: Path) -> Any:
    plan = plan_of(toy_space(), with_edges=True)
    row = {"median_ms": 2.0, "p10_ms": 1.0, "p90_ms": 3.0, "runs": 45}
    entries = {p.key: {**row, "shape": [1, *p.input_size]} for p in plan.probes().values()}
    header = {"kind": RESULT_KIND, "hiernas": "1", "space": "toy", "plan": fingerprint(plan), "manifest": "m"}
    return [{**header, "device": "cpu", "runtime": "onnxruntime", "version": "1", "threads": 1, "batch": 1, "entries": entries}]


def result(folder: Path) -> Any:
    value = report_runs.result(tiny(), members=2, stages=1)
    report_runs.write(folder, value, report_runs.events({"train1": 2, "final": 2}))
    return [json.loads(json.dumps(value))]


def int8(folder: Path) -> Any:
    result(folder)
    file = {"accuracy": 0.9, "bytes": 1000, "latency_ms": {"median": 1.0, "p10": 0.9, "p90": 1.2}}
    about = {"test_images": 10, "calibration_images": 5, "device": "cpu", "version": "1", "threads": 1}
    return [{"format": 1, "file": "best.int8.onnx", "fp32": file, "int8": file, **about}]


def reset(folder: Path) -> Any:
    result(folder)
    return [report_runs.reset({"stage1.block1": True, "stage1.block2": False})]


def events(folder: Path) -> Any:
    result(folder)
    return [[json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]]


def told(path: Path) -> None:
    value = report_runs.report(path.parent)
    assert value.stat().st_size < 10**6


READERS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], object], Callable[[Any], str]]] = {
    "architecture.json": (architectures, read_architecture, json.dumps),
    "genotype.json": (lambda _: [darts().skeleton.genotype(darts().sample(np.random.default_rng(0))).to_json()],
                      lambda p: read_genotype(p.read_text()), json.dumps),
    "table.json": (table, load_table, json.dumps),
    "phone.yaml": (phone, load_table, yaml.safe_dump),
    "manifest.json": (manifest, lambda p: read_manifest(p.parent), json.dumps),
    "study.yaml": (study, read_study, yaml.safe_dump),
    "result.json": (result, told, json.dumps),
    "int8.json": (int8, told, json.dumps),
    "vital.json": (reset, told, json.dumps),
    "events.jsonl": (events, told, lambda lines: "\n".join(map(json.dumps, lines)) if isinstance(lines, list) else "[]"),
    "measured.json": (measured, lambda p: import_measurement(toy_space(), p), json.dumps),
}  # fmt: skip


def one_sentence(read: Callable[[], object], shown: object) -> str:
    """What reading says, or ""; anything but our own errors is a failure, and so is a long wait."""
    began, said = time.monotonic(), ""
    try:
        read()
    except (HiernasError, CannotMeasure) as error:
        said = str(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} for {shown!r:.2000}") from error
    assert time.monotonic() - began < SECONDS, f"{shown!r:.2000}"
    assert len(said) < 2000, said
    return said


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # figures of numbers that are none
@pytest.mark.parametrize("name", READERS)
def test_whatever_a_file_holds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, read, write = READERS[name]
    if name == "int8.json":  # no figure shows what it holds
        monkeypatch.setattr(kit, "draw", lambda *_, **__: "")
    rng, values, path, said = random.Random(name), make(tmp_path), tmp_path / name, 0
    for value in values:
        path.write_text(write(value))
        assert one_sentence(lambda: read(path), value) == ""
    tries = TRIES // 4 if read is told else TRIES  # pages take their time
    for i in range(tries):
        value = rng.choice(values)
        text = damaged(write(value), rng) if i % 5 == 0 else write(mutated(value, rng))
        path.write_bytes(text.encode(errors="surrogatepass"))
        sentence = one_sentence(lambda: read(path), text)
        said += sentence != ""
        assert not sentence or name in sentence or "0000.onnx was changed" in sentence or name == "genotype.json"  # a text
    assert said > (0 if read is told else tries / 5)


def test_references_in_yaml_are_refused_at_once(tmp_path: Path) -> None:
    """Twelve lines that stand for 10 ** 12 numbers."""
    lines = ["x0: &x0 [1]", *(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, 13))]
    lines += ["seeds: *x12", "seed: *x12"]
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study(tmp_path)[0]) + "\n".join(lines))
    assert "study.yaml is damaged (it has references" in one_sentence(lambda: read_study(path), lines)
    run = RunFolder.create(tmp_path / "r", {**RUN, "limits": [bound := {"metric": "macs"}, bound]})  # written without any
    assert RunFolder.open(run.path).config == run.config
    (run.path / "config.yaml").write_text(sealed(yaml.safe_dump(RUN) + "\n".join(lines)))
    assert "config.yaml is damaged" in one_sentence(lambda: RunFolder.open(run.path), lines)


@pytest.mark.parametrize(
    ("space", "arguments"),
    [
        ("darts", {"cells": 10**9}), ("darts", {"channels": 10**9}), ("hdas_stages", {"cells": 10**9 + 1}),
        ("hdas_stages", {"cells": [10**9, 2, 2]}), ("hdas_stages", {"window": 10**9}), ("tiny", {"num_classes": 10**9}),
        ("tiny", {"input_size": [3, 10**9, 8]}), ("fbnet", {"head": 10**9}), ("darts", {"cells": "20"}),
        ("darts", {"cells": True}),
        ("hdas_stages", {"cell": "Genotype(normal=[('none', 0)], normal_concat=range(0, 10**9))"}),
        ("hdas_stages", {"cell": "Genotype(normal=[('none', 0)], normal_concat=range(1000000000))"}),
    ],
)  # fmt: skip
def test_sizes_without_reason_are_refused_at_once(space: str, arguments: dict[str, Any]) -> None:
    value = {"format": 1, "space": space, "arguments": arguments, "sites": {}}
    said = one_sentence(lambda: Architecture.from_json(value), value)
    assert said
    assert "sites, but 0 choices" not in said


def test_whatever_config_yaml_holds(tmp_path: Path) -> None:
    """Sealed, as one who means harm would do."""
    prepared = prepare(Request("random-search", limits=["params<=100k"], settings=["objective=params"]))
    run = RunFolder.create(tmp_path / "r", prepared.to_dict())
    run.close()
    config, file, rng = dict(run.config), tmp_path / "r" / "config.yaml", random.Random(0)

    def said(value: Any) -> str:
        file.write_text(sealed(yaml.safe_dump(value, sort_keys=False)))
        return one_sentence(lambda: restore(RunFolder.open(tmp_path / "r"), data=prepared.data), value)

    assert said(config) == ""
    refused = sum(said(mutated(config, rng)) != "" for _ in range(TRIES))
    assert refused > TRIES / 4
    for key, value in {"seed": "x", "threads": "1", "preset": 3, "automatic_limit": "no", "runtime": [], "fitted": 1}.items():
        assert re.search(rf"config\.yaml is damaged: {key}: .*got", said({**config, key: value}))
    wrong = {**config, "config": {**config["config"], "final_epochs": "7"}}
    assert re.search(r"config\.yaml is damaged .*final_epochs: ", said(wrong))


def test_whatever_the_header_of_weights_holds(tmp_path: Path) -> None:
    architecture, path, rng = next(iter(tiny())), tmp_path / "w.safetensors", random.Random(0)
    save_file({k: v.contiguous() for k, v in architecture.build().state_dict().items()}, path, {"hiernas": "1"})
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    for i in range(TRIES):
        text = json.dumps(mutated(header, rng)) if i % 5 else damaged(json.dumps(header), rng)
        raw = text.encode()
        path.write_bytes(struct.pack("<Q", len(raw) if i % 7 else 2**62) + raw + rest)
        one_sentence(lambda: load_network(architecture, path), text)


@pytest.mark.parametrize("algorithm", ["ces", "spos", "random"])
def test_whatever_the_checkpoint_of_an_evolution_holds(algorithm: str, tmp_path: Path) -> None:
    """With the right checksum, as one who means harm would do."""
    run, rng, name = RunFolder.create(tmp_path / "r", RUN), random.Random(algorithm), "checkpoint/evolve1.json"
    space = tiny()

    def go() -> None:
        problem = make_problem(space, None, (), None, run, 0)  # type: ignore[arg-type] # without data
        config = SimpleNamespace(evolution=algorithm, population=6, generations=2, objective="macs")
        evolve(space, lambda found: [0.5] * len(found), problem, "evolve1", config)

    go()
    whole, said = json.loads((run.path / name).read_text()), 0
    for i in range(TRIES):
        text = json.dumps(mutated(whole, rng)) if i % 5 else damaged(json.dumps(whole), rng)
        run.write_bytes(name, text.encode(errors="surrogatepass"))
        sentence = one_sentence(go, text)
        said += sentence != ""
        assert not sentence or f"{name} is damaged" in sentence
    assert said > TRIES / 4


def test_whatever_the_checkpoint_of_a_training_holds(tmp_path: Path) -> None:
    run, rng, phase, recipe = RunFolder.create(tmp_path / "r", RUN), random.Random(0), Phase("train1", 3, 0.1), Recipe()
    model = torch.nn.Linear(2, 3)
    tensors = {**{f"model.{k}": v for k, v in model.state_dict().items()}, "momentum.weight": torch.ones(3, 2)}
    whole, said = {"epoch": 1, "step": 2, "loss": 0.5, "correct": 3, "images": 4, "epochs": 3}, 0
    for _ in range(TRIES):
        values = dict(tensors)
        if rng.random() < 0.5:
            values[rng.choice(list(values))] = torch.ones(rng.choice([(), (2,), (3, 2), (0, 5)]))
        position = mutated(whole, rng)
        run.save_tensors("train1", values, position)
        sentence = one_sentence(lambda: _restore(model, _optimizer(model, phase, recipe), phase, run, None, None), position)
        said += sentence != ""
        assert not sentence or "checkpoint/train1.safetensors" in sentence
    assert said > TRIES / 4

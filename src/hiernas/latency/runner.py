#!/usr/bin/env python3
"""Measure the operations of this folder on this device, for HierNAS.

    python measure.py [--threads 1] [--out measured.json] [--device NAME]

Needs Python 3.8 or newer, onnxruntime and numpy; nothing else. Prints the measurement as JSON, or writes it to
--out. What was measured is saved every few operations: after an interruption, the same command goes on. Bring the
file back and read it with `hiernas measure SPACE --import FILE`.

Let the device idle meanwhile, plugged in and at its usual clock.
"""

# Within HierNAS this file is `hiernas.latency.runner`, which times everything else too; a pack holds it as `measure.py`.
# It therefore imports nothing of HierNAS and keeps to what Python 3.8 knows.

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    TimedCall = Callable[[], float]  # runs a module once and returns the milliseconds it took
    Row = dict[str, Any]

MANIFEST_KIND = "hiernas latency pack, format 1"
RESULT_KIND = "hiernas latency measurement, format 1"
SAME = ("manifest", "plan", "device", "runtime", "version", "threads", "batch")  # of a measurement that is gone on with

ENOUGH_MS = 30.0  # a short operation is repeated until it ran this long in total,
MOST_RUNS = 200  # or this often
IN_TURN = 4  # operations that are measured by turns
PASSES = 3  # times that the operations which are loaded together are gone through
LOOKS = 2  # times that this is done, see `by_looks`
HELD = 8  # batches of operations that stay loaded for their second look, at most
MOST_THREADS = 128  # of all that is loaded at a time: so many operations, or fewer of several threads each
MOST_BYTES = 2**30  # of weights, inputs and activations that are loaded at a time


class CannotMeasure(Exception):
    """Why this folder cannot be measured here, in one sentence."""


# -- timing ------------------------------------------------------------------------------------------------------


def by_turns(calls: Sequence[TimedCall], runs: int, warmup: int, in_turn: int = IN_TURN) -> list[Row]:
    """Latencies of several modules, measured four by four (or `in_turn`) in turn, and all of them in three passes.

    Within a network an operation finds caches that other operations have used: alone in a burst it would be
    too fast, and between too many others too slow. The passes spread the runs of a module over a longer time,
    so that a busy neighbour disturbs a part of them only; the tenth percentile then is the undisturbed latency.
    """
    groups = [calls[i : i + in_turn] for i in range(0, len(calls), in_turn)]
    samples: list[list[list[float]]] = [[] for _ in groups]
    rounds = []
    for group in groups:
        warm = np.array([[call() for call in group] for _ in range(max(1, warmup))])
        ms = max(float(warm.min(axis=0).mean()), 1e-6)
        rounds.append(max(1, runs, min(MOST_RUNS, math.ceil(ENOUGH_MS / ms))))
    for _ in range(PASSES):
        for i, group in enumerate(groups):
            samples[i] += [[call() for call in group] for _ in range(-(-rounds[i] // PASSES))]
    return [_row(column) for rows in samples for column in np.array(rows).T]


def _row(samples: np.ndarray) -> Row:
    p10, median, p90 = np.percentile(samples, (10, 50, 90))
    return {"median_ms": float(median), "p10_ms": float(p10), "p90_ms": float(p90), "runs": len(samples)}


def share(taken: int, threads: int) -> float:
    """What an operation of so many bytes and threads takes of all that may be loaded at a time."""
    return max(threads / MOST_THREADS, taken / MOST_BYTES)


def together(shares: Sequence[float], most: int, least: int = 1) -> list[range]:
    """Consecutive items in groups of up to `most` whose shares add up to 1 at most, or else of `least`."""
    groups, start = [], 0
    for i in range(1, len(shares) + 1):
        full = i - start == most or (i - start >= least and sum(shares[start : i + 1]) > 1)
        if full or i == len(shares):
            groups.append(range(start, i))
            start = i
    return groups


class Batch(NamedTuple):
    """Modules that are measured by turns."""

    loaders: Mapping[str, Callable[[], TimedCall]]  # by key
    runs: int
    warmup: int
    share: float  # of all that may be loaded at a time


def by_looks(
    batches: Sequence[Batch], in_turn: int = IN_TURN, looks: int = LOOKS, apart: float = 0.0
) -> Iterator[dict[str, Row]]:
    """The latencies of one batch after the other, by key; those that fit stay loaded, and are measured once, then again.

    Looks at a batch are at least `apart` seconds from each other: a busy second or two spoils one of them only, and the lowest
    latency counts.
    """
    for held in together([batch.share for batch in batches], HELD):
        calls: dict[str, TimedCall] = {}
        found: dict[str, Row] = {}
        over: dict[int, float] = {}  # when the last look at each ended
        for look in range(looks):
            for at in held:
                batch = batches[at]
                if look == 0:
                    calls.update({key: load() for key, load in batch.loaders.items()})
                time.sleep(max(0.0, over.get(at, 0.0) + apart - time.monotonic()))
                rows = by_turns([calls[key] for key in batch.loaders], batch.runs, batch.warmup, in_turn)
                for i, key in enumerate(batch.loaders):
                    if key not in found or rows[i]["p10_ms"] < found[key]["p10_ms"]:
                        found[key] = rows[i]
                over[at] = time.monotonic()
                yield {key: found[key] for key in batch.loaders}


def timed(function: Callable[[], object], *held: object) -> TimedCall:
    """A call that runs a function once and returns the milliseconds; `held` are objects that must live as long as it."""

    def call(held: object = held) -> float:
        start = time.perf_counter()
        function()
        return (time.perf_counter() - start) * 1e3

    return call


def onnx_session(model: Any, threads: int = 0) -> Any:
    """A session of ONNX Runtime on the CPU, with all graph optimisations; 0 threads: as many as there are cores."""
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def load_onnx(model: Any, x: np.ndarray, threads: int) -> tuple[TimedCall, np.ndarray]:
    """An ONNX file for one input, which stays with the output in buffers bound beforehand: the call and what it computes."""
    ort, session = load_onnxruntime(), onnx_session(model, threads)
    name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    value = session.run([output], {name: x})[0]
    buffers = ort.OrtValue.ortvalue_from_numpy(x), ort.OrtValue.ortvalue_from_numpy(value.copy())
    binding = session.io_binding()
    binding.bind_ortvalue_input(name, buffers[0])
    binding.bind_ortvalue_output(output, buffers[1])
    return timed(partial(session.run_with_iobinding, binding), buffers), value  # the session does not keep them alive


def load_onnxruntime(part: str = "") -> Any:
    """The package `onnxruntime`, or a part of it, its telemetry off: from 1.29 on it reports a process' sessions by itself."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when it is loaded; the call alone would let a first event pass
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return importlib.import_module("onnxruntime." + part) if part else onnxruntime


def cpu_name() -> str:
    """The processor's name as the system gives it; of a board without one, the board's."""
    path = Path("/proc/cpuinfo")
    pairs = [line.partition(":") for line in (path.read_text().splitlines() if path.exists() else [])]
    for names in (["model name"], ["Model", "Hardware"]):
        for key, _, value in pairs:
            if key.strip() in names and value.strip():
                return value.strip()
    try:
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]  # macOS
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        found = ""
    return found or platform.processor() or platform.machine() or "unknown processor"


# -- a pack ------------------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> tuple[Row, str]:
    """The manifest of a pack and its SHA-256; every file is checked against it. Raises `CannotMeasure`."""
    path = folder / "manifest.json"
    try:
        text = path.read_bytes()
        manifest = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise CannotMeasure(f"cannot read {path} ({error}); make the pack again: hiernas measure SPACE --pack DIR") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != MANIFEST_KIND:
        raise CannotMeasure(f"{path} is not a manifest of this version; take measure.py and manifest.json from one pack")
    try:
        for probe in _probes(path, manifest):
            if not re.fullmatch(r"operations/\w+\.onnx", probe["file"]):
                raise CannotMeasure(f"{path} names {probe['file']!r}, which is no file of a pack; make the pack again")
            found = hashlib.sha256((folder / probe["file"]).read_bytes()).hexdigest()
            if found != probe["sha256"]:
                raise CannotMeasure(f"{folder / probe['file']} was changed or damaged on the way; copy the pack again")
    except OSError as error:
        raise CannotMeasure(f"the pack is not whole: {probe['file']}: {error.strerror}; copy it again") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise CannotMeasure(f"{path} is damaged ({error!r}); make the pack again") from error
    return manifest, hashlib.sha256(text).hexdigest()


def _probes(path: Path, manifest: Row) -> list[Row]:
    """What a manifest lists, each of the right kind."""
    _check(path, manifest, hiernas=str, space=str, plan=str, batch=int, batches=list)
    probes = []
    for batch in manifest["batches"]:
        _check(path, batch, runs=int, warmup=int, probes=list)
        for probe in batch["probes"]:
            _check(path, {"bytes": 0, **probe}, key=str, file=str, sha256=str, shape=list, bytes=int)
            if not all(type(n) is int and 0 < n < 2**16 for n in probe["shape"]):
                raise CannotMeasure(f"{path} is damaged (shape: {probe['shape']!r:.80}); make the pack again")
            probes.append(probe)
    return probes


def _check(path: Path, value: Row, **kinds: type) -> None:
    for name, kind in kinds.items():
        if type(value[name]) is not kind or (kind is int and not 0 <= value[name] < 2**40):
            raise CannotMeasure(f"{path} is damaged ({name}: {value[name]!r:.80}); make the pack again")


def measure(folder: Path, header: Row, manifest: Row, path: Path) -> Row:
    """Measure what the file at `path` does not hold yet, saving as it goes; returns the whole measurement."""
    result = begun(path, header)
    entries, threads = result["entries"], header["threads"]
    shapes = {p["key"]: p["shape"] for b in manifest["batches"] for p in b["probes"]}
    batches = []
    for listed in manifest["batches"]:
        if probes := [p for p in listed["probes"] if p["key"] not in entries]:
            loaders = {p["key"]: partial(_call, folder, p, threads) for p in probes}
            taken = sum(share(p.get("bytes", 0), threads) for p in probes)
            batches.append(Batch(loaders, listed["runs"], listed["warmup"], taken))
    for found in by_looks(batches):
        again = ", again" if entries.keys() >= found.keys() else ""
        entries.update({key: {**row, "shape": shapes[key]} for key, row in found.items()})
        write(path, result)
        print(f"measured {len(entries)} of {len(shapes)}{again}", file=sys.stderr)
    return result


def begun(path: Path, header: Row) -> Row:
    """The measurement at a path, or a new one. Raises `CannotMeasure` where it is of something else."""
    if not path.exists():
        return {**header, "entries": {}}
    try:
        result = json.loads(path.read_text())
        usable = result["kind"] == RESULT_KIND and isinstance(result["entries"], dict)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        usable = False
    if not usable:
        raise CannotMeasure(f"{path} exists and is no measurement of a pack; name another file with --out")
    for name in SAME:
        if result.get(name) != header[name]:
            raise CannotMeasure(
                f"{path} was begun with {name} '{result.get(name)}', and this is '{header[name]}'; name another file with --out"
            )
    return dict(result)


def _call(folder: Path, probe: Row, threads: int) -> TimedCall:
    x = np.random.default_rng(0).standard_normal(tuple(probe["shape"]), dtype=np.float32)
    try:
        return load_onnx(str(folder / probe["file"]), x, threads)[0]
    except Exception as error:  # ONNX Runtime has no base class for its errors
        raise CannotMeasure(f"ONNX Runtime cannot run {probe['file']} ({probe['key']}): {error}") from error


def write(path: Path, value: Row) -> None:
    """Write JSON at once: the file is whole, or as it was before."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        unfinished.write_text(json.dumps(value, indent=1) + "\n")
        os.replace(str(unfinished), str(path))
    except BaseException:
        if unfinished.exists():
            unfinished.unlink()
        raise


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime (default 1)")
    parser.add_argument("--out", type=Path, help="file to write; without it the measurement is printed")
    parser.add_argument("--device", help="name of this device (default: the processor's)")
    asked = parser.parse_args(arguments)
    folder = Path(__file__).resolve().parent
    path = asked.out or folder / f"unfinished-{asked.threads}-threads.json"
    try:
        result = _measured(folder, asked, path)
    except (CannotMeasure, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; what was measured is in {path}, and the same command goes on", file=sys.stderr)
        return 130
    if asked.out is None:
        print(json.dumps(result, indent=1))
        path.unlink()
    return 0


def _measured(folder: Path, asked: argparse.Namespace, path: Path) -> Row:
    try:
        onnxruntime = load_onnxruntime()
    except ImportError as error:
        raise CannotMeasure("onnxruntime is not installed here; install it: pip install onnxruntime numpy") from error
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= asked.threads <= cores:
        raise CannotMeasure(f"--threads is {asked.threads}, and this device has {cores} cores; give 1 to {cores}")
    manifest, digest = read_manifest(folder)
    header = {
        "kind": RESULT_KIND, "hiernas": manifest["hiernas"], "space": manifest["space"], "plan": manifest["plan"],
        "manifest": digest, "device": asked.device or cpu_name(), "runtime": "onnxruntime",
        "version": str(onnxruntime.__version__), "threads": asked.threads, "batch": manifest["batch"],
    }  # fmt: skip
    return measure(folder, header, manifest, path)


if __name__ == "__main__":
    sys.exit(main())

"""Measuring a device without HierNAS: a folder with all operations of a space goes there, a JSON file comes back.

The folder holds `measure.py` (a copy of `runner`), `manifest.json` and one ONNX file per probe. The file that comes
back holds latencies as measured; overhead and edges are taken off here, exactly as in `measure.measure_table`. Of a phone
the same file is written here, from what Google's LiteRT tool says of one .tflite file after the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hiernas.errors import UNREADABLE, LatencyError, validated
from hiernas.latency import BELONGS_TO, RUNS, WARMUP, Entry, LatencyTable, read_text, runner
from hiernas.latency.measure import OVERHEAD, Plan, Probe, Progress, doubts, entry_doubt, fingerprint, plan_of, title
from hiernas.latency.runtimes import example, to_litert, to_onnx
from hiernas.names import VERSION
from hiernas.space import SearchSpace

BATCH = 1
MARK = "=measured="  # before what a host measured
ON_PHONE = "/data/local/tmp/litert-cli"  # where litert-cli puts files
SHOWN = r"count=(\d+)\b.* p5=(\d+) median=(\d+) p95=(\d+)"  # by its benchmark, in microseconds, of a warm-up and of what counts


def write_pack(space: SearchSpace, folder: str | Path, runs: int = RUNS) -> list[int]:
    """Write the folder that measures a space on a device with only onnxruntime and numpy; the bytes of its ONNX files.

    Raises `LatencyError` where the folder exists and is not empty, or cannot be written.
    """
    folder, plan = Path(folder), plan_of(space, with_edges=True)
    listed, sizes = {}, []
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise LatencyError(f"{folder} exists and is not an empty folder; name a new one for the pack")
        (folder / "operations").mkdir(parents=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same weights in every pack of a space
            for i, probe in enumerate(plan.probes().values()):
                file, model = f"operations/{i:04d}.onnx", to_onnx(probe.build(), example(BATCH, probe.input_size))
                (folder / file).write_bytes(model)
                sizes.append(len(model))
                listed[probe.key] = {
                    "key": probe.key, "file": file, "shape": [BATCH, *probe.input_size], "bytes": probe.taken(BATCH),
                    "sha256": hashlib.sha256(model).hexdigest(),
                }  # fmt: skip
        batches = [
            {"runs": chunk[0].runs * runs, "warmup": WARMUP, "probes": [listed[p.key] for item in chunk for p in item.probes]}
            for chunk, _ in plan.chunks()
        ]
        manifest = {
            "kind": runner.MANIFEST_KIND, "hiernas": VERSION, "space": title(space), "plan": fingerprint(plan),
            "batch": BATCH, "batches": batches,
        }  # fmt: skip
        (folder / "measure.py").write_bytes(Path(runner.__file__).read_bytes())
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")  # last: without it a pack is none
    except OSError as error:
        raise LatencyError(f"cannot write the pack {folder}: {error.strerror}") from error
    return sizes


def measure_by_ssh(space: SearchSpace, host: str, python: str, threads: int, file: Path, progress: Progress) -> None:
    """Send a pack to a host, measure there, and write what comes back to `file`, for `import_measurement`.

    One connection, by the `ssh` of this machine with its settings and keys. The host needs tar, and a Python with onnxruntime
    and numpy. The pack stays in its home until it is done, so that an interrupted measurement goes on. Raises `LatencyError`.
    """
    with tempfile.TemporaryDirectory() as folder:
        pack, archive = Path(folder, "pack"), Path(folder, "pack.tar")
        write_pack(space, pack)
        there = f".hiernas-pack-{hashlib.sha256((pack / 'manifest.json').read_bytes()).hexdigest()[:16]}"
        run = f"printf {MARK!r} && {shlex.quote(python)} {there}/measure.py --threads {threads}"
        command = f"mkdir -p {there} && tar -xf - -C {there} && {run} && rm -rf {there}"
        with tarfile.open(archive, "w") as tar:
            tar.add(pack, ".")
        try:
            with archive.open("rb") as sent, file.open("wb") as returned:
                call, said = ["ssh", "--", re.sub(r"[\[\]]", "", host), command], subprocess.PIPE
                with subprocess.Popen(call, stdin=sent, stdout=returned, stderr=said, text=True, errors="replace") as process:
                    last = _follow(process, progress)
        except FileNotFoundError as error:
            raise LatencyError(f"cannot run ssh ({error}); install it, or take --pack and --import") from error
    file.write_bytes(file.read_bytes().partition(MARK.encode())[2])  # what a shell says when it starts is left out
    if process.returncode:
        reason = "cannot be reached" if process.returncode == 255 else "did not measure"
        last = last or f"exit code {process.returncode}"
        raise LatencyError(f"{host} {reason}: {last}; once that is mended, the same command goes on")


def _follow(process: subprocess.Popen[str], progress: Progress) -> str:
    """Tell what a measurement elsewhere says of its progress; returns the last of its other lines."""
    last = ""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.match(r"measured (\d+) of (\d+)", line):
            progress(int(found[1]), int(found[2]), "")
        elif line.strip():
            last = line.strip().removeprefix("error: ")
    return last


def measure_by_adb(space: SearchSpace, serial: str, python: str, file: Path, progress: Progress) -> None:
    """Measure on an Android phone by Google's `litert benchmark`, and write `file` for `import_measurement`.

    `serial`: of the phone, empty where one is connected; `python`: one with litert-cli, whose pins keep it in an environment
    of its own. All is saved as it comes, so that the same command goes on. Raises `LatencyError`.
    """
    environment = {**os.environ, "LITERT_VERBOSE": "1", "LITERT_CLI_ANDROID_ROOT": ON_PHONE}
    environment |= {"ANDROID_SERIAL": serial} if serial else {}
    said, plan = partial(_said, environment), plan_of(space, with_edges=True)
    about = "from importlib.metadata import version; import litert_cli; print(version('ai-edge-litert'))"
    version, model = said(python, "-c", about).split()[-1], said("adb", "shell", "getprop", "ro.product.model").strip()
    header = {
        "kind": runner.RESULT_KIND, "hiernas": VERSION, "space": title(space), "plan": fingerprint(plan), "manifest": "none",
        "device": model, "runtime": "litert", "version": version, "threads": 1, "batch": BATCH,
    }  # fmt: skip
    try:
        result = runner.begun(file, header)
    except runner.CannotMeasure as error:
        raise LatencyError(str(error)) from error
    runs, probes = {p.key: RUNS * item.runs for chunk, _ in plan.chunks() for item in chunk for p in item.probes}, plan.probes()
    with tempfile.TemporaryDirectory() as folder:
        for probe in (probe for key, probe in probes.items() if key not in result["entries"]):
            tflite = to_litert(probe.build().eval(), example(BATCH, probe.input_size))
            name = f"hiernas-{hashlib.sha256(tflite).hexdigest()[:24]}.tflite"  # another of its name and size would not be sent
            Path(folder, name).write_bytes(tflite)
            asked = (str(Path(folder, name)), "--android", "--cpu", "--num-runs", str(runs[probe.key]))
            found = re.findall(SHOWN, text := said(python, "-m", "litert_cli.litert", "benchmark", *asked))
            said("adb", "shell", "rm", "-f", f"{ON_PHONE}/{name}")
            if not found:
                raise LatencyError(f"litert-cli says no latency of '{probe.key}', but: {text.strip()[-200:]!r}")
            count, *times = map(int, found[-1])
            p10, median, p90 = (us / 1000 for us in times)  # of 5, 50 and 95 %: nearest to what is kept
            row = {"median_ms": median, "p10_ms": p10, "p90_ms": p90, "runs": count, "shape": [BATCH, *probe.input_size]}
            result["entries"][probe.key] = row
            runner.write(file, result)
            progress(len(result["entries"]), len(probes), probe.key)


def _said(environment: Mapping[str, str], *command: str) -> str:
    """What a command for a phone prints. Raises `LatencyError` where it fails."""
    both: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        done = subprocess.run(command, env=environment, text=True, errors="replace", check=False, **both)
    except OSError as error:
        raise LatencyError(
            f"cannot run {command[0]} ({error.strerror}); it takes adb of Android's platform tools, and --python of an "
            "environment with litert-cli"
        ) from error
    if done.returncode:
        *_, last = ["no reason given", *filter(str.strip, done.stdout.splitlines())]
        raise LatencyError(f"the phone did not measure: {last.strip()}; once that is mended, the same command goes on")
    return done.stdout


@dataclass(frozen=True)
class Imported:
    """A table made from a file that came back: what it lacks of the space, and what looks wrong."""

    table: LatencyTable
    missing: tuple[str, ...]  # keys of operations
    doubts: tuple[str, ...]


def import_measurement(space: SearchSpace, path: str | Path, allow_missing: bool = False) -> Imported:
    """Read what `measure.py` of a pack of this space wrote, and make a latency table of it.

    Raises `LatencyError` for another kind of file, another space, shapes that do not fit, entries that are no
    latencies and, without `allow_missing`, operations that were not measured.
    """
    plan = plan_of(space, with_edges=True)
    value = _read(path, space, plan)
    raw = _raw_entries(path, value["entries"], plan.probes())
    if OVERHEAD not in raw:
        raise LatencyError(f"{path} does not even hold the overhead of a call; let measure.py run to its end")
    entries = plan.entries(raw, {})
    overhead = entries.pop(OVERHEAD).p10_ms
    missing = tuple(o.key for o in plan.operations if o.key not in entries)
    if missing and not allow_missing:
        shown = ", ".join(f"'{key}'" for key in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise LatencyError(
            f"{path} lacks {len(missing)} of {len(plan.operations)} operations ({shown}); run measure.py again with the "
            "same --out, it goes on, or take the rest with --allow-missing"
        )
    table = LatencyTable(**{name: value[name] for name in BELONGS_TO}, raw_overhead_ms=overhead, entries=entries)
    few = {key: f"'{key}' was run only {e.runs} times" for key, e in raw.items() if e.runs < RUNS}
    odd = {key: line for key, e in raw.items() if (line := entry_doubt(key, e))}
    return Imported(table, missing, tuple({**doubts(plan, entries), **few, **odd}.values()))


def _read(path: str | Path, space: SearchSpace, plan: Plan) -> dict[str, Any]:
    text = read_text(path)
    try:
        value = json.loads(text)
    except UNREADABLE as error:
        raise LatencyError(f"{path} is damaged ({error}); bring it from the device again") from error
    if not isinstance(value, dict) or value.get("kind") != runner.RESULT_KIND:
        raise LatencyError(f"{path} is not what measure.py of this version's packs writes ('{runner.RESULT_KIND}')")
    wrong = [name for name in BELONGS_TO if type(value.get(name)) is not (int if name in ("threads", "batch") else str)]
    if wrong or value["threads"] < 1 or value["batch"] != BATCH or not isinstance(value.get("entries"), dict):
        raise LatencyError(f"{path} is damaged (its header: {', '.join(wrong) or 'values'}); bring it from the device again")
    if value.get("plan") != fingerprint(plan):
        raise LatencyError(
            f"{path} was measured for '{value.get('space')}' by a pack of hiernas {value.get('hiernas')}, which holds other "
            f"operations than '{title(space)}' of hiernas {VERSION}; name the space, --input-size, --num-classes and --set of "
            "the pack, or pack again"
        )
    return value


def _raw_entries(path: str | Path, rows: Mapping[str, Any], probes: Mapping[str, Probe]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for key, row in rows.items():
        if key not in probes:
            raise LatencyError(f"{path} has an entry '{key}' that its pack does not ask for; measure again")
        try:
            found[key], shape = validated(Entry, json.dumps(row), "its entry", LatencyError), list(row["shape"])
        except (KeyError, TypeError, LatencyError) as error:
            raise LatencyError(f"{path} is damaged at '{key}' ({error}); measure that entry again") from error
        if shape != [BATCH, *probes[key].input_size]:
            raise LatencyError(f"{path} measured '{key}' on inputs {shape}, not {[BATCH, *probes[key].input_size]}; pack again")
    return {key: found[key] for key in probes if key in found}

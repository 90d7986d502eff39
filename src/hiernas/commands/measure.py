"""`hiernas measure`: the latency table of a space, measured here, elsewhere with a pack, or merged of two; calibration."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hiernas.commands import MeasureOptions
from hiernas.costs.tables import cost_tables
from hiernas.errors import ConfigError, LatencyError
from hiernas.latency import LatencyTable, merge
from hiernas.latency.calibrate import FEWEST, Calibration, calibrate
from hiernas.latency.measure import cached_table_path, doubts, locked, measure_table, plan_of, title
from hiernas.latency.pack import import_measurement, measure_by_adb, measure_by_ssh, write_pack
from hiernas.latency.runtimes import RUNTIME, RUNTIMES, make_runtime
from hiernas.randomness import numpy_generator
from hiernas.report import kit
from hiernas.report.units import milliseconds
from hiernas.run.folder import Listener, teller
from hiernas.space import SearchSpace
from hiernas.spaces import space_function

SHOWN = 5  # doubts that are shown
BUSY = 0.75  # load per core from which a measurement is warned of


def measure(asked: MeasureOptions, listener: Listener) -> dict[str, str]:
    """Do what was asked; what it says, by name."""
    if asked.calibrate is not None and asked.calibrate < FEWEST:
        raise ConfigError(f"--calibrate {asked.calibrate}: so few networks tell too little; take at least {FEWEST}")
    make = space_function(asked.source, asked.arguments)
    space = make(input_size=asked.sizes, num_classes=asked.num_classes, **asked.arguments)
    if asked.pack is not None:
        sizes = write_pack(space, asked.pack)
        return {
            "folder": f"{asked.pack}: {len(sizes)} ONNX files, {sum(sizes) / 1e6:.1f} MB",
            "on the device": "python measure.py --out measured.json (needs onnxruntime and numpy; interrupted, it goes on)",
            "then here": "the same `hiernas measure` command with --import measured.json instead of --pack",
        }
    if asked.device is not None:
        way, _, host = asked.device.partition(":")
        table = asked.out or Path(f"{host.split('@')[-1] or way}.json")
        file, python = table.with_name(f"{table.stem}-measured.json"), asked.python or "python3"
        if way == "ssh":
            measure_by_ssh(space, host, python, asked.threads or 1, file, teller(listener))
        else:
            measure_by_adb(space, host, python, file, teller(listener))
        try:
            found = _import(space, file, table, allow_missing=False)
        except LatencyError as error:
            raise LatencyError(f"{error}; what was measured is kept in {file}, for --import") from error
        file.unlink()
        return found
    if asked.import_file is not None:
        return _import(space, asked.import_file, asked.out, asked.allow_missing)
    if asked.merge is not None:
        return _merge(space, asked.merge, asked.out)
    return _measure(space, asked, listener)


def _measure(space: SearchSpace, asked: MeasureOptions, listener: Listener) -> dict[str, str]:
    engine = make_runtime(asked.runtime or RUNTIME, asked.threads or 1)
    path = asked.out or cached_table_path(engine)
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    busy = f"load {load:.1f} on {cores} cores before the measurement: measure again into another file when idle"
    shown = {"busy": busy} if load >= BUSY * cores else {}  # by other programs
    table = measure_table(space, engine, path, teller(listener))
    if asked.calibrate is not None:
        rng = numpy_generator(asked.seed or 0, "calibrate")
        found = calibrate(space, table, engine, asked.calibrate, rng, asked.even, teller(listener, "calibrating"))
        shown |= _write_calibration(found, path, title(space))
        if asked.store_correction:
            table = found.corrected_table()
            with locked(path):
                stored = LatencyTable.load(path)  # with what others have measured for it in the meantime
                replace(stored, correction=table.correction).save(path)
    noticed = doubts(plan_of(space, engine.inner_layout), table.entries)
    return {**_described(space, table, path), **shown, **_doubts(tuple(noticed.values()))}


def _import(space: SearchSpace, file: Path, out: Path | None, allow_missing: bool) -> dict[str, str]:
    found = import_measurement(space, file, allow_missing)
    path = out or file.with_name(f"{file.stem}-table.json")
    shown, table = dict[str, str](), found.table
    with locked(path):
        if path.exists():
            table, shown["merged"] = merge(LatencyTable.load(path), table)
        table.save(path)
    if found.missing:
        shown["missing"] = f"{len(found.missing)} operations, such as '{found.missing[0]}': networks with them have no latency"
    return {**_described(space, table, path), **shown, **_doubts(found.doubts)}


def _merge(space: SearchSpace, file: Path, out: Path | None) -> dict[str, str]:
    other = LatencyTable.load(file)
    path = out or cached_table_path(other)
    if not path.exists():
        raise LatencyError(f"there is no table {path} that {file} could be merged into; name it with --out")
    with locked(path):
        table, said = merge(LatencyTable.load(path), other)
        table.save(path)
    shown = {"merged": said}
    if other.correction is not None:
        shown["note"] = f"the correction in {file} was left out: it belongs to that table's own numbers"
    return {**_described(space, table, path), **shown}


def _described(space: SearchSpace, table: LatencyTable, path: Path) -> dict[str, str]:
    with_edges = table.runtime not in RUNTIMES or RUNTIMES[table.runtime].inner_layout
    operations = plan_of(space, with_edges).operations
    there = sum(o.key in table.entries for o in operations)
    shown = {
        "file": str(path),
        "device": f"{table.device}, {table.runtime} {table.version}, {table.threads} thread(s), batch {table.batch}",
        "entries": f"{there} of the space's {len(operations)} operations ({len(table.entries)} in the file)",
    }
    if there == len(operations):
        latency = cost_tables(space, table)["latency_ms"]
        shown["fastest network"], shown["slowest network"] = milliseconds(latency.smallest), milliseconds(latency.largest)
    c = table.correction
    if c is not None:
        other = "" if c.space == title(space) else " - which is another space: calibrate this one in a file of its own"
        shown["correction"] = f"{c}, fitted on {c.networks} networks of {c.space}{other}"
    return shown


def _doubts(lines: Sequence[str]) -> dict[str, str]:
    if not lines:
        return {}
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return {"suspicious": f"{len(lines)}: {'; '.join(lines[:SHOWN])}{more} (in doubt, measure again into another file)"}


# -- calibration -------------------------------------------------------------------------------------------------


def _write_calibration(found: Calibration, table: Path, where: str) -> dict[str, str]:
    """Numbers and picture beside the table; what they say."""
    numbers, picture = (table.with_name(f"{table.stem}-calibration.{kind}") for kind in ("json", "svg"))
    try:
        numbers.write_text(json.dumps({"space": where, **found.to_json()}, indent=1) + "\n")
        picture.write_text(scatter(found, where))
    except OSError as error:
        raise LatencyError(f"cannot write {numbers}: {error.strerror}") from error
    shown = {"sum of the table": f"{found.all_errors()}, over {len(found.architectures)} networks"}
    if found.correction is None:
        shown["corrected"] = "no: measured latencies do not grow with the sums; was the device busy?"
    else:
        after, before = found.errors(corrected=True), found.errors(corrected=False)
        shown["fitted"] = f"{found.correction}, on {found.correction.networks} of the networks"
        shown["corrected"] = f"{after}, over the other {after.networks} networks"
        shown["uncorrected"] = f"{before}, over the same ones"
    return {**shown, "written": f"{numbers} and {picture.name}"}


def scatter(found: Calibration, where: str) -> str:
    """Predicted against measured latencies as an SVG file."""
    measured, sums, c, t = found.measured_ms, found.sums_ms, found.correction, found.table

    def paint(ax: kit.Axes) -> None:
        ends = [float(min(measured.min(), sums.min())), float(max(measured.max(), sums.max()))]
        ax.plot(ends, ends, color=kit.MUTED, linewidth=1.0, label="exact")
        ax.plot(measured[::2], sums[::2], "o", color=kit.BLUE, fillstyle="none", label="sum, networks that fitted")
        ax.plot(measured[1::2], sums[1::2], "o", color=kit.BLUE, label="sum, other networks")
        if c is not None:
            ax.plot(measured[1::2], c.of(sums[1::2]), "x", color=kit.ORANGE, label="corrected, other networks")
        ax.set(xlabel="measured (ms)", ylabel="predicted (ms)")
        ax.set_title(f"{where}\n{t.device}, {t.runtime} {t.version}, {t.threads} thread(s)", color=kit.INK, fontsize=12)

    alt = f"Predicted against measured latencies of {len(sums)} networks"
    return kit.alone(kit.draw("calibration", alt, paint, 518, 403))

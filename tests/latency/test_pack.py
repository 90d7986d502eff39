"""Packs: what comes back from a device makes the same table as measuring here, and what is wrong with it is found."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from known import Known

from hiernas.commands import MeasureOptions
from hiernas.commands import measure as command
from hiernas.commands.measure import measure
from hiernas.errors import ConfigError, LatencyError
from hiernas.latency import Entry, LatencyTable
from hiernas.latency.measure import Plan, doubts, fingerprint, identity, measure_table, plan_of
from hiernas.latency.pack import import_measurement, measure_by_ssh, write_pack
from hiernas.latency.runner import RESULT_KIND, by_turns
from hiernas.latency.runtimes import example
from hiernas.spaces import tiny
from toy import toy_space


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack") / "toy"
    write_pack(toy_space(), folder, runs=6)
    return folder


@pytest.fixture
def own_pack(pack: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pack, tmp_path / "pack"))


def measured_by(runtime: Known, plan: Plan) -> dict[str, Any]:
    """What measure.py writes, from a runtime of known latencies."""
    found: dict[str, Entry] = {}
    for chunk, _ in plan.chunks():
        probes = [probe for item in chunk for probe in item.probes]
        calls = [runtime.prepare(probe.build(), probe.input_size) for probe in probes]
        measured = [Entry(**row) for row in by_turns(calls, 45 * chunk[0].runs, 3)]
        found |= {probe.key: entry for probe, entry in zip(probes, measured, strict=True)}
    shapes = {key: [1, *probe.input_size] for key, probe in plan.probes().items()}
    entries = {key: {**asdict(entry), "shape": shapes[key]} for key, entry in found.items()}
    header = {"kind": RESULT_KIND, "plan": fingerprint(plan), "hiernas": "0", "space": "toy"}
    return {**header, **identity(runtime), "entries": entries}


@pytest.fixture
def came_back(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    value = measured_by(Known(), plan_of(toy_space(), with_edges=True))
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(value))
    return path, value


def test_an_imported_table_equals_one_measured_directly(came_back: tuple[Path, dict[str, Any]]) -> None:
    found = import_measurement(toy_space(), came_back[0])
    assert found.table == measure_table(toy_space(), Known())
    assert found.missing == ()
    assert found.doubts == ()
    architecture = toy_space().architecture(["k5_e2", "k3_e1"])
    assert found.table.predict(architecture) == pytest.approx(Known().prepare(architecture.build(), (3, 16, 16))())


def run_alone(folder: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The pack's script in a process that sees nothing of HierNAS but the installed packages."""
    command = [sys.executable, "-I", str(folder / "measure.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_pack_is_measured_from_anywhere_without_hiernas(own_pack: Path, tmp_path: Path) -> None:
    assert "import hiernas" not in (own_pack / "measure.py").read_text()
    assert "from hiernas" not in (own_pack / "measure.py").read_text()
    (tmp_path / "elsewhere").mkdir()
    done = run_alone(own_pack, tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert sorted(p.name for p in own_pack.iterdir()) == ["manifest.json", "measure.py", "operations"]
    assert list((tmp_path / "elsewhere").iterdir()) == []
    back = tmp_path / "back.json"
    back.write_text(done.stdout)
    found = import_measurement(toy_space(), back)
    assert found.missing == ()
    assert found.table.version == onnxruntime.__version__
    assert set(found.table.entries) == set(measure_table(toy_space(), Known()).entries)
    assert all(row["p10_ms"] > 0 for row in printed["entries"].values())
    assert run_alone(own_pack, tmp_path, "--out", "m.json", "--device", "a board").returncode == 0
    assert import_measurement(toy_space(), tmp_path / "m.json").table.device == "a board"
    refused = run_alone(own_pack, tmp_path, "--out", "m.json", "--device", "another board")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: m.json was begun with device 'a board', and this is 'another board'")
    for threads in (0, (os.cpu_count() or 1) + 1):
        shown = run_alone(own_pack, tmp_path, "--threads", str(threads)).stderr
        assert shown.startswith(f"error: --threads is {threads}, and this device has "), shown


def test_the_pack_holds_the_operations_of_the_space(pack: Path) -> None:
    manifest = json.loads((pack / "manifest.json").read_text())
    probes = [p for batch in manifest["batches"] for p in batch["probes"]]
    plan = plan_of(toy_space(), with_edges=True)
    assert [p["key"] for p in probes] == list(plan.probes())
    for part in (o.part for o in plan.operations):  # as many numbers in the file as the operation has after folding
        file = next(p["file"] for p in probes if p["key"] == part.key)
        session = onnxruntime.InferenceSession(str(pack / file), providers=["CPUExecutionProvider"])
        output = session.run(None, {"x": example(1, part.input_size).numpy()})[0]
        assert output.shape == tuple(part.build().eval()(example(1, part.input_size)).shape)
        assert np.isfinite(output).all()


def script(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pack's script as a module, with latencies that depend on the file's name alone."""
    spec = importlib.util.spec_from_file_location("measure", folder / "measure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def load(model: str, x: np.ndarray, threads: int) -> tuple[Any, np.ndarray]:
        loaded.append(model)
        return (lambda: 1.0 + int(Path(model).stem)), x

    loaded: list[str] = []
    monkeypatch.setattr(module, "load_onnx", load)
    module.loaded = loaded
    return module


def test_interrupted_and_resumed_equals_uninterrupted(
    own_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script(own_pack, monkeypatch)
    assert module.main(["--out", str(tmp_path / "whole.json")]) == 0
    total = len(module.loaded)
    by_turns, calls = module.by_turns, []

    def stopped(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return by_turns(*arguments)

    monkeypatch.setattr(module, "by_turns", stopped)
    assert module.main([]) == 130
    said = capsys.readouterr()
    assert "the same command goes on" in said.err
    assert said.out == ""
    assert len(json.loads((own_pack / "unfinished-1-threads.json").read_text())["entries"]) == 1 + 6
    module.loaded.clear()
    assert module.main([]) == 0
    assert len(module.loaded) == total - 1 - 6
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "whole.json").read_text())
    assert not (own_pack / "unfinished-1-threads.json").exists()


def test_what_a_device_refuses(own_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script(own_pack, monkeypatch)
    manifest, operation = (own_pack / "manifest.json").read_text(), own_pack / "operations" / "0003.onnx"
    good = operation.read_bytes()
    operation.write_bytes(good[:-1])
    with pytest.raises(module.CannotMeasure, match=r"0003.onnx was changed or damaged on the way; copy the pack again"):
        module.read_manifest(own_pack)
    operation.unlink()
    with pytest.raises(module.CannotMeasure, match=r"the pack is not whole: operations/0003.onnx: No such file"):
        module.read_manifest(own_pack)
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(module.CannotMeasure, match="exists and is no measurement of a pack; name another file"):
        module.measure(own_pack, {"kind": RESULT_KIND}, {"batches": []}, tmp_path / "notes.json")
    outside = tmp_path / "outside.onnx"
    outside.write_bytes((own_pack / "operations" / "0000.onnx").read_bytes())
    for file in ("../../outside.onnx", str(outside), "operations/../../outside.onnx", "operations\\..\\x.onnx", "C:x.onnx"):
        named = json.loads(manifest)
        named["batches"][0]["probes"][0]["file"] = file
        (own_pack / "manifest.json").write_text(json.dumps(named))
        with pytest.raises(module.CannotMeasure, match=r"manifest\.json names .*, which is no file of a pack"):
            module.read_manifest(own_pack)
    for value in ({}, {"batches": 3}, {"batches": [{"probes": [{}]}]}, {"batches": [{"probes": [{"file": 3}]}]}):
        (own_pack / "manifest.json").write_text(json.dumps({"kind": module.MANIFEST_KIND, **value}))
        with pytest.raises(module.CannotMeasure, match=r"manifest\.json is damaged"):
            module.read_manifest(own_pack)
    (own_pack / "manifest.json").write_text("{}")
    with pytest.raises(module.CannotMeasure, match="is not a manifest of this version"):
        module.read_manifest(own_pack)
    (own_pack / "manifest.json").unlink()
    with pytest.raises(module.CannotMeasure, match=r"cannot read .*manifest.json .*make the pack again"):
        module.read_manifest(own_pack)


def test_what_an_import_refuses(came_back: tuple[Path, dict[str, Any]]) -> None:
    path, value = came_back
    entries = value["entries"]
    key = "conv3_relu6 3->8 s2 16x16"
    broken = {
        r"is not what measure.py of this version's packs writes": {**value, "kind": "another, format 2"},
        r"is damaged \(its header: version\)": {k: v for k, v in value.items() if k != "version"},
        r"is damaged \(its header: values\)": {**value, "threads": 0},
        r"was measured for 'toy' by a pack of hiernas 0, which holds other operations": {**value, "plan": "0" * 64},
        r"has an entry 'conv9' that its pack does not ask for": {**value, "entries": {**entries, "conv9": entries[key]}},
        r"is damaged at 'conv3_relu6 .*no measurement": {
            **value, "entries": {**entries, key: {**entries[key], "p10_ms": -1.0}}
        },
        r"measured 'conv3_relu6 .* on inputs \[1, 3, 8, 8\], not \[1, 3, 16, 16\]": {
            **value, "entries": {**entries, key: {**entries[key], "shape": [1, 3, 8, 8]}}
        },
        r"does not even hold the overhead": {**value, "entries": {}},
        r"lacks 1 of 9 operations \('conv3_relu6 .*'\); run measure.py again .*--allow-missing": {
            **value, "entries": {k: v for k, v in entries.items() if k != key}
        },
    }  # fmt: skip
    for message, wrong in broken.items():
        path.write_text(json.dumps(wrong))
        with pytest.raises(LatencyError, match=message):
            import_measurement(toy_space(), path)
    path.write_text(json.dumps(value)[:-5])
    with pytest.raises(LatencyError, match=r"is damaged .*; bring it from the device again"):
        import_measurement(toy_space(), path)
    path.write_text(json.dumps(value))
    with pytest.raises(LatencyError, match=r"operations than 'tiny 1x8x8, 10 classes' .*name the space, --input-size"):
        import_measurement(tiny(), path)


def test_what_was_not_measured_can_be_left_out(came_back: tuple[Path, dict[str, Any]]) -> None:
    path, value = came_back
    whole = import_measurement(toy_space(), path).table
    del value["entries"]["edge 16x4x4 2"]  # the head's output and the classifier's input
    path.write_text(json.dumps(value))
    with pytest.raises(LatencyError, match="lacks 2 of 9 operations"):
        import_measurement(toy_space(), path)
    found = import_measurement(toy_space(), path, allow_missing=True)
    assert found.missing == ("conv1_relu6 8->16 s1 4x4", "classifier 16->4 s1 4x4")
    left = {k: e for k, e in whole.entries.items() if k not in (*found.missing, "edge 16x4x4")}
    assert found.table.entries == left


def test_suspicious_entries_are_found(came_back: tuple[Path, dict[str, Any]]) -> None:
    path, value = came_back
    rows = value["entries"]
    rows["conv3_relu6 3->8 s2 16x16"] |= {"p10_ms": 0.0}
    rows["classifier 16->4 s1 4x4"] |= {"p90_ms": 20 * rows["classifier 16->4 s1 4x4"]["p90_ms"]}
    rows["mbconv_k3_e2_relu6 8->8 s2 8x8"]["runs"] = 3
    path.write_text(json.dumps(value))
    found = import_measurement(toy_space(), path).doubts
    said = {line.split("'")[1]: line.split("'")[2] for line in found}
    assert said.pop("conv3_relu6 3->8 s2 16x16") == " takes no time"
    assert said.pop("classifier 16->4 s1 4x4") == " takes 0.0764 to 1.53 ms: the device was busy"
    assert said == {"mbconv_k3_e2_relu6 8->8 s2 8x8": " was run only 3 times"}


def test_more_work_in_less_time_is_suspicious() -> None:
    plan = plan_of(toy_space(), with_edges=True)
    table = measure_table(toy_space(), Known())
    assert doubts(plan, table.entries) == {}
    small, large = "mbconv_k3_e1_relu6 8->8 s1 4x4", "mbconv_k5_e3_relu6 8->8 s1 4x4"
    slow = Entry(1.0, 1.0, 1.0, 45)
    entries = {**dict.fromkeys(table.entries, slow), large: Entry(0.4, 0.4, 0.4, 45)}
    # multiply-adds at 4x4, by hand: k3_e1 is 8*9 + 8*8 per pixel, k5_e3 8*24 + 24*25 + 24*8
    macs = (8 * 24 + 24 * 25 + 24 * 8) / (8 * 9 + 8 * 8)
    expected = f"'{large}' has {macs:.1f} times the multiply-adds of '{small}' and takes 0.40 of its time"
    assert doubts(plan, entries) == {large: expected}
    assert doubts(plan, {**entries, large: Entry(0.6, 0.6, 0.6, 45)}) == {}


def test_where_a_pack_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(LatencyError, match="exists and is not an empty folder; name a new one"):
        write_pack(toy_space(), tmp_path / "full")
    with pytest.raises(LatencyError, match=r"cannot write the pack .*: Not a directory"):
        write_pack(toy_space(), tmp_path / "full" / "notes.txt" / "pack")


# -- over ssh ----------------------------------------------------------------------------------------------------


def stand_in(folder: Path) -> str:
    """A program in the place of ssh that runs the command here, in a home of its own; of hosts it reaches all but one."""
    home = folder / "home"
    home.mkdir()
    return f'''#!/bin/sh
[ "$2" = nowhere ] && echo "Could not resolve hostname" >&2 && exit 255
echo "Last login: today"  # on both of its outputs, as shells do when they start
printf 'Gr\\374\\337e\\n' >&2
cd {home} && exec sh -c "$3"
'''


def real(folder: Path) -> str:
    """The real one, to a server of this machine that was started for it."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if sshd is None or not shutil.which("ssh"):
        pytest.skip("no ssh server (Debian: openssh-server) is installed here")
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = (
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/key.pub\nStrictModes no\n"
        f"UsePAM no\nPidFile {folder}/pid\nPermitRootLogin yes\n"
    )
    (folder / "config").write_text(settings)
    started = subprocess.run([sshd, "-f", folder / "config"], capture_output=True, text=True, check=False)
    if started.returncode:
        pytest.skip(f"the ssh server does not start here: {started.stderr.strip()}")
    others = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes"
    return f'#!/bin/sh\nexec {shutil.which("ssh")} -p {port} -i {folder}/key {others} "$@"\n'


@pytest.mark.parametrize("ssh", [stand_in, real])
def test_a_host_measures_over_ssh(ssh: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(ssh(tmp_path))
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    space, file, told = toy_space(), tmp_path / "measured.json", []

    def measured_on(host: str, python: str) -> None:
        measure_by_ssh(space, host, python, 1, file, lambda done, total, key: told.append((done, total)))

    try:
        with pytest.raises(LatencyError, match=r"127.0.0.1 did not measure: .*no_python.*goes on"):
            measured_on("127.0.0.1", "/no_python")
        assert told == []
        measured_on("127.0.0.1", sys.executable)
        if ssh is stand_in:
            assert list((tmp_path / "home").iterdir()) == []  # nothing is left there
            with pytest.raises(LatencyError, match="nowhere cannot be reached: Could not resolve hostname"):
                measured_on("nowhere", sys.executable)
            measured_on("127.0.0.1", sys.executable)
    finally:
        if (tmp_path / "pid").exists():
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    plan = plan_of(space, with_edges=True)
    assert told[-1] == (len(plan.probes()),) * 2
    assert set(import_measurement(space, file).table.entries) >= {operation.key for operation in plan.operations}


def test_what_a_host_measured_is_kept_where_it_cannot_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = json.dumps(measured_by(Known(), plan_of(tiny((1, 8, 8), 3), with_edges=True)))
    monkeypatch.setattr(command, "measure_by_ssh", lambda space, host, python, threads, file, tell: file.write_text(value))
    asked = MeasureOptions(source="tiny", input_size="1,8,8", num_classes=3, device="ssh:me@box", out=tmp_path / "box.json")
    measure(asked, lambda event: None)
    assert {path.name for path in tmp_path.iterdir()} - {"box.json.lock"} == {"box.json"}
    other = json.loads((tmp_path / "box.json").read_text()) | {"threads": 7}
    (tmp_path / "box.json").write_text(json.dumps(other))
    with pytest.raises(LatencyError, match=r"threads.*what was measured is kept in .*box-measured.json, for --import"):
        measure(asked, lambda event: None)
    assert (tmp_path / "box-measured.json").read_text() == value


@pytest.mark.parametrize("device", ["box", "ssh:", "ssh:-oProxyCommand=x", "ssh:box:2222", "ssh:::1", "android:", "android:-s"])
def test_devices_that_are_not_reached_are_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=r"is not ssh:\[USER@\]HOST, ssh:\[IPV6\] or android\[:SERIAL\]"):
        MeasureOptions(source="tiny", device=device)
    for reached in ("ssh:[fe80::1]", "android", "android:emulator-5554", "android:192.168.1.5:5555"):
        MeasureOptions(source="tiny", device=reached)
    with pytest.raises(ConfigError, match=r"--threads do not go with --device: .*a phone has one"):
        MeasureOptions(source="tiny", device="android", threads=2)


# -- on a phone --------------------------------------------------------------------------------------------------
# No phone was at hand: these are stand-ins that say what adb and litert-cli 0.2.1 say, by their sources. A .tflite file is
# here the microseconds that it takes.

ADB = """#!/bin/sh
echo "$ANDROID_SERIAL adb $*" >> {log}
[ -e {folder}/unplugged ] && echo "adb: no devices/emulators found" >&2 && exit 1
[ "$3" = ro.product.model ] && echo "Pixel 9"
exit 0
"""
PYTHON = """#!/bin/sh
[ "$1" = -c ] && echo 2.2.0 && exit 0
echo "$ANDROID_SERIAL $LITERT_VERBOSE $2 $3 $5 $6 $7 $8" >> {log}
[ -e {folder}/fails ] && [ "$(wc -l < {log})" -gt 6 ] && echo "Error: Benchmark failed on device." >&2 && exit 1
us=$(cat "$4")
echo "INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds."
echo "INFO: count=9 first=9999 curr=9999 min=1 max=9999 avg=999.5 std=9 p5=9999 median=9999 p95=9999"
echo "INFO: count=$8 curr=$us(all same) p5=$us median=$us p95=$us"
printf "INFO: [benchmark_litert_model.h:88] Inference (avg):      0.01 ms ($8 runs)\n"
"""


def test_a_phone_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, log, told = toy_space(), tmp_path / "log", list[tuple[int, int]]()
    for name, text in (("adb", ADB), ("python", PYTHON)):
        (tmp_path / name).write_text(text.format(log=log, folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    known = Known()
    known.per_weight = 1e-3  # all in whole microseconds

    def tflite(module: Any, x: Any) -> bytes:
        return str(round(1000 * known.prepare(module, tuple(x.shape[1:]))())).encode()

    monkeypatch.setattr("hiernas.latency.pack.to_litert", tflite)
    asked = MeasureOptions(source="tiny", device="android:S9", python=str(tmp_path / "python"), out=tmp_path / "phone.json")
    monkeypatch.setattr(command, "space_function", lambda *_: lambda **_: space)

    def measured() -> None:
        measure(asked, lambda e: told.append((e["done"], e["total"])))

    (tmp_path / "unplugged").touch()
    with pytest.raises(LatencyError, match=r"the phone did not measure: adb: no devices/emulators found; .*goes on"):
        measured()
    (tmp_path / "unplugged").unlink()
    (tmp_path / "fails").touch()
    with pytest.raises(LatencyError, match=r"the phone did not measure: Error: Benchmark failed on device\.; .*goes on"):
        measured()
    assert told, "some were measured"
    (tmp_path / "fails").unlink()
    measured()
    probes = plan_of(space, with_edges=True).probes()
    assert told == [(done, len(probes)) for done in range(1, len(probes) + 1)]  # none of them twice
    ran = [line.split() for line in log.read_text().splitlines() if "benchmark" in line]
    (command_line,) = {" ".join(words[:-1]) for words in ran}
    assert command_line == "S9 1 litert_cli.litert benchmark --android --cpu --num-runs"
    assert {int(words[-1]) for words in ran} == {45, 135}  # of the overhead of a call more
    removed = [line.split()[-1] for line in log.read_text().splitlines() if " rm " in line]
    assert len(removed) == len(probes)
    assert all(re.fullmatch(r"/data/local/tmp/litert-cli/hiernas-[0-9a-f]{24}\.tflite", file) for file in removed)
    assert not (tmp_path / "phone-measured.json").exists()
    found = LatencyTable.load(tmp_path / "phone.json")
    assert (found.device, found.runtime, found.version, found.threads) == ("Pixel 9", "litert", "2.2.0", 1)
    architecture = space.architecture(["k5_e2", "k3_e1"])
    assert found.predict(architecture) == pytest.approx(known.prepare(architecture.build(), (3, 16, 16))(), rel=1e-6)
    with pytest.raises(LatencyError, match=r"cannot run /no_python .*--python of an environment with litert-cli"):
        measure(replace(asked, python="/no_python"), lambda e: None)

"""Latency tables: how long each operation of a space takes on one device; a network takes their sum.

Entries come from measuring (see `measure`). A table may carry a correction that whole networks told (see `calibrate`).
An operation counts with the tenth percentile of its runs: on an idle device that is the median within a few
percent, on a busy one it stays while the median follows the neighbours.

Phones: tables in the format of ProxylessNAS (Cai et al. 2019) and Once-for-All (Cai et al. 2020) are read, too. They are
YAML, one entry per operation with its mean latency in ms. The first kind writes a block as
`expanded_conv-input:112x112x16-output:56x56x24-expand:3-kernel:3-stride:2-idskip:0` with the expansion ratio
(all activations are ReLU6), the second kind has the number of expanded channels there, and `-se:1-hs:1` behind
(squeeze-and-excite, hard swish instead of ReLU).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from hiernas.costs.tables import LatencyTable as AnyTable
from hiernas.costs.tables import parts_of, saved_by
from hiernas.errors import UNREADABLE, LatencyError, validated
from hiernas.latency.runner import write
from hiernas.networks.ops import Classifier, Conv, MBConv
from hiernas.networks.parts import Part
from hiernas.run.disk import from_yaml
from hiernas.space import Architecture, SearchSpace
from hiernas.subsets import as_subset

KIND = "hiernas latency table, format 1"
BELONGS_TO = ("device", "runtime", "version", "threads", "batch")  # what the latencies of a table hold for
RUNS, WARMUP = 45, 3


@dataclass(frozen=True)
class Entry:
    """Latency of one module over `runs` runs: median, tenth and ninetieth percentile, in ms."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int

    def __post_init__(self) -> None:
        if not 0 <= self.p10_ms <= self.median_ms <= self.p90_ms < math.inf:
            raise LatencyError(f"{self} is no measurement: 0 <= p10 <= median <= p90 must hold")


@dataclass(frozen=True)
class Correction:
    """What whole networks of a space told: their latency is `constant_ms` + `scale` times the sum of the table."""

    constant_ms: float
    scale: float
    networks: int  # it was fitted on
    space: str  # they were of

    def __post_init__(self) -> None:
        if not (math.isfinite(self.constant_ms) and 0 < self.scale < math.inf):
            raise LatencyError(
                f"a correction of {self.constant_ms:.3g} ms + {self.scale:.3g} x the sum makes no sense: the scale must be "
                "positive; calibrate again on an idle device, with more networks"
            )

    def __str__(self) -> str:
        return f"{self.constant_ms:+.4f} ms + {self.scale:.4f} x the sum"

    def of(self, sums_ms: Any) -> Any:
        """Latency of a network by the sum of the table, or of several by an array of sums."""
        return self.constant_ms + self.scale * sums_ms


@dataclass(frozen=True)
class LatencyTable:
    """Latencies measured on one device with one runtime; `entries` are net of call overhead and edges.

    They and `raw_overhead_ms` are as measured; `overhead_ms`, `part_ms` and `predict` apply the correction.
    """

    device: str
    runtime: str
    version: str
    threads: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]
    raw_overhead_ms: Annotated[float, Field(alias="overhead_ms", ge=0, allow_inf_nan=False)]
    entries: Mapping[str, Entry] = field(default_factory=dict)  # by `Part.key`
    correction: Correction | None = None

    @property
    def overhead_ms(self) -> float:
        """What every network pays once, in ms."""
        return self.raw_overhead_ms if self.correction is None else self.correction.of(self.raw_overhead_ms)

    def part_ms(self, part: Part) -> float:
        """Latency of one operation in ms; raises `LatencyError` where the table misses it."""
        if part.is_identity:
            return 0.0
        if part.key not in self.entries:
            raise LatencyError(
                f"the latency table of '{self.device}' ({self.runtime} {self.version}) has no entry '{part.key}'; "
                f"measure the space on that device: hiernas measure SPACE --runtime {self.runtime}"
            )
        scale = 1.0 if self.correction is None else self.correction.scale
        return scale * self.entries[part.key].p10_ms

    def predict(self, architecture: Architecture) -> float:
        """Latency of a network in ms: the sum of its operations plus `overhead_ms`."""
        return predict_ms(self, architecture)

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, at once: the file is whole, or as it was before."""
        path, value = Path(path), asdict(self)
        value["overhead_ms"] = value.pop("raw_overhead_ms")
        value["entries"] = value.pop("entries")  # last, for those who read the file
        if self.correction is None:
            del value["correction"]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, {"kind": KIND, **value})
        except OSError as error:
            raise LatencyError(f"cannot write the latency table {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read a table that `save` wrote; raises `LatencyError` for any other file."""
        text = read_text(path)
        try:
            value = json.loads(text)
            kind = value.get("kind") if isinstance(value, dict) else None
            if kind == KIND:
                table: LatencyTable = validated(cls, text, "its content", LatencyError)
                return table
        except (LatencyError, *UNREADABLE) as error:
            raise LatencyError(f"the latency table {path} is damaged ({error}); delete it and measure again") from error
        raise LatencyError(f"{path} is not a latency table of this version; measure one with `hiernas measure`")


def predict_ms(table: AnyTable, architecture: Architecture) -> float:
    """Latency of a network by any table; a site that keeps several options pays for each, and for their sum."""
    if not architecture.is_single:
        architecture = as_subset(architecture)
    taken = sum(map(table.part_ms, parts_of(architecture)), table.overhead_ms)
    return taken - sum(map(table.part_ms, saved_by(architecture.skeleton)))


def check_asked(path: str | Path, table: object, asked: Mapping[str, Any]) -> None:
    """Refuse a table that was measured with another device, runtime, ... than what is asked for, by its field names."""
    for name, value in asked.items():
        found = getattr(table, name)
        if found != value:
            measured = f"the latency table {path} was measured with {name} '{found}'"
            raise LatencyError(f"{measured}, but '{value}' is asked for; name another table, or ask for what it has")


def read_text(path: str | Path) -> str:
    """The text of a table's file; raises `LatencyError`."""
    try:
        return Path(path).read_text()
    except OSError as error:
        raise LatencyError(f"cannot read the latency table {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LatencyError(f"{path} is not a latency table: it is not a text file") from error


def merge(mine: LatencyTable, other: LatencyTable) -> tuple[LatencyTable, str]:
    """Both tables' entries; where both have one, the one of more runs stays, and ours where they are equal. And how many.

    Overhead and correction stay ours. Raises `LatencyError` where device, runtime, version, threads or batch differ.
    """
    check_asked("to be merged", other, {name: getattr(mine, name) for name in BELONGS_TO})
    added = {k: e for k, e in other.entries.items() if k not in mine.entries}
    better = {k: e for k, e in other.entries.items() if k in mine.entries and e.runs > mine.entries[k].runs}
    kept = f"{len(other.entries) - len(added) - len(better)} kept as they were (of as many runs or more)"
    said = f"{len(added)} new entries, {len(better)} replaced by ones of more runs, {kept}"
    return replace(mine, entries={**mine.entries, **added, **better}), said


# -- those of phones, by others ----------------------------------------------------------------------------------


class _Mean(TypedDict):
    mean: Annotated[float, Field(ge=0, allow_inf_nan=False)]  # ms


@dataclass(frozen=True)
class PhoneTable:
    """Mean latencies in ms by the format's keys; measured on one image, so there is no call overhead to add."""

    device: str
    entries: Mapping[str, float]
    runtime: str = "phone table"
    version: str = "unknown"
    threads: int = 1
    batch: int = 1
    overhead_ms: float = 0.0

    def part_ms(self, part: Part) -> float:
        """Latency of one operation in ms; raises `LatencyError` where the table misses it."""
        return 0.0 if part.is_identity else sum(self._entry(key) for key in self._keys(part))

    def predict(self, architecture: Architecture) -> float:
        return predict_ms(self, architecture)

    @classmethod
    def load(cls, path: str | Path) -> PhoneTable:
        """Read a YAML file; its name becomes the device's. Raises `LatencyError` where it is not such a table."""
        try:
            value = from_yaml(read_text(path))
        except UNREADABLE as error:
            line = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
            raise LatencyError(f"{path} is not a latency table: it is neither our JSON nor YAML ({line})") from error
        if not isinstance(value, Mapping) or not value:
            raise LatencyError(f"{path} is not a latency table: entries such as 'Conv-input:...' are expected")
        means = validated(dict[str, _Mean], value, f"{path} is not a latency table", LatencyError)
        return cls(Path(path).stem, {key: float(entry["mean"]) for key, entry in means.items()})

    def _entry(self, key: str) -> float:
        if key in self.entries:
            return self.entries[key]
        if key.startswith("Logits"):
            return self._bound(*key.rsplit(":", 1))
        sizes = {tuple(map(int, size)) for k in self.entries for size in re.findall(r":(\d+)x(\d+)x(\d+)", k)}
        maps = ", ".join(f"{h}x{w}" for h, w in sorted({(h, w) for h, w, _ in sizes}, key=lambda side: -side[0]))
        widths = ", ".join(map(str, sorted({c for _, _, c in sizes})))
        raise LatencyError(
            f"the latency table '{self.device}' has no entry '{key}'; it covers feature maps of {maps} with {widths} "
            "channels; choose a space of these sizes (the Pixel 1 table is for proxyless with widths='search' at 224x224), "
            "or measure a device"
        )

    def _bound(self, layer: str, classes: str) -> float:
        """No less than so many classes take: what more of them do, or, in proportion, more than fewer do."""
        known = {int(k.rsplit(":", 1)[1]): ms for k, ms in self.entries.items() if k.startswith(layer + ":")}
        if not known:
            others = ", ".join(k for k in self.entries if k.startswith("Logits"))
            raise LatencyError(
                f"the latency table '{self.device}' has no entry '{layer}:{classes}' (it has {others}); put your own value in "
                "a copy of the file: the key, and under it 'mean' in ms"
            )
        return min(ms * max(1.0, int(classes) / n) for n, ms in known.items())

    def _keys(self, part: Part) -> tuple[str, ...]:
        """The entries that an operation is made of."""
        op, (cin, h, w), (cout, *after) = part.op, part.input_size, part.output_size
        size, output = f"input:{h}x{w}x{cin}", f"output:{after[0]}x{after[1]}x{cout}"
        if isinstance(op, MBConv):
            return (f"expanded_conv-{size}-{output}-{self._block(part, op)}",)
        if isinstance(op, Conv) and op.kernel in (1, 3):
            return (f"{'Conv_1' if op.kernel == 1 else 'Conv'}-{size}-{output}",)
        if isinstance(op, Classifier) and not self._by_channels:
            return (f"Logits-{size}-output:{cout}",)
        if isinstance(op, Classifier):
            pooled = f"1x1x{cin}"
            return f"AvgPool2D-{size}-output:{pooled}", f"Logits-input:{pooled}-output:{cout}"
        raise LatencyError(f"the latency table '{self.device}' knows no operation like '{part.key}'; measure a device")

    def _block(self, part: Part, op: MBConv) -> str:
        residual = int(part.stride == 1 and part.cin == part.cout)
        expand = part.cin * op.expand if self._by_channels else op.expand
        end = f"expand:{expand}-kernel:{op.kernel}-stride:{part.stride}-idskip:{residual}"
        other = op.groups != 1 or (op.expand == 1 and op.keep_1x1)  # no entry tells these blocks from the plain ones
        if self._by_channels and not other and op.act in ("relu", "relu6", "hswish"):
            return f"{end}-se:{int(op.se)}-hs:{int(op.act == 'hswish')}"
        if self._by_channels or other or op.se or op.act not in ("relu", "relu6"):
            raise LatencyError(f"the latency table '{self.device}' has no blocks like '{op.describe()}'; measure a device")
        return end

    @property
    def _by_channels(self) -> bool:  # Once-for-All's keys
        return any("-se:" in key for key in self.entries)


def bounded(table: LatencyTable | PhoneTable | None, space: SearchSpace) -> list[str]:
    """A doubt where a phone's table has no entry for the number of classes."""
    parts = [part for part in space.skeleton.parts()[0] if isinstance(part.op, Classifier)]
    return [
        f"the latency table '{table.device}' has no classifier of {part.cout} classes; {table.part_ms(part):.3g} ms are taken, "
        "no less than it takes to go by the others: for an exact value put an entry into a copy of the file (docs/latency.md)"
        for part in parts
        if isinstance(table, PhoneTable) and table._keys(part)[-1] not in table.entries
    ]


def load_table(path: str | Path, runtime: str | None = None, threads: int | None = None) -> LatencyTable | PhoneTable:
    """Read a latency table: our JSON, or a phone's YAML.

    Raises `LatencyError` where it was measured with another runtime or number of threads than those asked for, if any.
    """
    table = LatencyTable.load(path) if read_text(path).lstrip().startswith("{") else PhoneTable.load(path)
    asked = {"runtime": runtime, "threads": threads}
    check_asked(path, table, {name: value for name, value in asked.items() if value is not None})
    return table

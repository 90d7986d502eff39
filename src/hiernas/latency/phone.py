"""Latency tables of phones in the format of ProxylessNAS (Cai et al. 2019) and Once-for-All (Cai et al. 2020).

YAML: one entry per operation with its mean latency in ms. The first kind writes a block as
`expanded_conv-input:112x112x16-output:56x56x24-expand:3-kernel:3-stride:2-idskip:0` with the expansion ratio
(all activations are ReLU6), the second kind has the number of expanded channels there, and `-se:1-hs:1` behind
(squeeze-and-excite, hard swish instead of ReLU).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hiernas.errors import LatencyError
from hiernas.latency.table import LatencyTable, check_asked, predict_ms, read_text
from hiernas.networks.ops import Classifier, Conv, MBConv
from hiernas.space import Architecture

if TYPE_CHECKING:
    from hiernas.networks.parts import Part


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
        """Latency of a network in ms: the sum of its operations."""
        return predict_ms(self, architecture)

    @classmethod
    def load(cls, path: str | Path) -> PhoneTable:
        """Read a YAML file; its name becomes the device's. Raises `LatencyError` where it is not such a table."""
        import yaml

        try:
            value = yaml.safe_load(read_text(path))
        except yaml.YAMLError as error:
            line = str(error).splitlines()[-1].strip()
            raise LatencyError(f"{path} is not a latency table: it is neither our JSON nor YAML ({line})") from error
        if not isinstance(value, Mapping) or not value:
            raise LatencyError(f"{path} is not a latency table: entries such as 'Conv-input:...' are expected")
        means: dict[str, float] = {}
        for key, entry in value.items():
            mean = entry.get("mean") if isinstance(entry, Mapping) else None
            if isinstance(mean, bool) or not isinstance(mean, int | float) or not 0 <= mean < math.inf:
                raise LatencyError(f"{path} is not a latency table: entry '{key}' has no 'mean' in ms")
            means[str(key)] = float(mean)
        return cls(Path(path).stem, means)

    def _entry(self, key: str) -> float:
        if key in self.entries:
            return self.entries[key]
        if key.startswith("Logits"):
            known = ", ".join(k for k in self.entries if k.startswith("Logits"))
            raise LatencyError(
                f"the latency table '{self.device}' has no entry '{key}' (it has {known}); for another number of classes put "
                "your own value in a copy of the file: the key, and under it 'mean' in ms"
            )
        sizes = {tuple(map(int, size)) for k in self.entries for size in re.findall(r":(\d+)x(\d+)x(\d+)", k)}
        maps = ", ".join(f"{h}x{w}" for h, w in sorted({(h, w) for h, w, _ in sizes}, key=lambda side: -side[0]))
        widths = ", ".join(map(str, sorted({c for _, _, c in sizes})))
        raise LatencyError(
            f"the latency table '{self.device}' has no entry '{key}'; it covers feature maps of {maps} with {widths} "
            "channels; choose a space of these sizes (the Pixel 1 table is for proxyless with widths='search' at 224x224), "
            "or measure a device"
        )

    def _keys(self, part: Part) -> tuple[str, ...]:
        """The entries that an operation is made of."""
        site, op, (h, w) = part.site, part.op, part.size
        size = f"input:{h}x{w}x{site.cin}"
        output = f"output:{-(-h // site.stride)}x{-(-w // site.stride)}x{site.cout}"
        if isinstance(op, MBConv):
            return (f"expanded_conv-{size}-{output}-{self._block(part, op)}",)
        if isinstance(op, Conv) and op.kernel in (1, 3):
            return (f"{'Conv_1' if op.kernel == 1 else 'Conv'}-{size}-{output}",)
        if isinstance(op, Classifier) and not self._by_channels:
            return (f"Logits-{size}-output:{site.cout}",)
        if isinstance(op, Classifier):
            pooled = f"1x1x{site.cin}"
            return f"AvgPool2D-{size}-output:{pooled}", f"Logits-input:{pooled}-output:{site.cout}"
        raise LatencyError(f"the latency table '{self.device}' knows no operation like '{part.key}'; measure a device")

    def _block(self, part: Part, op: MBConv) -> str:
        site = part.site
        residual = int(site.stride == 1 and site.cin == site.cout)
        expand = site.cin * op.expand if self._by_channels else op.expand
        end = f"expand:{expand}-kernel:{op.kernel}-stride:{site.stride}-idskip:{residual}"
        other = op.groups != 1 or (op.expand == 1 and op.keep_1x1)  # no entry tells these blocks from the plain ones
        if self._by_channels and not other and op.act in ("relu", "relu6", "hswish"):
            return f"{end}-se:{int(op.se)}-hs:{int(op.act == 'hswish')}"
        if self._by_channels or other or op.se or op.act not in ("relu", "relu6"):
            raise LatencyError(f"the latency table '{self.device}' has no blocks like '{op.describe()}'; measure a device")
        return end

    @property
    def _by_channels(self) -> bool:  # Once-for-All's keys
        return any("-se:" in key for key in self.entries)


def load_table(path: str | Path, runtime: str | None = None, threads: int | None = None) -> LatencyTable | PhoneTable:
    """Read a latency table: our JSON, or a phone's YAML.

    Raises `LatencyError` where it was measured with another runtime or number of threads than those asked for, if any.
    """
    table = LatencyTable.load(path) if read_text(path).lstrip().startswith("{") else PhoneTable.load(path)
    asked = {"runtime": runtime, "threads": threads}
    check_asked(path, table, {name: value for name, value in asked.items() if value is not None})
    return table

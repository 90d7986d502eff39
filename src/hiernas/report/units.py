"""How numbers are written on the page: one form per metric, always with its unit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from hiernas.costs import LATENCIES, MEMORY
from hiernas.search.decided import wilson as wilson  # of accuracies, on the page, too

NONE = "–"
SPACE = "\N{NO-BREAK SPACE}"  # between a number and its unit
NAMES = {"latency_ms": "Latency", "latency_int8_ms": "Latency, INT8", "params": "Parameters", "macs": "Multiply-adds"}
NAMES |= {"peak_ram": "Peak RAM", "peak_ram_int8": "Peak RAM, INT8", "flash": "Flash", "flash_int8": "Flash, INT8"}
SCALES = ((1e9, "billions", "G"), (1e6, "millions", "M"), (1e3, "thousands", "k"), (1.0, "", ""))


def name(metric: str) -> str:
    """'macs' -> 'Multiply-adds'; the metric itself where it is not one of ours."""
    return NAMES.get(metric, metric)


def lower(metric: str) -> str:
    """The name within a sentence: 'Peak RAM, INT8' -> 'peak RAM in INT8'."""
    return f"{name(metric)[0].lower()}{name(metric)[1:]}".replace(", ", " in ")


def percent(fraction: float | None, decimals: int = 2) -> str:
    """0.98886 -> '98.89 %'."""
    return NONE if fraction is None else f"{100 * fraction:.{decimals}f}{SPACE}%"


def milliseconds(ms: float | None, like: float | None = None) -> str:
    """Three digits: 0.11 -> '0.110 ms', 1234.5 -> '1,234 ms'. As many decimals as `like` gets, where it is given."""
    if ms is None:
        return NONE
    size = ms if like is None else like
    decimals = 3 if size <= 0 else min(6, max(0, 2 - math.floor(math.log10(size))))
    return f"{ms:,.{decimals}f}{SPACE}ms"


def count(n: float | None) -> str:
    """12345 -> '12,345'."""
    return NONE if n is None else f"{n:,.0f}"


def short(n: float | None) -> str:
    """Three digits: 12345 -> '12.3 k'."""
    if n is None or n < 1000:
        return count(n)
    factor, letter = next((f, letter) for f, _, letter in SCALES if n >= 0.9995 * f)
    return f"{n / factor:#.3g}".rstrip(".") + f"{SPACE}{letter}"


def size(n: int) -> str:
    """The size of a space: exact below a thousand million, then such as '1.55×10²⁷'."""
    if n < 10**9:
        return count(n)
    mantissa, exponent = f"{n:.2e}".split("e+")
    return f"{mantissa}×10" + str(int(exponent)).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def value(metric: str, n: float | None) -> str:
    """A value of a metric with its unit."""
    if metric in MEMORY and n is not None:
        return f"{count(n)}{SPACE}B"
    return milliseconds(n) if metric in LATENCIES else count(n)


def amount(metric: str, n: float | None) -> str:
    """The same in three digits: '0.110 ms', '12.3 k', '12.3 kB'."""
    if metric in MEMORY and n is not None and n >= 1000:
        return f"{short(n)}B"
    return value(metric, n) if metric in MEMORY else milliseconds(n) if metric in LATENCIES else short(n)


def seconds(s: float) -> str:
    """31.04 -> '31.0 s', 3723 -> '1 h 02 min'."""
    if s < 99.95:
        return f"{s:.1f}{SPACE}s"
    minutes = round(s / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def axis(metric: str, values: Iterable[float]) -> tuple[float, str]:
    """What to divide the values of an axis by, and the axis' label."""
    if metric in LATENCIES:
        return 1.0, f"{name(metric)} (ms)"
    most = max(values)
    factor, word, letter = next(s for s in SCALES if most >= s[0] or s[0] == 1.0)
    word = f"{letter}B" if metric in MEMORY else word
    return factor, f"{name(metric)} ({word})" if word else name(metric)


def asked(metric: str, bound: float) -> str:
    """The bound of a limit with its unit, not rounded."""
    return f"{bound:g}{SPACE}ms" if metric in LATENCIES else value(metric, bound)


def limit_text(limit: Mapping[str, Any], named: bool = True) -> str:
    """A limit with its unit: 'latency ≤ 0.12 ms', or without the name '≤ 0.12 ms'."""
    metric, low, high = limit["metric"], limit["low"], limit["high"]
    said = f"{lower(metric)} " if named else ""
    if low is not None and high is not None:
        return f"{said}{asked(metric, low)} to {asked(metric, high)}"
    return f"{said}≤{SPACE}{asked(metric, high)}" if low is None else f"{said}≥{SPACE}{asked(metric, low)}"


def image(data: Mapping[str, Any]) -> str:
    """The size of the images: '1×8×8'."""
    return "×".join(map(str, data["input_size"]))


def images(data: Mapping[str, Any]) -> str:
    """How a data set is split: 'digits: 1,078 training, 360 validation and 359 test images of 1×8×8 in 10 classes'."""
    parts = [f"{data[key]:,} {word}" for key, word in (("train", "training"), ("val", "validation"), ("test", "test"))]
    classes = data["classes"] if isinstance(data["classes"], int) else len(data["classes"])
    return f"{data['name']}: {', '.join(parts[:2])} and {parts[2]} images of {image(data)} in {classes:,} classes"


def compact(options: Sequence[object]) -> str:
    """Options with repeats counted: 'k3_e3 2×skip k5_e6'."""
    runs = [(option, len(list(same))) for option, same in groupby(map(str, options))]
    return " ".join(f"{n}×{option}" if n > 1 else option for option, n in runs)


def number(n: int, what: str) -> str:
    """1000, 'block' -> '1,000 blocks'."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def sentence(said: str) -> str:
    """'as it is' -> 'As it is.'; nothing of nothing."""
    return f"{said[0].upper()}{said[1:]}." if said else ""


def judged(result: Mapping[str, Any]) -> str:
    """Whose weights a search's accuracies come from."""
    return "brief training" if "control" in (result.get("details") or {}) else "supernet"


def evaluated(result: Mapping[str, Any]) -> str:
    """How much of the space a search looked at."""
    n, space = count(result.get("evaluated")), result["space"]
    return f"The search evaluated {n} of the {size(space['size'])} architectures of the space {space['name']}."


def latency(network: Mapping[str, Any], kind: str, metric: str = "latency_ms") -> float | None:
    """'predicted', 'measured', 'p10' or 'p90' of a network in ms; None where it is not known."""
    found = (network.get(metric) or {}).get(kind)
    return None if found is None else float(found)


# -- INT8: what `hiernas export RUN --to onnx-int8` found, a page's and the terminal's -----------------------------

INT8 = ("", "FP32", "INT8", "Change")  # heads of the columns


def int8_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Accuracy, size and latency before and after."""
    pair = (found["fp32"], found["int8"])
    accuracy, size, ms = ([each["accuracy"] for each in pair], [each["bytes"] for each in pair],
                          [each["latency_ms"]["p10"] for each in pair])  # fmt: skip
    return [
        ["Test accuracy", *map(percent, accuracy), f"{100 * (accuracy[1] - accuracy[0]):+.2f} points"],
        ["File", *(f"{short(n)}B" for n in size), f"{100 * size[1] / size[0]:.0f}{SPACE}%"],
        ["Latency", *(milliseconds(each, ms[0]) for each in ms), f"{ms[0] / ms[1]:.2f} times as fast"],
    ]


def int8_words(found: Mapping[str, Any]) -> str:
    """How it was measured."""
    files = "Both files, with their preprocessing," if found.get("preprocessing") else "Both files"
    return (
        f"{files} by ONNX Runtime {found['version']} on {found['device']}, {number(found['threads'], 'thread')}: accuracy "
        f"on {number(found['test_images'], 'test image')}, latency of one image, both in turns (tenth percentile); the scales "
        f"of INT8 are from {number(found['calibration_images'], 'training image')}."
    )

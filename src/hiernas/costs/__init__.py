"""What networks cost, and limits on it; here limits are read from text, which takes neither torch nor a space."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from decimal import Decimal

from hiernas.budget import METRICS, SUFFIXES, Limit
from hiernas.errors import LimitError, did_you_mean

LATENCIES = METRICS[:2]  # in ms, in FP32 and INT8
PEAKS = ("peak_ram", "peak_ram_int8")  # greatest values over the operations of a network; the other metrics are sums
MEMORY = (*PEAKS, "flash", "flash_int8")  # in bytes
BYTES = {f"{unit}{b}": n for unit, n in {"": 1, **SUFFIXES, "Ki": 2**10, "Mi": 2**20}.items() for b in ("", "B")}
UNITS = {m: {"": 1, "ms": 1} for m in LATENCIES} | {m: {"": 1, **SUFFIXES} for m in ("params", "macs")}
UNITS |= dict.fromkeys(MEMORY, BYTES)
EXAMPLES = {**dict.fromkeys(LATENCIES, "5 or 5ms"), "params": "4.8M or 4800000", "macs": "300M or 3e8"}
MEANT = {"flops": "papers' FLOPs are 'macs'"}
EXAMPLES |= dict.fromkeys(MEMORY, "256k, 256Ki or 262144 (bytes)")


def parse_limits(texts: Iterable[str]) -> tuple[Limit, ...]:
    """Read limits such as "latency_ms<=5", "params <= 4.8M and MACs≤3M" or "60<=latency_ms<=70ms"; one `Limit` per metric.

    Several limits on one metric must all hold. Raises `LimitError` with what cannot be read.
    """
    limits: dict[str, Limit] = {}
    given = [texts] if isinstance(texts, str) else texts
    for text in (part for each in given for part in re.split(r"\s+and\s+|,\s*(?=\D)", each)):
        new = _parse(text.replace("≤", "<=").replace("≥", ">="))
        old = limits.get(new.metric, new)
        limits[new.metric] = Limit(new.metric, max(old.low, new.low), min(old.high, new.high))
        if new.metric in MEMORY and math.isfinite(new.low):
            raise LimitError(f"limit '{text}': {new.metric} is what a device has, so the limit is an upper one; write '<='")
    return tuple(limits.values())


def sums(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """The limits on sums over the operations of a network. Those on peaks hold for a whole space (`limits.within_peaks`)."""
    return tuple(limit for limit in limits if limit.metric not in PEAKS)


def _parse(text: str) -> Limit:
    words = [word.strip() for word in re.split(r"([<>=]+)", text)]
    signs = words[1::2]
    for sign in signs:
        if sign not in ("<=", ">="):
            raise LimitError(f"limit '{text}' uses '{sign}'; write '<=' or '>=' (a bound itself is allowed)")
    if len(signs) == 1:
        left, sign, right = words
        if re.match(r"[-+.\d]|(nan|inf)\b", left, re.IGNORECASE):  # 5 <= params
            left, sign, right = right, {"<=": ">=", ">=": "<="}[sign], left
        left, bound = left.lower(), _number(right, left, text)
        return Limit(left, high=bound) if sign == "<=" else Limit(left, low=bound)
    if len(signs) == 2 and signs[0] == signs[1]:
        low, metric, high = (words[0], words[2], words[4]) if signs[0] == "<=" else (words[4], words[2], words[0])
        return Limit(metric.lower(), _number(low, metric, text), _number(high, metric, text))
    raise LimitError(f"'{text}' is not a limit; write 'metric<=number', 'metric>=number' or 'low<=metric<=high'")


def _number(word: str, metric: str, text: str) -> float:
    asked, metric = metric, metric.lower()
    if metric not in METRICS:
        meant = MEANT.get(metric, did_you_mean(metric, METRICS))
        raise LimitError(f"unknown metric '{asked}' in limit '{text}'; {meant}")
    found = re.fullmatch(r"([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z]*)", word, re.IGNORECASE)
    if found is None or found[2] not in UNITS[metric]:
        raise LimitError(f"limit '{text}': '{word}' is no number for {metric}; write {EXAMPLES[metric]}")
    value = float(Decimal(found[1]) * UNITS[metric][found[2]])
    if not 0 <= value < math.inf:
        raise LimitError(f"limit '{text}': {word} is no bound for {metric}; a bound is a number from 0 upward")
    return value

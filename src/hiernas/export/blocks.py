"""The functions of a generated file that build our own operations, written for the network at hand.

What no block of the network has is left out, and what all its blocks share is no argument. They build the modules that
the operations in `ops` build; every export compares the outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass

from hiernas.export.layout import literal, quoted
from hiernas.export.sources import Sources
from hiernas.ops import ChannelShuffle, Classifier, Conv, MBConv, Op, Residual, Skip, SqueezeExcite, conv_bn
from hiernas.supernet.chain import Mixture

FUNCTIONS: dict[type, tuple[str, tuple[str, ...]]] = {  # the function of an operation, and the settings it knows
    MBConv: ("mbconv", ("kernel", "expand", "groups", "keep_1x1", "se", "act")),
    Conv: ("conv", ("kernel", "act")),
    Skip: ("skip", ("act",)),
    Classifier: ("classifier", ("dropout",)),
}
NAMES = ("classifier", "conv", "mbconv", "mixture", "skip")  # what this part of a file defines
OPTIONAL = {"groups": "int", "keep_1x1": "bool", "se": "bool"}  # settings of MBConv that are columns where they differ


@dataclass(frozen=True)
class Style:
    """What the blocks of one network share."""

    act: str  # the most frequent activation
    columns: tuple[str, ...]  # settings of MBConv that differ
    keep_1x1: bool
    se: bool


def style_of(ops: Sequence[Op]) -> Style:
    """What these operations share."""
    acts = Counter(op.act for op in ops if isinstance(op, MBConv | Conv) and op.act)
    blocks = [op for op in ops if isinstance(op, MBConv)]
    differ = [name for name in OPTIONAL if len({getattr(b, name) for b in blocks}) > 1]
    if any(b.groups != 1 for b in blocks) and "groups" not in differ:
        differ.insert(0, "groups")
    first = blocks[0] if blocks else MBConv(3, 1)
    return Style(max(acts, key=lambda act: acts[act]) if acts else "relu", tuple(differ), first.keep_1x1, first.se)


def is_known(op: Op) -> bool:
    """Whether an operation is one of ours, with no setting that is unknown here."""
    found = FUNCTIONS.get(type(op))
    return found is not None and is_dataclass(op) and {f.name for f in fields(op)} <= set(found[1])


def call(op: Op, style: Style, keeps_shape: bool) -> list[str]:
    """The function of a known operation and its settings beyond channels and stride, as source."""
    if isinstance(op, Skip) and keeps_shape:
        return ["skip"]
    values: list[object] = []
    if isinstance(op, MBConv):
        values = [op.kernel, op.expand, *(getattr(op, name) for name in style.columns)]
    elif isinstance(op, Conv):
        values = [op.kernel]
    elif isinstance(op, Classifier) and op.dropout:
        values = [op.dropout]
    common = None if isinstance(op, Skip) else style.act
    values += [op.act] if isinstance(op, MBConv | Conv | Skip) and op.act != common else []
    return [FUNCTIONS[type(op)][0], *map(literal, values)]


def functions(used: set[str], style: Style, sources: Sources) -> Iterator[str]:
    """The source of the functions of these names; the modules they need are added to `sources`."""
    if used & {"conv", "mbconv", "skip"}:
        sources.refer(conv_bn)
    if "conv" in used:
        yield CONV.format(act=quoted(style.act))
    if "mbconv" in used:
        yield "\n".join(_mbconv(style, sources))
    if "skip" in used:
        yield SKIP
    if "classifier" in used:
        yield CLASSIFIER
    if "mixture" in used:
        sources.refer(Mixture)
        yield MIXTURE


def _mbconv(style: Style, sources: Sources) -> Iterator[str]:
    sources.refer(Residual)
    groups = ", groups=groups" if "groups" in style.columns else ""
    columns = "".join(f", {name}: {OPTIONAL[name]}" for name in style.columns)
    yield "def mbconv("
    yield f"    cin: int, cout: int, stride: int, kernel: int, expand: int{columns}, act: str = {quoted(style.act)}"
    yield ") -> nn.Module:"
    yield '    """Inverted bottleneck: 1x1 expansion, depthwise, 1x1 projection; residual where the shape is kept."""'
    yield "    mid = cin * expand"
    yield "    layers: list[nn.Module] = []"
    yield from _expansion(style, groups, sources)
    yield "    layers += conv_bn(mid, mid, kernel, stride, groups=mid, act=act)"
    yield from _squeeze(style, sources)
    yield f"    layers += conv_bn(mid, cout, 1{groups})"
    yield "    body = nn.Sequential(*layers)"
    yield "    return Residual(body) if stride == 1 and cin == cout else body"


def _expansion(style: Style, groups: str, sources: Sources) -> Iterator[str]:
    indent = "    "
    if not style.keep_1x1 or "keep_1x1" in style.columns:
        yield "    if expand != 1 or keep_1x1:" if "keep_1x1" in style.columns else "    if expand != 1:"
        indent *= 2
    yield f"{indent}layers += conv_bn(cin, mid, 1{groups}, act=act)"
    if groups:
        sources.refer(ChannelShuffle)
        yield f"{indent}if groups != 1:"
        yield f"{indent}    layers.append(ChannelShuffle(groups))"


def _squeeze(style: Style, sources: Sources) -> Iterator[str]:
    differs = "se" in style.columns
    if not style.se and not differs:
        return
    sources.refer(SqueezeExcite)
    if differs:
        yield "    if se:"
    yield "    " * (1 + differs) + "layers.append(SqueezeExcite(mid, max(1, cin // 4), act))"


CONV = '''\
def conv(cin: int, cout: int, stride: int, kernel: int, act: str | None = {act}) -> nn.Module:
    """Convolution, batch norm, activation."""
    return nn.Sequential(*conv_bn(cin, cout, kernel, stride, act=act))'''

SKIP = '''\
def skip(cin: int, cout: int, stride: int, act: str | None = None) -> nn.Module:
    """Identity; where the shape changes, a 1x1 convolution with batch norm."""
    if stride == 1 and cin == cout:
        return nn.Identity()
    return nn.Sequential(*conv_bn(cin, cout, 1, stride, act=act))'''

CLASSIFIER = '''\
def classifier(cin: int, cout: int, stride: int, dropout: float = 0.0) -> nn.Module:
    """Global average pooling, dropout, linear layer."""
    drop = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *drop, nn.Linear(cin, cout))'''

MIXTURE = '''\
def mixture(cin: int, cout: int, stride: int, *options: tuple) -> nn.Module:
    """Several blocks in parallel, each with its weight: (weight, block, settings of the block)."""
    blocks = [block(cin, cout, stride, *settings) for _, block, *settings in options]
    return Mixture(blocks, [weight for weight, *_ in options])'''

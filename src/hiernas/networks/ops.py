"""Candidate operations of chain spaces: frozen values that build plain modules.

An operation is any frozen value with a `name`, `build(cin, cout, stride)` and `describe()`. To add one, write
such a class; nothing else needs to know it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from hiernas.errors import SpaceError, one_of

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU, "hswish": nn.Hardswish}


class Op(Protocol):
    """An operation from `cin` to `cout` channels: [B, cin, H, W] -> [B, cout, ceil(H / stride), ceil(W / stride)]."""

    @property
    def name(self) -> str: ...  # unique among the options of a site, such as "k3_e6"
    def describe(self) -> str: ...  # unique among all operations: it is part of a latency table's keys
    def build(self, cin: int, cout: int, stride: int) -> nn.Module: ...


class Origin(NamedTuple):
    """What a module of a network was made from."""

    op: Op
    cin: int
    cout: int
    stride: int

    def __deepcopy__(self, memo: object) -> Origin:
        return self  # copies of a network are many, and operations are values


def built(op: Op, cin: int, cout: int, stride: int) -> nn.Module:
    """The module of an operation. It keeps its `origin`, for those who write a network down."""
    module = op.build(cin, cout, stride)
    module.__dict__["origin"] = Origin(op, cin, cout, stride)
    return module


def origin_of(thing: object) -> Origin | None:
    """What a module was made from, where it is one operation's."""
    origin = getattr(thing, "origin", None)
    return origin if isinstance(origin, Origin) else None


def conv_bn(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, act: str | None = None) -> list[nn.Module]:
    """Convolution without bias, batch norm and, where named, an activation, as a list of layers."""
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(cout)]
    if act is not None:
        layers.append(ACTIVATIONS[act](inplace=True))
    return layers


class SqueezeExcite(nn.Module):
    """Channel attention: x * sigmoid(W2 act(W1 mean(x))), [B, C, H, W] -> the same."""

    def __init__(self, channels: int, reduced: int, act: str) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.act = ACTIVATIONS[act](inplace=True)
        self.expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        s = x.mean((2, 3), keepdim=True)  # [B, C, 1, 1]
        return x * self.expand(self.act(self.reduce(s))).sigmoid()


class ChannelShuffle(nn.Module):
    """Mixes the groups of a grouped convolution: channel g * (C / groups) + i becomes i * groups + g.

    [B, C, H, W] -> the same.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.reshape(b, self.groups, c // self.groups, h, w)  # [B, groups, C / groups, H, W]
        return x.transpose(1, 2).reshape(b, c, h, w)


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


@dataclass(frozen=True)
class MBConv:
    """Inverted bottleneck of MobileNetV2: 1x1 expansion, depthwise convolution, 1x1 linear projection.

    Residual where the shape is kept. The expansion is left out at ratio 1, unless `keep_1x1` (FBNet keeps it). `se`:
    squeeze-and-excite after the depthwise convolution, reduced to a quarter of the block's input channels. `groups`:
    of both 1x1 convolutions; the channels are shuffled behind the first.
    """

    kernel: int
    expand: int
    se: bool = False
    act: str = "relu6"
    groups: int = 1
    keep_1x1: bool = False

    def __post_init__(self) -> None:
        """Raises `SpaceError` for sizes that no convolution has; `build` does for channels that `groups` does not divide."""
        if min(self.kernel, self.expand, self.groups) < 1 or self.kernel % 2 == 0:
            raise SpaceError(f"{self!r} cannot be built: the kernel is an odd number, expand and groups are at least 1")
        _check_act(str(self.act))

    @property
    def name(self) -> str:
        groups = f"_g{self.groups}" if self.groups != 1 else ""
        return f"k{self.kernel}_e{self.expand}{groups}" + ("_se" if self.se else "")

    def describe(self) -> str:
        kept = "_1x1" if self.keep_1x1 and self.expand == 1 else ""  # at other ratios it changes nothing
        return f"mbconv_{self.name}_{self.act}{kept}"

    def build(self, cin: int, cout: int, stride: int) -> nn.Module:
        if cin % self.groups or cout % self.groups:
            raise SpaceError(
                f"'{self.name}' splits channels into {self.groups} groups, so it cannot lead from {cin} channels to {cout}; "
                f"choose widths that are multiples of {self.groups}"
            )
        mid = cin * self.expand
        layers: list[nn.Module] = []
        if self.expand != 1 or self.keep_1x1:
            layers += conv_bn(cin, mid, 1, groups=self.groups, act=self.act)
            if self.groups != 1:
                layers.append(ChannelShuffle(self.groups))
        layers += conv_bn(mid, mid, self.kernel, stride, groups=mid, act=self.act)
        if self.se:
            layers.append(SqueezeExcite(mid, max(1, cin // 4), self.act))
        layers += conv_bn(mid, cout, 1, groups=self.groups)
        body = nn.Sequential(*layers)
        return Residual(body) if stride == 1 and cin == cout else body


@dataclass(frozen=True)
class Skip:
    """Identity; where the shape changes, a 1x1 convolution with batch norm and, where named, an activation."""

    act: str | None = None
    name = "skip"

    def __post_init__(self) -> None:
        _check_act(self.act)

    def describe(self) -> str:
        return "skip" + (f"_{self.act}" if self.act else "")

    def build(self, cin: int, cout: int, stride: int) -> nn.Module:
        if stride == 1 and cin == cout:
            return nn.Identity()
        return nn.Sequential(*conv_bn(cin, cout, 1, stride, act=self.act))


@dataclass(frozen=True)
class Conv:
    """Plain convolution with batch norm and, where named, an activation: stems and heads."""

    kernel: int
    act: str | None = "relu6"

    def __post_init__(self) -> None:
        _check_act(self.act)

    @property
    def name(self) -> str:
        return f"conv{self.kernel}"

    def describe(self) -> str:
        return self.name + (f"_{self.act}" if self.act else "")

    def build(self, cin: int, cout: int, stride: int) -> nn.Module:
        return nn.Sequential(*conv_bn(cin, cout, self.kernel, stride, act=self.act))


@dataclass(frozen=True)
class Classifier:
    """Global average pooling, dropout and a linear layer: [B, cin, H, W] -> [B, cout]."""

    dropout: float = 0.0
    name = "classifier"

    def describe(self) -> str:
        return "classifier"

    def build(self, cin: int, cout: int, stride: int) -> nn.Module:
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        if self.dropout:
            layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers, nn.Linear(cin, cout))


def _check_act(act: str | None) -> None:
    if act is not None:
        one_of("activation", act, ACTIVATIONS, SpaceError)


def initialise(module: nn.Module) -> None:
    """He initialisation by fan-out for convolutions, N(0, 0.01) for linear layers, in place.

    The last batch norm of a residual branch starts at scale 0, so that every block starts as the identity (Goyal et
    al. 2017). Single-path training gains much by it: untrained branches do not disturb the paths through others.
    Modules that a user gave with their weights (`keeps_weights`) are left alone.
    """
    for m in module.modules():
        if getattr(m, "keeps_weights", False):
            continue
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, 0.0, 0.01)
            nn.init.zeros_(m.bias)
        elif isinstance(m, Residual):
            last = [n for n in m.body.modules() if isinstance(n, nn.BatchNorm2d)][-1]
            nn.init.zeros_(last.weight)

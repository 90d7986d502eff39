"""A chain network as a table of its layers, which reads like the table of a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from hiernas.errors import ExportError
from hiernas.export.blocks import NAMES, Style, call, functions, is_known, style_of
from hiernas.export.layout import Expression, layout, literal, quoted, row
from hiernas.export.modules import expression
from hiernas.export.shared import shared
from hiernas.export.sources import Sources
from hiernas.ops import Op
from hiernas.space import Architecture, Choice
from hiernas.supernet.chain import Chain, Mixture, Site
from hiernas.supernet.filters import is_whole

RESERVED = frozenset({"NETWORK", *NAMES})


@dataclass(frozen=True)
class Layer:
    """One row: where it stands, between how many channels, at which stride, and its operations with their weights."""

    name: str
    site: Site
    ops: tuple[tuple[Op, float], ...]
    size: tuple[int, int]  # height and width of its output

    @property
    def is_mixture(self) -> bool:
        return len(self.ops) > 1 or self.ops[0][1] != 1.0


def layers_of(chain: Chain, choices: Sequence[Choice]) -> list[Layer]:
    """The layers of a network, named by their place in it."""
    kept: list[tuple[str, Site, Choice]] = [(f"stem.{i}", s, ((s.ops[0].name, 1.0),)) for i, s in enumerate(chain.stem)]
    kept += [(s.name.replace(".", "_"), s, choice) for s, choice in zip(chain.sites, choices, strict=True)]
    kept += [(f"head.{i}", s, ((s.ops[0].name, 1.0),)) for i, s in enumerate(chain.head)]
    layers, size = [], chain.input_size[1:]
    for name, site, choice in kept:
        size = (-(-size[0] // site.stride), -(-size[1] // site.stride))
        layers.append(Layer(name, site, tuple((site.op(option), weight) for option, weight in choice), size))
    return layers


@dataclass
class Rows:
    """The rows of a table as they are written, and what they use."""

    network: nn.Module
    style: Style
    sources: Sources
    used: set[str] = field(default_factory=set)  # our functions
    written: dict[str, Expression] = field(default_factory=dict)  # trees of operations that are not ours, by function

    def row(self, layer: Layer) -> list[Expression]:
        """Name, function, output channels, stride, settings."""
        module = self.network.get_submodule(layer.name)
        if not layer.is_mixture:
            name, *settings = self._call(layer, layer.ops[0][0], module, layer.name)
        else:
            assert isinstance(module, Mixture)
            self.used.add("mixture")
            name, settings = "mixture", []
            for i, ((op, weight), member) in enumerate(zip(layer.ops, module.ops, strict=True)):
                settings.append(row(literal(weight), *self._call(layer, op, member, f"{layer.name}_option{i}")))
        return [quoted(layer.name), name, str(layer.site.cout), str(layer.site.stride), *settings]

    def _call(self, layer: Layer, op: Op, module: nn.Module, name: str) -> list[Expression]:
        if is_known(op) and is_whole(module):
            found = call(op, self.style, layer.site.stride == 1 and layer.site.cin == layer.site.cout)
            self.used.add(found[0])
            return list(found)
        name = name.replace(".", "_")
        try:
            self.written[name] = expression(module, self.sources)
        except ExportError as error:
            raise ExportError(
                f"block '{layer.site.name}' cannot be written as Python for its operation '{op.name}': {error}; export to onnx "
                "or pt2 instead, or define its modules at the top of a file that needs PyTorch only"
            ) from error
        return [name]

    def functions(self) -> list[str]:
        """The source of all functions that the rows call."""
        found = list(functions(self.used, self.style, self.sources))
        taken = RESERVED | set(self.written) | set(self.sources.definitions) | self.sources.reserved
        trees, helpers = shared(list(self.written.values()), taken)
        for name, tree in zip(self.written, trees, strict=True):
            helpers.append(f"def {name}(cin: int, cout: int, stride: int) -> nn.Module:\n{layout(tree, 4, 'return ')}")
        return found + helpers


def chain_source(chain: Chain, architecture: Architecture, network: nn.Module, sources: Sources) -> str:
    """The functions, the table and `build` of a chain network; what they use is added to `sources`.

    Raises `ExportError` with the block and its operation where one cannot be written down.
    """
    layers = layers_of(chain, architecture.choices)
    style = style_of([op for layer in layers for op, _ in layer.ops if is_known(op)])
    rows = Rows(network, style, sources)
    cells = [rows.row(layer) for layer in layers]
    settings = ["kernel", "expand", *style.columns] if "mbconv" in rows.used else []
    parts = [*rows.functions(), _table(["# name", "block", "out", "stride", *settings], layers, cells), _build(chain)]
    return "\n\n\n".join(parts)


def _table(titles: Sequence[str], layers: Sequence[Layer], rows: Sequence[Sequence[Expression]]) -> str:
    plain = [cells for cells in rows if all(isinstance(c, str) for c in cells)]
    widths = [max(len(str(c[i])) for c in (titles, *plain) if i < len(c)) for i in range(len(titles))]
    heads = [t.ljust(w) if i < 2 else t.rjust(w) for i, (t, w) in enumerate(zip(titles, widths, strict=True))]
    lines = [_line(cells, widths) for cells in rows]
    length = max((len(line) for line in lines if "\n" not in line), default=0)
    sizes = [f"{layer.site.cout} x {layer.size[0]} x {layer.size[1]}" for layer in layers[:-1]]
    shown = [f"{line.ljust(length)}  # {size}" for line, size in zip(lines, [*sizes, "classes"], strict=True)]
    return "\n".join(["NETWORK = (", "    " + "  ".join(heads), *shown, ")  # fmt: skip"])


def _line(cells: Sequence[Expression], widths: Sequence[int]) -> str:
    """A row whose cells stand below their titles; one with mixed options over several lines."""
    if not all(isinstance(c, str) for c in cells):
        return layout(row(*cells), 4, suffix=",")
    texts = [f"{cell}," for cell in cells[:-1]] + [str(cells[-1])]
    for i, width in enumerate(widths[: len(texts)]):
        comma = i < len(texts) - 1
        texts[i] = texts[i].ljust(width + 1) if i < 2 else texts[i].rjust(width + comma)
    return f"    ({' '.join(texts)}),"


def _build(chain: Chain) -> str:
    lines = [BUILD.format(chain.input_size[0])]
    if chain.bn_eps != nn.BatchNorm2d(1).eps:
        lines.append(BN_EPS.format(literal(chain.bn_eps)))
    return "\n".join([*lines, "    return network"])


BUILD = '''\
def build() -> nn.Module:
    """The network with random weights."""
    network, cin = nn.Sequential(), {}
    for name, block, cout, stride, *settings in NETWORK:
        group, _, place = name.rpartition(".")  # "head.1" is the second layer of "head"
        if group and not hasattr(network, group):
            network.add_module(group, nn.Sequential())
        network.get_submodule(group).add_module(place, block(cin, cout, stride, *settings))
        cin = cout'''

BN_EPS = '''\
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = {}'''

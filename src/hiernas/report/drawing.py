"""The figure of the chosen network, in as many lines as it takes.

Of a chain of ours the blocks are drawn in the order the image passes them, with their sizes; of any other space
only what was chosen at each site, for a site's place in the network is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from hiernas.errors import SpaceError
from hiernas.report.svg import BLUE, INK, MUTED, ON_BLUE, ORANGE, PAPER, draw, sheet
from hiernas.space import FORMAT, Architecture

if TYPE_CHECKING:
    from hiernas.supernet.chain import Part

ABOVE, BELOW, NOTE = 19.0, 24.0, 15.0  # pixels over a line's boxes, under them, and per note
CHAIN = (
    "Blocks in the order an image passes them. Height shows the expansion ratio (e), width and colour the kernel size; "
    "grey frames were not searched, a dashed frame is a layer left out."
)
VITAL = " A thick frame marks a vital block."
OPTIONS = "The operation chosen at each site; a dashed frame is a place left out."


@dataclass(frozen=True)
class Block:
    """One box of the drawing. `group` is the stage; boxes of one group stand over one bracket with the notes."""

    group: str
    label: str
    kernel: int = 0  # 0: none, or not known
    expand: int = 1
    plain: bool = False  # stem, head and classifier, which were not searched
    identity: bool = False
    stride: int = 1
    vital: bool = False
    notes: tuple[str, ...] = ()  # channels and resolution of what leaves the block


def architecture(result: Mapping[str, Any], width: float) -> str:
    """The chosen network as inline SVG, `width` pixels wide; "" where it has no sites."""
    blocks, flow = blocks_of(result)
    if not blocks:
        return ""
    slot = max(_least_slot(blocks), min(72.0, (width - 16) / len(blocks)))
    lines = _lines(blocks, max(1, int((width - 16) // slot)))
    half = max(_extent(b, slot)[1] for b in blocks) / 2
    pitch = ABOVE + 2 * half + BELOW + NOTE * max(len(b.notes) for b in blocks)

    def paint(figure: Figure) -> None:
        ax = sheet(figure)
        for i, line in enumerate(lines):
            y = i * pitch + ABOVE + half
            if flow:
                _flow(ax, 8.0, len(line), slot, y, last=line is lines[-1])
            _line(ax, line, slot, y, half)

    return draw(f"network{width:.0f}", _in_words(blocks), width, pitch * len(lines), paint)


def about(result: Mapping[str, Any]) -> str:
    """The figure's caption."""
    blocks, chain = blocks_of(result)
    return (CHAIN if chain else OPTIONS) + (VITAL if any(b.vital for b in blocks) else "")


def _least_slot(blocks: Sequence[Block]) -> float:
    """Width that the labels need, and the notes under stages of one block."""
    labels = max(len(line) for b in blocks for line in b.label.split("\n"))
    notes = max((len(n) for group in _groups(blocks) if len(group) == 1 for n in group[0].notes), default=0)
    return max(44.0, 14 + 6.6 * labels, 8 + 5.6 * notes)


# -- what is drawn -----------------------------------------------------------------------------------------------


def blocks_of(result: Mapping[str, Any]) -> tuple[list[Block], bool]:
    """The chosen network's blocks, and whether they are a chain of ours; else there is one per site, without sizes."""
    chosen = result["chosen"]["sites"]
    space = result["space"]
    value = {"format": FORMAT, "space": space["name"], "arguments": space["arguments"], "sites": chosen}
    vital = (result.get("details") or {}).get("vital", ())
    try:
        found = Architecture.from_json(value)
    except (SpaceError, TypeError):  # a space of the user's own, or of another version
        return _by_name(chosen, vital), False
    blocks = _chain_blocks(found, vital)
    return (blocks, True) if blocks else (_by_name(chosen, vital), False)


def _by_name(sites: Mapping[str, Any], vital: Collection[str]) -> list[Block]:
    texts = {site: option if isinstance(option, str) else "\n".join(option) for site, option in sites.items()}
    return [replace(_named(site, text), vital=site in vital) for site, text in texts.items()]


def _named(group: str, option: str) -> Block:
    found = re.fullmatch(r"k(\d+)_e(\d+)(_\w+)?", option)
    if found is None:
        return Block(group, option, identity=option in ("skip", "none"), notes=(group,))
    kernel, expand = int(found[1]), int(found[2])
    extra = (found[3] or "").replace("_", "\n")
    return Block(group, f"{kernel}×{kernel}\ne{expand}{extra}", kernel, expand, notes=(group,))


def _chain_blocks(found: Architecture, vital: Collection[str]) -> list[Block]:
    from hiernas.supernet.chain import Chain

    skeleton = found.skeleton
    if not isinstance(skeleton, Chain) or any(len(choice) != 1 for choice in found.choices):
        return []
    fixed, options = skeleton.parts()
    stem, head = fixed[: len(skeleton.stem)], fixed[len(skeleton.stem) :]
    channels, h, w = skeleton.input_size
    blocks = [Block("input", "", plain=True, notes=("input", f"{channels} ch", f"{h}×{w}"))]
    blocks += [replace(_fixed(part), vital=bool(vital)) for part in stem]
    chosen = [parts[option][0] for parts, option in zip(options, found.options, strict=True)]
    blocks += [replace(_searched(part), vital=part.site.name in vital) for part in chosen]
    return blocks + [replace(_fixed(part), vital=bool(vital)) for part in head]


def _fixed(part: Part) -> Block:
    name = part.site.name
    if part.op.name == "classifier":
        return Block("classes", "pool\nfc", plain=True, notes=("classes", str(part.site.cout)))
    kernel = int(getattr(part.op, "kernel", 1))
    label = f"conv\n{kernel}×{kernel}"
    return Block(name, label, kernel, plain=True, stride=part.site.stride, notes=_notes(part, name))


def _searched(part: Part) -> Block:
    named = _named(part.site.name.partition(".")[0], part.op.name)
    notes = _notes(part, named.group)
    identity = part.is_identity
    label = "1×1" if named.identity and not identity else named.label  # a skip that changes the shape
    return Block(named.group, label, named.kernel, named.expand, False, identity, part.site.stride, notes=notes)


def _notes(part: Part, name: str) -> tuple[str, ...]:
    h, w = (-(-n // part.site.stride) for n in part.size)
    return (name, f"{part.site.cout} ch", f"{h}×{w}")


def _in_words(blocks: Sequence[Block]) -> str:
    words = []
    for b in blocks:
        if b.label:
            stride = f" stride {b.stride}" if b.stride != 1 else ""
            words.append(f"{b.group} {b.label}".replace("\n", " ") + stride + " (vital)" * b.vital)
    return "The chosen network: " + ", ".join(words) + "."


# -- how it is drawn ---------------------------------------------------------------------------------------------


def _groups(blocks: Sequence[Block]) -> list[list[Block]]:
    """Neighbours of the same stage together."""
    groups: list[list[Block]] = []
    for block in blocks:
        if groups and groups[-1][0].group == block.group:
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def _lines(blocks: Sequence[Block], most: int) -> list[list[Block]]:
    """Lines of at most `most` blocks, broken between stages where a stage fits on one line."""
    lines: list[list[Block]] = [[]]
    for group in _groups(blocks):
        if len(lines[-1]) + len(group) > most and lines[-1]:
            lines.append([])
        for start in range(0, len(group), most):
            if start:
                lines.append([])
            lines[-1] += group[start : start + most]
    return lines


def _flow(ax: Axes, left: float, boxes: int, slot: float, y: float, last: bool) -> None:
    """The way of the image through a line; an arrow where it goes on in the next one."""
    end = left + boxes * slot
    ax.plot([left + 0.5 * slot, end - 0.5 * slot if last else end], [y, y], color=MUTED, linewidth=1.0, zorder=1)
    if not last:
        ax.plot([end], [y], ">", color=MUTED, markersize=5, zorder=1)


def _line(ax: Axes, blocks: Sequence[Block], slot: float, y: float, half: float) -> None:
    for i, block in enumerate(blocks):
        _box(ax, block, 8 + (i + 0.5) * slot, y, slot)
    x = 8.0
    for group in _groups(blocks):
        _bracket(ax, group[-1].notes, x, x + slot * len(group), y + half + 6)
        x += slot * len(group)


def _box(ax: Axes, block: Block, x: float, y: float, slot: float) -> None:
    """Height by expansion, width and colour by kernel; dashed for an identity."""
    wide, height = _extent(block, slot)
    searched = bool(block.kernel) and not block.plain
    strength = {1: 0.08, 3: 0.15, 5: 0.42}.get(block.kernel, 1.0) if searched else 0.0
    edge, style = (MUTED, "--") if block.identity else (MUTED if block.plain else BLUE, "-")
    for face, line, order in ((PAPER, PAPER, 2), ((BLUE, strength), edge, 3)):  # the paper hides the line behind
        box = FancyBboxPatch((x - wide / 2, y - height / 2), wide, height, boxstyle="round,pad=0,rounding_size=3",
                             linewidth=3.0 if block.vital else 1.0, facecolor=face, edgecolor=line, linestyle=style,
                             zorder=order)  # fmt: skip
        ax.add_patch(box)
    colour = ON_BLUE if strength > 0.75 else MUTED if block.identity else INK
    ax.text(x, y, block.label, ha="center", va="center", fontsize=11, color=colour, zorder=4, linespacing=1.35)
    if block.stride != 1:
        ax.text(x, y - height / 2 - 5, f"stride {block.stride}", ha="center", va="bottom", fontsize=10, color=ORANGE)


def _extent(block: Block, slot: float) -> tuple[float, float]:
    """Width and height of a block's box."""
    if not block.label:  # the input
        return 6.0, 52.0
    if block.identity:
        return slot - 8, 22.0
    if block.plain or not block.kernel:
        return slot - 8, 24.0 + 16 * block.label.count("\n")
    return slot - 6 - 2.4 * (7 - min(block.kernel, 7)), 34.0 + 12 * min(block.expand, 6)


def _bracket(ax: Axes, notes: Sequence[str], left: float, right: float, y: float) -> None:
    ax.plot([left + 4, right - 4], [y, y], color=MUTED, linewidth=1.0)
    for i, note in enumerate(notes):
        colour = INK if i == 0 else MUTED
        ax.text((left + right) / 2, y + 15 * (i + 1) - 1, note, ha="center", va="baseline", fontsize=9.5, color=colour)

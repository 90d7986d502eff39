"""A network that you have as a search space: each block as it is, with its weights, or something else in its place."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from hiernas.errors import SpaceError
from hiernas.networks.chain import Chain
from hiernas.networks.ops import Classifier, Op, Skip
from hiernas.networks.parts import Site, strided
from hiernas.space import SearchSpace
from hiernas.spaces.chains import Size, check_sizes


@dataclass(frozen=True, eq=False)
class Own:
    """A module as an operation: what is built is a copy of it, with its weights."""

    module: nn.Module
    name: str = "own"

    def describe(self) -> str:
        """Equal for modules that print alike and have tensors of the same shapes: they are taken to cost the same."""
        text = f"{self.module}{[(key, tuple(value.shape)) for key, value in _tensors(self.module)]}"
        return f"own_{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def build(self, cin: int, cout: int, stride: int) -> nn.Module:
        module = copy.deepcopy(self.module)
        for each in module.modules():
            each.__dict__["keeps_weights"] = True  # see `initialise`
        return module.to("meta") if torch.empty(0).is_meta else module


def backbone_space(
    name: str, input_size: Size, num_classes: int, *, stem: nn.Module, blocks: Sequence[nn.Module], ops: Sequence[Op],
    head: nn.Module | None = None, dropout: float = 0.0,
) -> SearchSpace:  # fmt: skip
    """A chain space around a network of your own: `head(blocks[-1](... blocks[0](stem(x))))`.

    Each block may stay ('own': a copy, which starts with the weights it has now), or be one of `ops`, and where it keeps the
    shape be left out ('skip'). `stem`: images [B, C, H, W] -> features; each block: [B, C, H, W] -> the same or other channels,
    with ceil(H / stride) rows; `head`: features -> logits [B, num_classes], without one a new linear layer behind the mean over
    all pixels. The search trains all weights, those of the copies too. Sites are named `stage1.block1`, ...; a stage begins
    where the number of channels or the resolution changes. Architecture files of such a space need it to be read:
    `Architecture.load(path, space)`, `hiernas.load(run, space)`. Raises `SpaceError` where the parts do not fit.
    """
    check_sizes(input_size, num_classes)
    if not blocks:
        raise SpaceError("a backbone needs at least one block to search; `blocks` is empty")
    stem, head, *blocks = (_as_it_is(module) for module in (stem, head or nn.Identity(), *blocks))
    with torch.no_grad():
        x = torch.zeros(1, *input_size)
        first, x = _site("stem", stem, x)
        sites: list[Site] = []
        stage = block = 0
        for module in blocks:
            before = x.shape
            site, x = _site(f"block {len(sites) + 1}", module, x)
            stage, block = (stage, block + 1) if x.shape == before and stage else (stage + 1, 1)
            skip = (Skip(),) if x.shape == before else ()
            sites.append(Site(f"stage{stage}.block{block}", site.cin, site.cout, site.stride, (*site.ops, *ops, *skip)))
        names = [op.name for op in sites[-1].ops]
        if len(set(names)) < len(names):
            raise SpaceError(f"`ops` has a name twice, or one of ours ('own', 'skip'): {', '.join(names)}")
        last = Classifier(dropout) if isinstance(head, nn.Identity) else Own(head, "classifier")
        end = Site("classifier", x.shape[1], num_classes, 1, (last,))
        logits = _run("head", end.build("classifier"), x)
    if logits.shape != (1, num_classes):
        shape = list(logits.shape[1:])
        raise SpaceError(f"the head returns values of shape {shape} and num_classes is {num_classes}; give a new head")
    given = (("input_size", input_size), ("num_classes", num_classes), ("weights", _digest([stem, *blocks, head])))
    return Chain(name, given, input_size, num_classes, (first,), tuple(sites), (end,)).space()


def _digest(modules: Sequence[nn.Module]) -> str:
    """Of the weights that a search begins with: one that goes on must be given the same."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(Own(module).describe().encode())
        for _, value in _tensors(module):
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(key, value) for key, value in module.state_dict().items() if isinstance(value, Tensor)]


def _as_it_is(module: nn.Module) -> nn.Module:
    """A copy that nothing changes any more, and that changes no input: other options read the same one."""
    try:
        found = copy.deepcopy(module)
    except Exception as error:  # whatever a module of theirs raises
        raise SpaceError(f"a {type(module).__name__} cannot be copied: {error}") from error
    for each in found.modules():
        if getattr(each, "inplace", False):
            each.inplace = False  # type: ignore[assignment] # torch's own word for it
        own = [*each.parameters(recurse=False), *each.buffers(recurse=False)]
        if any(value.is_meta or is_lazy(value) for value in own):
            raise SpaceError(f"a {type(each).__name__} has no weights yet: run the network once before it becomes a space")
        norm = isinstance(each, _BatchNorm)
        if norm and (type(each) is not nn.BatchNorm2d or each.running_mean is None or each.momentum is None):
            raise SpaceError(f"{each}: batch norms must be BatchNorm2d with running statistics and a momentum")
    return found


def _run(name: str, module: nn.Module, x: Tensor) -> Tensor:
    """What a copy of a module makes of features."""
    try:
        before, found = x._version, copy.deepcopy(module).eval()(x)
    except Exception as error:  # whatever a module of theirs raises
        raise SpaceError(f"the {name} cannot take features of shape {list(x.shape[1:])}: {error}") from error
    if not isinstance(found, Tensor):
        raise SpaceError(f"the {name} returns {type(found).__name__}; it must return one tensor")
    if x._version != before:
        raise SpaceError(f"the {name} writes into its input, which other options read, too; let it work on a copy")
    return found


def _site(name: str, module: nn.Module, x: Tensor) -> tuple[Site, Tensor]:
    """A part of the network at its place, and its output for features [1, C, H, W]."""
    found = _run(name, module, x)
    if found.ndim != 4:
        raise SpaceError(f"the {name} returns values of shape {list(found.shape[1:])}, not features [channels, height, width]")
    size, out = (x.shape[2], x.shape[3]), (found.shape[2], found.shape[3])
    stride = next((s for s in range(1, 65) if strided(size, s) == out), None)
    if stride is None:
        was, left = (f"{height}x{width}" for height, width in (size, out))
        raise SpaceError(f"the {name} makes {left} of {was} pixels, which no whole stride does; pad its convolutions")
    return Site(name, x.shape[1], found.shape[1], stride, (Own(module),)), found

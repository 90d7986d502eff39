"""NASWOT: what an untrained network promises, in one forward pass (Mellor et al. 2021, arXiv 2006.04647)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hiernas.networks.ops import ACTIVATIONS


@torch.no_grad()
def naswot(network: nn.Module, images: Tensor) -> float:
    """The logarithm of |det K|: K counts, for each pair of images [B, C, H, W], the units on which their activations agree.

    The more a network tells images apart at its start, the higher it is; the published form takes 128 images. Batch norms
    normalise by these images, and those whose scale starts at zero by one, as their branches would be dead.
    """
    kernel = images.new_zeros(len(images), len(images), dtype=torch.float64)

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        on = (inputs[0] > 0).flatten(1).float()
        kernel.add_((on @ on.T + (1 - on) @ (1 - on).T).double())

    kinds = tuple(dict.fromkeys(ACTIVATIONS.values()))
    hooks = [m.register_forward_pre_hook(count) for m in network.modules() if isinstance(m, kinds)]
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.affine and not m.weight.any()):
        nn.init.ones_(norm.weight)
    try:
        network.train()(images)
    finally:
        for hook in hooks:
            hook.remove()
    return float(torch.linalg.slogdet(kernel).logabsdet)

"""Data sets: `load_data` turns a folder, a table, a hub name or a torch data set into images, labels and splits.

Here is what batches of them need: their order, their augmentation and their normalisation, on whole batches in torch. Random
numbers come from a CPU generator, so that a batch is augmented the same way on every device.
"""

import importlib
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hiernas import ranks
from hiernas.data.load import load_data
from hiernas.data.split import ImageData, Images, Normalisation, Split
from hiernas.errors import ConfigError
from hiernas.host import first_line
from hiernas.train.recipes import Recipe

__all__ = ["ImageData", "Images", "Split", "augment", "epoch_order", "in_order", "load_data", "normalise"]

AT_ONCE = 250
RESIZED_FROM = 96  # pixels of the short side from which "auto" means "resized_crop"
AREA = (0.25, 1.0)  # share of the image a resized crop covers
RATIO = (3 / 4, 4 / 3)  # width to height of a resized crop, relative to the image's own


def check_augment(recipe: Recipe) -> None:
    """Raise `ConfigError` where a recipe asks for what torchvision does, and that is not here."""
    if recipe.autoaugment:
        _torchvision()


def augment(x: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Varied copies: uint8 [B, C, H, W] -> the same, on the device of `x`; each image draws its own numbers.

    Of a recipe's `augment`, "crop" pads by an eighth of the short side and cuts the old size out at random; "resized_crop"
    scales a random part (25 to 100 % of the area) to the full size; "none" does neither; "auto" is "resized_crop" from 96
    pixels on and "crop" below. Grey images are often characters, and mirrored only on demand, as those of "none". The square
    of `cutout` gets the batch's mean colour (DeVries and Taylor, arXiv 1708.04552). `autoaugment` is torchvision's with the
    policy for CIFAR-10 (Cubuk et al. 2019), an own one for each image.
    Of a batch that several processes share, `x` is this one's part: its images become what they become in the whole batch.
    Raises `ConfigError` where the cutout would cover the whole image, or `x` is not uint8.
    """
    if x.dtype != torch.uint8:
        raise ConfigError(f"augmentation takes uint8 pixels, not {x.dtype}; normalise afterwards")
    short, own = min(x.shape[2:]), ranks.rows(ranks.size() * len(x))
    if recipe.cutout >= short:
        raise ConfigError(f"cutout={recipe.cutout} covers images of {short} pixels; give at most {short - 1}")
    auto = "resized_crop" if short >= RESIZED_FROM else "crop"
    kind = auto if recipe.augment == "auto" else recipe.augment
    if kind == "crop":
        x = _crop(x, own, max(1, short // 8), generator)
    elif kind == "resized_crop":
        x = _resized_crop(x, own, generator)
    if recipe.flip if recipe.flip is not None else x.shape[1] == 3 and kind != "none":
        mirror = torch.rand(ranks.size() * len(x), 1, 1, 1, generator=generator)[own] < 0.5
        x = torch.where(mirror.to(x.device), x.flip(3), x)
    if recipe.autoaugment:
        policy = _torchvision().AutoAugment(_torchvision().AutoAugmentPolicy.CIFAR10)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator only
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            for _ in range(own.start):  # the numbers of the images before
                policy.get_params(len(policy.policies))
            x = torch.stack([policy(image) for image in x])
    return _cutout(x, own, recipe.cutout, generator) if recipe.cutout else x


def _torchvision() -> Any:
    try:
        return importlib.import_module("torchvision.transforms.autoaugment")
    except Exception as error:  # a build for another torch raises RuntimeError and others
        raise ConfigError(
            f"train.autoaugment needs torchvision, which cannot be imported here ({first_line(error)}); install one "
            "that fits this torch, or leave it out"
        ) from error


def _crop(x: Tensor, own: slice, pad: int, generator: torch.Generator) -> Tensor:
    n, c, h, w = x.shape
    top, left = torch.randint(0, 2 * pad + 1, (2, ranks.size() * n, 1), generator=generator)[:, own].to(x.device)  # [B, 1] each
    rows, columns = top + torch.arange(h, device=x.device), left + torch.arange(w, device=x.device)  # [B, H], [B, W]
    images, channels = torch.arange(n, device=x.device), torch.arange(c, device=x.device)
    at = images[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
    return F.pad(x, (pad,) * 4)[at]


def _resized_crop(x: Tensor, own: slice, generator: torch.Generator) -> Tensor:
    area, ratio, across, down = torch.rand((4, ranks.size() * len(x)), generator=generator)[:, own]
    area = AREA[0] + area * (AREA[1] - AREA[0])
    ratio = torch.exp(math.log(RATIO[0]) + ratio * math.log(RATIO[1] / RATIO[0]))
    width = (area * ratio).sqrt().clamp(max=1)  # shares of the image's width and height
    height = (area / ratio).sqrt().clamp(max=1)
    theta = torch.zeros(len(x), 2, 3)  # output -> input coordinates, both within -1..1
    theta[:, 0, 0], theta[:, 0, 2] = width, (2 * across - 1) * (1 - width)
    theta[:, 1, 1], theta[:, 1, 2] = height, (2 * down - 1) * (1 - height)
    grid = F.affine_grid(theta.to(x.device), list(x.shape), align_corners=False)
    y = F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return y.round().clamp(0, 255).to(torch.uint8)


def _cutout(x: Tensor, own: slice, side: int, generator: torch.Generator) -> Tensor:
    """A square around a random pixel, cut off at the border: on average it hides less than side^2 pixels."""
    inside = []
    for size in x.shape[2:]:
        centre = torch.randint(0, size, (ranks.size() * len(x), 1), generator=generator)[own]
        offset = torch.arange(size) - centre + side // 2
        inside.append(((offset >= 0) & (offset < side)).to(x.device))  # [B, H], [B, W]
    hidden = inside[0][:, None, :, None] & inside[1][:, None, None, :]  # [B, 1, H, W]
    fill = x.float().mean((0, 2, 3), keepdim=True)  # [1, C, 1, 1]
    ranks.average([fill])
    return torch.where(hidden, fill.round().to(torch.uint8), x)


def normalise(x: Tensor, data: Normalisation, device: torch.device | str) -> Tensor:
    """(x / 255 - mean) / std: uint8 [B, C, H, W] -> float32 [B, C, H, W] on `device`, channels last in memory."""
    mean, std = (torch.tensor(v, dtype=torch.float32, device=device)[:, None, None] for v in (data.mean, data.std))
    y = x.to(device).to(torch.float32, memory_format=torch.channels_last)
    return y.div_(255).sub_(mean).div_(std)


def epoch_order(n: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Shuffled index batches of one epoch; an incomplete last one is dropped, unless it is the only one."""
    order = torch.randperm(n, generator=generator)
    last = n // batch_size * batch_size
    return [order[i : i + batch_size] for i in range(0, last, batch_size)] if n > batch_size else [order]


def at_once(input_size: tuple[int, int, int]) -> int:
    """Images [C, H, W] that are looked at together where nothing is learned: 250, or as many values as 250 of 3x224x224."""
    return max(2, min(AT_ONCE, AT_ONCE * 3 * 224**2 // math.prod(input_size)))


def in_order(n: int, batch_size: int) -> list[Tensor]:
    """Index batches of 0 .. n - 1 in order; the last one may be smaller."""
    return [torch.arange(i, min(i + batch_size, n)) for i in range(0, n, batch_size)]

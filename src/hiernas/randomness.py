"""Randomness is a parameter: a generator comes from the run's seed and what it is for, so that a resumed run draws the same."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def sequence(seed: int, *purpose: str | int) -> np.random.SeedSequence:
    """The seed sequence of a purpose, such as (seed, "train1", epoch, step)."""
    return np.random.SeedSequence([seed, *(zlib.crc32(p.encode()) if isinstance(p, str) else p for p in purpose)])


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator for a purpose."""
    return np.random.Generator(np.random.PCG64(sequence(seed, *purpose)))


def torch_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for torch, for a purpose."""
    return int(sequence(seed, *purpose).generate_state(1, np.uint64)[0] >> 1)


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator of torch for a purpose."""
    import torch

    return torch.Generator().manual_seed(torch_seed(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """For code that can only draw from torch's global generator (initialisers, dropout): seeded inside, restored after."""
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(torch_seed(seed, *purpose))
        yield

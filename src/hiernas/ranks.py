"""Several processes that do one run together, as torchrun starts them: which this is, and what they tell each other.

All do the same in the same order and draw the same numbers; what they share out are batches and populations. The first
process alone reads and writes files, measures and prints. Outside `joined`, and with one process, nothing is exchanged.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from hiernas.errors import ConfigError, HiernasError, RunError

if TYPE_CHECKING:
    from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")
LONGEST = timedelta(hours=3)  # that the others wait for the first one, which measures a latency table
ASKED = timedelta(seconds=5)  # that an error waits for the first process to say the same
_started, _alone = 1, False


def started() -> int:
    """How many processes do this run; 1 outside `joined`."""
    return _started


def size() -> int:
    """How many processes share what is done now; 1 where the first one does something alone."""
    return 1 if _alone else _started


def number() -> int:
    """Which of them this is, from 0."""
    return int(os.environ["RANK"]) if size() > 1 else 0


@contextmanager
def joined() -> Iterator[None]:
    """Inside, this process and those that were started with it do one run together."""
    global _started
    there = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    before, _started = _started, int(os.environ["WORLD_SIZE"]) if there else 1
    try:
        yield
    finally:
        _started = before


@contextmanager
def _by_itself() -> Iterator[None]:
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


@cache
def _group() -> Any:
    """What the processes talk by: gloo for tensors on a CPU and for all else, nccl for tensors on GPUs."""
    import torch
    from torch import distributed

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if distributed.is_initialized():  # by the program that calls us
        return distributed.new_group(backend=backend, timeout=LONGEST)
    distributed.init_process_group(backend, timeout=LONGEST)
    atexit.register(distributed.destroy_process_group)  # its threads would end the interpreter in a crash
    return None  # torch's own; one that is held here would outlive its end


@contextmanager
def _talking() -> Iterator[Any]:
    """Torch's collectives; where another process has gone they fail, and say so in a sentence."""
    from torch import distributed

    _group()
    try:
        yield distributed
    except RuntimeError as error:
        raise RunError(
            f"another of the {size()} processes of this run has ended; see what it said, then go on with `hiernas resume RUN`"
        ) from error


# -- what one does for all ----------------------------------------------------------------------------------------


def told(do: Callable[P, T]) -> Callable[P, T]:
    """Done by the first process alone; all get what it returns, or the error that it raises."""

    @wraps(do)
    def by_first(*given: P.args, **named: P.kwargs) -> T:
        if size() == 1:
            return do(*given, **named)
        said: list[Any] = [None, None]
        if number() == 0:
            try:
                with _by_itself():
                    said[0] = do(*given, **named)
            except Exception as error:
                said[1] = error
        with _talking() as torch:
            torch.broadcast_object_list(said, 0, _group())
        if said[1] is not None:
            raise said[1]
        found: T = said[0]
        return found

    return by_first


def by_first(do: Callable[P, object]) -> Callable[P, None]:
    """Done by the first process alone; the others go on."""

    @wraps(do)
    def maybe(*given: P.args, **named: P.kwargs) -> None:
        if number() == 0:
            with _by_itself():
                do(*given, **named)

    return maybe


@told
def since(began: float) -> float:
    """Seconds on the first process' clock since it was at `began`, by `time.monotonic()`."""
    return time.monotonic() - began


def said(error: HiernasError) -> bool:
    """Whether the first process ends with the same error, and says it."""
    if size() == 1:
        return False
    from torch import distributed

    _group()
    store = distributed.distributed_c10d._get_default_store()
    try:
        if number() == 0:
            store.set("hiernas ended", str(error))
            return False
        store.wait(["hiernas ended"], ASKED)
        return bool(store.get("hiernas ended").decode() == str(error))
    except RuntimeError as silence:  # it is well, or it is gone and has said why
        return "timeout" not in str(silence).lower()


# -- what is shared out -------------------------------------------------------------------------------------------


def rows(n: int) -> slice:
    """This process' part of a batch of `n` images: as many as any other's, so that means of means are means."""
    if n % size():
        raise ConfigError(
            f"a batch of {n} images cannot be shared evenly by {size()} processes; choose a multiple of {size()} by --set "
            "train.batch_size=... (and search.train.batch_size), or another number of processes"
        )
    each = n // size()
    return slice(number() * each, (number() + 1) * each)


def part(items: Sequence[T]) -> Sequence[T]:
    """This process' part of anything, a contiguous one."""
    n = len(items)
    return items[n * number() // size() : n * (number() + 1) // size()]


def gather(items: Sequence[T]) -> list[T]:
    """The parts of all processes, in their order."""
    if size() == 1:
        return list(items)
    every: list[Any] = [None] * size()
    with _talking() as torch:
        torch.all_gather_object(every, list(items), _group())
    return [item for each in every for item in each]


def greatest(*values: int) -> list[int]:
    """Of each value the greatest that any process has."""
    if size() == 1:
        return list(values)
    import torch

    found = torch.tensor(values)
    with _talking() as of:
        of.all_reduce(found, of.ReduceOp.MAX, _group())
    return [int(value) for value in found]


def summed(tensor: Tensor) -> Tensor:
    """The sum over the processes, in place."""
    with _talking() as torch:
        torch.all_reduce(tensor, group=_group())
    return tensor


def concatenated(tensor: Tensor) -> Tensor:
    """The processes' tensors of equal shape, one behind the other along the first dimension."""
    import torch

    every = [torch.empty_like(tensor) for _ in range(size())]
    with _talking() as distributed:
        distributed.all_gather(every, tensor.contiguous(), _group())
    return torch.cat(every)


def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over the processes; they are exchanged as one for each type and device."""
    if size() == 1:
        return
    import torch

    for kind in dict.fromkeys((t.dtype, t.device) for t in tensors):
        alike = [t for t in tensors if (t.dtype, t.device) == kind]
        flat = summed(torch.cat([t.detach().reshape(-1) for t in alike])).div_(size())
        for t, own in zip(alike, torch.split(flat, [t.numel() for t in alike]), strict=True):
            t.detach().copy_(own.view(t.shape))


def align(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by those of the first process."""
    if size() > 1:
        for t, first in zip(tensors, told(lambda: [own.detach().cpu() for own in tensors])(), strict=True):
            t.detach().copy_(first)

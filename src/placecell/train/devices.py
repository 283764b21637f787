"""The devices that train: one process each, tied together by Lightning Fabric."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from ctypes import CDLL
from subprocess import Popen
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from placecell.errors import MissingDevice, PlacecellError, naming_extras
from placecell.train.failures import Diverged

if TYPE_CHECKING:
    from lightning_fabric import Fabric


# Of malloc.h: no blocks outside the heap, and none of the heap given back.
_M_MMAP_MAX, _M_TRIM_THRESHOLD, _M_TOP_PAD = -4, -1, -2


def leads() -> bool:
    """Whether this process is the only or the first one of a training: the one that speaks and writes."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


@contextmanager
def launched(device: str, devices: int, precision: str) -> Iterator[Fabric]:
    """Within the block this process is one of the `devices` that train together.

    With more than one device, the processes for the others are started here: each runs this program's command line
    from its start and joins when it comes to this block, the only one of its kind in the program. Under a launcher
    such as torchrun they are there already. In all of them but the first, the program ends with the block.

    Convolutions on a GPU choose algorithms that repeat bit by bit.

    Raises:
        PlacecellError: there is no such device, or there are not as many.
    """
    _hold_memory()
    fabric = _fabric(torch.device(device), devices, precision)
    children: list[Popen[bytes]] = getattr(fabric.strategy.launcher, "procs", [])
    try:
        with _quiet():
            fabric.launch()
        with _repeatable(fabric.device):
            yield fabric
        with _quiet():
            fabric.barrier()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except Diverged:
        _kill(children)
        if fabric.is_global_zero:
            raise
    except BaseException:
        _kill(children)
        raise
    if not fabric.is_global_zero:
        raise SystemExit(0)


def _hold_memory() -> None:
    """Keep freed memory for the next step, where the C library is GNU's; elsewhere nothing.

    It gives large blocks back to the system at once, which then hands them out page by page and zeroed again: a step
    does so hundreds of times, and two processes that train together on two cores lose half their time in the kernel.
    """
    mallopt = getattr(CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
            mallopt(parameter, value)


def touching_all(loss: Tensor, network: nn.Module) -> Tensor:
    """The loss, depending on every weight: processes that share gradients wait for all of them, used or not."""
    zero = torch.stack([0.0 * p.sum().float() for p in network.parameters() if p.requires_grad]).sum()
    return loss + zero


def _fabric(device: torch.device, devices: int, precision: str) -> Fabric:
    _require(device, devices)
    with naming_extras(), _quiet():
        from lightning_fabric import Fabric  # here, as importing it sets up logging
    with _quiet():
        return Fabric(
            accelerator=device.type,
            devices=devices if device.index is None else [device.index],
            num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
            strategy="ddp" if devices > 1 else "auto",
            precision="bf16-mixed" if precision == "bf16" else "32-true",
        )


def require_device(device: str | torch.device) -> None:
    """Refuse a device that is not there.

    Raises:
        MissingDevice: this torch cannot use it.
    """
    wanted = torch.device(device)
    if wanted.type != "cpu" and _count(wanted) <= (wanted.index or 0):
        raise MissingDevice(str(device))


def _count(device: torch.device) -> int:
    """How many devices of its type, other than processors, there are."""
    return {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(device.type, 0)


def _require(device: torch.device, devices: int) -> None:
    require_device(device)
    there = devices if device.type == "cpu" else _count(device)
    if devices > there or (devices > 1 and device.index is not None):
        raise PlacecellError(f"--devices {devices} of --device {device}: there are {there}; lower --devices")
    started = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if started not in (1, devices):
        raise PlacecellError(f"the launcher started {started} processes for --devices {devices}; make them equal")


@contextmanager
def _quiet() -> Iterator[None]:
    """Fabric tells on standard error what it does, and warns of what is meant so."""
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            logger.setLevel(logging.WARNING)
            yield
        finally:
            logger.setLevel(level)


def _repeatable(device: torch.device) -> AbstractContextManager[None]:
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)


def _kill(children: list[Popen[bytes]]) -> None:
    """End the processes that this one started; forgotten first, as Fabric kills who survives its children."""
    doomed = list(children)
    children.clear()
    for child in doomed:
        child.kill()

"""What lets a training go on where it was stopped: tensors and numbers on disk, always of the same step."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.optim import Optimizer

from placecell import atomic
from placecell.errors import FormatError, PlacecellError
from placecell.scene import field_of, read_json

FORMAT = 1
LIVE = "training.csv"
"""What shows how a training goes, in the same folder."""
_NOTE = "checkpoint.json"
_TENSORS = "checkpoint-{:08d}.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A training after `step` steps."""

    step: int
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    """JSON values: what an optimizer, a schedule and a history hold besides tensors."""


def write(work: Path, checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Keep a checkpoint in the folder `work` in place of the one before.

    The tensors go to a file named after the step; the note that names this file is written last. So whatever moment
    a kill or a full disk picks, the note and the tensors that it names are whole and belong together.

    Raises:
        PlacecellError: the folder cannot be written; the checkpoint before is still there.
    """
    name = _TENSORS.format(checkpoint.step)
    tensors = {
        key: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for key, tensor in checkpoint.tensors.items()
    }
    atomic.write_bytes(work / name, save(tensors))
    note = {"format": FORMAT, "step": checkpoint.step, "tensors": name, "identity": dict(identity)}
    atomic.write_text(work / _NOTE, json.dumps({**note, "values": checkpoint.values}) + "\n")
    for other in work.glob("checkpoint-*.safetensors"):
        if other.name != name:
            other.unlink()


def require_own(work: Path, identity: Mapping[str, Any], *, beside: Collection[str] = ()) -> None:
    """Find out before long work whether a folder is free for a training of this identity, or holds it already.

    Args:
        identity: what is known of it so far; the rest is compared by `read`.
        beside: what else the training keeps there, by name.

    Raises:
        PlacecellError: the folder holds another training, or files that no training made.
        FormatError: its checkpoint is damaged.
    """
    ours = {_NOTE, LIVE, *beside}
    names = [path.name for path in work.iterdir()] if work.is_dir() else []
    strange = [name for name in names if name not in ours and not name.startswith((".", "checkpoint-"))]
    if strange or (work.exists() and not work.is_dir()):
        named = f": it holds {min(strange)}" if strange else ""
        raise PlacecellError(f"{work} is in the way and no work folder of a training{named}; name another map")
    if (work / _NOTE).exists():
        found = _note(work)["identity"]
        _require_same(work, {key: found.get(key) for key in identity}, identity)


def _note(work: Path) -> dict[str, Any]:
    """checkpoint.json, with all that it has to have."""
    path = work / _NOTE
    note = read_json(path)
    try:
        if note["format"] != FORMAT:
            raise ValueError(f"format {note['format']} is not {FORMAT}")
        for key, kind in (("identity", dict), ("step", int), ("values", dict), ("tensors", str)):
            field_of(note, key, kind)
    except (KeyError, ValueError) as error:
        raise FormatError(f"{path}: damaged or of another version ({error}); {_remedy(work)}") from error
    return note


def _remedy(work: Path) -> str:
    return f"delete {work} to train from the start"


def _require_same(work: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if differences := _differences(found, json.loads(json.dumps(dict(wanted)))):
        raise PlacecellError(f"{work} holds another training: {differences}; delete it or name another map")


def read(work: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint in a folder, None when there is none.

    Raises:
        PlacecellError: it is of another training; the text says what differs.
        FormatError: it is damaged.
    """
    if not (work / _NOTE).exists():
        return None
    note = _note(work)
    _require_same(work, note["identity"], identity)
    source = work / note["tensors"]
    try:
        return Checkpoint(note["step"], load(source.read_bytes()), note["values"])
    except (OSError, SafetensorError) as error:
        raise FormatError(f"{source}: missing or damaged ({error}); {_remedy(work)}") from error


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    found, wanted = _flat(found), _flat(wanted)
    names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    texts = [f"{name} was {json.dumps(found.get(name))}, is {json.dumps(wanted.get(name))}" for name in names[:3]]
    return "; ".join(texts) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a mapping in a mapping by their own names, so that one setting that differs is one difference."""
    inner = {key: item for value in values.values() if isinstance(value, Mapping) for key, item in value.items()}
    return {key: value for key, value in values.items() if not isinstance(value, Mapping)} | inner


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of an optimizer as tensors (`3.exp_avg` is of its fourth parameter) and JSON values."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, items in state["state"].items():
        plain[str(index)] = {key: value for key, value in items.items() if not isinstance(value, Tensor)}
        tensors |= {f"{index}.{key}": value for key, value in items.items() if isinstance(value, Tensor)}
    return tensors, {"state": plain, "param_groups": state["param_groups"]}


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Inverse of `optimizer_state`, for an optimizer of the same kind over the same parameters.

    Raises:
        ValueError: it is over other parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {int(index): dict(items) for index, items in values["state"].items()}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        # In the memory order of the weights: another order may round differently, and resuming shall change no bit.
        alike = tensor.shape == parameter.shape
        room = torch.empty_like(parameter, dtype=tensor.dtype) if alike else torch.empty_like(tensor)
        state[int(index)][key] = room.copy_(tensor)
    optimizer.load_state_dict({"state": state, "param_groups": values["param_groups"]})

"""A scene-coordinate map: where each cell of a picture lies, and the pose on which most of them agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from placecell.anchor import Anchor
from placecell.camera import Camera
from placecell.errors import FormatError
from placecell.estimate import Estimate, Query
from placecell.families.coordinates.cells import STRIDE, asked_cells
from placecell.families.coordinates.config import Coordinates
from placecell.families.coordinates.encoder import Encoder
from placecell.families.coordinates.experts import Gate, joined
from placecell.families.coordinates.head import Guess, Head
from placecell.families.coordinates.keeping import fill, packed
from placecell.families.coordinates.placing import Seen, Sight, answer, surest
from placecell.families.coordinates.sight import camera_seen, described, overall
from placecell.localizer import MapInfo, config_from_json, load_info, load_map_tensors, save_map
from placecell.resample import resample
from placecell.scene import camera_from_json, camera_to_json
from placecell.train.devices import require_device

_LOG = "training.csv"


@dataclass(frozen=True, eq=False)
class CoordinatesMap:
    """A built scene-coordinate map."""

    family: Coordinates
    info: MapInfo
    encoder: Encoder
    head: nn.Module
    """A `Head` in eval mode, on the device that answers; with a gate, an `nn.ModuleList` of them."""
    camera: Camera
    """Of the training pictures as the encoder saw them."""
    anchor: Anchor
    log_csv: str = ""
    """How the training went."""
    gate: Gate | None = None
    """Which of several heads know a picture."""

    @property
    def unfinished(self) -> str | None:
        """What is left of an interrupted training, in words; None when it ran to its end."""
        left: str | None = self.info.extra.get("unfinished")
        return left

    def to(self, device: str) -> Self:
        """This map, answering on a device."""
        self.encoder.to(device)
        self.head.to(device)
        if self.gate is not None:
            self.gate.to(device)
        return self

    def localize(self, queries: Sequence[Query]) -> list[Estimate]:
        """Place each picture; one of which too few cells agree is refused with their number."""
        sight = Sight(self.camera, self.anchor, STRIDE, self._seen)
        return [answer(query, self.family, sight) for query in queries]

    def coordinates(self, query: Query) -> Seen:
        """Where the cells of a picture lie: those `queried` that the head is surest of; the likeliest of several."""
        camera = camera_seen(query.camera, self.camera)
        return next(self._seen(resample(query.image, query.camera, camera), camera))

    def _seen(self, image: NDArray[np.uint8], camera: Camera) -> Iterator[Seen]:
        """What each head that is asked says of a picture, the likeliest first."""
        features = described(self.encoder, image, self.family.precision)
        device = next(self.head.parameters()).device
        given = [torch.from_numpy(features[asked_cells(camera)]).to(device)]
        heads = [self.head]
        if self.gate is not None or self.family.context:
            whole = torch.from_numpy(overall(self.encoder, features)).to(device)
            if self.gate is not None:
                every = list(self.head.children())
                heads = [every[expert] for expert in self.gate.asked(whole)]
            if self.family.context:
                given.append(whole.unsqueeze(0))
        for head in heads:
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, self.family.precision == "bf16"):
                guess: Guess = head(*given)
            yield _surest(guess, camera, self.family.queried)

    def save(self, folder: Path) -> None:
        """Write the map folder."""
        extra = {
            "camera_seen": camera_to_json(self.camera),
            **self.anchor.to_json(),
        }
        info = replace(self.info, extra={**self.info.extra, **extra})
        kept = self.family.kept
        tensors = packed(self.encoder, "encoder", kept) | packed(self.head, "head", kept)
        if self.gate is not None:
            tensors |= packed(self.gate, "gate", kept)
        save_map(folder, info, tensors, texts={_LOG: self.log_csv} if self.log_csv else None)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Read a map folder.

        Raises:
            MissingDevice: the device is not there.
            FormatError: a file is damaged, of another version, or lacks the encoder, a head or the gate.
        """
        info = load_info(folder)
        family = config_from_json(Coordinates, info.config)
        tensors = load_map_tensors(folder)
        require_device(device)
        try:
            camera = camera_from_json(info.extra["camera_seen"])
            anchor = Anchor.from_json(info.extra)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{folder / 'map.json'}: damaged ({error}); build the map again") from error
        with torch.random.fork_rng(devices=[]):  # what it draws is replaced
            encoder = Encoder(family.backbone).settle()
            heads = heads_of(family, encoder)
        gate = Gate(encoder.coarse, family.experts).eval() if family.experts > 1 else None
        _fill(_named_parts(encoder, heads, gate), tensors, folder / "weights.safetensors")
        log = folder / _LOG
        log_csv = log.read_text(encoding="utf-8") if log.is_file() else ""
        return cls(family, info, encoder, joined(heads).eval(), camera, anchor, log_csv, gate).to(device)


def heads_of(family: Coordinates, encoder: Encoder) -> list[Head]:
    """The heads of a map of these settings, one an expert, as they are drawn."""
    sizes = (encoder.channels, family.hidden, family.blocks, family.clusters)
    return [Head(*sizes, encoder.coarse if family.context else 0) for _ in range(family.experts)]


def _surest(guess: Guess, camera: Camera, queried: int) -> Seen:
    log_spread = guess.spread_N.float().cpu().numpy().astype(np.float64)
    points_anchor = guess.points_N3.float().cpu().numpy().astype(np.float64)
    return surest(points_anchor, log_spread, camera, queried)


def _named_parts(encoder: Encoder, heads: Sequence[Head], gate: Gate | None) -> Iterator[tuple[str, str, nn.Module]]:
    """What a map is made of: how its tensors begin, what it is called, and the network."""
    yield "encoder", "the encoder", encoder
    if gate is None:
        yield "head", "the head", heads[0]
        return
    for index, head in enumerate(heads):
        yield f"head.{index}", f"expert {index + 1} of {len(heads)}", head
    yield "gate", "the gate", gate


def _fill(parts: Iterable[tuple[str, str, nn.Module]], tensors: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Give each part of a map its weights.

    Raises:
        FormatError: a part is missing, does not fit, or something is left over.
    """
    used: set[str] = set()
    for name, told, network in parts:
        if not any(key.startswith(f"{name}.") for key in tensors):
            raise FormatError(f"{path}: lacks {told}, there is no tensor {name}.…; build the map again")
        used |= fill(network, name, tensors, path)
    if strange := sorted(tensors.keys() - used):
        raise FormatError(f"{path}: tensor {strange[0]} does not fit map.json; build the map again")

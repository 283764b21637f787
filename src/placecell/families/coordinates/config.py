"""The settings of a scene-coordinate map. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from placecell.errors import naming_extras
from placecell.log import Log
from placecell.scene import Scene

if TYPE_CHECKING:
    from placecell.families.coordinates.localizer import CoordinatesMap

_INFINITE = float("inf")
_LEAST = {
    "short_side": 64,
    "looks": 0,
    "samples": 1,
    "hidden": 1,
    "blocks": 0,
    "clusters": 0,
    "batch": 2,
    "frames": 0,
    "queried": 4,
    "runs": 1,
    "least": 4,
    "devices": 1,
    "experts": 1,
    "end_to_end": 0,
}


@dataclass(frozen=True)
class Coordinates:
    """A network tells where in the world each cell of a picture lies; RANSAC turns that into a pose.

    In the spirit of ACE (Brachmann et al. 2023), our own: a frozen encoder describes cells of 8 pixels, a buffer of
    such cells from all training pictures is shuffled, and a small head learns from it where each cell lies.
    """

    name: ClassVar[str] = "coordinates"
    presets: ClassVar[Mapping[str, Coordinates]] = {}

    backbone: str = "mobilenet_v2"
    """Encoder by name (mobilenet_v2, resnet18, ...), or timm:NAME; it stays as it is."""
    weights: str = "imagenet"
    """The encoder's weights: imagenet, none (random features), or a .safetensors file."""
    short_side: int = 480
    """Shorter side of the pictures the encoder sees, pixels; other cameras are resampled to as many pixels a radian."""
    looks: int = 0
    """How often each training picture goes into the buffer, each time turned, scaled and coloured anew; 0: until there
    are 3 million cells, and four times at least."""
    samples: int = 1024
    """Cells a look."""
    turn_deg: float = 15.0
    """A look turns the camera about its line of sight by up to this."""
    zoom: float = 1.5
    """A look enlarges or shrinks the picture by up to this factor."""
    colour: float = 0.2
    """A look changes brightness, contrast and saturation by up to this share."""
    surface_weight: float = 0.5
    """Weight of how far off cells are in space, where the scene knows how deep they lie, against their projections."""
    surfaces: bool = True
    """Learn from depth or points too, where the scene has them; poses and pictures alone are enough without."""
    hidden: int = 256
    """Width of the head."""
    blocks: int = 2
    """Residual blocks of the head, three layers each."""
    clusters: int = 50
    """Points of the scene between which the head chooses before it adds the rest; 0: their mean."""
    experts: int = 1
    """Heads between which the training pictures are shared out by what they show; for places too large for one."""
    context: bool = False
    """The head is told what the whole picture looks like, too; for places that look alike near by."""
    tolerance_px: tuple[float, float] = (50.0, 1.0)
    """Reprojection errors count in full up to about this many pixels, at the beginning and at the end."""
    epochs: float = 16.0
    """How often each cell of the buffer has its turn, with experts each cell of an expert; 0: as often as 6000 steps
    take."""
    batch: int = 8192
    """Cells a step."""
    learning_rate: float = 6e-3
    """Its peak."""
    weight_decay: float = 0.01
    """Pull of the weights towards zero."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """What the head trains and answers in."""
    end_to_end: int = 0
    """Steps of training through RANSAC that follow, by which the head learns how much each cell should count."""
    kept: Literal["half", "int8"] = "half"
    """What the map keeps weights in: two bytes each, or one, of which the encoder's are rounded before training."""
    devices: int = 1
    """How many devices train together."""
    validation: float = 0.0
    """Share of the training frames, whole sequences, that training is judged by and does not see."""
    frames: int = 0
    """Train on so many frames only, spread evenly; 0 is all."""
    queried: int = 2000
    """RANSAC works on so many cells at most, those that the head is surest of."""
    max_error_px: float = 10.0
    """A cell agrees with a pose when its reprojection error is below this, in pixels the encoder sees."""
    runs: int = 1
    """RANSACs a picture; those after the first see a random half of the cells each, and their disagreement widens the
    covariance."""
    least: int = 50
    """Fewer agreeing cells are no answer."""

    def __post_init__(self) -> None:
        for key, value in _LEAST.items():
            if getattr(self, key) < value:
                raise ValueError(f"{key} counts from {value}, not {getattr(self, key)}")
        if not 0 <= self.epochs < _INFINITE:
            raise ValueError(f"epochs counts from 0, not {self.epochs}")
        for key in ("learning_rate", "max_error_px"):
            if not 0 < getattr(self, key) < _INFINITE:
                raise ValueError(f"{key} has to be positive, not {getattr(self, key)}")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision {self.precision!r} is not one of fp32, bf16")
        if self.kept not in ("half", "int8"):
            raise ValueError(f"kept {self.kept!r} is not one of half, int8")
        shares = (self.surface_weight, self.colour, self.validation)
        if not (
            all(0 <= share <= 1 for share in shares) and self.validation < 1 and 0 <= self.weight_decay < _INFINITE
        ):
            raise ValueError("surface_weight, colour and validation lie between 0 and 1, weight_decay counts from 0")
        if not (0 <= self.turn_deg <= 180 and 1 <= self.zoom <= 4):
            raise ValueError("turn_deg is from 0 to 180 degrees, zoom a factor from 1 to 4")
        if self.experts > 1 and self.devices > 1:
            raise ValueError("experts are trained one after the other on one device; lower experts or devices")
        if self.end_to_end and (self.experts > 1 or self.devices > 1):
            raise ValueError("end_to_end tunes one head on one device; leave out experts and devices, or end_to_end")
        if self.queried < self.least:
            raise ValueError(f"least ({self.least}) of the queried cells ({self.queried}) cannot agree; lower least")
        if len(self.tolerance_px) != 2 or not 0 < self.tolerance_px[1] <= self.tolerance_px[0] < _INFINITE:
            raise ValueError(f"tolerance_px is two lengths that do not grow, not {self.tolerance_px}")

    def build(
        self, scene: Scene, *, device: str = "cpu", seed: int = 0, log: Log, work: Path | None = None
    ) -> CoordinatesMap:
        """Train on the posed training frames of the scene; `work` keeps what lets an interrupted training go on.

        Raises:
            MapError: no posed training frame, or nothing is to be seen in any.
            MissingExtra: torch is not installed.
        """
        with naming_extras():
            from placecell.families.coordinates import building
        return building.build(self, scene, device=device, seed=seed, log=log, work=work)


def changed(config: Coordinates) -> dict[str, object]:
    """The settings that differ from the default's."""
    standard = Coordinates()
    return {
        item.name: getattr(config, item.name)
        for item in fields(config)
        if getattr(config, item.name) != getattr(standard, item.name)
    }

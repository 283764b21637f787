"""The settings of differentiable RANSAC. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from placecell.errors import naming_extras
from placecell.log import Log
from placecell.scene import Scene

if TYPE_CHECKING:
    from placecell.families.coordinates.dsac.localizer import DsacMap

Start = Literal["depth", "points", "reprojection"]
Scores = Literal["soft", "learned"]
Measure = Literal["max", "sum"]

_INFINITE = float("inf")
_LEAST = {
    "short_side": 32,
    "width": 8,
    "batch": 1,
    "score_steps": 0,
    "end_to_end": 0,
    "end_to_end_batch": 1,
    "hypotheses": 1,
    "frames": 0,
    "runs": 1,
    "least": 4,
}
_POSITIVE = (
    "epochs",
    "learning_rate",
    "score_rate",
    "end_to_end_rate",
    "clip_norm",
    "depth_m",
    "alpha",
    "max_error_px",
    "max_error_m",
)
_CHOICES = {"start": Start, "scores": Scores, "measure": Measure, "precision": Literal["fp32", "bf16"]}


@dataclass(frozen=True)
class Dsac:
    """A network of convolutions says where each cell lies, trained through RANSAC by the poses that come of it.

    DSAC (Brachmann et al. 2017) and DSAC* (Brachmann and Rother 2021), at sizes that two cores train in tens of minutes
    where the papers have days of a graphics card. First the network learns coordinates, then poses.
    """

    name: ClassVar[str] = "dsac"
    presets: ClassVar[Mapping[str, Dsac]] = {}

    start: Start = "depth"
    """What coordinates are first learned from: depth pictures, the points of the scene, or reprojection alone."""
    rgbd: bool = False
    """Queries bring depth: poses are made of 3D-3D matches (Kabsch) in place of 2D-3D ones (PnP)."""
    grey: bool = False
    """Look at grey pictures, as DSAC*."""
    scores: Scores = "soft"
    """How hypotheses are judged: by counting inliers softly (DSAC*), or by a network as well (DSAC)."""
    short_side: int = 240
    """Shorter side of the pictures the network sees, pixels; a cell has 8 x 8. The papers: 480."""
    width: int = 128
    """Channels of the network's last layers, a multiple of 8; DSAC* has up to 512."""
    epochs: float = 30.0
    """How often each frame has its turn while coordinates are learned."""
    batch: int = 4
    """Pictures a step of that; the papers have 1."""
    learning_rate: float = 1e-3
    """Its peak while coordinates are learned, after which it falls to nothing."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """What the network trains in; poses are always made in fp64."""
    score_steps: int = 500
    """Steps in which only the network of learned scores learns, before all of it does."""
    score_rate: float = 1e-3
    """Learning rate of these steps."""
    end_to_end: int = 1000
    """Steps in which coordinates are learned by the poses they give; 0 leaves it at the beginning."""
    end_to_end_batch: int = 4
    """Pictures a step of these; the papers have 1."""
    end_to_end_rate: float = 2e-5
    """Peak learning rate of these."""
    clip_norm: float = 10.0
    """Longest gradient while poses are learned."""
    average: float = 0.98
    """Decay of the moving average of the weights while poses are learned; 0: the last weights, as the papers."""
    turn_deg: float = 15.0
    """A look turns the camera about its line of sight by up to this."""
    zoom: float = 1.3
    """A look enlarges or shrinks the picture by up to this factor."""
    colour: float = 0.2
    """Spread of brightness and contrast of the looks."""
    depth_m: float = 4.0
    """How far away things are taken to lie where nothing tells; in scenes that are not metric, times their scale."""
    hypotheses: int = 64
    """Poses that RANSAC chooses between."""
    alpha: float = 100.0
    """How sure that choice is: what all cells agreeing would score."""
    measure: Measure = "sum"
    """What of a pose is learned: the larger of degrees and centimetres (max, DSAC), or their sum (DSAC*)."""
    max_error_px: float = 10.0
    """A cell agrees with a pose when its reprojection error is below this, in pixels the network sees."""
    max_error_m: float = 0.1
    """With depth: when its coordinate is so near to where the depth has it."""
    runs: int = 1
    """RANSACs a picture; those after the first see a random half of the cells each, and their disagreement widens the
    covariance. Without depth."""
    least: int = 30
    """Fewer agreeing cells are no answer."""
    validation: float = 0.0
    """Share of the training frames, whole sequences, that training is judged by and does not see."""
    frames: int = 0
    """Train on so many frames only, spread evenly; 0 is all."""

    def __post_init__(self) -> None:
        for key, least in _LEAST.items():
            if getattr(self, key) < least:
                raise ValueError(f"{key} counts from {least}, not {getattr(self, key)}")
        for key in _POSITIVE:
            if not 0 < getattr(self, key) < _INFINITE:
                raise ValueError(f"{key} has to be positive, not {getattr(self, key)}")
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in get_args(choices):
                raise ValueError(f"{key} {getattr(self, key)!r} is not one of {', '.join(get_args(choices))}")
        if self.width % 8:
            raise ValueError(f"width is a multiple of 8, not {self.width}")
        if not (0 <= self.turn_deg <= 180 and 1 <= self.zoom <= 4 and 0 <= self.colour <= 1):
            raise ValueError("turn_deg is from 0 to 180 degrees, zoom a factor from 1 to 4, colour from 0 to 1")
        if not (0 <= self.validation < 1 and 0 <= self.average < 1):
            raise ValueError("validation and average lie between 0 and 1")
        if self.rgbd and self.start != "depth":
            raise ValueError(f"rgbd learns from depth, not from {self.start}")
        if self.rgbd and self.runs > 1:
            raise ValueError("runs compares poses made of pixels; leave out runs or rgbd")

    def build(self, scene: Scene, *, device: str = "cpu", seed: int = 0, log: Log, work: Path | None = None) -> DsacMap:
        """Train on the posed training frames of the scene; `work` keeps what lets an interrupted training go on.

        Raises:
            MapError: no posed training frame, nothing is to be seen in any, or what they are to start from is missing.
            MissingExtra: torch is not installed.
        """
        with naming_extras():
            from placecell.families.coordinates.dsac import building
        return building.build(self, scene, device=device, seed=seed, log=log, work=work)


_STAR = replace(Dsac(), grey=True, turn_deg=30.0, zoom=1.5, depth_m=10.0, average=0.0)

Dsac.presets = {
    "dsac-2017": replace(Dsac(), scores="learned", hypotheses=256, measure="max", average=0.0),
    "dsac-star": _STAR,
    "dsac-star-points": replace(_STAR, start="points"),
    "dsac-star-reprojection": replace(_STAR, start="reprojection"),
    "dsac-star-rgbd": replace(_STAR, rgbd=True),
}

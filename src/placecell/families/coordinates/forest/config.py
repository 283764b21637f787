"""The settings of a scene coordinate regression forest. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from placecell.log import Log
from placecell.scene import Scene

if TYPE_CHECKING:
    from placecell.families.coordinates.forest.localizer import ForestMap

Features = Literal["da-rgb", "da-rgb+d", "depth", "rgb"]
Predictor = Literal["trees", "network"]

_MOST_FEATURES = 2**16
"""As many as a node can name."""
_FAR_M = 4.0
"""Features of plain pictures look as far as those with depth do on a surface there; see docs/coordinates."""
_LEAST = {
    "trees": 1,
    "images": 1,
    "pixels": 1,
    "candidates": 1,
    "levels": 1,
    "least_samples": 1,
    "short_side": 32,
    "modes": 1,
    "queried": 3,
    "hypotheses": 0,
    "least": 3,
    "probes": 1,
    "hidden": 1,
    "steps": 1,
}


@dataclass(frozen=True)
class Forest:
    """Trees that say for each pixel of a picture where in the world it looks.

    With depth (Shotton et al. 2013) features look at colours or depths around a pixel, farther the nearer its surface
    is, so that they see the same of it from any distance; frames and queries need depth. With features rgb (Brachmann
    et al. 2016) queries need none; frames need depth or points. Pictures are resampled to one canonical camera first.
    """

    name: ClassVar[str] = "forest"

    features: Features = "da-rgb"
    """What trees compare: colours (da-rgb), colours and depths (da-rgb+d), or depths (depth), at offsets that shrink
    with depth; or colours at fixed offsets, for queries without depth (rgb)."""
    predictor: Predictor = "trees"
    """What makes places of features: trees, or a network in their place, one for all (Massiceti et al. 2016)."""
    auto_context: bool = True
    """With features rgb and trees a second forest, which reads where the first says that the pixels look, too; both
    answer."""
    trees: int = 5
    """How many trees; each learns from its own frames and pixels."""
    images: int = 500
    """Training frames a tree learns from, drawn at random; all where there are fewer."""
    pixels: int = 2000
    """Pixels a tree learns from of each frame."""
    candidates: int = 16
    """Features tried at each node, with 15 thresholds each."""
    levels: int = 20
    """Questions a tree asks a pixel, at most."""
    least_samples: int = 5
    """No node is divided into parts of fewer training pixels."""
    reach_m: float = 0.22
    """How far from a pixel its features look: metres along the surface, the papers' 130 px m at the Kinect's 585 px;
    with features rgb along one that is four metres away."""
    short_side: int = 240
    """Shorter side of the canonical picture that features read, pixels."""
    bandwidth_m: float = 0.01
    """Of the mean shift that finds the modes of a leaf; in scenes that are not metric, times the cameras' spread."""
    modes: int = 3
    """Modes kept of a leaf, at most."""
    queried: int = 2000
    """Pixels asked of a query, drawn from those with depth."""
    hypotheses: int = 0
    """Poses that pre-emptive RANSAC begins with; 0 is the papers' 1024 with depth, 256 without."""
    max_error_m: float = 0.07
    """A coordinate agrees with a pose that puts its pixel so near to it; with depth."""
    max_error_px: float = 10.0
    """A coordinate agrees with a pose that projects it so near to its pixel; with features rgb."""
    least: int = 300
    """Fewer agreeing coordinates are no answer."""
    doubt: float = 180.0
    """The covariance is taken so many times larger than independent pixels say: neighbours err alike."""
    probes: int = 256
    """Features that the network reads, the same for every pixel."""
    hidden: int = 256
    """Width of the network."""
    steps: int = 1000
    """Training steps of the network, 4096 pixels each; it learns from those that all trees would."""

    def __post_init__(self) -> None:
        if self.features not in get_args(Features):
            raise ValueError(f"features {self.features!r} is not one of {', '.join(get_args(Features))}")
        if self.predictor not in get_args(Predictor):
            raise ValueError(f"predictor {self.predictor!r} is not one of {', '.join(get_args(Predictor))}")
        for key, value in _LEAST.items():
            if getattr(self, key) < value:
                raise ValueError(f"{key} counts from {value}, not {getattr(self, key)}")
        for key in (item.name for item in fields(self) if isinstance(item.default, float)):
            if not 0 < getattr(self, key) < 1e6:
                raise ValueError(f"{key} has to be a positive number, not {getattr(self, key)}")
        if self.candidates * self.levels > _MOST_FEATURES:
            raise ValueError(f"candidates times levels is at most {_MOST_FEATURES}")
        if self.least > self.queried:
            raise ValueError(f"least ({self.least}) cannot be more than the {self.queried} pixels queried")

    @property
    def reach(self) -> float:
        """`reach_m` as features have it: metres across the surface or, where depth plays no part, a slope."""
        return self.reach_m if self.needs_depth else self.reach_m / _FAR_M

    @property
    def needs_depth(self) -> bool:
        """Whether nothing can be said of pictures without depth."""
        return self.features != "rgb"

    def build(
        self, scene: Scene, *, device: str = "cpu", seed: int = 0, log: Log, work: Path | None = None
    ) -> ForestMap:
        """Grow the trees on the posed training frames of the scene, or train the network.

        `device` is where a network trains; trees grow, and all answer, on the processor.

        Raises:
            MapError: no posed training frame, nothing in their pictures, or neither the depth nor the points that these
                settings need.
            MissingExtra: the network is asked for, and torch is not installed.
            MissingDevice: the network is to train on a device that is not there.
        """
        from placecell.families.coordinates.forest import building

        return building.build(self, scene, device=device, seed=seed, log=log)

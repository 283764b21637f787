"""The settings of a structure map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from placecell.log import Log
from placecell.scene import Scene
from placecell.sift import Sift

if TYPE_CHECKING:
    from placecell.families.structure.localizer import StructureMap

CodeBytes = Literal[8, 16, 32, 64, 128]

_AT_ONCE = 4000
"""As many points as a few pictures of a whole kitchen see, so matching them takes no longer."""


@dataclass(frozen=True)
class Structure:
    """SIFT points triangulated from the labelled frames; a query is matched to the points its nearest pictures saw.

    Active Search's idea, our reading: 2D-to-3D matching goes through the map in the order of how promising its parts
    are and stops when enough matches agree; then 3D-to-2D matching of the points around those found completes
    them. Where Active Search orders by visual words, we order by retrieved pictures (VLAD), and the 3D-to-2D
    search is guided by the first pose instead of by a tree of coarser words.

    `points`, `code_bytes` and `words` make the map smaller: fewer points (see `covering`), descriptors by product
    quantisation (see `codes`), and shorter vectors to find pictures by.
    """

    name: ClassVar[str] = "structure"

    features: int = 2048
    """SIFT features a picture, at most."""
    contrast: float = 0.0133
    """SIFT's peak threshold; lower finds more features."""
    resolution: float = 0.7
    """Of queries: pixels a radian, as a share of the training pictures'; finer ones are shrunk. The finest features are
    half of the time and mostly noise: places are found as well without."""
    neighbours: int = 12
    """Pictures matched with each when the map is built: so many by pose, and so many by likeness."""
    reach: int = 160
    """The neighbours are spread over the nearest so many, so that points are seen from different places."""
    ratio: float = 0.85
    """Lowe's ratio test."""
    retrieved: int = 20
    """Pictures of the map a query is matched to, at most."""
    enough: int = 100
    """The 2D-to-3D search stops at so many agreeing matches (Active Search's N)."""
    strongest: int = 600
    """Only so many of the query's features look for the first pose; all do when that is not enough."""
    least: int = 15
    """Fewer agreeing matches are no answer."""
    agreement: float = 0.1
    """Share of the 2D-to-3D matches that has to agree: among repeating things a wrong pose finds a few of many."""
    max_error_px: float = 4.0
    """A match agrees when its reprojection error is below this, in pixels of the query as it is looked at."""
    covisible: int = 40
    """Pictures whose points the 3D-to-2D search takes in."""
    runs: int = 1
    """RANSACs a query; those after the first see a random half of the matches each, and their disagreement widens the
    covariance."""
    radius_px: float = 5.6
    """The 3D-to-2D search looks for a point so near to where it must fall."""
    likeness: float = 0.8
    """Cosine of descriptors a 3D-to-2D match must reach."""
    doubt: float = 16.0
    """The points' covariance is taken so many times larger than their tracks say: neighbours err alike."""
    points: int = 0
    """The map keeps at most so many points, those that cover the training pictures best; 0 keeps all. Up to 4000 are
    matched all at once, as with words 0."""
    code_bytes: CodeBytes = 128
    """Bytes a point's descriptor takes; 128 is the descriptor itself, fewer a product-quantised one."""
    words: int = 64
    """Visual words of the vectors by which pictures are found; 0 finds none, the whole map is matched at once."""

    def __post_init__(self) -> None:
        counts = (self.features, self.neighbours, self.retrieved, self.enough, self.strongest, self.covisible)
        if min(*counts, self.runs) < 1 or self.least < 4 or self.reach < 0:
            raise ValueError("features, pictures and runs count from 1, least from 4, reach from 0")
        if not 0 < self.resolution <= 1:
            raise ValueError(
                f"resolution is a share of the training pictures', above 0 and at most 1, not {self.resolution}"
            )
        shares = (self.likeness, self.agreement)
        if not (0 < self.ratio <= 1 and 0 < self.contrast < 1 and all(0 <= share < 1 for share in shares)):
            raise ValueError("ratio, likeness, agreement and contrast lie between 0 and 1")
        if min(self.max_error_px, self.radius_px, self.doubt) <= 0:
            raise ValueError("max_error_px, radius_px and doubt have to be positive")
        if self.points and self.points < self.enough:
            raise ValueError(f"points is 0 for all of them, or at least enough ({self.enough}), not {self.points}")
        if self.code_bytes not in get_args(CodeBytes) or self.words < 0:
            raise ValueError(f"code_bytes is one of {get_args(CodeBytes)}, words counts from 0")

    @property
    def at_once(self) -> bool:
        """Whether a query is matched to the whole map, without finding pictures first.

        Of few points a picture sees too few for Lowe's test: without others alike, whatever is nearest passes.
        """
        return not self.words or 0 < self.points <= _AT_ONCE

    @property
    def sift(self) -> Sift:
        """The detector of map and queries."""
        return Sift(self.features, self.contrast)

    def build(
        self, scene: Scene, *, device: str = "cpu", seed: int = 0, log: Log, work: Path | None = None
    ) -> StructureMap:
        """Triangulate the posed training frames of the scene. `device` is always the processor.

        Raises:
            MapError: fewer than three posed frames, no features, or nothing triangulates (a pure rotation, say).
        """
        from placecell.families.structure.building import assembled, triangulated

        return assembled(self, scene, triangulated(self, scene, seed=seed, log=log), seed=seed)

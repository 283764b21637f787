"""The SIFT structure map: 2D-3D matching against triangulated points, after Active Search (Sattler et al. 2017)."""

from placecell.families.structure.config import Structure
from placecell.families.structure.localizer import StructureMap

__all__ = ["Structure", "StructureMap"]

"""What cells of a picture look like: several feature maps of one backbone, joined at one stride."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from placecell.backbones import Backbone, backbone, fused
from placecell.errors import MapError
from placecell.families.coordinates.cells import MIDDLE_PX as MIDDLE_PX
from placecell.families.coordinates.cells import STRIDE as STRIDE

_STRIDES = (4, 8, 16)


class Encoder(nn.Module):
    """The maps of strides 4, 8 and 16 of a backbone as one of stride 8.

    Finer maps are folded, the four of their cells that make one of ours side by side, so that nothing is averaged away;
    coarser ones are interpolated. Convolutions of stride 2, padded alike on all sides, look around every second pixel
    beginning with the first, so cell i of a map of stride s looks around s i, not around the middle of its square:
    every second cell of ours looks where one of the coarse map does, and the others half way between two.
    """

    def __init__(self, name: str) -> None:
        """An encoder with the first weights of its backbone.

        Raises:
            PlacecellError: the backbone is unknown.
            MapError: it has no maps of these strides.
        """
        super().__init__()
        self.backbone: Backbone = backbone(name)
        by_stride = {tap.stride: name for name, tap in self.backbone.taps.items()}
        missing = [stride for stride in _STRIDES if stride not in by_stride]
        if missing:
            raise MapError(f"backbone {name} has no map of stride {missing[0]}; choose another --backbone")
        self.taps = tuple(by_stride[stride] for stride in _STRIDES)
        fine, even, coarse = (self.backbone.taps[tap].channels for tap in self.taps)
        self.channels = 4 * fine + even + coarse
        self.coarse = coarse

    def settle(self) -> Encoder:
        """This encoder as it is used: what nobody reads dropped, batch norms folded in, in eval mode, frozen."""
        self.backbone.cut(self.taps[-1])
        self.backbone = fused(self.backbone.eval())
        return self.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """(B, C, H / 8, W / 8) of normalised pictures, whole cells only; stride 16 is the last `coarse` channels."""
        maps = self.backbone(images_B3HW)
        fine, even, coarse = (maps[tap] for tap in self.taps)
        height, width = images_B3HW.shape[-2] // STRIDE, images_B3HW.shape[-1] // STRIDE
        folded = F.pixel_unshuffle(fine[..., : 2 * height, : 2 * width], 2)
        # Some networks leave out the half cell at the end of an odd number of ours: the last whole one stands for it.
        short = (0, max(0, -(-width // 2) - coarse.shape[-1]), 0, max(0, -(-height // 2) - coarse.shape[-2]))
        coarse = F.pad(coarse.float(), short, mode="replicate")
        between = doubled(doubled(coarse).mT).mT
        parts = (folded, even[..., :height, :width], between[..., :height, :width])
        return torch.cat([part.float() for part in parts], dim=1)


def doubled(values_BCHW: Tensor) -> Tensor:
    """(B, C, H, 2 W) with the means of neighbours between them; the last is repeated."""
    after = torch.cat([values_BCHW[..., 1:], values_BCHW[..., -1:]], dim=-1)
    return torch.stack([values_BCHW, (values_BCHW + after) / 2], dim=-1).flatten(-2)

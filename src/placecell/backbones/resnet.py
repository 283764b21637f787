"""ResNet (He et al. 2016), the two of basic blocks."""

from __future__ import annotations

from torch import Tensor, nn

from placecell.backbones.contract import Backbone, Tap


class ResNet(Backbone):
    """torchvision's resnet18 (blocks 2, 2, 2, 2) or resnet34 (3, 4, 6, 3) without its classifier."""

    stages = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")

    def __init__(self, blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.taps = {"relu": Tap(64, 2)}
        entering = 64
        for index, count in enumerate(blocks):
            leaving, stride = 64 << index, 1 if index == 0 else 2
            rest = [BasicBlock(leaving, leaving, 1) for _ in range(count - 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(BasicBlock(entering, leaving, stride), *rest))
            self.taps[f"layer{index + 1}"] = Tap(leaving, 4 << index)
            entering = leaving
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input goes, through a 1x1 where shapes differ."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entering, leaving, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(leaving)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(leaving, leaving, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(leaving)
        self.downsample = (
            nn.Sequential(nn.Conv2d(entering, leaving, 1, stride, bias=False), nn.BatchNorm2d(leaving))
            if stride != 1 or entering != leaving
            else nn.Identity()
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, entering, h, w) to (B, leaving, h / stride, w / stride)."""
        straight = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(features)))))
        out: Tensor = self.relu(straight + self.downsample(features))
        return out

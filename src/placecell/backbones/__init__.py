"""Convolutional networks by name, without classifiers, and where their ImageNet weights come from."""

from placecell.backbones.contract import MEAN, STD, Backbone, Tap, picture_tensor
from placecell.backbones.fuse import fused
from placecell.backbones.networks import NAMES, backbone
from placecell.backbones.weights import load_weights

__all__ = ["MEAN", "NAMES", "STD", "Backbone", "Tap", "backbone", "fused", "load_weights", "picture_tensor"]

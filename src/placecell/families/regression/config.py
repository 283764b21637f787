"""The settings of a pose-regression map, and the papers' systems as presets. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_type_hints

from placecell.errors import naming_extras
from placecell.log import Log
from placecell.scene import Scene

if TYPE_CHECKING:
    from placecell.families.regression.localizer import RegressionMap

Head = Literal["align", "grid", "posenet", "lstm", "hourglass"]
RotationOutput = Literal["quaternion", "log-quaternion", "6d", "9d"]
Loss = Literal["beta", "learned", "reprojection", "virtual-points", "homography", "likelihood"]
Covariance = Literal["none", "gaussian", "laplace"]
Norm = Literal["l1", "l2", "squared"]
Inference = Literal["centre", "dense", "one-pass"]

_LARGEST = 1e30
"""Beyond it float32 overflows in the arithmetic of training."""
_LEAST = {
    "hidden": 1,
    "crops": 1,
    "batch": 1,
    "devices": 1,
    "short_side": 32,
    "frames": 0,
    "new_views": 0,
    "new_view_turn_deg": 0,
    "surface_weight": 0,
    "gamma_steps": 1,
    "passes": 0,
}


@dataclass(frozen=True)
class Regression:
    """A network that maps a picture to the pose it was taken from (PoseNet and its line; see --preset).

    The network answers in the frame of the anchor, the mean pose of the training frames, so the world can be anywhere.
    Pictures are resampled to one canonical camera first, so any mixture of cameras trains and any camera may ask.
    """

    name: ClassVar[str] = "regression"
    presets: ClassVar[Mapping[str, Regression]] = {}

    backbone: str = "mobilenet_v2"
    """Encoder by name (googlenet, bn_inception, mobilenet_v2, resnet18, ...), or timm:NAME."""
    weights: str = "imagenet"
    """Where the encoder begins: imagenet, none (from scratch), or a .safetensors file."""
    head: Head = "align"
    """How features become a pose: align lays what is seen onto where it is, grid keeps where things are, posenet
    pools, lstm reads rows, hourglass decodes."""
    hidden: int = 128
    """Width of the layer before the pose."""
    dropout: float = 0.0
    """Share of that layer dropped in training."""
    map_dropout: float = 0.0
    """Share of the last map dropped in training (Bayesian PoseNet); of the heads that pool."""
    passes: int = 0
    """Answer with the mean of so many passes with dropout, and how far they differ; Bayesian PoseNet: 40."""
    covariance: Covariance = "gaussian"
    """What the errors are taken to be distributed as, whose covariance is learned beside the pose."""
    auxiliary: bool = False
    """PoseNet's two extra heads on middle layers, in training only, weighing 0.3 each."""
    rotation: RotationOutput = "9d"
    """How the rotation leaves the network; 6d and 9d are continuous (Zhou 2019, Levinson 2020)."""
    depth: bool = False
    """A second encoder for the depth of RGB-D frames (Li)."""
    loss: Loss = "virtual-points"
    """beta: PoseNet 2015; learned, reprojection: PoseNet 2017; virtual-points, homography: one length for both;
    likelihood: the pose and its covariance by one likelihood (Kendall and Gal 2017)."""
    norm: Norm = "l1"
    """How differences of centres and rotations are measured in the loss."""
    beta: float = 500.0
    """Weight of the rotation in the beta loss."""
    s_x: float = 0.0
    """Where the learned weighting of the centre begins, log of a variance."""
    s_q: float = -3.0
    """Where the learned weighting of the rotation begins."""
    pretrain: float = 0.7
    """Share of the steps with the learned weighting before the reprojection loss, which does not begin alone."""
    short_side: int = 144
    """Shorter side of the canonical picture, pixels."""
    crop: int = 0
    """Square window the network sees, pixels: random in training, central in use; 0 is the whole picture."""
    inference: Inference = "centre"
    """centre: one look; dense: the mean over many windows; one-pass: the same with the encoder run once."""
    crops: int = 128
    """Windows of dense inference."""
    turn_deg: tuple[float, float, float] = (8.0, 8.0, 20.0)
    """Training turns the camera about its centre by up to this pitch, yaw and roll: exact new views."""
    colour: float = 0.2
    """Training changes brightness, contrast and saturation by up to this share."""
    new_views: float = 8.0
    """So many pictures a training frame are made from where none was taken, where the scene has depth or points."""
    new_view_share: float = 0.7
    """Share of new views in training, when there are any."""
    new_view_distance: float = 0.11
    """How far from training frames new views are: standard deviation along each axis, share of a typical depth."""
    new_view_turn_deg: float = 9.0
    """How far new views are turned: standard deviation about each axis."""
    surface_weight: float = 0.1
    """Weight of what depth or points say of the align head's cells, beside the loss of the pose."""
    epochs: float = 140.0
    """How often each training frame has its turn; new views take their share of the turns."""
    batch: int = 32
    """Pictures a step."""
    optimizer: Literal["adamw", "adam", "adagrad", "sgd"] = "adamw"
    """Which optimizer."""
    learning_rate: float = 1e-3
    """Its peak."""
    weight_decay: float = 0.01
    """Pull of the weights towards zero; biases, norms and loss weights are free of it."""
    eps: float = 1e-8
    """The optimizer's guard against division by zero; PoseLSTM trains with 1."""
    bias_multiplier: float = 1.0
    """Learning rate of the biases, times that of the weights; Caffe's PoseNet trains with 2."""
    loss_multiplier: float = 1.0
    """Learning rate of the learned loss weights, times that of the network; short trainings leave them behind at 1."""
    schedule: Literal["constant", "onecycle", "step", "exponential"] = "onecycle"
    """How the learning rate goes on."""
    gamma: float = 0.9
    """What step and exponential schedules multiply the learning rate by."""
    gamma_steps: int = 100
    """So often, in steps."""
    average: float = 0.995
    """Decay of the moving average of the weights that becomes the map; 0 takes the last ones."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What training computes in; answers are always in fp32."""
    devices: int = 1
    """How many devices train together."""
    validation: float = 0.1
    """Share of the training frames, whole sequences, that training is judged by and does not see."""
    frames: int = 0
    """Train on so many frames only, spread evenly; 0 is all."""

    def __post_init__(self) -> None:
        for key, choices in _choices().items():
            if getattr(self, key) not in choices:
                raise ValueError(f"{key} {getattr(self, key)!r} is not one of {', '.join(choices)}")
        _require_ranges(self)
        if self.weight_decay < 0 or len(self.turn_deg) != 3 or not all(0 <= turn < 90 for turn in self.turn_deg):
            raise ValueError("weight_decay counts from 0; turn_deg is three angles from 0 to 90 degrees")
        others = (self.crop, self.auxiliary, self.depth)
        if self.head == "align" and (any(others) or self.rotation != "9d"):
            raise ValueError("the align head reads whole colour pictures and emits rotation 9d; leave the others out")
        _require_doubt(self)
        if self.crop and not 32 <= self.crop <= self.short_side:
            raise ValueError(f"crop is 0 or from 32 to short_side ({self.short_side}) pixels, not {self.crop}")
        if self.inference != "centre" and not self.crop:
            raise ValueError(f"{self.inference} inference looks through windows; give their size with crop")

    def build(
        self, scene: Scene, *, device: str = "cpu", seed: int = 0, log: Log, work: Path | None = None
    ) -> RegressionMap:
        """Train on the posed training frames of the scene; `work` keeps what lets an interrupted training go on.

        Raises:
            MapError: no posed training frame, or the scene lacks the points or the depth that these settings need.
            MissingExtra: torch is not installed.
        """
        with naming_extras():
            from placecell.families.regression import building
        return building.build(self, scene, device=device, seed=seed, log=log, work=work)


def _require_doubt(config: Regression) -> None:
    """Refuse settings of uncertainty that do not go together.

    Raises:
        ValueError: passes without dropout or through windows of one pass, likelihood without a covariance.
    """
    if config.map_dropout and config.head not in ("posenet", "lstm"):
        raise ValueError(f"map_dropout is of the heads posenet and lstm, not of {config.head}; use dropout")
    if config.passes and not (config.dropout or config.map_dropout):
        raise ValueError(f"{config.passes} passes are all alike without dropout; set dropout, or leave passes out")
    if config.passes and config.inference == "one-pass":
        raise ValueError("passes go with centre and dense inference, not with one-pass")
    if config.loss == "likelihood" and (config.covariance == "none" or config.auxiliary):
        raise ValueError("the likelihood loss needs a covariance (gaussian, laplace) and has no auxiliary heads")


def _require_ranges(config: Regression) -> None:
    """Refuse numbers that no training can do anything with.

    Raises:
        ValueError: one is NaN, infinite, or outside its range.
    """
    for key in (item.name for item in fields(config) if isinstance(item.default, float)):
        if not abs(getattr(config, key)) <= _LARGEST:
            raise ValueError(f"{key} has to be a number of ordinary size, not {getattr(config, key)}")
    for key, value in _LEAST.items():
        if getattr(config, key) < value:
            raise ValueError(f"{key} counts from {value}, not {getattr(config, key)}")
    for key in ("dropout", "map_dropout", "validation", "average"):
        if not 0 <= getattr(config, key) < 1:
            raise ValueError(f"{key} lies between 0 and 1 (1 excluded), not {getattr(config, key)}")
    for key in ("colour", "pretrain", "new_view_share"):
        if not 0 <= getattr(config, key) <= 1:
            raise ValueError(f"{key} lies between 0 and 1, not {getattr(config, key)}")
    rates = ("learning_rate", "bias_multiplier", "loss_multiplier")
    for key in (*rates, "epochs", "eps", "beta", "gamma", "new_view_distance"):
        if not getattr(config, key) > 0:
            raise ValueError(f"{key} has to be positive, not {getattr(config, key)}")
    if config.gamma > 1:
        raise ValueError(f"gamma is at most 1, or the learning rate would grow, not {config.gamma}")


def _choices() -> dict[str, tuple[Any, ...]]:
    """The settings that are one of a few words, with these words."""
    hints = get_type_hints(Regression, localns={"RegressionMap": object})
    return {item.name: words for item in fields(Regression) if (words := _words(hints[item.name]))}


def _words(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if getattr(hint, "__origin__", None) is Literal else ()


_POSENET = Regression(
    backbone="googlenet",
    weights="none",
    head="posenet",
    hidden=2048,
    dropout=0.5,
    auxiliary=True,
    rotation="quaternion",
    loss="beta",
    norm="l2",
    short_side=256,
    crop=224,
    new_views=0.0,
    turn_deg=(0.0, 0.0, 0.0),
    colour=0.0,
    batch=64,
    optimizer="adagrad",
    weight_decay=0.0,
    bias_multiplier=2.0,
    schedule="constant",
    average=0.0,
)
"""PoseNet 2015 (Kendall, Grimes, Cipolla): random 224 px windows of pictures of 256, three heads.

The loss is the paper's, of norms; the released Caffe files square them (norm `squared`). AdaGrad, its rate and the
doubled bias rate are those files'. Their weight decay of 0.5 belongs to pictures of 0 to 255 and is left out here. No
ImageNet weights of GoogLeNet are published in a format read here, so it begins from scratch; `--weights FILE` takes a
converted file.
"""

_MODERN_POSENET = replace(
    _POSENET,
    backbone="mobilenet_v2",
    weights="imagenet",
    auxiliary=False,
    norm="l1",
    optimizer="adamw",
    weight_decay=0.01,
    bias_multiplier=1.0,
    schedule="onecycle",
)
"""PoseNet's head and pictures on an encoder and an optimizer of today, where only the loss or the head is tried."""

PRESETS: dict[str, Regression] = {
    "default": Regression(),
    "posenet-2015": _POSENET,
    # Kendall & Cipolla 2017: L1, Adam, no auxiliary heads; `--loss reprojection` goes on with the geometric loss.
    "posenet-2017": replace(
        _POSENET, auxiliary=False, loss="learned", norm="l1", optimizer="adam", learning_rate=1e-4, bias_multiplier=1.0
    ),
    # Kendall and Cipolla 2016: dropout after inception 5b as well, and in use.
    "bayesian": replace(_POSENET, map_dropout=0.5, passes=40),
    # Parameter Estimation via Deep Learning for Camera Localization, 2019. "90 % attenuation" is read as times 0.9.
    "bn-inception": replace(
        _POSENET,
        backbone="bn_inception",
        auxiliary=False,
        dropout=0.0,
        batch=75,
        learning_rate=1e-4,
        bias_multiplier=1.0,
        schedule="exponential",
    ),
    # Walch et al. 2017, as the public PyTorch code trains it: Adam with eps 1, squared norms.
    "lstm": replace(
        _POSENET,
        head="lstm",
        norm="squared",
        batch=75,
        optimizer="adam",
        learning_rate=5e-4,
        weight_decay=0.0625,
        eps=1.0,
        bias_multiplier=1.0,
    ),
    # In the spirit of Ward et al. 2019, whose own formula could not be read; then Boittiaux et al. 2022.
    "coupled": replace(_MODERN_POSENET, loss="virtual-points"),
    "homography": replace(_MODERN_POSENET, loss="homography"),
    # Melekhov et al. 2017.
    "hourglass": replace(
        _MODERN_POSENET, backbone="resnet34", head="hourglass", loss="beta", norm="l2", beta=1.0, rotation="quaternion"
    ),
    # Li et al. 2018: colour and depth through two encoders.
    "rgbd": replace(_POSENET, auxiliary=False, depth=True),
}
Regression.presets = PRESETS

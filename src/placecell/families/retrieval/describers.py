"""What retrieval compares pictures by: VLAD of SIFT features, or the pooled features of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from placecell.camera import Camera
from placecell.errors import FormatError, naming_extras
from placecell.estimate import Query
from placecell.features import scene_features
from placecell.images import load_query
from placecell.log import Log, Silent
from placecell.resample import canonical_camera, resample
from placecell.scene import Scene
from placecell.sift import Sift
from placecell.vlad import Vectors, Vlad

if TYPE_CHECKING:
    from placecell.backbones import Backbone

_SHORT_SIDE_PX = 192
_LEAST_DETAIL = 1.0
"""Mean absolute Laplacian in grey levels below which a network would describe noise; rooms have ten and more."""
_SILENT = Silent()


class Describer(Protocol):
    """What turns a picture into the vector it is compared by."""

    blind: ClassVar[str]
    """Why a picture that it cannot describe is refused."""

    def describe(self, query: Query) -> Vectors | None:
        """(D,) of length one; None for a picture with nothing in it."""
        ...

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays a map keeps."""
        ...


class Trained(NamedTuple):
    """A describer, and what it makes of the training pictures."""

    describer: Describer
    vectors: Vectors
    """(K, D) of the pictures that have one."""
    kept: list[int]
    """(K,) which of the frames those are."""


@dataclass(frozen=True, eq=False)
class SiftVlad:
    """VLAD of SIFT features."""

    blind: ClassVar[str] = "no features found; the picture is dark or blurred"

    sift: Sift
    vlad: Vlad

    @classmethod
    def train(cls, sift: Sift, scene: Scene, *, words: int, dimensions: int, seed: int, log: Log) -> Trained | None:
        """A vocabulary of the posed pictures of a scene; None when none of them has features."""
        features = scene_features(scene, scene.posed, sift, log)
        kept = [index for index, found in enumerate(features) if len(found)]
        if not kept:
            return None
        descriptors = [features[index].descriptors for index in kept]
        vlad = Vlad.train(descriptors, words=words, dimensions=dimensions, seed=seed)
        return Trained(cls(sift, vlad), np.stack([vlad.describe(block) for block in descriptors]), kept)

    def describe(self, query: Query) -> Vectors | None:
        """The VLAD of a picture."""
        features = self.sift.detect(query.image)
        return self.vlad.describe(features.descriptors) if len(features) else None

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The vocabulary."""
        return self.vlad.tensors()


@dataclass(frozen=True, eq=False)
class Convnet:
    """Last feature map of a network, generalised mean over the picture, projected by PCA of the training pictures.

    f_c = (mean over pixels of max(x_c, ε)³)^(1/3) (Radenovic et al. 2018, p = 3), scaled to length one, projected on D
    axes without whitening, scaled to length one. Pictures are resampled to one camera first, so lenses do not matter.
    """

    blind: ClassVar[str] = "next to nothing to see; the picture is dark or blurred"

    network: Backbone = field(repr=False)
    """Fused, in evaluation mode."""
    camera: Camera
    """That pictures are resampled to."""
    mean: Vectors
    """(C,)."""
    axes: Vectors
    """(D, C)."""

    @classmethod
    def train(cls, network: Backbone, scene: Scene, *, dimensions: int, log: Log) -> Trained | None:
        """The projection for the posed pictures of a scene; None when there is nothing to see in any of them."""
        none = np.zeros(0, np.float32)
        camera = canonical_camera([scene.camera_of(frame) for frame in scene.posed], _SHORT_SIDE_PX)
        bare = cls(network, camera, none, none)
        found = [bare.pooled(load_query(scene, frame)) for frame in log.track(scene.posed, "describing pictures")]
        kept = [index for index, vector in enumerate(found) if vector is not None]
        if not kept:
            return None
        raw = np.stack([vector for vector in found if vector is not None])
        mean = raw.mean(axis=0)
        _, _, axes = np.linalg.svd(raw - mean, full_matrices=False)
        trained = cls(network, camera, mean, np.ascontiguousarray(axes[:dimensions]))
        return Trained(trained, np.stack([trained.projected(vector) for vector in raw]), kept)

    def describe(self, query: Query) -> Vectors | None:
        """The projected vector of a picture."""
        raw = self.pooled(query)
        return None if raw is None else self.projected(raw)

    def pooled(self, query: Query) -> Vectors | None:
        """(C,) generalised mean of the last map, of length one; None for a picture without detail."""
        import torch

        from placecell.backbones import picture_tensor

        image = resample(query.image, query.camera, self.camera)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean() < _LEAST_DETAIL:
            return None
        with torch.inference_mode():
            picture = picture_tensor(image[None]).to(next(self.network.parameters()).device)
            *_, last = self.network(picture).values()
            mean: Vectors = last[0].float().clamp(min=1e-6).pow(3).mean(dim=(1, 2)).pow(1 / 3).cpu().numpy()
        return _unit(mean)

    def projected(self, vector: Vectors) -> Vectors:
        """(D,) of length one."""
        return _unit(self.axes @ (vector - self.mean))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The network as it is used, and the projection."""
        weights = {f"network.{key}": value.cpu().numpy() for key, value in self.network.state_dict().items()}
        return {**weights, "convnet.mean": self.mean, "convnet.axes": self.axes}

    @classmethod
    def restored(cls, name: str, camera: Camera, tensors: Mapping[str, NDArray[Any]], device: str) -> Self:
        """Inverse of `tensors`, for the backbone of a name and the commonest camera of the training pictures.

        Raises:
            FormatError: the tensors are not of that backbone.
            MissingExtra: torch is not installed.
        """
        network, _ = encoder(name, "none", device=device)
        import torch

        state = {key: torch.from_numpy(tensors[f"network.{key}"]) for key in network.state_dict()}
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise FormatError(
                f"the weights of this map are not of {name}, as its map.json says; build the map again"
            ) from error
        camera = canonical_camera([camera], _SHORT_SIDE_PX)
        return cls(network, camera, tensors["convnet.mean"], tensors["convnet.axes"])


def encoder(name: str, weights: str, *, device: str, seed: int = 0, log: Log = _SILENT) -> tuple[Backbone, str]:
    """A backbone ready to describe pictures, fused and in evaluation mode, and one line on where its weights are from.

    Args:
        weights: imagenet or a file, as `backbones.load_weights` takes them, or none: drawn from the seed.

    Raises:
        MissingExtra: torch is not installed.
        MissingDevice: there is no such device.
        PlacecellError: the backbone is unknown, its weights are not there, or they are of another one.
    """
    with naming_extras():
        import torch
    from placecell.backbones import backbone, fused, load_weights
    from placecell.train.devices import require_device

    require_device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = backbone(name)
    told = "none, drawn from the seed" if weights == "none" else load_weights(network, name, weights, log=log)
    return fused(network.eval()).eval().to(device), told


def _unit(vector: Vectors) -> Vectors:
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)

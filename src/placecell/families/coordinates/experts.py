"""Several heads for one map, and the gate that says which of them knows a picture (ESAC, Brachmann & Rother 2019)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from placecell.anchor import Floats

_PURPOSE = 8
"""Of the seed."""
_OVERLAP = 1.3
"""A look belongs to every expert whose middle is no more than so many times as far as the nearest one's."""
_AHEAD = 0.75
"""Looks are grouped by what they see, this share of the usual depth ahead, and by where they were taken."""
_STEPS = 300
_RATE = 1e-2
_DECAY = 1e-2
_LIKELY = 0.1
"""Experts less likely than that are not asked. A look where three overlap wants a third of each, and to ask one more
costs no more than its head and a RANSAC; so who is left out is rather sure to know nothing."""
_MOST_ASKED = 3
"""How many experts are asked at most: a query then takes no more than so many times as long as that of one head."""


class Gate(nn.Module):
    """Which expert knows a picture: a linear classifier of what the picture looks like as a whole.

    ESAC trains a convolutional network for it; ours reads the features that are there anyway.
    """

    def __init__(self, channels: int, experts: int) -> None:
        super().__init__()
        self.weight_EG = nn.Parameter(torch.zeros(experts, channels))
        self.bias_E = nn.Parameter(torch.zeros(experts))
        self.register_buffer("mean_G", torch.zeros(channels))
        self.register_buffer("scale_G", torch.ones(channels))
        self.mean_G: Tensor
        self.scale_G: Tensor

    def forward(self, overall_BG: Tensor) -> Tensor:
        """(B, E) logarithms of probabilities."""
        return F.log_softmax(F.linear((overall_BG - self.mean_G) * self.scale_G, self.weight_EG, self.bias_E), dim=1)

    @torch.inference_mode()
    def asked(self, overall_G: Tensor) -> list[int]:
        """The experts to ask of a picture: the likeliest, and up to two more that are likely enough."""
        shares = self(overall_G.unsqueeze(0))[0].exp()
        order = torch.argsort(shares, descending=True, stable=True)[:_MOST_ASKED].tolist()
        return [expert for place, expert in enumerate(order) if place == 0 or float(shares[expert]) >= _LIKELY]


def shared_out(
    centres_N3: Floats, forward_N3: Floats, usual_depth: float, experts: int, seed: int
) -> NDArray[np.bool_]:
    """(N, E) which experts learn from which of N looks, by their centres and their lines of sight.

    K-means of where looks were taken and of what they see. Neighbours overlap, so that a picture between two experts
    is known to both. Every look belongs to one expert at least, and every expert has a look.
    """
    seen = centres_N3 + _AHEAD * usual_depth * forward_N3
    place = np.concatenate([seen, _AHEAD * centres_N3], axis=1).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of clusters that stay empty, where many looks are one
        rng = np.random.default_rng([seed, _PURPOSE])
        middles, _ = kmeans2(place, min(experts, len(np.unique(place, axis=0))), minit="++", rng=rng)
    distance = np.linalg.norm(place[:, None] - np.resize(middles, (experts, place.shape[1])), axis=2)
    belongs: NDArray[np.bool_] = distance <= _OVERLAP * distance.min(axis=1, keepdims=True)
    belongs[distance.argmin(axis=0), np.arange(experts)] = True
    return belongs


def learned_gate(overall_LG: Floats, belongs_LE: NDArray[np.bool_]) -> Gate:
    """A gate that gives the experts of each look equal shares: logistic regression, full batches of AdamW."""
    given, wanted = torch.from_numpy(overall_LG), torch.from_numpy(belongs_LE.astype(np.float32))
    wanted = wanted / wanted.sum(dim=1, keepdim=True)
    gate = Gate(given.shape[1], wanted.shape[1])
    gate.mean_G.copy_(given.mean(dim=0))
    gate.scale_G.copy_(1 / given.std(dim=0, correction=0).clamp_min(1e-2))
    optimizer = torch.optim.AdamW(gate.parameters(), lr=_RATE, weight_decay=_DECAY)
    for _ in range(_STEPS):
        loss = -(wanted * gate(given)).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return gate.eval()


def joined(heads: Sequence[nn.Module]) -> nn.Module:
    """The heads as one module: of several a list, of one itself."""
    return heads[0] if len(heads) == 1 else nn.ModuleList(heads)


def joined_logs(logs: Sequence[str]) -> str:
    """The tables of the experts' trainings below each other, by a first column `expert` that counts from 1."""
    tables = [log.splitlines() for log in logs]
    header = max((table[0] for table in tables), key=len)  # a table without rows has none
    rows = [f"{expert},{row}" for expert, table in enumerate(tables, start=1) for row in table[1:]]
    return "\n".join([f"expert,{header}", *rows]) + "\n"

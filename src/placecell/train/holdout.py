"""Which training frames are kept from training, to see how well it goes."""

from __future__ import annotations

from collections.abc import Sequence

from placecell.scene import Frame


def held_out(frames: Sequence[Frame], share: float) -> frozenset[int]:
    """Indices of about `share` of the frames, for validation; never more than half of them, none when `share` is 0.

    Neighbours in a video look alike, so frames drawn at random would be found by heart. With three sequences or more,
    whole sequences are held out, spread over the list (at least one, however small the share); with fewer, the last
    frames of each.

    Raises:
        ValueError: `share` is not within 0 … 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share is within 0 and 1, not {share}")
    groups: dict[str, list[int]] = {}
    for index, frame in enumerate(frames):
        groups.setdefault(frame.sequence, []).append(index)
    if share == 0:
        return frozenset()
    if len(groups) < 3:
        return frozenset(index for group in groups.values() for index in _tail(group, share))
    return frozenset(index for group in _spread(list(groups.values()), share) for index in group)


def _tail(group: Sequence[int], share: float) -> Sequence[int]:
    count = min(max(1, round(share * len(group))), len(group) // 2)
    return group[len(group) - count :]


def _spread(groups: Sequence[list[int]], share: float) -> list[list[int]]:
    """The groups in the middle of `share * len(groups)` equal parts of the list, as far as half of the frames go."""
    count = max(1, round(share * len(groups)))
    left = sum(map(len, groups)) // 2
    taken = []
    for part in range(count):
        group = groups[int((part + 0.5) * len(groups) / count)]
        if len(group) <= left:
            taken.append(group)
            left -= len(group)
    return taken or [min(groups, key=len)]

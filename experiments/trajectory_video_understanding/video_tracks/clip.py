"""What a clip is and what a track can be: length, size, the two kinds, their names and colours. Said here only."""

from __future__ import annotations

NUM_FRAMES = 16  # T: frames of a clip, from the track's birth
CLIP_SIZE = 64  # px, height and width of a clip's frames

PERSISTENT, TRANSIENT = 1, 0  # labels and decisions
KIND_NAME = {PERSISTENT: "persistent", TRANSIENT: "transient"}
UNDECIDED = "undecided"  # the third verdict, of a track that is still watched

# RGB; apart in hue and in lightness, for those who see few colours as well
VERDICT_RGB = {"persistent": (40, 120, 255), "transient": (215, 40, 40), UNDECIDED: (255, 215, 0)}
KIND_COLOR = {kind: "#{:02x}{:02x}{:02x}".format(*VERDICT_RGB[name]) for kind, name in KIND_NAME.items()}


def verdict_name(decision: int | None) -> str:
    """`persistent`, `transient`, or `undecided` for None."""
    return UNDECIDED if decision is None else KIND_NAME[decision]

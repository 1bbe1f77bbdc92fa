"""Shadow mode: what we would have shown, and when, beside a tracker that is in charge. Nothing is shown by us.

The tracker's own ids and confirmations come in; of each of its tracks one row tells when it was shown by the tracker
and when it would have been by us, and what its life was, so that nobody has to trust before seeing. `summarise` counts
a day of rows: clutter that would not have been shown, real tracks that would have come earlier, later or not at all,
and the track frames that anything downstream would have been spared.

There is no ground truth on a camera: a track is held to be real if it outlives its clip, that is if it is seen at
OUTLIVES_AGE or later. That is a proxy, and it is neutral: both sides are measured by it.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from video_tracks.clip import KIND_NAME, NUM_FRAMES

from early_persistence_detection.inference.session import TrackStatus

OUTLIVES_AGE = NUM_FRAMES + 1  # a clip is the first NUM_FRAMES frames
GONE_AFTER_FRAMES = 2 * NUM_FRAMES  # detector frames unseen after which a track's row is written


@dataclasses.dataclass
class ShadowRow:
    """One track of the tracker's. Ages count the frames in which the detector was run, from 1."""

    track_id: int
    born_at: float | None  # s, by the camera's clock
    last_age: int = 0  # at which it was seen last
    their_age: int | None = None  # at which the tracker confirmed it; None if it never did
    our_age: int | None = None  # at which we would have shown it; None if we never would have
    our_decision: str = "undecided"  # what we hold it to be at the end
    is_taken_back: bool = False
    their_frames: int = 0  # in which it was seen and shown by the tracker
    our_frames: int = 0  # in which it was seen and would have been shown by us

    @property
    def outlived(self) -> bool:
        """The proxy for a real object: seen at OUTLIVES_AGE or later."""
        return self.last_age >= OUTLIVES_AGE

    def as_json(self) -> dict[str, Any]:
        """Its fields and `outlived`."""
        return {**dataclasses.asdict(self), "outlived": self.outlived}


class Shadow:
    """The tracks of one camera: `rows = shadow.update(tracks, confirmed)`, once per frame with detections.

    `update` takes what `Session.update` said of the frame, whose boxes came with the tracker's ids, and which of these
    the tracker shows. It returns the rows of tracks that are gone; `finish` those of the rest.
    """

    def __init__(self) -> None:
        self._live: dict[int, ShadowRow] = {}
        self._unseen: dict[int, int] = {}  # detector frames, in a row

    def update(
        self, tracks: Iterable[TrackStatus], confirmed: Mapping[int, bool], seconds: float | None = None
    ) -> list[ShadowRow]:
        """`confirmed` by track id, of this frame; ids that are missing are not confirmed. `seconds`: of this frame."""
        for track_id in self._unseen:
            self._unseen[track_id] += 1
        for track in tracks:
            if not track.seen:
                continue
            row = self._live.setdefault(track.track_id, ShadowRow(track.track_id, seconds))
            self._unseen[track.track_id] = 0
            row.last_age = track.age
            row.our_decision, row.is_taken_back = track.decision, track.taken_back_frame is not None
            if confirmed.get(track.track_id, False):
                row.their_age = track.age if row.their_age is None else row.their_age
                row.their_frames += 1
            if track.decision == KIND_NAME[1]:
                row.our_age = track.age if row.our_age is None else row.our_age
                row.our_frames += 1
        gone = [track_id for track_id, frames in self._unseen.items() if frames >= GONE_AFTER_FRAMES]
        return [self._take(track_id) for track_id in gone]

    def finish(self) -> list[ShadowRow]:
        """The camera is over: what is left."""
        return [self._take(track_id) for track_id in list(self._live)]

    def _take(self, track_id: int) -> ShadowRow:
        del self._unseen[track_id]
        return self._live.pop(track_id)


def day_of(unix_seconds: float) -> str:
    """YYYY-MM-DD, in UTC."""
    return datetime.fromtimestamp(unix_seconds, UTC).date().isoformat()


def summarise(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What a day of rows, as `ShadowRow.as_json` gives them, comes to.

    `outlived` and `ended_young`: how many tracks each side shows. `later_frames`: how much later than the tracker we
    show a track that both show, over those that outlived (negative: earlier); None without such tracks.
    `spared_frames`: frames in which the tracker shows what ended young and we do not; `lost_frames`: the same of what
    outlived, that is what trusting us would have cost.
    """
    rows = list(rows)
    lasting, young = ([row for row in rows if row["outlived"] is kind] for kind in (True, False))
    later = [
        row["our_age"] - row["their_age"]
        for row in lasting
        if row["our_age"] is not None and row["their_age"] is not None
    ]
    return {
        "tracks": len(rows),
        "outlived": _shown(lasting),
        "ended_young": _shown(young),
        "later_frames": {"tracks": len(later), "mean": statistics.fmean(later), "median": statistics.median(later)}
        if later
        else None,
        "spared_frames": sum(max(0, row["their_frames"] - row["our_frames"]) for row in young),
        "added_frames": sum(max(0, row["our_frames"] - row["their_frames"]) for row in young),
        "lost_frames": sum(max(0, row["their_frames"] - row["our_frames"]) for row in lasting),
        "gained_frames": sum(max(0, row["our_frames"] - row["their_frames"]) for row in lasting),
        "taken_back": sum(row["is_taken_back"] for row in rows),
    }


def _shown(rows: list[Mapping[str, Any]]) -> dict[str, int]:
    pairs = [(row["their_age"] is not None, row["our_age"] is not None) for row in rows]
    return {
        "tracks": len(rows),
        "shown_by_both": sum(their and our for their, our in pairs),
        "shown_by_tracker_only": sum(their and not our for their, our in pairs),
        "shown_by_us_only": sum(our and not their for their, our in pairs),
        "shown_by_nobody": sum(not their and not our for their, our in pairs),
    }


def in_words(summary: Mapping[str, Any]) -> str:
    """A summary as a person reads it: a few lines."""
    young, lasting, later = summary["ended_young"], summary["outlived"], summary["later_frames"]
    lines = [
        f"{summary['tracks']} tracks: {lasting['tracks']} outlived {NUM_FRAMES} frames, {young['tracks']} ended young.",
        f"Of those that ended young the tracker showed {young['shown_by_both'] + young['shown_by_tracker_only']}, we "
        f"would have shown {young['shown_by_both'] + young['shown_by_us_only']}: {summary['spared_frames']} track "
        f"frames spared, {summary['added_frames']} added.",
        f"Of those that outlived the tracker showed {lasting['shown_by_both'] + lasting['shown_by_tracker_only']}, we "
        f"would have shown {lasting['shown_by_both'] + lasting['shown_by_us_only']}: {summary['lost_frames']} track "
        f"frames lost, {summary['gained_frames']} gained.",
    ]
    if later is not None:
        way = "later" if later["mean"] > 0 else "earlier"
        lines.append(f"What both showed we would have shown {abs(later['mean']):.1f} frames {way} in the mean.")
    return "\n".join(lines)

"""What is known of a track without its pixels, frame by frame: what every tracker knows and forgets to use."""

from video_tracks.evidence.features import FEATURES, FrameEvidence, TrackEvidence, update_all
from video_tracks.evidence.reference import ScoreReference

__all__ = ["FEATURES", "FrameEvidence", "ScoreReference", "TrackEvidence", "update_all"]

"""Files of detections and ground truth, in the formats that detectors and trackers write.

    from video_tracks.formats import read_boxes
    file = read_boxes("labels", picture=(1920, 1080))
    file.table, file.format, file.notes, file.has_track_ids

One module reads one format (`rows.py` says what it hands over), `registry.py` tells them apart by content. What is the
same for all comes after: `coordinates.py` `cleaning.py` `runs.py`, in the order of `reading.py`.
"""

from video_tracks.formats.coordinates import BOX_FORMATS
from video_tracks.formats.reading import BoxFile, Picture, read_boxes, read_truth
from video_tracks.formats.registry import FORMATS
from video_tracks.formats.runs import FramesRun

__all__ = ["BOX_FORMATS", "FORMATS", "BoxFile", "FramesRun", "Picture", "read_boxes", "read_truth"]

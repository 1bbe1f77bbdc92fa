"""Cameras that the service pulls itself: rtsp and http, moving objects found by background subtraction.

Only hosts that the operator allows: an address from a client must not make the service knock at its own network.
"""

from __future__ import annotations

import logging
import threading
from urllib.parse import urlsplit

from run_directory import InputError
from video_tracks.detections import BackgroundDetections
from video_tracks.live_sources import LiveSource, open_live

from early_persistence_detection.inference.service.cameras import Camera, Frame
from early_persistence_detection.inference.service.engine import Engine
from early_persistence_detection.inference.service.messages import CameraSettings, FrameMessage
from early_persistence_detection.inference.service.problems import Problem

LOG = logging.getLogger(__name__)
SCHEMES = ("rtsp", "rtsps", "http", "https")
RETRY_SECONDS = 5.0


def check_source(settings: CameraSettings, allowed: frozenset[str]) -> None:
    """Raise Problem 400 for a source of another scheme, 403 for a host that is not allowed."""
    if settings.source is None:
        return
    try:
        parts = urlsplit(settings.source)
        host = parts.hostname
    except ValueError:
        raise Problem(400, "the source is no address; give rtsp(s):// or http(s)://") from None
    if parts.scheme not in SCHEMES or not host:
        raise Problem(400, "the source is none of rtsp(s):// and http(s)://; give such an address")
    if host not in allowed:
        raise Problem(403, f"the service may not pull from {host}; start it with --allow_source {host}")


class _Answered:
    """Told of the answer to a frame, which nobody reads."""

    def __init__(self, is_answered: threading.Event):
        self._is_answered = is_answered

    def __call__(self, _: object) -> None:
        self._is_answered.set()


class Puller:
    """The thread of one source: `start`, `stop`. What is wrong with the source is in the camera's state."""

    def __init__(self, camera: Camera, engine: Engine):
        self._camera, self._engine = camera, engine
        self._is_stopped = threading.Event()
        self._source: LiveSource | None = None
        self._thread = threading.Thread(target=self._run, name=f"puller of {camera.id}", daemon=True)

    def start(self) -> None:
        """Begin to pull."""
        self._camera.source_state = "connecting"
        self._thread.start()

    def stop(self) -> None:
        """End; the connection is closed."""
        self._is_stopped.set()
        if self._source is not None:
            self._source.close()
        self._thread.join(30)

    def _run(self) -> None:
        address = self._camera.settings.source
        assert address is not None
        while not self._is_stopped.is_set():
            try:
                self._source = open_live(address, may_redirect=False)  # allowed is this host, not whom it names
                with self._source:
                    self._pull(self._source)
                self._camera.source_state = "the source ended"
            except (InputError, Problem) as error:  # its words name no password
                self._camera.source_state = str(error)
            except Exception:
                LOG.exception("camera %s: its source failed", self._camera.id)
                self._camera.source_state = "the source failed; the service's log says why"
            self._is_stopped.wait(RETRY_SECONDS)

    def _pull(self, source: LiveSource) -> None:
        detections, dropped = BackgroundDetections(source.name), 0
        for frame in source.frames():
            if self._is_stopped.is_set():
                return
            self._camera.source_state = None
            assert frame.pixels is not None
            found = detections.at(frame.index, frame.pixels)
            message = FrameMessage(seconds=frame.seconds, boxes=None)
            if found is not None:
                boxes, scores = found[:2]
                message = FrameMessage(seconds=frame.seconds, boxes=boxes.tolist(), scores=scores.tolist())
            self._camera.skip(source.dropped - dropped)
            dropped = source.dropped
            is_answered = threading.Event()
            self._engine.put(self._camera, Frame(message, _Answered(is_answered), pixels=frame.pixels))
            while not is_answered.wait(1) and not self._is_stopped.is_set():
                pass  # meanwhile the source drops what is older than its newest frame

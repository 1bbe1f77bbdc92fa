"""What Prometheus reads. Series of a camera end with it, so their number is bounded by the cap on cameras."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from early_persistence_detection.inference.service.sinks import SinkHealth

if TYPE_CHECKING:
    from early_persistence_detection.inference.service.cameras import Camera

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
WORDS = {
    "frames": "frames that were judged",
    "dropped": "frames that were dropped, each a gap in time",
    "refused": "frames that were refused",
    "overload_boxes": "boxes that were not looked at for want of room",
    "born": "tracks born",
    "retracted": "tracks that were called persistent and turned out to be none",
    "restored": "tracks that were called transient and turned out to stay",
    "undecided": "tracks that ended without a decision",
}


class ServiceMetrics:
    """Counted as it happens: `observe_tick`, `observe_frame`; the rest is read off the cameras when asked for."""

    def __init__(self) -> None:
        self.cameras: Mapping[str, Camera] = {}
        self.sinks: Mapping[str, SinkHealth] = {}
        self._registry = CollectorRegistry()
        self._frame_seconds = Histogram(
            "epd_frame_seconds", "from a frame's arrival to its answer", buckets=SECONDS, registry=self._registry
        )
        self._tick_seconds = Histogram(
            "epd_tick_seconds", "of one batch over cameras", ["engine"], buckets=SECONDS, registry=self._registry
        )
        self._ticked = Counter("epd_ticked_frames", "frames that were in a tick", ["engine"], registry=self._registry)
        self._registry.register(self)

    def observe_tick(self, engine: str, seconds: float, num_frames: int) -> None:
        """One batch."""
        self._tick_seconds.labels(engine).observe(seconds)
        self._ticked.labels(engine).inc(num_frames)

    def observe_frame(self, seconds: float) -> None:
        """One answer."""
        self._frame_seconds.observe(seconds)

    def collect(self) -> Iterable[Metric]:
        """What the cameras and sinks are at now; called by the registry."""
        cameras = dict(self.cameras)
        yield GaugeMetricFamily("epd_cameras", "cameras that are known", len(cameras))
        live = GaugeMetricFamily("epd_live_tracks", "tracks of the last frame", labels=["camera"])
        waiting = GaugeMetricFamily("epd_frames_waiting", "frames in the queue", labels=["camera"])
        counted = {name: CounterMetricFamily(f"epd_{name}", words, labels=["camera"]) for name, words in WORDS.items()}
        decided = CounterMetricFamily(
            "epd_decided", "tracks by decision and frame", labels=["camera", "decision", "frame"]
        )
        for name, camera in cameras.items():
            live.add_metric([name], camera.live_tracks)
            waiting.add_metric([name], len(camera.waiting))
            for counter, family in counted.items():
                family.add_metric([name], camera.counters[counter])
            for (decision, frame), number in list(camera.decided.items()):
                decided.add_metric([name, decision, str(frame)], number)
        yield from (live, waiting, *counted.values(), decided)
        lag = GaugeMetricFamily("epd_sink_lag_events", "events that a sink has not confirmed", labels=["sink"])
        for name, health in self.sinks.items():
            lag.add_metric([name], health.lag)
        yield lag

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)

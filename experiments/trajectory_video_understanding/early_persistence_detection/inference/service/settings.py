"""What a service is told at its start: where it listens, what it keeps, and how much it takes on."""

from __future__ import annotations

import dataclasses
import ipaddress
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much is taken on. Beyond it requests are refused (429, 503), never guessed at."""

    cameras: int = 512
    live_tracks: int = 20_000  # undecided or in view, of all cameras
    live_tracks_per_camera: int = 1_000
    boxes_per_frame: int = 2_000
    message_bytes: int = 8 * 2**20
    frame_pixels: int = 4096 * 4096  # of a picture, before it is decoded
    queue_frames: int = 8  # of each camera, waiting
    tick_seconds: float = 0.02  # at least, from one batch over the cameras to the next
    sockets: int = 1_024  # WebSockets and streams of events
    requests_per_second: float = 5_000.0  # of each token, frames of WebSockets included; bursts of as many
    idle_seconds: float = 3_600.0  # without a frame, after which a camera's live state is let go
    answers_per_socket: int = 64  # unread; then no frame is read before one of them is
    reader_seconds: float = 10.0  # of that, after which a reader counts as too slow
    ping_seconds: float = 20.0  # between pings of a WebSocket; as long for the answer
    upload_bytes: int = 8 * 2**30  # of one video
    jobs_waiting: int = 64
    job_attempts: int = 3  # begun so often and never ended, a video is given up: the service may die of it
    spool_bytes: int = 64 * 2**30  # of uploads and results; the oldest results make room for a new upload
    job_seconds: float = 6 * 3_600.0
    flush_seconds: float = 10.0  # for a database that takes nothing, then for the sinks, at the end


@dataclasses.dataclass(frozen=True)
class ServiceSettings:
    """Everything that `serve.py` can be told."""

    host: str = "127.0.0.1"
    port: int = 8080
    model: Path | None = None  # of cameras that are watched by pixels; None: there are none such
    evidence_model: Path | None = None  # of the others; None: the general one
    database: str = "sqlite:///early_persistence.db"
    tokens_file: Path | None = None
    sinks: tuple[str, ...] = ()
    webhook_secret: str | None = None
    allowed_sources: frozenset[str] = frozenset()  # hosts that cameras may be pulled from
    spool: Path = Path("early_persistence_spool")  # of uploaded videos
    retention_days: float | None = None  # of events, and of videos that are decided; None keeps them
    limits: Limits = dataclasses.field(default_factory=Limits)

    @property
    def is_on_loopback(self) -> bool:
        """Whether nobody but this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

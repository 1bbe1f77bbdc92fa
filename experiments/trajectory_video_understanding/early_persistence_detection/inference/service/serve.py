#!/usr/bin/env python3
"""Serve cameras over HTTP and WebSocket: boxes in, tracks with their probability and verdict out.

    python -m early_persistence_detection.inference.service.serve
    python -m early_persistence_detection.inference.service.serve --model exported/ --sink mqtt://broker/persistence
    python -m early_persistence_detection.inference.service.serve --host 0.0.0.0 --tokens_file tokens --port 8080
    python -m early_persistence_detection.inference.service.serve --new_token door
    python -m early_persistence_detection.inference.service.serve --forget_sink NAME

A first camera, and a first frame:

    curl -X PUT localhost:8080/v1/cameras/door -H 'Content-Type: application/json' -d '{"width": 1280, "height": 720}'
    curl localhost:8080/v1/cameras/door/frames -H 'Content-Type: application/json' \
        -d '{"seconds": 0.0, "boxes": [[100, 80, 40, 90]], "scores": [0.8]}'

http://localhost:8080/ shows the cameras, /openapi.json is the contract, /metrics is for Prometheus, /v1/events streams
what is decided. Every flag may be an environment variable instead: EPD_PORT for --port, and so on.

Reads   MODEL, the folder that export_model.py writes, for cameras that are watched by pixels; TOKENS_FILE, a line a
        token (name:scope[,scope]:SHA-256; scopes read and write), which must be given to listen beyond this machine
Writes  DATABASE (SQLite by its path, or PostgreSQL by its URL): cameras, events, what was learnt. It survives kill -9
        SPOOL, the videos that are uploaded, and their results
Sinks   --sink jsonl:PATH   a line an event; --sink https://ADDRESS   a POST an event, with an Idempotency-Key and,
        where EPD_WEBHOOK_SECRET is set, a signature; --sink mqtt://[user:password@]HOST[:PORT][/PREFIX], by TLS
        mqtts://. Of an authority of your own: SSL_CERT_FILE in the environment for https, ?ca=FILE behind mqtts://…

Exit code 0 after SIGTERM or Ctrl-C: frames that wait are finished, events stored and delivered first; 2 where something
that was given cannot be used, one line on stderr.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import logging
import os
import secrets
import signal
from pathlib import Path
from types import FrameType

from run_directory import CommandLine, InputError, needs_extra, positive_float, positive_int, run_cli

from early_persistence_detection.inference.service.settings import Limits, ServiceSettings

ENVIRONMENT = "EPD_"
LIMITS = {  # flag: field of Limits, what it is
    "--max_cameras": ("cameras", "that are known"),
    "--max_live_tracks": ("live_tracks", "of all cameras; boxes beyond are answered undecided, reason overload"),
    "--max_camera_tracks": ("live_tracks_per_camera", "the same of one camera"),
    "--max_boxes": ("boxes_per_frame", "in a frame"),
    "--max_message_bytes": ("message_bytes", "of a frame with its picture"),
    "--max_frame_pixels": ("frame_pixels", "of a picture, before it is decoded"),
    "--queue_frames": ("queue_frames", "that wait, of each camera"),
    "--tick_seconds": ("tick_seconds", "at least, from one batch over all cameras to the next"),
    "--max_sockets": ("sockets", "WebSockets and streams of events"),
    "--requests_per_second": ("requests_per_second", "of each token, frames of WebSockets included"),
    "--idle_seconds": ("idle_seconds", "without a frame, after which a camera's live state is let go"),
    "--reader_seconds": ("reader_seconds", "in which a client reads no answer, after which it is closed"),
    "--ping_seconds": ("ping_seconds", "between pings of a WebSocket, and for their answer"),
    "--max_upload_bytes": ("upload_bytes", "of a video with its detections"),
    "--max_jobs": ("jobs_waiting", "videos that wait"),
    "--max_spool_bytes": ("spool_bytes", "of uploads and results; the oldest results make room"),
    "--job_attempts": ("job_attempts", "at a video that the service ends in the middle of, after which it has failed"),
    "--job_seconds": ("job_seconds", "that a video may take"),
    "--flush_seconds": ("flush_seconds", "for the database, then for the sinks, at the end"),
}


def parse_args() -> argparse.Namespace:
    """The flags, whose defaults the environment may set."""
    parser = CommandLine(__doc__)
    limits = Limits()
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one (default 8080)")
    parser.add_argument("--model", type=Path, help="model of cameras that are watched by pixels (default: none such)")
    parser.add_argument("--evidence_model", type=Path, help="of the others, .npz (default: the general one)")
    parser.add_argument("--database", default="sqlite:///early_persistence.db", help="URL (default %(default)s)")
    parser.add_argument("--tokens_file", type=Path, help="who may do what")
    parser.add_argument("--sink", action="append", help="where events go; may be given several times")
    parser.add_argument("--allow_source", action="append", help="host that cameras may be pulled from; several times")
    parser.add_argument("--spool", type=Path, default=Path("early_persistence_spool"), help="folder of uploaded videos")
    parser.add_argument("--retention_days", type=positive_float, help="of events and decided videos (default: all)")
    for flag, (name, words) in LIMITS.items():
        default = getattr(limits, name)
        kind = positive_int if isinstance(default, int) else positive_float
        parser.add_argument(flag, type=kind, default=default, dest=name, help=f"{words} (default %(default)s)")
    parser.add_argument(
        "--new_token", metavar="NAME", help="print a new token and its line for the tokens file, and end"
    )
    parser.add_argument(
        "--forget_sink", metavar="NAME", help="let events be pruned that this sink has not got, and end"
    )
    parser.add_argument("--write_openapi", type=Path, metavar="PATH", help="write the OpenAPI document, and end")
    for action in parser._actions:
        name = max(action.option_strings, key=len).removeprefix("--").upper() if action.option_strings else ""
        given = os.environ.get(f"{ENVIRONMENT}{name}")
        if given and action.dest != "help":
            several = isinstance(action, argparse._AppendAction)
            action.default = given.split() if several else given  # argparse puts text through the flag's type
    return parser.parse_args()


def main() -> None:
    """Listen until a signal ends it."""
    args = parse_args()
    if args.new_token is not None:
        token = secrets.token_urlsafe(32)
        print(f"token (keep it; it is nowhere else): {token}")
        print(f"line of the tokens file: {args.new_token}:read,write:{hashlib.sha256(token.encode()).hexdigest()}")
        return
    with needs_extra("the service", "service"):
        import uvicorn

        from early_persistence_detection.inference.service.app import create_app, write_openapi
        from early_persistence_detection.inference.service.store import Store
    if args.write_openapi is not None:
        write_openapi(args.write_openapi)
        return
    if args.forget_sink is not None:
        with Store(args.database) as store:
            store.forget_sink(args.forget_sink)
        print(f"{args.forget_sink} is forgotten; given as --sink again, it begins with what is stored")
        return
    if not 0 <= args.port < 65536:
        raise InputError(f"--port is {args.port}; give 0 to 65535")
    settings = ServiceSettings(
        host=args.host,
        port=args.port,
        model=args.model,
        evidence_model=args.evidence_model,
        database=args.database,
        tokens_file=args.tokens_file,
        sinks=tuple(args.sink or ()),
        webhook_secret=os.environ.get(f"{ENVIRONMENT}WEBHOOK_SECRET"),
        allowed_sources=frozenset(args.allow_source or ()),
        spool=args.spool,
        retention_days=args.retention_days,
        limits=Limits(**{name: getattr(args, name) for name, _ in LIMITS.values()}),
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,  # an address may hold a token, and a line a frame is too much
        log_config=None,
        ws_max_size=settings.limits.message_bytes + 4096,
        ws_ping_interval=settings.limits.ping_seconds,
        ws_ping_timeout=settings.limits.ping_seconds,
        ws="websockets-sansio",
        ws_per_message_deflate=False,  # a message is small, and time is dearer than bytes
        timeout_graceful_shutdown=10,
    )

    class Server(uvicorn.Server):
        """Lets go of whoever listens to events, which would keep it from ending."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.state.hub.begin_stopping()
            self.force_exit = self.should_exit and sig == signal.SIGINT
            self.should_exit = True  # and not what uvicorn does besides: end by the signal, whose exit code is not 0

    server = Server(config)
    gc.collect()
    gc.freeze()  # what lives as long as the service is not looked through again: that would hold up every camera
    server.run()
    if not server.started:
        raise InputError(f"cannot listen at {settings.host}:{settings.port}; see the lines above, give another --port")


if __name__ == "__main__":
    run_cli(main)

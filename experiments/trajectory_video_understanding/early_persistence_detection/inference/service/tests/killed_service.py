"""A service that commits and delivers until it is killed: what the tests run in processes of their own."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from pathlib import Path

from early_persistence_detection.inference.service.sinks import Deliveries, JsonLinesSink, WebhookSink
from early_persistence_detection.inference.service.store import CameraEvent, Store


def run(url: str, path: Path, webhook: str, answers: Connection) -> None:
    """Commits 0 to 3 events at a time and sends each id that a commit answered through `answers`."""
    with Store(url) as store:
        deliveries = Deliveries(store, [JsonLinesSink(path, rotate_bytes=4000), WebhookSink(webhook)])
        deliveries.start()
        track_id = store.next_track_id("gate")
        for number in range(10**9):
            events = [
                CameraEvent("gate", "provisional", track_id + n, number, None, 1, 0.5, None, None)
                for n in range(number % 4)
            ]
            track_id += len(events)
            for event_id in store.commit(events, {"gate": str(track_id).encode()}):
                answers.send(event_id)
            deliveries.wake()
            time.sleep(0.001)  # what is committed here is to be delivered in a test's time

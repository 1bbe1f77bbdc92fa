"""The page in a real browser, before a real service that is fed a real video."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from early_persistence_detection.inference.service.tests.conftest import wait_for
from early_persistence_detection.inference.service.tests.running_service import (
    RunningService,
    binary,
    running,
    tokens_file,
)
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from video_tracks.detections import load_detections
from video_tracks.video import open_video, read_frames

SHARED = Path(__file__).resolve().parents[7] / "shared" / "data"
NAME = "gate <b>north & west"  # names come from clients
MESSAGES = 60
BROWSER_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("chromium not installed; bash scripts/run_tests.sh does")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        yield started
        started.close()


def messages() -> list[bytes]:
    """The first frames of PETS09-S2L1 with its Faster R-CNN detections, scaled to vtest.avi."""
    video = open_video(SHARED / "video" / "vtest.avi")
    boxes = load_detections(SHARED / "MOT15" / "PETS09-S2L1" / "det" / "det.txt", video)
    found = []
    for frame in itertools.islice(read_frames(video), MESSAGES):
        file, seen = io.BytesIO(), boxes.at(frame.index)
        assert frame.pixels is not None and seen is not None
        Image.fromarray(frame.pixels).save(file, "JPEG", quality=80)
        message = {"boxes": seen[0].tolist(), "scores": seen[1].tolist()}
        found.append(binary(message, file.getvalue()))
    return found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """With two cameras, one of which is fed for as long as the tests of the page run."""
    folder = tmp_path_factory.mktemp("page")
    with running(folder, "--tokens_file", str(tokens_file(folder, keeper="read,write", guest="read"))) as service:
        keeper = {"Authorization": "Bearer keeper-token"}
        address = f"/v1/cameras/{quote(NAME)}"
        for path, settings in ((address, {"explain": True}), ("/v1/cameras/yard", {})):
            assert service.http.put(path, json=settings, headers=keeper).status_code == 201
        stop, sent = threading.Event(), messages()

        def feed() -> None:
            # there and back again, without an end, so that the scene is never empty
            order = [*range(MESSAGES), *range(MESSAGES - 1, -1, -1)]
            with service.socket(address.removeprefix("/v1/cameras/"), additional_headers=keeper) as socket:
                index = 0
                while not stop.wait(0.1):
                    picture = sent[order[index % len(order)]]
                    length = int.from_bytes(picture[:4], "big")
                    message = json.loads(picture[4 : 4 + length]) | {"seconds": index / 10}
                    socket.send(binary(message, picture[4 + length :]))
                    socket.recv()
                    index += 1

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        yield service
        stop.set()
        feeder.join(30)


@pytest.fixture
def page(browser: Browser, service: RunningService) -> Iterator[Page]:
    """The page, of which no error is forgiven; without a token yet."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
    opened.goto(f"http://127.0.0.1:{service.port}/")
    yield opened
    context.close()
    assert errors == []


def enter(page: Page, token: str = "guest-token") -> None:
    page.get_by_label("Access token").fill(token)
    page.get_by_role("button", name="Show cameras").click()


def until(page: Page, condition: str) -> None:
    """Wait until an expression holds in the page. Playwright's own way is an eval, which the page's policy forbids."""
    wait_for(lambda: page.evaluate(condition), condition)


def painted(page: Page, canvas: str, colour: str) -> int:
    """How many px of a canvas have the colour of that name."""
    return page.evaluate(
        """([id, name]) => {
            const probe = document.createElement("i");
            probe.className = name;
            document.body.append(probe);
            const [r, g, b] = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
            probe.remove();
            const canvas = document.getElementById(id);
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            let count = 0;
            for (let i = 0; i < data.length; i += 4)
                count += Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 12;
            return count;
        }""",
        [canvas, colour],
    )


def test_it_asks_for_a_token_and_says_what_is_wrong_with_it(page: Page):
    expect(page.get_by_role("alert")).to_contain_text("token")
    enter(page, "wrong")
    expect(page.get_by_role("alert")).to_contain_text("This token may not read")
    expect(page.locator("button.camera")).to_have_count(0)
    enter(page)
    expect(page.locator("button.camera")).to_have_count(2, timeout=20_000)
    expect(page.locator("#login")).to_be_hidden()


def test_a_camera_is_watched_and_a_track_looked_into(page: Page, service: RunningService, tmp_path: Path):
    enter(page)
    page.locator("button.camera", has_text=NAME).click()  # as text: no <b> came of it
    expect(page.locator("#name")).to_have_text(NAME)
    until(page, "document.querySelectorAll('#tracks tr').length > 3")
    until(page, "picture !== null && document.getElementById('picture').width === picture.naturalWidth")
    until(page, "[...document.querySelectorAll('#tracks td.persistent')].length > 2")
    assert painted(page, "picture", "persistent") > 500 and painted(page, "chart", "persistent") > 100
    frames = int(page.locator("[data-number='frames'] b").inner_text())
    until(page, f"Number(document.querySelector(\"[data-number='frames'] b\").textContent) > {frames}")
    until(page, "Number(document.querySelector(\"[data-number='decisions a minute'] b\").textContent) > 0")

    row = page.locator("#tracks tr", has=page.locator("td.persistent")).first
    track = int(row.locator("td").first.inner_text())
    row.locator("td").first.click()
    expect(page.locator("#track-name")).to_have_text(f"Track {track}")
    expect(page.locator("#track")).to_contain_text("decided at its frame")
    told = service.http.get(
        f"/v1/cameras/{page.evaluate('encodeURIComponent(chosen)')}/tracks/{track}",
        headers={"Authorization": "Bearer guest-token"},
    ).json()
    assert told["decision"] == "persistent" and len(told["probabilities"]) == told["decision_frame"]
    first = next(event["decision"] for event in told["events"] if event["kind"] == "final")
    called = {"persistent": "real", "transient": "clutter"}[first]
    expect(page.locator("#track")).to_contain_text(f"called {called} in frame {told['decision_frame']} of its life")
    kinds = page.locator("#track tbody tr td:first-child").all_inner_texts()
    assert kinds[: len(told["events"])] == [event["kind"] for event in told["events"]]
    page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_a_click_into_the_picture_chooses_the_track_under_it(page: Page):
    enter(page)
    page.locator("button.camera", has_text=NAME).click()
    until(page, "document.querySelectorAll('#tracks td.persistent').length > 2")
    page.locator("#picture").scroll_into_view_if_needed()
    point: dict[str, Any] = page.evaluate(
        """() => {
            const canvas = document.getElementById("picture"), bounds = canvas.getBoundingClientRect();
            const [x, y, w, h] = camera.tracks[0].box;
            return { x: (x + w / 2) * bounds.width / canvas.width, y: (y + h / 2) * bounds.height / canvas.height };
        }"""
    )
    page.locator("#picture").click(position={"x": point["x"], "y": point["y"]})
    expect(page.locator("#track-name")).to_contain_text("Track ")


def test_it_is_legible_on_a_phone(browser: Browser, service: RunningService, tmp_path: Path):
    context = browser.new_context(viewport={"width": 390, "height": 844}, device_scale_factor=2)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{service.port}/")
    enter(page)
    page.locator("button.camera", has_text=NAME).click()
    until(page, "document.querySelectorAll('#tracks tr').length > 3")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('td, th, b, span, h1, h2')]"
        ".filter((e) => e.offsetParent).map((e) => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 12
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    context.close()

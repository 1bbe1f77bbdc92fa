"""Live sources, against real servers on 127.0.0.1: reconnecting, dropping, closing at once, keeping passwords."""

import contextlib
import http.server
import io
import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from run_directory import InputError
from video_tracks import live_sources
from video_tracks.live_sources import is_live, open_live, public_name
from video_tracks.tests.live_servers import MotionJpeg, Rtsp, Server, jpeg, transport_stream
from video_tracks.tests.made_videos import encode, moving_square

PACKAGES = Path(live_sources.__file__).resolve().parents[1]


def children(process="self"):
    """Ids of the processes that a process's threads have started and that are still there, by the kernel's word."""
    threads = Path(f"/proc/{process}/task").glob("*/children")
    return {child for thread in threads for child in thread.read_text().split()}


@pytest.fixture(autouse=True)
def nothing_is_left():
    threads, processes = set(threading.enumerate()), children()
    yield
    left = [thread.name for thread in set(threading.enumerate()) - threads if thread.name.startswith("reader of")]
    assert not left
    assert children() - processes == set()


def test_what_is_live_and_how_it_is_named():
    for source in ("rtsp://a/b", "http://a", "HTTPS://a/b.mjpg", "0", 3, "-"):
        assert is_live(source)
    for source in ("a.mp4", "-a.mp4", "rtsp:clip.mp4", "0001.avi", "/dev/video0"):
        assert not is_live(source)
    assert public_name("rtsp://me:pa%40ss@10.0.0.1:554/a?b=1") == "rtsp://***@10.0.0.1:554/a?b=1"
    assert public_name("rtsp://me:p@ss@camera/a") == "rtsp://***@camera/a"
    assert public_name("http://camera/a?user=me&password=pass&size=2") == "http://camera/a?user=***&password=***&size=2"
    assert public_name("http://camera:80/a?access_token=x#y") == "http://camera:80/a?access_token=***"
    assert public_name(0) == "camera 0" and public_name("-") == "standard input"
    with pytest.raises(InputError, match="is no live source; give rtsp://"):
        open_live("a.mp4")


def test_motion_jpeg_frames_come_in_order_with_the_wall_clock():
    with Server(MotionJpeg, fps=25) as server, open_live(f"http://127.0.0.1:{server.port}/a.mjpg") as source:
        assert (source.width, source.height) == (64, 48)
        frames = list(itertools.islice(source.frames(), 20))
    assert [frame.index for frame in frames] == list(range(20))
    seconds = [frame.seconds for frame in frames]
    assert seconds == sorted(seconds) and seconds[-1] - seconds[2] > 0.3
    values = [int(frame.pixels[0, 0, 0]) for frame in frames]
    assert values == sorted(values) and len(set(values)) == 20


def test_who_is_slow_is_given_the_newest_frame_and_the_rest_is_counted():
    with Server(MotionJpeg, fps=50) as server, open_live(f"http://127.0.0.1:{server.port}/") as source:
        values = []
        for frame in itertools.islice(source.frames(), 8):
            values.append(int(frame.pixels[0, 0, 0]) / 2)
            time.sleep(0.2)
        assert source.dropped >= 40 and source.reconnects == 0
    steps = [later - earlier for earlier, later in itertools.pairwise(values[1:])]
    assert all(4 <= step <= 20 for step in steps), values


def test_a_server_that_dies_and_comes_back_is_found_again():
    server = Server(MotionJpeg, fps=50)
    port, said = server.port, io.StringIO()
    with contextlib.redirect_stderr(said), open_live(f"http://me:secret@127.0.0.1:{port}/") as source:
        frames = source.frames()
        before = [next(frames) for _ in range(5)]
        server.stop()
        restart = threading.Timer(1.0, lambda: servers.append(Server(MotionJpeg, port=port, fps=50)))
        servers = []
        restart.start()
        after = [next(frames) for _ in range(40)]
        assert source.reconnects >= 1
    servers[0].stop()
    assert [frame.index for frame in before + after] == list(range(45))
    seconds = [frame.seconds for frame in before + after]
    assert max(later - earlier for earlier, later in itertools.pairwise(seconds)) > 0.9
    lines = said.getvalue().splitlines()
    assert f"http://***@127.0.0.1:{port}/ is lost" in lines[0] and "trying again in 0.5 s, try 1" in lines[0]
    assert "secret" not in said.getvalue()


def test_it_is_given_up_after_so_many_tries():
    server = Server(MotionJpeg, fps=50)
    with open_live(f"http://127.0.0.1:{server.port}/", max_reconnects=2) as source:
        frames = source.frames()
        next(frames)
        server.stop()
        with (
            contextlib.redirect_stderr(io.StringIO()) as said,
            pytest.raises(InputError, match="given up after 2 tries"),
        ):
            for _ in frames:
                pass
    assert [line.split("again in ")[1] for line in said.getvalue().splitlines()] == ["0.5 s, try 1", "1 s, try 2"]


def test_a_source_that_falls_silent_is_lost_not_waited_for():
    with Server(MotionJpeg, fps=50, num_frames=10, stall=30) as server:
        began = time.monotonic()
        with open_live(f"http://127.0.0.1:{server.port}/", timeout_seconds=1) as source:
            with contextlib.redirect_stderr(io.StringIO()):
                frames = list(itertools.islice(source.frames(), 12))
            assert source.reconnects >= 1 and len(frames) == 12
        assert time.monotonic() - began < 25


def test_closing_ends_at_once_even_while_nothing_comes():
    with Server(MotionJpeg, fps=50, num_frames=3, stall=30) as server:
        source = open_live(f"http://127.0.0.1:{server.port}/", timeout_seconds=30)
        frames = source.frames()
        closer = threading.Timer(0.5, source.close)
        closer.start()
        given = list(frames)  # ends without an error
        began = time.monotonic()
        source.close()
        assert time.monotonic() - began < 0.5 and len(given) <= 3
        closer.join()


def test_ctrl_c_ends_a_reading_script_at_once(tmp_path):
    code = (
        "import sys\n"
        "from video_tracks.live_sources import open_live\n"
        "with open_live(sys.argv[1]) as source:\n"
        "    for frame in source.frames():\n"
        "        print(frame.index, flush=True)\n"
    )
    with Server(MotionJpeg, fps=20) as server:
        command = [sys.executable, "-c", code, f"http://127.0.0.1:{server.port}/"]
        environment = os.environ | {"PYTHONPATH": str(PACKAGES)}
        script = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3):
            script.stdout.readline()
        readers = children(script.pid)
        assert readers
        began = time.monotonic()
        script.send_signal(2)
        _, said = script.communicate(timeout=10)
        assert time.monotonic() - began < 3
        assert said.count("Traceback") == 1 and "KeyboardInterrupt" in said
        assert not any(Path(f"/proc/{reader}").exists() for reader in readers)


@pytest.mark.parametrize(("password", "works"), [("me:pass", True), ("me:wrong", False)])
def test_passwords_are_used_and_never_told(password, works):
    with Server(MotionJpeg, password="me:pass") as server:
        address = f"http://{password}@127.0.0.1:{server.port}/a?token=hidden"
        if works:
            with open_live(address) as source:
                assert next(source.frames()).index == 0
                command = Path(f"/proc/{next(iter(children()))}/cmdline").read_text()
                assert "pass" not in command and "hidden" not in command and "pass" not in source.name
        else:
            with pytest.raises(
                InputError, match=r"http://\*\*\*@127\.0\.0\.1:\d+/a\?token=\*\*\* cannot be read"
            ) as caught:
                open_live(address)
            assert "wrong" not in str(caught.value)


def test_wrong_addresses_and_cameras_are_told_at_once():
    for source in ("http://127.0.0.1:9/a", "rtsp://127.0.0.1:9/a", "37"):
        began = time.monotonic()
        with pytest.raises(InputError, match="cannot be read") as caught:
            open_live(source)
        assert time.monotonic() - began < 15 and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_a_file_over_http_is_given_whole_and_ends(tmp_path, suffix):
    path = encode(tmp_path / f"a.{suffix}", moving_square(30))
    with (
        Server(MotionJpeg, file=path.read_bytes()) as server,
        open_live(f"http://127.0.0.1:{server.port}/a.{suffix}") as source,
    ):
        assert len(list(source.frames())) == 30
        assert source.dropped == 0


def test_a_size_that_changes_is_one_line():
    server = Server(MotionJpeg, num_frames=5, fps=20)
    port = server.port
    with contextlib.redirect_stderr(io.StringIO()), open_live(f"http://127.0.0.1:{port}/") as source:
        frames = source.frames()
        next(frames)
        server.stop()
        with (
            Server(MotionJpeg, port=port, size=(24, 32)),
            pytest.raises(InputError, match="now gives 32x24, before 64x48; start again"),
        ):
            list(itertools.islice(frames, 50))


def test_motion_jpeg_on_standard_input_is_read_to_its_end():
    code = (
        "from video_tracks.live_sources import open_live\n"
        "with open_live('-') as source:\n"
        "    frames = list(source.frames())\n"
        "    print(len(frames) + source.dropped, frames[-1].pixels[0, 0, 0])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(PACKAGES)}
    said = subprocess.run(
        [sys.executable, "-c", code],
        input=b"".join(jpeg(number) for number in range(40)),
        capture_output=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert said.stderr == b""
    assert said.stdout.split() == [b"40", b"78"]


def test_rtsp_is_read_and_found_again():
    parts = transport_stream()
    server = Server(Rtsp, parts=parts)
    port = server.port
    with contextlib.redirect_stderr(io.StringIO()) as said, open_live(f"rtsp://127.0.0.1:{port}/a") as source:
        assert (source.width, source.height) == (128, 96)
        frames = source.frames()
        assert [next(frames).index for _ in range(10)] == list(range(10))
        server.stop()
        with Server(Rtsp, port=port, parts=parts):
            last = [next(frames) for _ in range(20)][-1]  # the newest from before, then those of the second server
            assert source.reconnects >= 1 and last.pixels.std() > 5
    assert "is lost" in said.getvalue()


def test_a_redirect_is_followed_only_where_it_may_be(tmp_path):
    """Who allows a host has not allowed every host that it names."""
    video = encode(tmp_path / "a.mp4", moving_square(12)).read_bytes()
    asked = []

    class Target(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(video)))
            self.end_headers()
            self.wfile.write(video)

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{target.server_port}/a.mp4")
            self.send_header("Content-Length", "0")
            self.end_headers()

    with contextlib.ExitStack() as ends:
        servers = []
        for handler in (Target, Elsewhere):
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            ends.callback(server.shutdown)
            servers.append(server)
        target, elsewhere = servers
        address = f"http://127.0.0.1:{elsewhere.server_port}/camera"
        with pytest.raises(InputError, match="cannot be read"):
            open_live(address, timeout_seconds=10, may_redirect=False)
        assert asked == []
        with open_live(address, timeout_seconds=10):
            assert asked

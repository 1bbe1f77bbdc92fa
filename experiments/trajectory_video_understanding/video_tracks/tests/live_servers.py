"""Real servers on 127.0.0.1: Motion JPEG over HTTP; RTSP (RFC 2326) with MPEG-TS in RTP on the same connection."""

import base64
import contextlib
import io
import itertools
import socket
import socketserver
import struct
import threading
import time
from fractions import Fraction

import av
import cv2
import numpy as np

LONGEST_SECONDS = 60  # no connection is served for longer


def jpeg(number, height=48, width=64):
    """A picture whose grey is 2 * its number, as JPEG."""
    value = 2 * number % 240
    return cv2.imencode(".jpg", np.full((height, width, 3), value, np.uint8))[1].tobytes()


def transport_stream(num_frames=400, fps=25):
    """A moving picture as MPEG-TS packets: list of (second, bytes)."""
    from video_tracks.tests.made_videos import moving_square

    frames = moving_square(num_frames)
    buffer, parts = io.BytesIO(), []
    with av.open(buffer, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": "5", "tune": "zerolatency"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            start = buffer.tell()
            container.mux(stream.encode(frame))
            parts.append((index / fps, buffer.getvalue()[start:]))
    return parts


class Server(socketserver.ThreadingTCPServer):
    """Serves on a port of 127.0.0.1 until `stop`, which cuts every connection."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, handler, port=0, **settings):
        super().__init__(("127.0.0.1", port), handler)
        self.settings, self.connections, self.num_connections = settings, set(), 0
        self.port = self.server_address[1]
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def process_request(self, request, client_address):
        self.connections.add(request)
        self.num_connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request, client_address):
        pass  # a client that leaves is no fault

    def stop(self):
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.thread.join(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def read_request(stream):
    """(first line, {header: value}) of an HTTP or RTSP request; None where the client has left."""
    first = stream.readline().decode().strip()
    headers = {}
    for line in iter(stream.readline, b"\r\n"):
        if not line:
            return None
        name, _, value = line.decode().partition(":")
        headers[name.strip().lower()] = value.strip()
    return (first, headers) if first else None


class MotionJpeg(socketserver.StreamRequestHandler):
    """Settings: fps, num_frames per connection, stall (seconds after them), file (bytes to give instead), password."""

    def handle(self):
        request = read_request(self.rfile)
        settings = self.server.settings
        wanted = settings.get("password")
        given = "" if request is None else request[1].get("authorization", "")
        if wanted and given != "Basic " + base64.b64encode(wanted.encode()).decode():
            self.wfile.write(
                b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="a"\r\nContent-Length: 0\r\n\r\n'
            )
            return
        if "file" in settings:
            data = settings["file"]
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            return
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        began = time.monotonic()
        size = settings.get("size", (48, 64))
        for number in itertools.count():
            if number >= settings.get("num_frames", 10**6) or time.monotonic() - began > LONGEST_SECONDS:
                break
            data = jpeg(number, *size)
            self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data))
            self.wfile.write(data + b"\r\n")
            self.wfile.flush()
            time.sleep(1 / settings.get("fps", 50))
        time.sleep(settings.get("stall", 0))


class Rtsp(socketserver.StreamRequestHandler):
    """Settings: parts (`transport_stream`)."""

    def handle(self):
        while (request := read_request(self.rfile)) is not None:
            method, sequence = request[0].split()[0], request[1].get("cseq", "0")
            body, extra = b"", ""
            if method == "DESCRIBE":
                body = (
                    b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=a\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track1\r\n"
                )
                extra = "Content-Type: application/sdp\r\n"
            elif method == "SETUP":
                extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            head = f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\nSession: 1\r\nPublic: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            self.wfile.write(f"{head}{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            if method == "PLAY":
                self.play()
                return

    def play(self):
        began, number = time.monotonic(), 0
        for seconds, data in self.server.settings["parts"]:
            time.sleep(max(began + seconds - time.monotonic(), 0))
            for start in range(0, len(data), 7 * 188):
                payload = data[start : start + 7 * 188]
                packet = struct.pack(">BBHII", 0x80, 33, number % 65536, int(90000 * seconds), 1) + payload
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                number += 1
            self.wfile.flush()

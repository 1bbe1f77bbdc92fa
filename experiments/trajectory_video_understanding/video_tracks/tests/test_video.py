"""Reading frames from files and folders, damaged ones included, and fitting boxes to a smaller picture."""

import os
import subprocess
import sys
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest
from run_directory import InputError
from video_tracks.detections import DetectionOptions, load_detections, outside_fraction
from video_tracks.tests.made_videos import encode, moving_square
from video_tracks.video import TruncatedVideo, open_video, read_frames, read_pixels

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"
PETS = SHARED / "MOT15" / "PETS09-S2L1"
VTEST = SHARED / "video" / "vtest.avi"


def write_video(path, frames, fps=7.0):
    """Frames uint8 RGB (n, H, W, 3) as Motion JPEG in an AVI container."""
    height, width = frames.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.fixture
def red_frames():
    frames = np.zeros((40, 48, 64, 3), np.uint8)
    frames[..., 0] = 200
    frames[:, :, :, 2] = np.linspace(0, 200, 40, dtype=np.uint8)[:, None, None]
    return frames


def test_video_file_is_read_as_rgb_in_order(tmp_path, red_frames):
    video = open_video(write_video(tmp_path / "a.avi", red_frames))
    assert (video.width, video.height, video.expected_frames, video.fps) == (64, 48, 40, 7.0)
    frames = np.stack(list(read_pixels(video)))
    assert frames.dtype == np.uint8 and frames.shape == red_frames.shape
    assert np.abs(frames.astype(int) - red_frames).mean() < 6  # red stays red: not BGR


def test_image_folder_is_read_in_natural_order(tmp_path, red_frames):
    folder = tmp_path / "img1"
    folder.mkdir()
    for index, frame in enumerate(red_frames[:12]):
        cv2.imwrite(str(folder / f"frame_{index + 1}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    (tmp_path / "seqinfo.ini").write_text("[Sequence]\nname=A\nframeRate=14\nseqLength=12\nimWidth=64\nimHeight=48\n")
    video = open_video(folder)
    assert (video.expected_frames, video.fps) == (12, 14.0)
    np.testing.assert_array_equal(np.stack(list(read_pixels(video))), red_frames[:12])
    assert [frame.seconds for frame in read_frames(video)] == [index / 14 for index in range(12)]


def test_truncated_video_says_how_many_frames_were_read(tmp_path, red_frames):
    noise = np.random.default_rng(0).integers(0, 255, red_frames.shape, dtype=np.uint8)  # every frame as large
    path = write_video(tmp_path / "a.avi", noise)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    video = open_video(path)
    frames = []
    with pytest.raises(TruncatedVideo, match=r"a\.avi is truncated or damaged: .* \d+ frames could be read"):
        for frame in read_frames(video):
            frames.append(frame)
    assert 10 < len(frames) < 25  # the readable part can still be used


def test_unreadable_empty_and_missing_videos_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_video(tmp_path / "a.avi")
    (tmp_path / "a.avi").write_text("hello\n" * 100)
    with pytest.raises(InputError, match=r"a\.avi cannot be read as a video"):
        open_video(tmp_path / "a.avi")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(InputError, match="cannot be read as a video"):
        open_video(tmp_path / "empty.mp4")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        open_video(tmp_path / "folder")


def test_folder_with_a_broken_or_differently_sized_image_is_refused(tmp_path, red_frames):
    for name, frame in (("1.png", red_frames[0]), ("2.png", red_frames[0][:20])):
        cv2.imwrite(str(tmp_path / name), frame)
    with pytest.raises(InputError, match=r"frame 2 of .* is 64x20, the first is 64x48"):
        list(read_frames(open_video(tmp_path)))
    (tmp_path / "2.png").write_text("no image")
    with pytest.raises(InputError, match=r"2\.png cannot be read as an image"):
        list(read_frames(open_video(tmp_path)))


def test_boxes_of_a_larger_picture_are_scaled_by_seqinfo_or_refused(tmp_path, red_frames):
    video = open_video(write_video(tmp_path / "a.avi", red_frames))
    path = tmp_path / "det.txt"
    path.write_text("1,-1,160,100,30,40,1\n1,-1,200,80,10,10,1\n1,-1,20,20,10,10,1\n")
    with pytest.raises(InputError, match=r"det\.txt lie outside the 64x48 picture .* give --box_scale"):
        load_detections(path, video)
    scaled = load_detections(path, video, DetectionOptions(box_scale=0.25))
    assert scaled.box_scale == 0.25 and scaled.table.boxes[0].tolist() == [40, 25, 7.5, 10]
    seqinfo = "[Sequence]\nname=A\nframeRate=7\nseqLength=40\nimWidth=256\nimHeight={}\n"
    (tmp_path / "seqinfo.ini").write_text(seqinfo.format(192))
    assert load_detections(path, video).box_scale == 0.25
    (tmp_path / "seqinfo.ini").write_text(seqinfo.format(100))
    with pytest.raises(InputError, match="another shape"):
        load_detections(path, video)
    with pytest.raises(InputError, match="expected a positive number"):
        load_detections(path, video, DetectionOptions(box_scale=-1))


def test_boxes_of_another_sequence_of_the_same_shape_are_refused(tmp_path, red_frames):
    video = open_video(write_video(tmp_path / "a.avi", red_frames))
    path = tmp_path / "det.txt"
    path.write_text("1,-1,20,20,10,10,1\n")
    (tmp_path / "seqinfo.ini").write_text("[Sequence]\nname=B\nframeRate=7\nseqLength=20\nimWidth=128\nimHeight=96\n")
    with pytest.raises(InputError, match=r"a\.avi has 40 frames, the seqinfo\.ini .* says 20 .* or --box_scale"):
        load_detections(path, video)
    assert load_detections(path, video, DetectionOptions(box_scale=0.5)).box_scale == 0.5


AWKWARD_NAMES = (
    "2026-03-01T12:30:00.mp4",
    "rtsp:clip.mp4",
    "with space.mp4",
    "100%05d.mp4",
    "-loop.mp4",
    "Zürich 中.mp4",
    "a'b\"c;d&e|f?g#h.mp4",
    os.fsdecode(b"latin-\xe4.mp4"),
)


def test_files_of_any_name_are_read_through_links_too(tmp_path, monkeypatch):
    original = encode(tmp_path / "original.mp4", moving_square(4))
    monkeypatch.chdir(tmp_path)
    for name in AWKWARD_NAMES:
        os.link(original, name)
        os.symlink(name, "link.mp4")
        for path in (name, tmp_path / name, "link.mp4"):
            assert len(list(read_frames(open_video(path)))) == 4, name
        os.unlink("link.mp4")


def test_what_is_no_video_is_refused_in_one_line(tmp_path):
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", "none"))
        sound.writeframes(bytes(16000))
    (tmp_path / "list.avi").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "long.avi").write_text("the quick brown fox jumps over the lazy dog\n" * 5000)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20000))
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, message in {
        "sound.wav": "it holds sound only",
        "list.avi": "cannot be read as a video",
        "long.avi": "cannot be read as a video",
        "noise.mp4": "cannot be read as a video",
        "pipe.mp4": "is neither a file nor a folder",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            open_video(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_or_folder_without_permission_is_refused_in_one_line(tmp_path):
    path = encode(tmp_path / "a.mp4", moving_square(2))
    folder = tmp_path / "img1"
    folder.mkdir()
    path.chmod(0)
    folder.chmod(0)
    code = (
        "import os, sys\n"
        "from run_directory import InputError\n"
        "from video_tracks.video import open_video\n"
        "files = sys.argv[1:]\n"
        "os.getuid() or os.setuid(65534)\n"
        "for name in files:\n"
        "    try:\n"
        "        open_video(name)\n"
        "    except InputError as error:\n"
        "        print(error)\n"
    )
    for parent in (tmp_path, *tmp_path.parents):
        if parent.name.startswith(("pytest-", "popen-", "test_")):
            parent.chmod(0o755)
    command = [sys.executable, "-c", code, path, folder, folder / "1.png"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    folder.chmod(0o755)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(InputError, match="circle cannot be read"):
        open_video(tmp_path / "circle")
    assert said.stderr == ""
    assert said.stdout.splitlines() == [
        f"{name} cannot be read (Permission denied); change its permissions"
        for name in (path, folder, folder / "1.png")
    ]


@pytest.mark.skipif(not VTEST.is_file(), reason=f"no {VTEST}")
def test_real_video_and_its_detections_at_five_eighths():
    video = open_video(VTEST)
    assert (video.width, video.height, video.expected_frames) == (480, 360, 795)
    path = PETS / "det" / "det.txt"
    found = load_detections(path, video)
    assert found.box_scale == 0.625
    assert outside_fraction(found.table, video) < 0.01

"""The number in an image's name is its frame, whatever else lies in the folder; deep images are not shown black."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from run_directory import InputError
from video_tracks.image_folder import find_images
from video_tracks.tests.made_videos import encode, moving_square
from video_tracks.video import open_video, read_frames, read_pixels

CASES = Path(__file__).resolve().parents[5] / "shared" / "cases"


def picture(value):
    """A picture (24, 32, 3) whose grey tells it from others."""
    return np.full((24, 32, 3), value, np.uint8)


def write(folder, names):
    """An image per name, the value of picture i being i + 1."""
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), picture(index + 1)), name
    return folder


def shown(folder, **options):
    """{frame index: value of its picture or None}."""
    frames = read_frames(open_video(folder, **options))
    return {frame.index: None if frame.pixels is None else int(frame.pixels[0, 0, 0]) for frame in frames}


@pytest.mark.parametrize(
    ("names", "expected", "note"),
    [
        (["1.png", "2.png", "10.png"], {0: 1, 1: 2, **dict.fromkeys(range(2, 9)), 9: 3}, "7 images are missing"),
        (["000001.png", "000002.png", "000004.png"], {0: 1, 1: 2, 2: None, 3: 3}, r"missing in .* \(3\)"),
        (["f_0000.png", "f_0001.png"], {0: 1, 1: 2}, "counts from 0: image 0 is frame 1"),
        (
            ["000031.png", "000032.png"],
            {30: 1, 31: 2},
            "begins with image 31: it is frame 31 of the detections .*--video_first_frame 31",
        ),
        (["cam2_0001.png", "cam2_0002.png"], {0: 1, 1: 2}, None),
        (["0001_of_2.png", "0002_of_2.png"], {0: 1, 1: 2}, None),
        (["1.PNG", "2.png"], {0: 1, 1: 2}, None),
        (["only.png"], {0: 1}, None),
        (["a.png", "b.png"], {0: 1, 1: 2}, "have no numbers; they are frames in the order of their names"),
    ],
)
def test_the_number_in_the_name_is_the_frame(tmp_path, names, expected, note):
    folder = write(tmp_path / "img1", names)
    video = open_video(folder)
    assert shown(folder) == expected
    assert video.expected_frames == len(expected)
    assert video.num_frames == max(expected) + 1
    if note is None:
        assert video.notes == ()
    else:
        (said,) = video.notes
        assert re.search(note, said), said


def test_first_frame_says_which_image_is_frame_1(tmp_path):
    folder = write(tmp_path / "img1", ["000031.png", "000032.png"])
    assert shown(folder, first_frame=31) == {0: 1, 1: 2}
    assert shown(folder, first_frame=0) == {31: 1, 32: 2}
    with pytest.raises(InputError, match="holds an image numbered 31, before --video_first_frame 32"):
        open_video(folder, first_frame=32)
    with pytest.raises(InputError, match="leave --video_first_frame out"):
        open_video(write(tmp_path / "plain", ["a.png"]), first_frame=1)
    with pytest.raises(InputError, match="leave --video_first_frame out"):
        open_video(encode(tmp_path / "a.mp4", moving_square(2)), first_frame=1)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0001.png", "1.png"], "0001.png and 1.png in .* are both frame 1"),
        (["0001.jpg", "0001.png"], "0001.jpg and 0001.png in .* are both frame 1"),
        (["left_1.png", "right_1.png"], "two kinds of pictures, such as left_1.png and right_1.png, as many of each"),
        (["c1_1.png", "c1_2.png", "c2_1.png"], "are both frame 1"),
        (["s1_1.png", "s2_2.png"], "differ in more than one number; number the frames"),
        (["1305031102.175304.png", "1305031103.211214.png"], "number the frames 1, 2, 3"),
        (["1403636579763555584.png", "1403636579813555456.png"], "count no frames: 2 images for"),
    ],
)
def test_names_that_count_no_frames_are_refused(tmp_path, names, message):
    folder = write(tmp_path / "img1", names)
    with pytest.raises(InputError, match=message) as caught:
        open_video(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("others", [["mask_000001.png", "mask_000002.png"], ["cover.png"], ["000001 (1).png"]])
def test_pictures_of_another_kind_are_named_and_left_out(tmp_path, others):
    folder = write(tmp_path / "img1", ["000001.jpg", "000002.jpg", *others])
    video = open_video(folder)
    assert [path.name for path in video.images] == ["000001.jpg", "000002.jpg"]
    assert others[0] in video.notes[0] and "left out" in video.notes[0]


def test_more_masks_than_frames_are_still_no_frames(tmp_path):
    folder = write(tmp_path / "img1", ["im_1.png", "im_2.png", "mask_1_1.png", "mask_1_2.png", "mask_2_1.png"])
    assert [path.name for path in find_images(folder).paths] == ["im_1.png", "im_2.png"]


def test_what_file_managers_leave_behind_is_no_frame(tmp_path):
    folder = write(tmp_path / "img1", ["000001.jpg", "000002.jpg"])
    for name in ("._000001.jpg", "._000002.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.png", "det.txt"):
        (folder / name).write_bytes(b"\x00\x05\x16\x07")
    (folder / "000003.jpg").mkdir()
    video = open_video(folder)
    assert shown(folder) == {0: 1, 1: 2} and video.notes == ()


def test_pixels_alone_are_refused_where_numbers_have_gaps(tmp_path):
    with pytest.raises(InputError, match="1 images are missing"):
        read_pixels(open_video(write(tmp_path / "img1", ["1.png", "3.png"])))
    with pytest.raises(InputError, match="begins with image 31"):
        read_pixels(open_video(write(tmp_path / "img2", ["31.png", "32.png"])))


def test_a_folder_of_folders_names_the_one_to_give(tmp_path):
    write(tmp_path / "img1", ["1.png"])
    with pytest.raises(InputError, match=f"holds no images .* give {tmp_path / 'img1'}"):
        open_video(tmp_path)


def test_images_that_are_cut_short_or_stacked_are_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for suffix in ("jpg", "png"):
        folder = tmp_path / suffix
        folder.mkdir()
        for number in (1, 2):
            cv2.imwrite(str(folder / f"{number}.{suffix}"), noise)
        data = (folder / f"2.{suffix}").read_bytes()
        (folder / f"2.{suffix}").write_bytes(data[: len(data) // 2])
        with pytest.raises(InputError, match=rf"2\.{suffix} is (damaged or )?cut short"):
            list(read_frames(open_video(folder)))
    data = bytearray((tmp_path / "png" / "1.png").read_bytes())
    data[len(data) // 2] ^= 1  # one bit, which shears the rest of the picture
    (tmp_path / "png" / "2.png").write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"2\.png is damaged"):
        list(read_frames(open_video(tmp_path / "png")))
    stack = tmp_path / "stack"
    stack.mkdir()
    cv2.imwritemulti(str(stack / "1.tif"), [noise, noise])
    with pytest.raises(InputError, match="is a stack of 2 pages"):
        open_video(stack)
    with pytest.raises(InputError, match="is a stack of 2 pages"):
        open_video(stack / "1.tif")


def test_alpha_palette_and_cmyk_become_rgb(tmp_path):
    red = Image.new("RGB", (32, 24), (200, 30, 40))
    red.convert("RGBA").save(tmp_path / "1.png")
    red.quantize(8).save(tmp_path / "2.png")
    red.convert("CMYK").save(tmp_path / "3.jpg", quality=98)
    red.convert("L").save(tmp_path / "4.png")
    frames = [pixels[5, 5].astype(int) for pixels in read_pixels(open_video(tmp_path))]
    for pixel in frames[:3]:
        assert np.abs(pixel - [200, 30, 40]).max() < 12
    assert len(set(frames[3])) == 1


def deep_frames(kind, low, high, num_frames=12):
    """(the pictures as a camera of 8 bits would give them, the same as values low..high)."""
    eight = moving_square(num_frames)[..., 0]
    return eight, (low + eight.astype(np.float64) / 256 * (high - low)).astype(kind)


@pytest.mark.parametrize(
    ("kind", "suffix", "low", "high"),
    [
        (np.uint16, "png", 0, 1024),
        (np.uint16, "png", 0, 4096),
        (np.uint16, "tif", 0, 16384),
        (np.uint16, "png", 0, 65536),
        (np.float32, "tiff", 0, 1),
        (np.float32, "tiff", 0, 256),
    ],
)
def test_deep_images_look_as_their_cameras_8_bits_do(tmp_path, kind, suffix, low, high):
    eight, deep = deep_frames(kind, low, high)
    for index, image in enumerate(deep):
        cv2.imwrite(str(tmp_path / f"{index + 1}.{suffix}"), image)
    video = open_video(tmp_path)
    assert f"holds {np.dtype(kind)} values" in video.notes[0] and "first 8 frames" in video.notes[0]
    for pixels, expected in zip(read_pixels(video), eight, strict=True):
        assert pixels.dtype == np.uint8 and pixels.shape == (96, 128, 3)
        assert np.abs(pixels[..., 1].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_the_offset_of_a_thermal_camera_is_taken_off(tmp_path, kind):
    eight, deep = deep_frames(kind, 29000, 31000)
    deep[:, 0, 0] = 65535  # a dead pixel
    for index, image in enumerate(deep):
        cv2.imwrite(str(tmp_path / f"{index + 1}.tif"), image)
    pixels = np.stack(list(read_pixels(open_video(tmp_path))))[:, 1:, :, 0]
    assert pixels.std() > 20 and (pixels == 0).mean() < 0.01 and (pixels == 255).mean() < 0.01
    assert np.corrcoef(pixels.reshape(-1), eight[:, 1:].reshape(-1))[0, 1] > 0.99


def test_the_range_is_fixed_by_the_first_frames(tmp_path):
    _, deep = deep_frames(np.uint16, 29000, 31000)
    early, late = tmp_path / "early", tmp_path / "late"
    for folder, factor in ((early, 1), (late, 2)):
        folder.mkdir()
        for index, image in enumerate(deep):
            cv2.imwrite(str(folder / f"{index + 1}.png"), image if index < 8 else image * factor)
    assert open_video(early).value_range == open_video(late).value_range
    for index, (one, other) in enumerate(
        zip(read_pixels(open_video(early)), read_pixels(open_video(late)), strict=True)
    ):
        assert (one == other).all() == (index < 8)


def test_a_constant_or_nan_image_is_shown(tmp_path):
    values = np.full((24, 32), np.nan, np.float32)
    cv2.imwrite(str(tmp_path / "1.tif"), values)
    assert next(read_pixels(open_video(tmp_path))).shape == (24, 32, 3)
    cv2.imwrite(str(tmp_path / "1.tif"), np.full((24, 32), 30000, np.uint16))
    assert next(read_pixels(open_video(tmp_path))).max() > 0


def test_images_of_another_depth_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.full((24, 32), 3000, np.uint16))
    cv2.imwrite(str(tmp_path / "2.png"), np.full((24, 32), 30, np.uint8))
    with pytest.raises(InputError, match=r"frame 2 of .* has uint8 values, unlike the first"):
        list(read_frames(open_video(tmp_path)))


@pytest.mark.parametrize(("low", "high"), [(0, 4096), (29000, 31000)])
def test_deep_grey_video_is_shown_too(tmp_path, low, high):
    eight, deep = deep_frames(np.uint16, low, high)
    video = open_video(encode(tmp_path / "a.mkv", deep, "ffv1", "gray16le"))
    assert "uint16" in video.notes[0]
    pixels = np.stack(list(read_pixels(video)))[..., 0]
    assert np.corrcoef(pixels.reshape(-1), eight.reshape(-1))[0, 1] > 0.99 and pixels.std() > 20


def test_the_folders_that_were_reported(tmp_path):
    if not CASES.is_dir():
        pytest.skip(f"no {CASES}")
    deep, eight = (read_pixels(open_video(CASES / "folder-16-bit" / name)) for name in ("img12bit", "img8bit"))
    for one, other in zip(deep, eight, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(list(read_frames(open_video(CASES / "folder-appledouble" / "img1")))) == 24
    frames = list(read_frames(open_video(CASES / "frames-missing-image" / "img1")))
    assert [frame.index for frame in frames] == list(range(60)) and frames[9].pixels is None

"""The same boxes, written as every format has them, are read the same; what would be read wrongly is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from hypothesis import given, settings
from hypothesis import strategies as st
from run_directory import InputError
from video_tracks.formats import FORMATS, read_boxes, read_truth
from video_tracks.formats.coordinates import contradicted_by
from video_tracks.formats.runs import FramesRun

SHARED = Path(__file__).resolve().parents[6] / "shared"
PICTURE = (480, 360)
# frame from 1, id, x, y, width, height, score: three objects that cross the picture, frame 9 empty
BOXES = np.array(
    [
        (frame, track, 20 + 14 * frame * track, 30 + 60 * track + frame, 30 + track, 60 + track, 0.5 + track / 10)
        for frame in range(1, 13)
        for track in (1, 2, 3)
        if frame != 9 and 20 + 14 * frame * track < 440
    ]
)


def mot(separator=",", columns=10, ids=False, number="{:g}", tail=""):
    rows = []
    for frame, track, *rest in BOXES:
        values = [frame, track if ids else -1, *rest, -1, -1, -1][:columns]
        rows.append(separator.join(number.format(value) for value in values) + tail)
    return "\n".join(rows) + "\n"


def corners(box):
    x, y, width, height = box
    return x, y, x + width, y + height


def kitti():
    rows = [
        f"{frame - 1:.0f} {track:.0f} Car 0 0 -1.8 {x1} {y1} {x2} {y2} 1 1 1 0 0 0 0 {score}"
        for frame, track, *box, score in BOXES
        for x1, y1, x2, y2 in [corners(box)]
    ]
    return "\n".join(["0 -1 DontCare -1 -1 -10 5 5 9 9 -1 -1 -1 -1000 -1000 -1000 -10 -1", *rows])


def ab3dmot():
    return "\n".join(
        f"{frame - 1:.0f},2,{x1},{y1},{x2},{y2},{score},1,1,1,0,0,0,0,0"
        for frame, _, *box, score in BOXES
        for x1, y1, x2, y2 in [corners(box)]
    )


def visdrone():
    rows = [
        f"{frame:.0f},{track:.0f},{x:g},{y:g},{w:g},{h:g},{s:g},4,0,{frame % 3:.0f}"
        for frame, track, x, y, w, h, s in BOXES
    ]
    return "\n".join([*rows, "1,0,5,5,20,20,0,0,0,0", "2,9,5,5,20,20,0,11,0,0"])


def pandas_csv():
    rows = [
        f"{at},{x1},{y1},{x2},{y2},{score},2,car,{frame:.0f}"
        for at, (frame, _, *box, score) in enumerate(BOXES)
        for x1, y1, x2, y2 in [corners(box)]
    ]
    return "\n".join([",xmin,ymin,xmax,ymax,confidence,class,name,frame", *rows])


def ultralytics_csv():
    rows = [
        f"{frame:.0f},car,2,{score},\"{{'x1': {x1}, 'y1': {y1}, 'x2': {x2}, 'y2': {y2}}}\""
        for frame, _, *box, score in BOXES
        for x1, y1, x2, y2 in [corners(box)]
    ]
    return "\n".join(["frame,name,class,confidence,box", *rows])


def named(separator=","):
    header = separator.join(("frame", "id", "bb_left", "bb_top", "bb_width", "bb_height", "conf"))
    return header + "\n" + mot(separator, 7)


def results():
    return json.dumps(
        [
            {"image_id": int(frame), "category_id": 3, "bbox": list(box), "score": score}
            for frame, _, *box, score in BOXES
        ]
    )


def coco(**image):
    return json.dumps(
        {
            "images": [
                {"id": 100 + f, "file_name": f"a/{f:06d}.jpg", "width": 480, "height": 360} for f in range(1, 13)
            ],
            "categories": [{"id": 7, "name": "car"}],
            "annotations": [
                {"id": at, "image_id": 100 + int(frame), "category_id": 7, "bbox": list(box), "score": score}
                for at, (frame, _, *box, score) in enumerate(BOXES)
            ],
        }
    )


def per_frame():
    frames = []
    for number in range(1, 13):
        frames.append(
            [
                {
                    "name": "car",
                    "class": 2,
                    "confidence": s,
                    "box": dict(zip(("x1", "y1", "x2", "y2"), corners(b), strict=True)),
                }
                for frame, _, *b, s in BOXES
                if frame == number
            ]
        )
    return frames


def darknet():
    return json.dumps(
        [
            {
                "frame_id": at,
                "filename": "",
                "objects": [
                    {
                        "class_id": 2,
                        "name": "car",
                        "relative_coordinates": {
                            "center_x": (b[0] + b[2] / 2) / 480,
                            "center_y": (b[1] + b[3] / 2) / 360,
                            "width": b[2] / 480,
                            "height": b[3] / 360,
                        },
                        "confidence": s,
                    }
                    for frame, _, *b, s in BOXES
                    if frame == at
                ],
            }
            for at in range(1, 13)
        ]
    )


def opendatacam():
    return json.dumps(
        [
            {
                "frameId": at,
                "objects": [
                    {"id": int(t), "x": b[0] + b[2] / 2, "y": b[1] + b[3] / 2, "w": b[2], "h": b[3], "bearing": 1}
                    | {"name": "car", "confidence": s}
                    for frame, t, *b, s in BOXES
                    if frame == at
                ],
            }
            for at in range(1, 13)
        ]
    )


TEXTS = {
    "mot": ("mot", mot()),
    "mot, blanks and a trailing one": ("mot", mot(" ", tail=" ")),
    "mot, tabs": ("mot", mot("\t")),
    "mot, semicolons": ("mot", mot(";", tail=";")),
    "mot, comma and blank": ("mot", mot(", ")),
    "mot, savetxt": ("mot", "# made by numpy\n" + mot(" ", number="{:.18e}")),
    "mot, seven columns": ("mot", mot(columns=7)),
    "mot, unknown header": ("mot", "a,b,c,d,e,f,g\n" + mot(columns=7)),
    "mot, Windows": ("mot", "\ufeff" + mot().replace("\n", "\r\n")),
    "named columns": ("csv", named()),
    "named columns, semicolons": ("csv", named(";")),
    "named columns in a comment": ("csv", "# " + named(" ")),
    "kitti": ("kitti", kitti()),
    "kitti detections": ("kitti", ab3dmot()),
    "visdrone": ("visdrone", visdrone()),
    "pandas": ("csv", pandas_csv()),
    "ultralytics csv": ("csv", ultralytics_csv()),
    "coco results": ("coco", results()),
    "coco": ("coco", coco()),
    "json per frame": ("json", json.dumps(per_frame())),
    "json per frame, strings": ("json", json.dumps([json.dumps(frame) for frame in per_frame()])),
    "json lines": ("json", "\n".join(map(json.dumps, per_frame()))),
    "json by frame": ("json", json.dumps({str(at): objects for at, objects in enumerate(per_frame(), start=1)})),
    "darknet": ("json", darknet()),
    "opendatacam": ("json", opendatacam()),
}


def write(folder, text, name="boxes.any"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def assert_same(file, has_scores=True):
    table = file.table
    np.testing.assert_array_equal(table.frame_index, BOXES[:, 0] - 1)
    np.testing.assert_allclose(table.boxes, BOXES[:, 2:6], atol=1e-3)
    np.testing.assert_allclose(table.score, BOXES[:, 6] if has_scores else 1)
    assert file.has_scores == has_scores
    assert file.frames_run == FramesRun()


@pytest.mark.parametrize("name", TEXTS)
def test_every_format_gives_the_same_boxes(tmp_path, name):
    expected, text = TEXTS[name]
    path = write(tmp_path, text)
    file = read_boxes(path, picture=PICTURE)
    assert file.format == expected
    assert_same(file)
    forced = read_boxes(path, format=expected, picture=PICTURE)
    np.testing.assert_array_equal(forced.table.boxes, file.table.boxes)


@pytest.mark.parametrize("columns", ["conf", "conf id", "id", ""])
def test_a_yolo_folder_gives_the_same_boxes(tmp_path, columns):
    for frame in range(1, 13):
        rows = [
            f"0 {(x + w / 2) / 480:.6f} {(y + h / 2) / 360:.6f} {w / 480:.6f} {h / 360:.6f}"
            + f" {s:g}" * ("conf" in columns)
            + f" {track:.0f}" * ("id" in columns)
            for at, track, x, y, w, h, s in BOXES
            if at == frame
        ]
        if rows:
            write(tmp_path, "\n".join(rows) + "\n", f"clip_2_{frame}.txt")
    write(tmp_path, "not a row", "._clip_2_1.txt")
    write(tmp_path, "person\n", "classes.txt")
    file = read_boxes(tmp_path, picture=PICTURE)
    assert_same(file, has_scores="conf" in columns)
    assert file.table.class_names == ("person",) and file.has_track_ids == ("id" in columns)
    with pytest.raises(InputError, match="size is not known"):
        read_boxes(tmp_path)


def test_sinks_of_supervision_are_read(tmp_path):
    with sv.CSVSink(str(tmp_path / "a.csv")) as table, sv.JSONSink(str(tmp_path / "a.json")) as objects:
        for frame in range(1, 13):
            rows = BOXES[BOXES[:, 0] == frame]
            detections = sv.Detections.empty()
            if len(rows):
                detections = sv.Detections(
                    np.array([corners(row[2:6]) for row in rows]),
                    confidence=rows[:, 6],
                    class_id=np.zeros(len(rows), int),
                    tracker_id=rows[:, 1].astype(int),
                )
            for sink in (table, objects):
                sink.append(detections, {"frame_index": frame})
    for name in ("a.csv", "a.json"):
        file = read_boxes(tmp_path / name)
        assert_same(file)
        assert file.has_track_ids and file.format == name[2:]
        assert file.table.track_id.tolist() == BOXES[:, 1].tolist()


@pytest.mark.parametrize("pair", ["w,h", "bb_width,bb_height", "bbox_w,bbox_h", "width,height"])
@pytest.mark.parametrize("corner", ["x,y", "cx,cy"])
def test_width_and_height_beside_those_of_the_box_are_the_pictures(tmp_path, corner, pair):
    whole = "" if pair == "width,height" else ",width,height"
    values = "40,50,30,20" + (",320,240" if whole else "")
    file = read_boxes(write(tmp_path, f"frame,{corner},{pair}{whole}\n1,{values}\n", "a.csv"), picture=PICTURE)
    assert file.table.boxes.tolist() == [[40, 50, 30, 20] if corner == "x,y" else [25, 40, 30, 20]]


def test_the_class_of_mot_text_is_its_eighth_column_unless_a_point_in_the_world_begins_there(tmp_path):
    classes = (
        ("2,-1,-1", "2"),
        ("2.0e+00,-1.0e+00,-1.0e+00", "2"),
        ("car,-1,-1", "car"),
        ("-4.1,-7.3,0", ""),
        ("2", "2"),
    )
    for tail, name in classes:
        table = read_boxes(write(tmp_path, f"1,-1,10,20,30,40,0.9,{tail}\n")).table
        assert table.class_names == ((name,) if name else ())
    assert read_boxes(write(tmp_path, "1,-1,10,20,30,40,0.9,nan\n")).table.class_names == ()


def test_a_score_that_is_missing_or_minus_one_everywhere_is_taken_as_one_and_said(tmp_path):
    for text in (mot(columns=6), mot().replace("0.6,", "-1,").replace("0.7,", "-1,").replace("0.8,", "-1,")):
        file = read_boxes(write(tmp_path, text))
        assert_same(file, has_scores=False)
        assert any("1 was taken" in note for note in file.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello world\n", "--format and one of mot: 1,-1"),
        ("1,2,3\n", "has 3 columns"),
        ("0 0.5 0.5 0.1 0.1 0.9\n0 0.4 0.5 0.1 0.1 0.8\n", "give the folder"),
        ("x,y,w,h\n1,2,3,4\n", "no column frame"),
        ('{"a": 1}', "JSON without a list of boxes"),
        ("[[[[", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "is empty"),
        ('[{"x": 1, "y": 2, "w": 3, "h": 4}]', "does not say of which frame"),
        ('[{"image_id": 1, "bbox": [1, 2, 3]}]', "bbox of four numbers"),
        ("1,-1,10,20,30,40,0.9,0,0,0\n2,-1,10,20,30,40,0.9,3,0,0\n", "--format mot or --format visdrone"),
        ("1,405,144,27,53,0.99\n2,405,144,27,53,0.98\n", "a score where a height is expected"),
        ("1;-1;405,9;144,7;27,8;53,8;0,99\n", "decimals with a point"),
        ("frame,id,x1,y1,x2,y2\n1,2,3,4\n", "has 4 columns where the header has 6"),
        ("1,-1,1e300,20,30,40,1\n", "coordinate of 1e+300"),
        ("1000000000000000000,-1,10,20,30,40,1\n", "line 1 has frame 1000000000000000000"),
        ("-5,-1,10,20,30,40,1\n", "--first_frame"),
        ("1,-1,10,20,30,40,1\n1_0,-1,10,20,30,40,1\n", "line 2 holds '1_0', which is no number"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line_that_names_the_fix(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(InputError) as error:
        read_boxes(path, picture=PICTURE)
    assert message in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_text_is_answered_with_all_formats(tmp_path):
    with pytest.raises(InputError) as error:
        read_boxes(write(tmp_path, "hello\n"))
    assert all(f"{name}: " in str(error.value) for name in FORMATS)
    with pytest.raises(InputError, match="choose one of mot, yolo"):
        read_boxes(write(tmp_path, mot()), format="voc")
    with pytest.raises(InputError, match="MOT Challenge rows"):
        read_boxes(write(tmp_path, ab3dmot()), format="mot")


def test_a_header_that_contradicts_the_order_of_mot_text_is_not_passed_over(tmp_path):
    path = write(tmp_path, "frame,id,x1,y1,x2,y2,conf\n" + mot(columns=7))
    with pytest.raises(InputError, match="give --format csv"):
        read_boxes(path, format="mot")


# coordinates


def rewritten(kind):
    table = BOXES.copy()
    x, y, w, h = table[:, 2:6].T
    number = {"xyxy": (x, y, x + w, y + h), "cxcywh": (x + w / 2, y + h / 2, w, h), "xywh": (x, y, w, h)}
    table[:, 2:6] = np.stack(number[kind.removeprefix("normalized-")], axis=1)
    if kind.startswith("normalized"):
        table[:, 2:6] /= [480, 360, 480, 360]
    return "".join(f"{frame:.0f},-1,{a!r},{b!r},{c!r},{d!r},{s}\n" for frame, _, a, b, c, d, s in table.tolist())


@pytest.mark.parametrize("kind", ["xyxy", "normalized-xywh", "normalized-xyxy", "normalized-cxcywh"])
def test_other_coordinates_are_refused_by_name_and_read_when_told(tmp_path, kind):
    path = write(tmp_path, rewritten(kind))
    with pytest.raises(InputError, match=f"--box_format {kind.split('-')[0]}"):
        read_boxes(path, picture=PICTURE)
    assert_same(read_boxes(path, picture=PICTURE, box_format=kind))


def test_centres_that_put_boxes_over_the_border_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    size = rng.uniform(20, 80, (200, 2))
    centre = size / 2 + rng.random((200, 2)) * (np.array(PICTURE) - size)
    assert contradicted_by(np.concatenate([centre, size], axis=1), PICTURE) == "cxcywh"
    assert contradicted_by(np.concatenate([centre - size / 2, size], axis=1), PICTURE) is None
    assert contradicted_by(np.concatenate([centre - size / 2, centre + size / 2], axis=1), PICTURE) == "xyxy"
    assert contradicted_by(np.concatenate([centre - size / 2, centre + size / 2], axis=1), None) == "xyxy"


def test_one_large_face_near_the_left_is_not_taken_for_corners():
    rng = np.random.default_rng(0)
    boxes = np.array([80, 60, 260, 240]) + rng.normal(0, 8, (300, 4))
    assert contradicted_by(boxes, (640, 480)) is None


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"no {SHARED}")
def test_no_real_file_is_refused_as_it_is_and_no_true_id_is_doubted():
    data, count = SHARED / "data", 0
    for path in sorted([*data.glob("MOT1*/*/*/*.txt"), *data.glob("real/**/*.txt"), *data.glob("KITTI/*/**/*.txt")]):
        read = read_truth if path.name == "gt.txt" or "KITTI/gt" in str(path) else read_boxes
        boxes = read(path).table
        assert contradicted_by(boxes.boxes, (1920, 1080)) is None or "KITTI" in str(path), path
        count += 1
    assert count > 90


# frames


def test_frames_from_0_are_refused_with_the_fix_and_read_when_told(tmp_path):
    shifted = BOXES.copy()
    shifted[:, 0] -= 1
    text = "".join(f"{row[0]:.0f},-1,{','.join(map(str, row[2:]))}\n" for row in shifted.tolist())
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=r"line 1 has frame 0; .*give --first_frame 0"):
        read_boxes(path)
    assert_same(read_boxes(path, first_frame=0))
    later = write(tmp_path, "".join(f"{row[0] + 300:.0f},-1,{','.join(map(str, row[2:]))}\n" for row in BOXES.tolist()))
    assert_same(read_boxes(later, first_frame=301))
    with pytest.raises(InputError, match="has frame 301; expected 302 or more"):
        read_boxes(later, first_frame=302)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a_1.txt", "b_2.txt"), "differ in more than a number"),
        (("1_a_1.txt", "1_a_01.txt"), "both of frame 1"),
        (("a.txt",), "holds no frame number"),
        (("1_2.txt", "2_3.txt", "3_9.txt"), "only one can be the frame"),
    ],
)
def test_names_that_do_not_tell_the_frame_are_refused(tmp_path, names, message):
    for name in names:
        write(tmp_path, "0 0.5 0.5 0.1 0.1\n", name)
    with pytest.raises(InputError, match=message):
        read_boxes(tmp_path, picture=PICTURE)


# stride


def every(stride, frames=60, first=1, skip=()):
    return "".join(
        f"{frame},-1,{10 + frame},20,30,40,0.9\n" for frame in range(first, frames + 1, stride) if frame not in skip
    )


@pytest.mark.parametrize(("stride", "first"), [(2, 1), (5, 1), (5, 3), (12, 12), (3, 2)])
def test_a_stride_is_found_and_said(tmp_path, stride, first):
    file = read_boxes(write(tmp_path, every(stride, first=first)))
    assert file.frames_run.stride == stride and any(f"every {stride}" in note for note in file.notes)
    run = [frame for frame in range(200) if frame in file.frames_run]
    assert run == list(range((first - 1) % stride, 200, stride))
    told = read_boxes(write(tmp_path, every(stride, first=first)), detection_stride=1)
    assert told.frames_run == FramesRun()


def test_no_stride_is_made_up(tmp_path):
    for text in (every(1), every(20), every(5) + "7,-1,10,20,30,40,0.9\n", mot()):
        assert read_boxes(write(tmp_path, text)).frames_run == FramesRun()
    with pytest.raises(InputError, match="--detection_stride 4 apart"):
        read_boxes(write(tmp_path, every(5)), detection_stride=4)


def test_a_stride_with_gaps_and_a_rate_that_divides_no_other(tmp_path):
    sparse = read_boxes(write(tmp_path, every(5, 300, skip=range(20, 240))))
    assert sparse.frames_run.stride == 5 and 5 in sparse.frames_run and 6 not in sparse.frames_run
    frames = [int(at * 2.5) + 1 for at in range(30)]
    uneven = read_boxes(write(tmp_path, "".join(f"{frame},-1,{frame},20,30,40,0.9\n" for frame in frames)))
    assert [frame + 1 for frame in range(73) if frame in uneven.frames_run] == frames


def test_an_empty_file_of_a_yolo_folder_is_a_frame_without_boxes(tmp_path):
    for frame in range(1, 60, 5):
        write(tmp_path, "" if frame == 16 else "0 0.5 0.5 0.1 0.1 0.5\n", f"{frame}.txt")
    file = read_boxes(tmp_path, picture=PICTURE)
    assert file.frames_run.stride == 5 and 15 in file.frames_run and 16 not in file.frames_run


def test_images_of_coco_say_on_which_frames_the_detector_ran(tmp_path):
    document = json.loads(coco())
    document["images"] = [image for image in document["images"] if image["id"] not in (105, 106)]
    document["annotations"] = [box for box in document["annotations"] if box["image_id"] not in (105, 106)]
    run = read_boxes(write(tmp_path, json.dumps(document))).frames_run
    assert [frame for frame in range(20) if frame in run] == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]


# duplicates and ids


def test_boxes_that_coincide_count_once(tmp_path):
    twice = "".join(line + "\n" + line + "\n" for line in mot().splitlines())
    file = read_boxes(write(tmp_path, twice))
    assert_same(file)
    assert f"{len(BOXES)} boxes that coincide" in " ".join(file.notes)
    rows = ["1,-1,10,10,100,100,0.5", "1,-1,11,10,100,100,0.9", "1,-1,30,10,100,100,0.7"]
    assert read_boxes(write(tmp_path, "\n".join(rows))).table.score.tolist() == [0.9, 0.7]
    named = ["1,4,10,10,100,100,0.5", "1,5,11,10,100,100,0.9"]
    assert len(read_boxes(write(tmp_path, "\n".join(named))).table) == 2
    classes = ["1,-1,10,10,100,100,0.5,1,-1,-1", "1,-1,11,10,100,100,0.9,2,-1,-1"]
    assert len(read_boxes(write(tmp_path, "\n".join(classes))).table) == 2
    with pytest.raises(InputError, match="before non-maximum suppression"):
        read_boxes(write(tmp_path, "".join(f"1,-1,{at},10,100,100,0.5\n" for at in range(3000))))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=30))
def test_merging_is_idempotent_and_never_empties_a_frame(tmp_path_factory, rows):
    text = "".join(f"{frame},-1,{x},5,100,100,0.{score}\n" for frame, x, score in rows)
    folder = tmp_path_factory.mktemp("merge")
    table = read_boxes(write(folder, text)).table
    again = "".join(
        f"{frame + 1},-1,{','.join(map(str, box))},{score}\n"
        for frame, box, score in zip(table.frame_index, table.boxes.tolist(), table.score, strict=True)
    )
    assert len(read_boxes(write(folder, again)).table) == len(table)
    assert {frame for frame, _, _ in rows} == set((table.frame_index + 1).tolist())


def test_ids_of_a_tracker_are_told_from_numbers_of_boxes(tmp_path):
    assert read_boxes(write(tmp_path, mot(ids=True))).has_track_ids
    lines = mot(ids=True).splitlines()
    counted = [",".join([line.split(",")[0], str(at), *line.split(",")[2:]]) for at, line in enumerate(lines, 1)]
    cyclic = [",".join([line.split(",")[0], str(at % 5 + 1), *line.split(",")[2:]]) for at, line in enumerate(lines, 1)]
    some = [line.replace(",3,", ",-1,", 1) for line in lines]
    zero = [",".join([line.split(",")[0], str(int(line.split(",")[1]) - 1), *line.split(",")[2:]]) for line in lines]
    for rows, reason in (
        (counted, "number the boxes"),
        (cyclic, "lead to another object"),
        (some, "have none"),
        (zero, "count them from 1"),
        ([*lines, lines[0].replace("34,", "300,")], "stands twice"),
    ):
        file = read_boxes(write(tmp_path, "\n".join(rows)))
        assert not file.has_track_ids
        assert reason in " ".join(file.notes)


# ground truth and real files


def test_ground_truth_of_kitti_and_visdrone_marks_what_is_no_object(tmp_path):
    truth = read_truth(write(tmp_path, kitti()))
    assert truth.table.ignored.sum() == 1 and len(truth.table) == len(BOXES) + 1
    truth = read_truth(write(tmp_path, visdrone()))
    assert truth.table.ignored.sum() == 2 and truth.table.track_id[:3].tolist() == [1, 2, 3]


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"no {SHARED}")
@pytest.mark.parametrize("path", ["MOT15/PETS09-S2L1/det/det.txt", "MOT17/MOT17-04-FRCNN/det/det.txt"])
def test_real_mot_detections_are_what_they_were(path):
    path = SHARED / "data" / path
    plain = np.loadtxt(path, delimiter=",")
    plain = plain[np.argsort(plain[:, 0], kind="stable")]
    file = read_boxes(path)
    np.testing.assert_array_equal(file.table.boxes, plain[:, 2:6])
    np.testing.assert_array_equal(file.table.frame_index, plain[:, 0] - 1)
    np.testing.assert_array_equal(file.table.score, plain[:, 6])
    assert (file.format, file.notes, file.has_track_ids) == ("mot", (), False)


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"no {SHARED}")
def test_real_kitti_and_opendatacam_files_are_recognised():
    cars = read_boxes(SHARED / "data" / "KITTI" / "det" / "car" / "0000.txt")
    assert (cars.format, len(cars.table), cars.table.class_names) == ("kitti", 1053, ("Car",))
    truth = read_truth(SHARED / "data" / "KITTI" / "gt" / "0000.txt")
    assert (len(truth.table), int(truth.table.ignored.sum()), truth.table.num_frames) == (1089, 378, 154)
    traffic = read_boxes(SHARED / "data" / "real" / "opendatacam-demo" / "det" / "det.txt")
    assert (traffic.format, len(traffic.table), traffic.table.class_names) == ("mot", 10245, ("bus", "car"))


@pytest.mark.skipif(not (SHARED / "cases").is_dir(), reason=f"no {SHARED}")
def test_cases_from_the_field_agree_with_the_common_detections():
    cases = SHARED / "cases"
    common = read_boxes(cases / "common" / "det.txt").table
    same = ("det-no-nms/det.txt", "format-six-columns/det.txt", "format-space-separated/det.txt")
    for name in (*same, "format-yolo-folder/labels"):
        file = read_boxes(cases / name, picture=PICTURE)
        np.testing.assert_allclose(file.table.boxes, common.boxes, atol=0.01)
        assert not file.has_track_ids
    told = {"frames-zero-based": {"first_frame": 0}, "det-normalised": {"box_format": "normalized", "picture": PICTURE}}
    for name, options in told.items():
        np.testing.assert_allclose(read_boxes(cases / name / "det.txt", **options).table.boxes, common.boxes, atol=0.01)
    assert read_boxes(cases / "det-own-track-ids" / "det.txt").has_track_ids
    assert read_boxes(cases / "det-every-5th" / "det.txt").frames_run.stride == 5


def test_a_frame_that_holds_regions_only_was_looked_at_and_so_was_an_empty_one(tmp_path):
    row = "{} {} {} 0 0 -1.79 10 20 30 60 2.0 1.8 4.4 -4.6 1.9 13.4 -2.1\n"
    kinds = {3: (-1, "DontCare"), 7: None}
    given = [(frame, *kinds.get(frame, (1, "Car"))) for frame in range(10) if kinds.get(frame, 1)]
    path = write(tmp_path, "".join(row.format(*one) for one in given))
    run = read_boxes(path).frames_run
    assert all(frame in run for frame in range(12))
    assert np.int64(3) in run

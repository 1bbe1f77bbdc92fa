"""Whatever a file holds, it is read or refused in one line: no other exception, no hang, little memory."""

import json
import resource

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_directory import InputError
from video_tracks.formats import FORMATS, read_boxes, read_truth

# more with `--hypothesis-profile=hours` (conftest.py), for as long as one likes
FUZZ = settings(
    max_examples=max(250, settings.default.max_examples), deadline=None, suppress_health_check=list(HealthCheck)
)
VALID = {
    "mot": "1,-1,10,20,30,40,0.9,-1,-1,-1\n2,-1,11,20,30,40,0.8,-1,-1,-1\n",
    "kitti": "0 2 Car 0 0 -1.79 296.7 161.8 455.2 292.4 2.0 1.8 4.4 -4.6 1.9 13.4 -2.1\n",
    "visdrone": "1,7,593,43,174,190,1,4,0,1\n2,7,594,43,174,190,1,4,0,1\n",
    "csv": "frame,x1,y1,x2,y2,conf,id,class\n1,10,20,40,60,0.9,3,car\n",
    "json": '[{"frame": 1, "x_min": 1, "y_min": 2, "x_max": 30, "y_max": 40, "confidence": 0.9}]',
    "coco": '[{"image_id": 1, "category_id": 0, "bbox": [10, 20, 30, 40], "score": 0.9}]',
    "yolo": "0 0.5 0.5 0.1 0.1 0.9\n",
}
TOKENS = st.sampled_from(
    [
        *("nan", "-inf", "1e999", "10" * 9, "1" * 5000, "-1", "0", "1_0", "٣", "1e18", "-0.0", "0x10", "9" * 18, ""),
        *(",", ";", "\t", " ", '"', "'", "\0", "\n", "\r", "[", "{", "]", "}", ":", "#"),
        *("null", "true", "é", "\ufeff", "\u2028", "e"),
    ]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def attempt(path, **options):
    """Read it as detections and as ground truth; what comes back is sound."""
    for read in (read_boxes, read_truth):
        try:
            table = read(path, picture=(640, 480), **options).table
        except InputError as error:
            assert len(str(error)) < 3000 and "\n" not in str(error)
            continue
        assert np.isfinite(table.boxes).all() and (table.boxes[:, 2:] > 0).all()
        assert np.isfinite(table.score).all() and (table.frame_index >= 0).all()
        assert (np.diff(table.frame_index) >= 0).all()


def read_text(folder, data, name=None):
    if name == "yolo":
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / "a_1.txt").write_bytes(data)
        return attempt(folder / "labels")
    (folder / "boxes").write_bytes(data)
    attempt(folder / "boxes")
    return attempt(folder / "boxes", format=name) if name else None


@FUZZ
@given(data=st.binary(max_size=300), name=st.sampled_from([None, *FORMATS]))
def test_random_bytes(folder, data, name):
    read_text(folder, data, name)


@FUZZ
@given(data=st.data(), name=st.sampled_from(list(FORMATS)))
def test_mutations_of_valid_files(folder, data, name):
    text = VALID[name] * data.draw(st.integers(1, 4))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        stop = min(len(text), start + data.draw(st.integers(0, 6)))
        text = text[:start] + data.draw(TOKENS) + text[stop:]
    read_text(folder, text.encode(), name)


KEYS = [
    *("frame", "objects", "box", "bbox", "x", "y", "w", "h", "x1", "y1", "x2", "y2", "frames", "1", "id"),
    *(
        "image_id",
        "images",
        "annotations",
        "categories",
        "file_name",
        "score",
        "category_id",
        "name",
        "width",
        "height",
    ),
]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([10**400, "1", -1]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)


@FUZZ
@given(document=ANY_JSON, name=st.sampled_from([None, "json", "coco"]))
def test_any_json(folder, document, name):
    read_text(folder, json.dumps(document).encode(), name)


@FUZZ
@given(
    rows=st.lists(st.lists(st.floats() | st.integers(), min_size=5, max_size=19), min_size=1, max_size=8),
    separator=st.sampled_from([",", " ", ";", "\t"]),
    name=st.sampled_from([None, "mot", "kitti", "visdrone", "yolo"]),
)
def test_any_numbers(folder, rows, separator, name):
    read_text(folder, "\n".join(separator.join(map(str, row)) for row in rows).encode(), name)


HUGE = {
    "frame": "1000000000000000000,-1,1,2,3,4,1\n",
    "late frame": "1,-1,1,2,3,4,1\n999999999,-1,1,2,3,4,1\n",
    "id": "1,99999999999999999999999,1,2,3,4,1\n",
    "box": "25,-1,0,0,90000,90000,0.9\n",
    "columns": "1," * 500_000 + "\n",
    "line": "1" * 3_000_000,
    "deep": "[" * 200_000 + "]" * 200_000,
    "deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "digits": '[{"frame": 1, "x1": ' + "9" * 100_000 + "}]",
    "equal rows": "1,-1,1,2,3,4,1\n" * 100_000,
    "boxes of one frame": "".join(f"1,-1,{at},2,30,40,1\n" for at in range(100_000)),
    "classes": "".join(f"{at},-1,1,2,3,4,1,{at},-1,-1\n" for at in range(1, 20_000)),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_inputs_cost_little(folder, name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read_text(folder, HUGE[name].encode())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB

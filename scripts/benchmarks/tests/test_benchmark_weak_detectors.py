"""Weak detectors: what a mask says of boxes and tracks, that nothing left out is learnt from, and one made-up scene."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from run_directory import InputError
from sklearn.metrics import roc_auc_score
from video_tracks.evidence import FEATURES
from video_tracks.track import Track

FOLDER = Path(__file__).parents[1]
AREA = np.array([10.0, 10.0, 10.0, 10.0])  # xywh
NAN = float("nan")


@pytest.fixture
def tracks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("weak_detector_tracks")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("benchmark_weak_detectors")


def mask_of(*bands: tuple[int, int]) -> np.ndarray:
    """(30, 40), 0, whose rows 10-19 hold bands (level, number of columns) from column 10 on."""
    mask, column = np.zeros((30, 40), np.uint8), 10
    for level, width in bands:
        mask[10:20, column : column + width] = level
        column += width
    return mask


@pytest.mark.parametrize(
    ("bands", "share"),
    [
        ((), 0.0),
        (((255, 10),), 1.0),
        (((255, 3),), 0.3),
        (((255, 3), (50, 7)), 0.3),  # a shadow does not move
        (((255, 3), (170, 4)), 0.5),  # the edge is not judged
        (((255, 3), (85, 2), (170, 3)), 0.6),
        (((255, 4), (85, 6)), NAN),
        (((85, 10),), NAN),
    ],
)
def test_the_share_of_a_box_that_moves(tracks: ModuleType, bands: tuple[tuple[int, int], ...], share: float) -> None:
    np.testing.assert_equal(tracks.moving_share(mask_of(*bands), AREA), share)


@pytest.mark.parametrize(
    ("box", "share"),
    [
        ((5, 10, 10, 10), 0.5),
        ((10.4, 9.6, 10, 10), 1.0),
        ((-5, -5, 10, 10), 0.0),
        ((35, 10, 10, 10), 0.0),
        ((50, 10, 10, 10), NAN),
    ],
)
def test_a_box_is_cut_at_the_border_of_its_picture(tracks: ModuleType, box: tuple[float, ...], share: float) -> None:
    np.testing.assert_equal(tracks.moving_share(mask_of((255, 10)), np.array(box)), share)


@pytest.mark.parametrize(
    ("shares", "label"),
    [
        ([], -1),
        ([NAN, NAN], -1),
        ([0.3], 1),
        ([0.29], -1),
        ([0.1], -1),
        ([0.09], 0),
        ([0.0, 0.0, 1.0], 0),
        ([0.0, 0.0, NAN, NAN, NAN, 1.0, 1.0, 1.0], 1),
    ],
)
def test_the_label_of_a_track_is_that_of_the_middle_one_of_its_judged_boxes(
    tracks: ModuleType, shares: list[float], label: int
) -> None:
    assert tracks.label_of(shares) == label


def test_detections_after_the_clip_or_the_masks_do_not_count(tracks: ModuleType) -> None:
    moving, still, unknown = mask_of((255, 10)), mask_of(), mask_of((85, 10))
    track = Track(1, 2, np.tile(AREA, (40, 1)), np.ones(40, bool))
    masks = np.stack([unknown] * 2 + [still] * 16 + [moving] * 30)
    assert tracks.label_tracks([track], masks).tolist() == [0]
    assert tracks.label_tracks([dataclasses.replace(track, birth_frame=18)], masks).tolist() == [1]
    assert tracks.label_tracks([dataclasses.replace(track, birth_frame=0)], masks[:2]).tolist() == [-1]
    assert tracks.label_tracks([dataclasses.replace(track, birth_frame=60)], masks).tolist() == [-1]


def write_scene(folder: Path, with_masks: bool) -> None:
    """60 still frames of noise; from the 20th a bright square moves right, 2 px a frame."""
    (folder / "gt").mkdir()
    ground = np.random.default_rng(0).integers(60, 90, (96, 160, 3), np.uint8)
    writer = cv2.VideoWriter(str(folder / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (160, 96))
    masks, rows = np.zeros((60, 96, 160), np.uint8), []
    for index in range(60):
        picture = ground.copy()
        if index >= 20:
            left = 10 + 2 * (index - 20)
            picture[40:60, left : left + 20] = 230
            masks[index, 40:60, left : left + 20] = 255
            rows.append(f"{index + 1},1,{left + 1},41,20,20,1,-1,-1,-1")
        writer.write(picture)
    writer.release()
    (folder / "gt" / "gt.txt").write_text("\n".join(rows) + "\n")
    (folder / "seqinfo.ini").write_text(
        "[Sequence]\nname=a\nframeRate=10\nseqLength=60\nimWidth=160\nimHeight=96\n", encoding="utf-8"
    )
    if with_masks:
        np.savez_compressed(folder / "masks.npz", mask=masks)


@pytest.mark.parametrize("with_masks", [True, False], ids=["masks", "hand boxes"])
def test_what_moves_is_found_followed_and_real(tracks: ModuleType, tmp_path: Path, with_masks: bool) -> None:
    write_scene(tmp_path, with_masks)
    scene = tracks.collect_scene(tmp_path)
    first = int(np.flatnonzero(scene.detected.all(1))[0])
    assert scene.labels[first] == 1
    assert scene.num_known_ages[first] == 16
    of_scores = [index for index, name in enumerate(FEATURES) if "score" in name or "rank" in name or "odds" in name]
    of_scores = [index for index in of_scores if FEATURES[index] not in ("memory_odds", "video_odds")]
    assert np.isnan(scene.evidence[first][:, of_scores]).all()
    assert np.isfinite(scene.evidence_with_fill[first, -1, FEATURES.index("mean_score")])
    assert np.isfinite(scene.evidence[first, 1:, FEATURES.index("innovation")]).all()
    assert scene.pixels[first, -1].max() > 200


def test_a_folder_without_truth_is_refused(tracks: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither masks\.npz nor gt/gt\.txt"):
        tracks.read_masks(tmp_path)
    (tmp_path / "masks.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="damaged"):
        tracks.read_masks(tmp_path)


def test_auc_is_that_of_the_library_with_ties_by_half(benchmark: ModuleType) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        labels, answer = rng.permutation([0] * 30 + [1] * 10), rng.integers(0, 6, 40).astype(float)
        assert benchmark.auc(answer, labels) == pytest.approx(roc_auc_score(labels, answer))


def some_scene(benchmark: ModuleType, name: str, seed: int) -> object:
    rng = np.random.default_rng(seed)
    evidence = rng.normal(size=(20, 16, len(FEATURES))).astype(np.float32)
    return benchmark.SceneTracks(
        name,
        rng.permutation([0, 1] * 10).astype(np.int8),
        4 * np.arange(20),
        np.full(20, 16),
        evidence,
        evidence,
        rng.random((20, 16)) < 0.5,
        np.zeros((20, 16, 1, 1, 3), np.uint8),
    )


def test_no_answer_on_a_scene_comes_from_its_own_group(benchmark: ModuleType) -> None:
    names, groups = ("a1", "a2", "b", "c", "d"), ("a", "a", "b", "c", "d")
    scenes = [some_scene(benchmark, name, seed) for seed, name in enumerate(names)]
    group_of = dict(zip(names, groups, strict=True))
    num_trainings = 0

    def learn(others):
        nonlocal num_trainings
        num_trainings += 1
        seen = {group_of[scene.scene] for scene in others}

        def ask(scene):
            assert group_of[scene.scene] not in seen
            # how it answers depends on what was learnt, so that a stack of another fold would differ
            return np.repeat(scene.labels[:, None] * 1.0, 4, axis=1) * (len(seen) - 2.5)

        return ask

    found = benchmark.leave_out(scenes, groups, dict.fromkeys(("evidence", "probe", "head"), learn))
    assert num_trainings == 3 * (4 + 6)
    # 2 of 4 groups are learnt from for the stack, whose answers are then upside down; 3 for the answers themselves
    for scene, answers in zip(scenes, found, strict=True):
        assert benchmark.auc(answers["evidence"][:, 0], scene.labels) == 1.0
        assert benchmark.auc(answers["+ both"][:, 0], scene.labels) < 0.5


def test_what_is_taught_in_place_shares_no_frame_with_what_is_judged(benchmark: ModuleType) -> None:
    first, second = benchmark.halves(some_scene(benchmark, "a", 0))  # born in frames 0, 4, .. 76
    assert second.birth_frames.tolist() == list(range(40, 80, 4))
    assert first.birth_frames.tolist() == list(range(0, 21, 4))  # whose clips end before frame 38

"""Scenes: rules of the presets, pictures that show what the metadata says, and no leak of the label.

Leaks are looked for in metadata of many scenes without rendering, so that sampling error stays small.
"""

import dataclasses

import numpy as np
import pytest
from persistence_augmented_dataset.synthetic.bayes import PRESETS, Detector, get_preset, posterior_seen_by
from persistence_augmented_dataset.synthetic.rendering import cue_to_color, render_scene
from persistence_augmented_dataset.synthetic.scenes import (
    MAX_STEP,
    NUM_SCENE_FRAMES,
    RADIUS_RATIO,
    SCENE_SIZE_PX,
    count_objects,
    sample_scene,
)
from persistence_augmented_dataset.synthetic.shards import scene_metadata
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from video_tracks.crops import cut_clips

T = 16
NAMES = sorted(PRESETS)


def scenes(name, count, seed=11):
    return [sample_scene(get_preset(name), (seed, 0, index)) for index in range(count)]


def metadata_of(drawn):
    parts = [scene_metadata(scene) for scene in drawn]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.fixture(scope="module")
def many_tracks():
    """Metadata of some 12,000 tracks of `standard`, in file order."""
    return metadata_of(scenes("standard", 1150))


@pytest.fixture(scope="module")
def detected_scenes():
    return scenes("detector", 600)


@pytest.fixture(scope="module")
def detected_tracks(detected_scenes):
    """Metadata of some 6,300 tracks of `detector`, in file order."""
    return metadata_of(detected_scenes)


def held_out_auc(features, label, groups):
    """Cross-validated AUC of a random forest that has not seen the scenes it is judged on."""
    model = RandomForestClassifier(40, max_depth=8, min_samples_leaf=20, random_state=0)
    scores = cross_val_predict(model, features, label, groups=groups, cv=GroupKFold(4), method="predict_proba")[:, 1]
    return roc_auc_score(label, scores)


def test_birth_scene_order_and_geometry_tell_nothing_about_the_label(many_tracks):
    tracks = many_tracks
    first_crop, first_box = tracks["crops"][:, 0], tracks["boxes"][:, 0]
    features = np.column_stack(
        [
            tracks["birth_frame"],
            tracks["scene_id"],
            tracks["track_id"],
            np.arange(len(tracks["label"])),
            tracks["path_type"],
            first_box,
            first_crop,
            first_box[:, :2] - first_crop[:, :2],
        ]
    )
    assert held_out_auc(features, tracks["label"], tracks["scene_id"]) == pytest.approx(0.5, abs=0.03)


def test_other_objects_of_the_first_frame_tell_nothing_about_the_label(many_tracks):
    tracks = many_tracks
    others = tracks["objects"][:, 0, 1:].reshape(len(tracks["label"]), -1)
    others = np.nan_to_num(others, nan=-100.0)
    features = np.column_stack([others, tracks["object_kind"][:, 1:]])
    assert held_out_auc(features, tracks["label"], tracks["scene_id"]) == pytest.approx(0.5, abs=0.03)


def test_the_leak_test_would_notice_a_leak(many_tracks):
    """The same model does find the little that the second frame's visibility tells (AUC about 0.65)."""
    tracks = many_tracks
    auc = held_out_auc(tracks["visible"][:, :2].astype(float), tracks["label"], tracks["scene_id"])
    assert auc > 0.62


def test_neighbours_labels_are_independent(many_tracks):
    tracks = many_tracks
    same_scene = tracks["scene_id"][1:] == tracks["scene_id"][:-1]
    agree = (tracks["label"][1:] == tracks["label"][:-1])[same_scene]
    assert agree.mean() == pytest.approx(0.5, abs=4 * 0.5 / len(agree) ** 0.5)


def test_accuracy_of_the_stored_posterior(many_tracks):
    """Of `standard`, computed apart by enumeration and integration: see test_bayes."""
    right = (many_tracks["bayes_posterior"] >= 0.5) == many_tracks["label"][:, None]
    tolerance = 4 * 0.5 / len(right) ** 0.5
    assert right[:, 0].mean() == pytest.approx(0.6915, abs=tolerance)
    assert right[:, 15].mean() > 0.999


def test_pixels_of_the_first_blind_frame_tell_nothing():
    """Colours and sizes of the first frame (means over the centre, the ring around it, the border)."""
    features, labels, groups = [], [], []
    for scene in scenes("blind", 130):
        pixels = cut_clips(render_scene(scene), scene.tracks(), num_frames=1).pixels[:, 0].astype(float)
        coarse = pixels.reshape(len(pixels), 4, 16, 4, 16, 3).mean(axis=(2, 4)).reshape(len(pixels), -1)
        features.append(np.column_stack([coarse, pixels[:, 24:40, 24:40].mean(axis=(1, 2))]))
        labels.append(scene.label)
        groups.append(np.full(len(scene.label), scene.key[2]))
    features, labels, groups = (np.concatenate(parts) for parts in (features, labels, groups))
    auc = held_out_auc(features, labels, groups)
    assert auc == pytest.approx(0.5, abs=4 * 0.58 / len(labels) ** 0.5)  # 4 standard errors of an AUC


@pytest.mark.parametrize("name", NAMES)
def test_scenes_obey_their_preset(name):
    preset = get_preset(name)
    for scene in scenes(name, 25):
        geometry = scene.geometry
        count = len(scene.label)
        assert preset.num_objects[0] <= count <= preset.num_objects[1]
        assert count == count_objects(preset, scene.key)
        assert geometry.birth.min() >= 0
        assert geometry.birth.max() <= NUM_SCENE_FRAMES - T
        for k, birth in enumerate(geometry.birth):
            life = slice(birth, birth + T)
            center, radius = geometry.center[k, life], geometry.radius[k, life]
            assert (center - radius[:, None] >= 0).all()
            assert (center + radius[:, None] <= SCENE_SIZE_PX).all()
            ratio = radius / radius[0]
            assert ((ratio >= RADIUS_RATIO[0]) & (ratio <= RADIUS_RATIO[1])).all()
            step = np.linalg.norm(np.diff(center, axis=0), axis=1)
            assert (step <= MAX_STEP * 2 * radius[0] + 1e-9).all()
            in_front = geometry.depth[:, life] < geometry.depth[k, life]
            distance = np.linalg.norm(geometry.center[:, life] - center, axis=-1)
            limit = preset.min_separation * (geometry.radius[:, life] + radius)
            assert not (in_front & (distance < limit)).any()


@pytest.mark.parametrize("name", NAMES)
def test_number_of_distractors(name):
    parts = [scene_metadata(scene) for scene in scenes(name, 80)]
    number = np.concatenate([part["num_distractors"] for part in parts])
    kinds = np.concatenate([part["object_kind"] for part in parts])
    label = np.concatenate([part["label"] for part in parts])
    assert number.max() <= get_preset(name).max_distractors
    if name == "easy":
        assert number.max() == 0
    else:
        assert 0.5 < number.mean() < 2
        assert {0, 1} <= set(kinds[:, 1:].ravel())
    assert ((kinds >= 0).sum(axis=1) == number + 1).all()
    assert (kinds[:, 0] == label).all()


def test_the_picture_shows_what_the_metadata_says():
    """In frames where the candidate is alone: visible means a disc of its cue's colour, unseen means background."""
    errors = []
    for scene in scenes("standard", 25):
        clips = cut_clips(render_scene(scene), scene.tracks())
        meta = scene_metadata(scene, clips.crops)
        alone = np.isnan(meta["objects"][:, :, 1:, 0]).all(axis=2)
        core = clips.pixels[:, :, 26:38, 26:38].astype(float).mean(axis=(2, 3))
        redness = core[..., 1] / core[..., 0]
        seen, empty = alone & meta["visible"], alone & ~meta["visible"]
        assert (np.abs(redness[empty] - 1) < 0.2).all()
        color = cue_to_color(meta["cue"][seen], scene.preset)
        errors.append(redness[seen] - color[:, 1] / color[:, 0])
        center = meta["objects"][:, :, 0, :2][meta["visible"]]
        assert (np.abs(center - 32) < 1.5).all()
    errors = np.concatenate(errors)
    assert errors.std() < 0.06  # a cue of one standard deviation moves it by about 0.14
    assert len(errors) > 500


def test_spheres_are_lit_not_flat():
    """Brightness varies smoothly over a disc, more than the sensor noise does."""
    scene = scenes("standard", 1)[0]
    clips = cut_clips(render_scene(scene), scene.tracks()).pixels[:, 0].astype(float)
    disc = clips[:, 24:40, 24:40].mean(axis=-1)
    background = clips[:, :6, :6].mean(axis=-1)
    assert (disc.std(axis=(1, 2)) > 10).all()
    assert 0.5 < np.median(background.std(axis=(1, 2))) < 12


def test_box_errors_are_small_even_and_the_same_for_both_kinds(detected_scenes):
    """Over all would-live frames, also those that no detector reports: what is reported is no choice among them."""
    error = np.concatenate([scene.geometry.box_error for scene in detected_scenes])
    label = np.concatenate([scene.label for scene in detected_scenes])
    bound = get_preset("detector").detector.box_jitter
    assert np.abs(error).max() <= bound
    for column in range(4):
        for kind in (0, 1):
            drawn = error[label == kind][..., column].ravel()
            assert drawn.mean() == pytest.approx(0, abs=4 * bound / 3**0.5 / len(drawn) ** 0.5)
            assert drawn.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    first = error[np.arange(len(error)), np.concatenate([scene.geometry.birth for scene in detected_scenes])]
    assert held_out_auc(first, label, np.arange(len(label))) == pytest.approx(0.5, abs=0.035)


def test_reported_boxes_and_crops_of_a_detector_tell_nothing_about_the_label(detected_tracks):
    tracks = detected_tracks
    box, crop = tracks["boxes"][:, 0], tracks["crops"][:, 0]
    offset = box[:, :2] + box[:, 2:] / 2 - tracks["objects"][:, 0, 0, :2]
    others = np.nan_to_num(tracks["objects"][:, 0, 1:].reshape(len(box), -1), nan=-100.0)
    features = np.column_stack([box, crop, offset, others, tracks["num_distractors"]])
    assert held_out_auc(features, tracks["label"], tracks["scene_id"]) == pytest.approx(0.5, abs=0.035)


def test_a_detectors_boxes_are_the_true_ones_but_for_their_errors(detected_scenes):
    bound = get_preset("detector").detector.box_jitter
    for scene in detected_scenes[:20]:
        for track, radius, center in zip(scene.tracks(), scene.geometry.radius, scene.geometry.center, strict=True):
            seen, side = track.detected, 2 * radius[track.birth_frame :]
            off = track.boxes[:, :2] + track.boxes[:, 2:] / 2 - center[track.birth_frame :]
            assert (np.abs(off[seen]) <= bound * side[seen, None] + 1e-9).all() and np.abs(off[seen]).max() > 0
            assert (np.abs(track.boxes[seen, 2:] / side[seen, None] - 1) <= bound + 1e-9).all()
            np.testing.assert_array_equal(np.isfinite(track.scores), seen)


def test_the_three_limits_are_stored(detected_tracks):
    """Each is right as often as one Gaussian a frame allows, computed apart in test_bayes."""
    tracks, preset = detected_tracks, get_preset("detector")
    seen = tracks["visible"], tracks["cue"], tracks["scores"]
    for who, name, accuracy in (
        ("both", "bayes_posterior", 0.7602),
        ("pixels", "bayes_posterior_pixels", 0.6915),
        ("evidence", "bayes_posterior_evidence", 0.6915),
    ):
        np.testing.assert_allclose(tracks[name], posterior_seen_by(who, *seen, preset), atol=1e-6)
        right = (tracks[name][:, 0] >= 0.5) == tracks["label"]
        assert right.mean() == pytest.approx(accuracy, abs=4 * 0.5 / len(right) ** 0.5)


def test_scores_and_boxes_are_drawn_apart_from_the_rest():
    """A detector without jitter gives the very scene of `standard`, and another strength other scores only."""
    plain = sample_scene(get_preset("standard"), (3, 1, 5))
    exact = dataclasses.replace(get_preset("standard"), detector=Detector(2.0, 0.0))
    scene = sample_scene(exact, (3, 1, 5))
    np.testing.assert_array_equal(scene.cue, plain.cue)
    np.testing.assert_array_equal(scene.geometry.center, plain.geometry.center)
    assert np.isnan(plain.scores).all()
    weaker = sample_scene(dataclasses.replace(exact, detector=Detector(1.0, 0.0)), (3, 1, 5))
    np.testing.assert_allclose(
        (scene.scores - weaker.scores)[scene.visible],
        np.broadcast_to(scene.label[:, None] - 0.5, scene.visible.shape)[scene.visible],
        atol=1e-6,
    )


def test_future_frames_and_labels_do_not_shape_the_geometry():
    """The same key under presets that differ in the generative model only gives the same paths."""
    standard, blind = (sample_scene(get_preset(name), (3, 1, 5)) for name in ("standard", "blind"))
    np.testing.assert_array_equal(standard.geometry.center, blind.geometry.center)
    np.testing.assert_array_equal(standard.label, blind.label)
    assert not np.array_equal(standard.cue, blind.cue)

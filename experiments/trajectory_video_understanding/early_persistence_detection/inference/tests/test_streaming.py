"""The stream on live tracks: equal to the model on cut clips, causal, and nothing is spent after a decision."""

import numpy as np
import pytest
import torch
from early_persistence_detection.inference.session import Session
from early_persistence_detection.inference.streaming import TrackStream
from early_persistence_detection.models.compute_gating import decide
from early_persistence_detection.models.early_persistence_classifier import (
    ClassifierConfig,
    EarlyPersistenceClassifier,
)
from early_persistence_detection.models.evidence.clip_evidence import CLIP_EVIDENCE, clip_evidence
from early_persistence_detection.models.extractors.magvit_tokenizer import TokenizerConfig
from early_persistence_detection.models.tensor_state import frames_to_input
from early_persistence_detection.models.torch_stream import TorchStream
from video_tracks.association import Associator
from video_tracks.boxes import make_boxes
from video_tracks.crops import cut_clips
from video_tracks.live_crops import UNSEEN, LiveCrops, blanked
from video_tracks.track import TrackHistory, detected_frames, scores_by_age


def run_stream(model, frames, rows, threshold, start=0, unseen="blank"):
    """(stream, tracks of the history)."""
    boxes = make_boxes(rows[:, 0], rows[:, 1:])
    associator, history, stream = Associator(), TrackHistory(), TrackStream(TorchStream(model), threshold, unseen)
    for frame_index, frame in enumerate(frames):
        found = boxes.in_frame(frame_index)
        observations = associator.update(found.boxes, found.score)
        history.add(frame_index, observations)
        if frame_index >= start:
            stream.update(frame_index, frame, observations)
    return stream, history.tracks()


@pytest.mark.parametrize("unseen", UNSEEN)
@pytest.mark.parametrize("threshold", [0.6, 0.8, 1.0])
@torch.inference_mode()
def test_streamed_probabilities_and_decisions_equal_the_model_on_cut_clips(model, scene, threshold, unseen):
    frames, rows = scene
    stream, tracks = run_stream(model, frames, rows, threshold, unseen=unseen)
    assert list(stream.records) == [track.track_id for track in tracks]
    clips = cut_clips(frames, tracks)
    assert (clips.num_real_frames == 16).all()
    pixels = clips.pixels
    if unseen == "blank":
        for row, age in zip(*np.nonzero(~detected_frames(tracks)), strict=True):
            pixels[row, age] = blanked(pixels[row, age])
    p = model(frames_to_input(pixels)).double().numpy()
    differences = []
    for row, track in enumerate(tracks):
        record = stream.records[track.track_id]
        assert record.birth_frame == track.birth_frame
        differences.append(np.abs(np.array(record.probabilities) - p[row, : len(record.probabilities)]))
    assert np.concatenate(differences).max() < 1e-4  # the calibration steepens logits up to eightfold
    expected, got = decide(p, threshold), stream.decisions([track.track_id for track in tracks])
    near = np.abs(np.maximum(p, 1 - p) - threshold).min(axis=1) < 1e-3
    assert near.mean() < 0.5
    np.testing.assert_array_equal(got.decision[~near], expected.decision[~near])
    np.testing.assert_array_equal(got.decision_frame[~near], expected.decision_frame[~near])
    assert stream.frames_stepped == got.decision_frame.sum()
    if threshold == 0.8:
        assert len(set(got.decision_frame.tolist())) > 1 and got.decision_frame.min() < 16


def test_later_frames_and_detections_change_no_earlier_probability_or_decision(model, scene):
    frames, rows = scene
    cut = 100
    later = frames.copy()
    later[cut:] = 255 - later[cut:]
    moved = rows.copy()
    moved[rows[:, 0] >= cut, 1:] += [9, 4, 6, 2]
    before, after = (run_stream(model, *given, 0.8)[0] for given in ((frames, rows), (later, moved)))
    compared = 0
    for track_id, record in before.records.items():
        ages = max(0, cut - record.birth_frame)
        if ages:
            other = after.records[track_id]
            assert record.probabilities[:ages] == other.probabilities[:ages]
            if record.decision is not None and record.decision_frame <= ages:
                assert (record.decision, record.decision_frame) == (other.decision, other.decision_frame)
                compared += 1
    assert compared > 3


def test_a_lost_track_goes_on_until_it_is_decided(model, scene):
    frames, _ = scene
    rows = np.array([[3.0, 20, 20, 12, 18], [4, 22, 20, 12, 18]])
    stream, _ = run_stream(model, frames[:40], rows, 1.0)
    (record,) = stream.records.values()
    assert len(record.probabilities) == 16 and record.decision is not None
    stream, _ = run_stream(model, frames[:12], rows, 1.0)
    (record,) = stream.records.values()
    assert len(record.probabilities) == 9 and record.decision is None and record.decision_frame is None
    with pytest.raises(ValueError, match="undecided"):
        stream.decisions([1])


def test_only_tracks_born_in_frames_that_were_given_are_judged(model, scene):
    frames, rows = scene
    stream, tracks = run_stream(model, frames, rows, 0.8, start=200)
    assert set(stream.records) == {track.track_id for track in tracks if track.birth_frame >= 200}
    whole, _ = run_stream(model, frames, rows, 0.8)
    for track_id, record in stream.records.items():
        np.testing.assert_allclose(record.probabilities, whole.records[track_id].probabilities, atol=1e-4)


@pytest.mark.parametrize("watch_by", ["pixels", "evidence", "both"])
def test_a_model_with_two_streams_is_given_what_it_is_to_watch_by(scene, watch_by):
    """Live, track by track, it says what it says of whole clips and their evidence."""
    frames, rows = scene
    model = EarlyPersistenceClassifier(TokenizerConfig(), ClassifierConfig(num_evidence=len(CLIP_EVIDENCE))).eval()
    stream, associator, history = TrackStream(TorchStream(model), 1.0, watch_by=watch_by), Associator(), TrackHistory()
    score = np.random.default_rng(0).normal(0, 1, len(rows))
    live = LiveCrops(16, "blank")
    pixels: dict[int, list[np.ndarray]] = {}
    for index in range(60):
        here = rows[:, 0] == index
        found = associator.update(rows[here, 1:], score[here])
        stream.update(index, frames[index], found)
        history.add(index, found)
        for crop in live.update(frames[index], found):
            pixels.setdefault(crop.track_id, []).append(crop.pixels)
    whole = [track for track in history.tracks() if len(pixels[track.track_id]) == 16]
    assert len(whole) >= 5
    evidence = clip_evidence(detected_frames(whole), scores_by_age(whole))
    clips = frames_to_input(np.stack([pixels[track.track_id] for track in whole]))
    with torch.inference_mode():
        expected = model(
            None if watch_by == "evidence" else clips,
            evidence=None if watch_by == "pixels" else torch.from_numpy(evidence),
        )
    for track, p in zip(whole, expected.tolist(), strict=True):
        np.testing.assert_allclose(stream.records[track.track_id].probabilities, p, atol=1e-4)


def test_what_a_model_cannot_watch_by_is_refused(model):
    with pytest.raises(ValueError, match="watches by pixels, not by both"):
        Session(TorchStream(model), watch_by="both")
    with pytest.raises(ValueError, match="cannot be watched by 'ear'"):
        TrackStream(TorchStream(model), 0.9, watch_by="ear")

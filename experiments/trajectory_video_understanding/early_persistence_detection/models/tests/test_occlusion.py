"""What withholding a part of a clip does to p at its decision, and nothing that came later."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from early_persistence_detection.models.early_persistence_classifier import ClassifierConfig, EarlyPersistenceClassifier
from early_persistence_detection.models.extractors.magvit_tokenizer import TokenizerConfig
from early_persistence_detection.models.occlusion import (
    REGION_TOKENS,
    frame_changes,
    occlusion_at_decision,
    removal_changes,
    strongest_frame,
    strongest_regions,
)
from early_persistence_detection.models.tensor_state import frames_to_input
from persistence_augmented_dataset.dataset import ClipSplit
from video_tracks.clip import NUM_FRAMES

CPU = torch.device("cpu")
DECISION_FRAME = np.array([1, 3, 2, 5])
NUM_CLIPS = len(DECISION_FRAME)


@pytest.fixture(scope="module")
def model() -> EarlyPersistenceClassifier:
    torch.manual_seed(3)
    return EarlyPersistenceClassifier(
        TokenizerConfig(channels=(8, 16, 24)), ClassifierConfig(width=32, state_width=24)
    ).eval()


@pytest.fixture(scope="module")
def split() -> ClipSplit:
    clips = np.random.default_rng(5).integers(0, 256, (NUM_CLIPS, NUM_FRAMES, 64, 64, 3), dtype=np.uint8)
    return ClipSplit(Path(), "test", {}, [clips], np.arange(NUM_CLIPS), {"label": np.zeros(NUM_CLIPS, np.uint8)})


@pytest.fixture(scope="module")
def occlusion(model, split):
    return occlusion_at_decision(model, split, DECISION_FRAME, CPU)


def p_without(model, split, clip: int, removed: np.ndarray | None) -> float:
    """p at the decision by the whole model, frame by frame up to the last of the clip."""
    mask = None if removed is None else torch.from_numpy(removed)[None]
    with torch.inference_mode():
        return float(model(frames_to_input(split.clips(np.array([clip]))), removed=mask)[0, DECISION_FRAME[clip] - 1])


def test_regions_tile_the_grid_in_squares_of_four_tokens():
    assert REGION_TOKENS.shape == (4, 4, 4)
    assert sorted(REGION_TOKENS.ravel()) == list(range(64))
    assert set(REGION_TOKENS[1, 3]) == {2 * 8 + 6, 2 * 8 + 7, 3 * 8 + 6, 3 * 8 + 7}, "row 1, column 3"


def test_occlusion_is_p_less_p_without_the_part(model, split, occlusion):
    assert occlusion.regions.shape == (NUM_CLIPS, NUM_FRAMES, 4, 4) and occlusion.frames.shape == (
        NUM_CLIPS,
        NUM_FRAMES,
    )
    assert (occlusion.regions > 0).any() and (occlusion.regions < 0).any(), "signed"
    for clip, frame, row, column in ((0, 0, 1, 2), (1, 0, 3, 3), (1, 2, 0, 1), (3, 4, 2, 0)):
        removed = np.zeros((NUM_FRAMES, 64), bool)
        removed[frame, REGION_TOKENS[row, column]] = True
        expected = p_without(model, split, clip, None) - p_without(model, split, clip, removed)
        assert occlusion.regions[clip, frame, row, column] == pytest.approx(expected, abs=1e-5)
    for clip, frame in ((1, 0), (1, 2), (2, 1), (3, 3)):
        removed = np.zeros((NUM_FRAMES, 64), bool)
        removed[frame] = True
        expected = p_without(model, split, clip, None) - p_without(model, split, clip, removed)
        assert occlusion.frames[clip, frame] == pytest.approx(expected, abs=1e-5)


def test_the_only_frame_cannot_be_withheld(occlusion):
    assert np.isnan(occlusion.frames[0, 0]) and np.isfinite(occlusion.frames[1:]).all()
    assert np.isfinite(occlusion.regions).all()
    assert not strongest_frame(occlusion)[0].any()


def test_nothing_after_the_decision_is_used(model, split, occlusion):
    later = split.shards[0].copy()
    for clip, frame in enumerate(DECISION_FRAME):
        later[clip, frame:] = 255 - later[clip, frame:]
        assert not occlusion.regions[clip, frame:].any() and not occlusion.frames[clip, frame:].any()
    again = occlusion_at_decision(model, dataclasses.replace(split, shards=[later]), DECISION_FRAME, CPU)
    assert np.array_equal(again.regions, occlusion.regions)
    assert np.array_equal(again.frames, occlusion.frames, equal_nan=True)


def test_a_model_that_ignores_everything_is_moved_by_nothing(split):
    torch.manual_seed(3)
    model = EarlyPersistenceClassifier(
        TokenizerConfig(channels=(8, 16, 24)), ClassifierConfig(width=32, state_width=24)
    ).eval()
    with torch.no_grad():
        model.head.readout[-1].weight.zero_()
    still = occlusion_at_decision(model, split, DECISION_FRAME, CPU)
    assert not still.regions.any() and not still.frames[1:].any()


def test_the_strongest_parts_are_those_that_move_p_most_singly(occlusion):
    regions, frame = strongest_regions(occlusion), strongest_frame(occlusion)
    for clip in range(NUM_CLIPS):
        singly = np.abs(occlusion.regions[clip]).ravel()
        order = np.argsort(-singly)
        assert regions[clip].sum() == 8 and not regions[clip, DECISION_FRAME[clip] :].any()
        for place in range(len(order)):
            time, row, column = np.unravel_index(order[place], occlusion.regions.shape[1:])
            assert regions[clip, time, REGION_TOKENS[row, column]].all() == (place < 2)
    for clip in range(1, NUM_CLIPS):
        strongest = np.abs(occlusion.frames[clip]).argmax()
        assert frame[clip, strongest].all() and frame[clip].sum() == 64


def test_a_frame_is_compared_with_the_others_that_were_seen(occlusion):
    most, others = frame_changes(occlusion, DECISION_FRAME)
    assert np.isnan(most[0]) and np.isnan(others[0])
    for clip in range(1, NUM_CLIPS):
        *rest, strongest = sorted(abs(change) for change in occlusion.frames[clip, : DECISION_FRAME[clip]])
        assert most[clip] == pytest.approx(strongest) and others[clip] == pytest.approx(np.mean(rest))
    alone = occlusion.at(2)
    assert np.array_equal(alone.regions, occlusion.regions[2]) and np.array_equal(alone.frames, occlusion.frames[2])


def test_removal_is_compared_with_as_many_random_tokens(model, split, occlusion):
    everywhere = np.ones((NUM_CLIPS, NUM_FRAMES, 64), bool)
    removed = strongest_frame(occlusion)
    moved, drawn = removal_changes(model, split, DECISION_FRAME, removed, everywhere, CPU, seed=1)
    assert np.isnan(moved[0]) and np.isnan(drawn[0]), "nothing is withheld of it"
    assert np.isfinite(moved[1:]).all() and (drawn[1:] > 0).all()
    assert moved[1:] == pytest.approx(np.abs(occlusion.frames[1:]).max(axis=1), abs=1e-6)
    # with no choice among the tokens, the random ones are the removed ones and more: the others are not judged
    few = removed.copy()
    few[:, 0, :8] = True
    assert np.isnan(removal_changes(model, split, DECISION_FRAME, removed, few, CPU)[0]).all()

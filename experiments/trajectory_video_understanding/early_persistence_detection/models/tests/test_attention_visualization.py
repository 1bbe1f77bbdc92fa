"""Which tokens show which object, the attention at the decision, its faithfulness, and what a picture shows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from early_persistence_detection.evaluation.visualize_attention import build_sample, choose_samples
from early_persistence_detection.models.attention_visualization import (
    NUM_REMOVED_TOKENS,
    Sample,
    attention_at_decision,
    faithfulness_changes,
    heat,
    overview_figure,
    sample_figure,
    spoken,
)
from early_persistence_detection.models.compute_gating import Decisions
from early_persistence_detection.models.early_persistence_classifier import ClassifierConfig, EarlyPersistenceClassifier
from early_persistence_detection.models.extractors.magvit_tokenizer import TokenizerConfig
from early_persistence_detection.models.object_tokens import object_tokens
from early_persistence_detection.models.occlusion import Occlusion, occlusion_at_decision
from early_persistence_detection.models.tensor_state import frames_to_input
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from persistence_augmented_dataset.dataset import NUM_OBJECT_SLOTS, ClipSplit
from video_tracks.clip import NUM_FRAMES

CPU = torch.device("cpu")
NUM_CLIPS = 7
DECISION_FRAME = np.array([1, 3, 3, 4, 7, 16, 2])


def one_frame(*ellipses: tuple[float, float, float, float]) -> np.ndarray:
    """Ellipses (1, 1, M, 4)."""
    return np.array(ellipses, np.float32)[None, None]


def tokens_of(objects: np.ndarray, *kinds: int) -> np.ndarray:
    """The token grid (8, 8) of a single frame."""
    return object_tokens(objects, np.array([kinds], np.int8))[0, 0].reshape(8, 8)


# --- object_tokens -------------------------------------------------------------------------------------------------


def test_a_token_shows_the_object_that_covers_its_cell():
    grid = tokens_of(one_frame((20, 36, 4, 4)), 1)  # a disc of the size of the cell in row 4, column 2
    assert grid[4, 2] == 1 and (grid == -1).sum() == 63
    grid = tokens_of(one_frame((48, 8, 14, 6)), 0)  # wider than high: columns count x, rows count y
    rows, columns = np.nonzero(grid == 0)
    assert set(rows) == {0, 1} and set(columns) == {4, 5, 6, 7}


def test_tokens_of_both_kinds_or_of_no_known_kind_show_neither():
    both = tokens_of(one_frame((20, 36, 6, 6), (20, 36, 6, 6)), 1, 0)
    assert (both == -1).all()
    apart = tokens_of(one_frame((12, 12, 6, 6), (52, 52, 6, 6)), 1, 0)
    assert apart[1, 1] == 1 and apart[6, 6] == 0
    assert (tokens_of(one_frame((20, 36, 6, 6)), -1) == -1).all()
    assert (tokens_of(one_frame((np.nan, np.nan, np.nan, np.nan)), 1) == -1).all()
    assert (tokens_of(one_frame((-40, 20, 6, 6)), 1) == -1).all(), "outside of the clip"


@settings(max_examples=40, deadline=None)
@given(x=st.floats(-10, 74), y=st.floats(-10, 74), radius_x=st.floats(4, 25), radius_y=st.floats(4, 25))
def test_tokens_agree_with_a_fine_raster(x, y, radius_x, radius_y):
    fine = (np.arange(512) + 0.5) / 8
    inside = ((fine[None, :] - x) / radius_x) ** 2 + ((fine[:, None] - y) / radius_y) ** 2 <= 1
    covered = inside.reshape(8, 64, 8, 64).mean((1, 3))
    grid = tokens_of(one_frame((x, y, radius_x, radius_y)), 1)
    # coverage is sampled every 2 px, so near the limit of 0.3 it may fall either way; measured: within 0.08
    assert (grid[covered > 0.42] == 1).all() and (grid[covered < 0.18] == -1).all()


def test_frames_and_clips_do_not_mix():
    random = np.random.default_rng(0)
    objects = random.uniform(4, 60, (130, 5, 3, 4)).astype(np.float32)  # more clips than are worked on at once
    objects[random.random(objects.shape[:3]) < 0.3] = np.nan
    kinds = random.integers(-1, 2, (130, 3)).astype(np.int8)
    together = object_tokens(objects, kinds)
    assert together.shape == (130, 5, 64) and together.dtype == np.int8
    for clip, frame in ((0, 0), (63, 4), (64, 2), (129, 3)):
        alone = object_tokens(objects[clip : clip + 1, frame : frame + 1], kinds[clip : clip + 1])
        assert np.array_equal(alone[0, 0], together[clip, frame])


# --- attention and faithfulness ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> EarlyPersistenceClassifier:
    torch.manual_seed(3)
    model = EarlyPersistenceClassifier(
        TokenizerConfig(channels=(8, 16, 24)), ClassifierConfig(width=32, state_width=24)
    )
    with torch.no_grad():  # sharper than at the start of training, so that attention differs from token to token
        model.head.query.weight.mul_(8)
    return model.eval()


@pytest.fixture(scope="module")
def split() -> ClipSplit:
    """Noise and a disc per clip; slot 0 is the candidate, which is unseen in some frames."""
    random = np.random.default_rng(5)
    clips = random.integers(0, 256, (NUM_CLIPS, NUM_FRAMES, 64, 64, 3), dtype=np.uint8)
    objects = np.full((NUM_CLIPS, NUM_FRAMES, NUM_OBJECT_SLOTS, 4), np.nan, np.float32)
    objects[:, :, 0] = (32, 32, 14, 14)
    objects[6, :, 0, 2:] = 5  # fewer tokens than twice what is removed
    objects[:, 1, 0] = np.nan
    metadata = {
        "label": np.array([1, 0, 1, 0, 1, 0, 1], np.uint8),
        "objects": objects,
        "object_kind": np.repeat([[1, -1, -1, -1, -1, -1]], NUM_CLIPS, 0).astype(np.int8),
        "bayes_posterior_pixels": random.random((NUM_CLIPS, NUM_FRAMES)).astype(np.float32),
    }
    return ClipSplit(Path(), "test", {}, [clips], np.arange(NUM_CLIPS), metadata)


@pytest.fixture(scope="module")
def attention(model, split) -> np.ndarray:
    return attention_at_decision(model, split, DECISION_FRAME, CPU)


def test_attention_is_that_of_the_decision(model, split, attention):
    with torch.inference_mode():
        _, whole = model.forward_with_attention(frames_to_input(split.clips(np.arange(NUM_CLIPS))))
    for clip, frame in enumerate(DECISION_FRAME):
        assert np.allclose(attention[clip], whole[clip, frame - 1].numpy(), atol=1e-6)
        assert attention[clip, :frame].sum() == pytest.approx(1, abs=1e-5)
        assert not attention[clip, frame:].any(), "attention to what came after the decision"
    assert np.allclose(attention_at_decision(model, split, DECISION_FRAME, CPU, batch_size=2), attention, atol=1e-6)


def test_faithfulness_is_the_change_of_p_when_tokens_are_withheld(model, split, attention):
    shown = object_tokens(split.metadata["objects"], split.metadata["object_kind"])
    most, random = faithfulness_changes(model, split, DECISION_FRAME, attention, shown, CPU, seed=1, batch_size=3)
    clips = frames_to_input(split.clips(np.arange(NUM_CLIPS)))
    for clip, frame in enumerate(DECISION_FRAME):
        seen = (shown[clip, :frame] >= 0).sum()
        assert np.isfinite(most[clip]) == np.isfinite(random[clip]) == (seen >= 2 * NUM_REMOVED_TOKENS)
        if not np.isfinite(most[clip]):
            continue
        removed = torch.zeros(1, NUM_FRAMES, 64, dtype=torch.bool)
        for index in np.argsort(-attention[clip].ravel())[:NUM_REMOVED_TOKENS]:
            removed.view(-1)[index] = True
        assert not removed[0, frame:].any()
        with torch.inference_mode():
            whole, without = model(clips[clip : clip + 1]), model(clips[clip : clip + 1], removed=removed)
        assert most[clip] == pytest.approx(float((whole - without)[0, frame - 1].abs()), abs=1e-5)
    assert np.isnan(most[6]) and np.isfinite(most[:6]).sum() >= 4
    again = faithfulness_changes(model, split, DECISION_FRAME, attention, shown, CPU, seed=1, batch_size=3)
    assert np.array_equal(again, (most, random), equal_nan=True)
    other_most, other_random = faithfulness_changes(model, split, DECISION_FRAME, attention, shown, CPU, seed=2)
    assert np.allclose(other_most, most, atol=1e-6, equal_nan=True), "only the random tokens depend on the seed"
    assert not np.allclose(other_random, random, atol=1e-9, equal_nan=True)


# --- pictures ------------------------------------------------------------------------------------------------------


def decisions() -> Decisions:
    """Clips 1 and 4 wrong, the others right."""
    return Decisions(np.array([1, 1, 1, 0, 0, 0, 1]), DECISION_FRAME, np.full(NUM_CLIPS, 0.9))


@pytest.fixture(scope="module")
def occlusion(model, split) -> Occlusion:
    return occlusion_at_decision(model, split, DECISION_FRAME, CPU)


@pytest.fixture
def sample_of(split, attention, occlusion):
    """The sample of a clip, with a caption."""
    p = np.linspace(0, 1, NUM_CLIPS * NUM_FRAMES).reshape(NUM_CLIPS, NUM_FRAMES)
    caption = " ".join(["Withholding frame 2, in which the object is not visible, moves p most."] * 12)

    def made(clip: int) -> Sample:
        return build_sample(split, clip, decisions(), p, attention, occlusion.at(clip), caption)

    return made


def test_a_sample_holds_nothing_after_its_decision(split, sample_of):
    for clip, frame in enumerate(DECISION_FRAME):
        sample = sample_of(clip)
        parts = (sample.frames, sample.attention, sample.probabilities, sample.bayes_posterior, sample.objects)
        for part in (*parts, sample.regions, sample.withheld_frames):
            assert len(part) == frame
        assert np.array_equal(sample.frames, split.clips(np.array([clip]))[0, :frame])
        figure = sample_figure(sample)
        assert sum(len(axis.images) for axis in figure.axes) == 3 * frame  # as it is, with attention, with occlusion
    assert "transient, called persistent at frame 3 (WRONG)" in sample_of(1).title
    both = overview_figure([sample_of(clip) for clip in (0, 3)])
    assert sum(len(axis.images) for panel in both.subfigs for axis in panel.axes) == 3 * (1 + 4)


def boxes(figure: Figure) -> tuple[list[Bbox], list[Bbox]]:
    """Where the texts and the pictures of a figure lie when it is drawn, in px."""
    FigureCanvasAgg(figure).draw()
    of_axes = {
        text for axis in figure.findobj(Axes) for text in axis.findobj(Text) if text not in (*axis.texts, axis.title)
    }
    texts = [text for text in figure.findobj(Text) if text.get_text() and text not in of_axes]  # ticks are not drawn
    return [text.get_window_extent() for text in texts], [
        image.get_window_extent() for image in figure.findobj(AxesImage)
    ]


@pytest.mark.parametrize("clip", [0, 3, 5])
def test_no_text_lies_on_another_or_on_a_picture(sample_of, clip):
    for figure in (sample_figure(sample_of(clip)), overview_figure([sample_of(clip), sample_of(1), sample_of(2)])):
        texts, images = boxes(figure)
        assert len(texts) > 4 + DECISION_FRAME[clip] and images
        for number, text in enumerate(texts):
            assert figure.bbox.x0 <= text.x0 and text.x1 <= figure.bbox.x1, "cut off"
            assert figure.bbox.y0 <= text.y0 and text.y1 <= figure.bbox.y1, "cut off"
            for other in (*texts[number + 1 :], *images):
                assert not text.overlaps(other), (text, other)


def test_the_whole_caption_is_written_below(sample_of):
    sample = sample_of(3)
    written = [text.get_text() for text in sample_figure(sample).texts]
    assert any(text.replace("\n", " ") == sample.description for text in written)


def test_a_region_has_the_colour_of_what_it_spoke_for():
    frame = np.full((64, 64, 3), 90, np.uint8)
    regions = np.zeros((4, 4))
    regions[1, 3], regions[2, 0] = 0.2, -0.2
    shown = spoken(frame, regions, peak=0.2).astype(int)
    persistent, transient, elsewhere = shown[20, 60], shown[40, 4], shown[4, 4]
    assert persistent[2] > persistent[0] and transient[0] > transient[2], "blue, red"
    assert tuple(elsewhere) == (90, 90, 90)
    faint = spoken(frame, 0.1 * regions, peak=0.2).astype(int)
    assert np.abs(faint - 90).sum() < np.abs(shown - 90).sum()


def test_heat_is_hottest_where_attention_is():
    frame = np.full((64, 64, 3), 90, np.uint8)
    attention = np.zeros(64)
    attention[2 * 8 + 5] = 0.7
    hot = heat(frame, attention, peak=0.7).astype(int)
    brightest = np.unravel_index(hot.sum(2).argmax(), (64, 64))
    assert 16 <= brightest[0] < 24 and 40 <= brightest[1] < 48
    assert hot[50, 10].sum() < hot[20, 44].sum()
    cold = heat(frame, np.zeros(64), peak=0.7)
    assert len(np.unique(cold.reshape(-1, 3), axis=0)) == 1


def test_samples_are_distinct_and_of_both_kinds_and_verdicts():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200)
    decision = np.where(random.random(200) < 0.9, labels, 1 - labels)
    made = Decisions(decision, random.integers(1, 17, 200), np.full(200, 0.9))
    for count in (4, 7, 20):
        chosen = choose_samples(labels, made, count)
        assert len(chosen) == len(set(chosen.tolist())) == count
        assert set(labels[chosen]) == {0, 1}
        assert set((decision == labels)[chosen]) == {True, False}
    early = choose_samples(labels, made, 6, longest=4)
    assert (made.decision_frame[early] <= 4).all()
    assert len(choose_samples(labels[:3], Decisions(decision[:3], made.decision_frame[:3], np.ones(3)), 20)) == 3

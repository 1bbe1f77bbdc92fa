"""Pixels and evidence in one model: each may be withheld, streams are exact and causal, calibrations are kept apart."""

import dataclasses

import numpy as np
import pytest
import torch
from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.checkpoint import load_model, load_torch, save_model, save_torch
from early_persistence_detection.models.early_persistence_classifier import (
    ClassifierConfig,
    EarlyPersistenceClassifier,
    PersistenceHead,
)
from early_persistence_detection.models.extractors.magvit_tokenizer import TokenizerConfig
from early_persistence_detection.models.stream import MODALITIES, modality_of
from run_directory import InputError

NUM_FRAMES, NUM_EVIDENCE = 16, 5
CONFIG = ClassifierConfig(width=32, num_heads=4, state_width=24)
EXTRACTOR = TokenizerConfig(channels=(8, 16, 24))


def calibration(scale: float, shift: float) -> Calibration:
    return Calibration((scale,) * NUM_FRAMES, tuple(np.linspace(shift, shift + 0.4, NUM_FRAMES).tolist()), 0.9)


def fused_model() -> EarlyPersistenceClassifier:
    """Untrained, its outputs made to move with its inputs, and calibrated otherwise for each modality."""
    torch.manual_seed(0)
    model = EarlyPersistenceClassifier(EXTRACTOR, dataclasses.replace(CONFIG, num_evidence=NUM_EVIDENCE))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
        model.head.no_pixels.normal_()
    model.head.standardise_by(random_evidence(99, 50))
    for index, modality in enumerate(MODALITIES):
        model.set_calibration(calibration(1 + 0.5 * index, -0.3 * index), modality)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> EarlyPersistenceClassifier:
    return fused_model()


def random_clips(seed: int, batch: int) -> torch.Tensor:
    return torch.rand(batch, NUM_FRAMES, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def random_evidence(seed: int, batch: int) -> torch.Tensor:
    """Columns of very different scales; a third is absent."""
    random = torch.Generator().manual_seed(seed)
    scale = torch.tensor([0.1, 1.0, 3.0, 10.0, 100.0])
    values = torch.randn(batch, NUM_FRAMES, NUM_EVIDENCE, generator=random) * scale + 2 * scale
    return values.masked_fill(torch.rand(values.shape, generator=random) < 0.3, float("nan"))


def given(modality: str, seed: int, batch: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    clips = None if modality == "evidence" else random_clips(seed, batch)
    return clips, None if modality == "pixels" else random_evidence(seed, batch)


def at(values: torch.Tensor | None, age_index: int) -> torch.Tensor | None:
    return None if values is None else values[:, age_index]


def streamed(model, clips, evidence):
    state = model.initial_state(len(clips if clips is not None else evidence))
    outputs = []
    for index in range(NUM_FRAMES):
        p, state = model.step(at(clips, index), at(evidence, index), state)
        outputs.append(p)
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("modality", MODALITIES)
@torch.inference_mode()
def test_step_equals_forward_at_every_prefix(model, modality):
    clips, evidence = given(modality, 1, 3)
    p = model(clips, evidence=evidence)
    torch.testing.assert_close(streamed(model, clips, evidence), p, atol=1e-5, rtol=0)
    assert modality_of(clips, evidence) == modality and p.std() > 1e-3 and ((p > 0) & (p < 1)).all()


@pytest.mark.parametrize("modality", ["evidence", "both"])
@torch.inference_mode()
def test_later_evidence_leaves_earlier_outputs_bit_identical(model, modality):
    clips, evidence = given(modality, 2, 2)
    altered = evidence.clone()
    altered[:, 6:] = random_evidence(3, 2)[:, 6:]
    before, after = model(clips, evidence=evidence), model(clips, evidence=altered)
    assert torch.equal(before[:, :6], after[:, :6]) and not torch.equal(before[:, 6:], after[:, 6:])


@torch.inference_mode()
def test_withheld_pixels_are_really_absent(model, monkeypatch):
    """In training they are masked, in use the extractor is not even run: the same answer, whatever the pixels were."""
    evidence, codes = random_evidence(4, 3), model.extractor.encode(random_clips(4, 3))[0]
    alone, _ = model.head(None, evidence=evidence)
    for shown in (codes, -codes):
        masked, _ = model.head(shown, evidence=evidence, withheld=torch.tensor([True, False, True]))
        torch.testing.assert_close(masked[[0, 2]], alone[[0, 2]], atol=1e-6, rtol=0)
        torch.testing.assert_close(masked[1], model.head(shown, evidence=evidence)[0][1], atol=1e-6, rtol=0)
        assert not torch.allclose(masked[1], alone[1], atol=1e-3)
    state = model.initial_state(3)
    monkeypatch.setattr(model.extractor, "encode", None)
    expected = model(None, evidence=evidence)
    for index in range(NUM_FRAMES):
        p, state = model.step(None, evidence[:, index], state)
        torch.testing.assert_close(p, expected[:, index], atol=1e-6, rtol=0)
    assert state.keys.shape[1] == 0 and state.age.tolist() == [NUM_FRAMES] * 3


@torch.inference_mode()
def test_absent_evidence_counts_for_nothing_and_is_not_a_value(model):
    """All absent is as none given (but for the calibration); absent is neither zero nor the mean."""
    clips = random_clips(5, 2)
    absent = torch.full((2, NUM_FRAMES, NUM_EVIDENCE), float("nan"))
    codes = model.extractor.encode(clips)[0]
    assert torch.equal(model.head(codes)[0], model.head(codes, evidence=absent)[0])
    mean = model.head.evidence_mean.expand_as(absent)
    for value in (mean, torch.zeros_like(absent)):
        assert not torch.allclose(model.head(codes, evidence=value)[0], model.head(codes)[0], atol=1e-3)


def test_evidence_is_standardised_by_what_is_known_of_it():
    head = PersistenceHead(dataclasses.replace(CONFIG, num_evidence=3), 4)
    values = random_evidence(6, 40)[..., :3].clone()
    values[..., 1] = 0.3  # a constant tells nothing, and must not be divided by nothing
    values[..., 2] = float("nan")
    head.standardise_by(values)
    known = values[..., 0][torch.isfinite(values[..., 0])].double().numpy()
    np.testing.assert_allclose(head.evidence_mean, [known.mean(), 0.3, 0], rtol=1e-5)
    np.testing.assert_allclose(head.evidence_sd, [known.std(), 1, 1], rtol=1e-5)
    assert {"evidence_mean", "evidence_sd"} <= set(head.state_dict())


def test_without_evidence_the_model_is_what_it_was():
    """The same parameters from the same seed, with and without the branch; no branch, no new parameter."""
    torch.manual_seed(7)
    plain = EarlyPersistenceClassifier(EXTRACTOR, CONFIG)
    torch.manual_seed(7)
    fused = EarlyPersistenceClassifier(EXTRACTOR, dataclasses.replace(CONFIG, num_evidence=NUM_EVIDENCE))
    ours, theirs = fused.state_dict(), plain.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert {name.split(".")[1] for name in set(ours) - set(theirs)} == {
        "evidence", "evidence_summary", "evidence_logit", "evidence_mean", "evidence_sd", "no_pixels",
    }  # fmt: skip
    assert plain.modalities == ("pixels",) and fused.modalities == MODALITIES


@pytest.mark.parametrize("changed", MODALITIES)
@torch.inference_mode()
def test_each_modality_has_its_own_calibration(changed):
    model = fused_model()
    before = {modality: model(*given_to_forward(modality)) for modality in MODALITIES}
    model.set_calibration(calibration(2.5, 0.8), changed)
    for modality in MODALITIES:
        p = model(*given_to_forward(modality))
        assert torch.equal(p, before[modality]) == (modality != changed)
        torch.testing.assert_close(streamed(model, *given(modality, 8, 2)), p, atol=1e-5, rtol=0)
    assert model.calibration is model.calibrations["pixels"]


def given_to_forward(modality):
    clips, evidence = given(modality, 8, 2)
    return clips, None, evidence


@torch.inference_mode()
def test_a_checkpoint_keeps_every_calibration_and_one_of_format_4_is_converted(tmp_path):
    model = fused_model()
    save_model(tmp_path / "model.pt", model)
    again = load_model(tmp_path / "model.pt")
    assert again.calibrations == model.calibrations and again.config == model.config
    for modality in MODALITIES:
        assert torch.equal(again(*given_to_forward(modality)), model(*given_to_forward(modality)))
    value = load_torch(tmp_path / "model.pt")
    del value["calibrations"]["both"]
    save_torch(tmp_path / "lacking.pt", value)
    with pytest.raises(InputError, match=r"lacking\.pt holds no sound calibration"):
        load_model(tmp_path / "lacking.pt")

    torch.manual_seed(0)
    plain = EarlyPersistenceClassifier(EXTRACTOR, CONFIG).eval()
    plain.set_calibration(calibration(2.0, 0.1))
    save_model(tmp_path / "plain.pt", plain)
    value = load_torch(tmp_path / "plain.pt")
    sizes = {name: size for name, size in value["classifier"].items() if name != "num_evidence"}  # as it was written
    old = {**value, "format_version": 4, "classifier": sizes, "calibration": value["calibrations"]["pixels"]}
    del old["calibrations"]
    save_torch(tmp_path / "old.pt", old)
    converted = load_model(tmp_path / "old.pt")
    assert converted.calibrations == {"pixels": plain.calibration}
    assert torch.equal(converted(random_clips(9, 2)), plain(random_clips(9, 2)))


@torch.inference_mode()
def test_what_cannot_be_watched_is_refused(model):
    clips, evidence = random_clips(10, 2), random_evidence(10, 2)
    torch.manual_seed(0)
    plain = EarlyPersistenceClassifier(EXTRACTOR, CONFIG).eval()
    for nothing in (lambda: model(None), lambda: model.step(None, None, model.initial_state(2))):
        with pytest.raises(ValueError, match="neither"):
            nothing()
    for clip in (clips, None):
        with pytest.raises(ValueError, match="takes none"):
            plain(clip, evidence=evidence)
        with pytest.raises(ValueError, match="takes none"):
            plain.step(at(clip, 0), evidence[:, 0], plain.initial_state(2))
    with pytest.raises(ValueError, match="not by both"):
        plain.set_calibration(calibration(1, 0), "both")
    with pytest.raises(ValueError, match=r"evidence is \(2, 16, 4\), expected \(2, 16, 5\)"):
        model(clips, evidence=evidence[..., :4])
    _, blind = model.step(None, evidence[:, 0], model.initial_state(2))
    _, seeing = model.step(clips[:, 0], evidence[:, 0], model.initial_state(2))
    with pytest.raises(ValueError, match="from birth on or never"):
        model.step(clips[:, 1], evidence[:, 1], blind)
    with pytest.raises(ValueError, match="from birth on or never"):
        model.step(None, evidence[:, 1], seeing)
    for state, other in ((blind, seeing), (seeing, blind)):
        with pytest.raises(ValueError, match="cannot join"):
            state.append(other)
    for index in range(1, NUM_FRAMES):
        _, blind = model.step(None, evidence[:, index], blind)
    with pytest.raises(ValueError, match="16 frames old"):
        model.step(None, evidence[:, 0], blind)


@pytest.mark.parametrize("modality", ["evidence", "both"])
@torch.inference_mode()
def test_newborns_join_and_tracks_leave(model, modality):
    """Each goes on as if it were alone."""
    (first_clips, first), (second_clips, second) = given(modality, 11, 2), given(modality, 12, 3)
    expected = model(first_clips, evidence=first), model(second_clips, evidence=second)
    state = model.initial_state(2)
    for index in range(3):
        _, state = model.step(at(first_clips, index), first[:, index], state)
    state = state.append(model.initial_state(3))

    def together(age_index, rows):
        clips = None
        if first_clips is not None:
            clips = torch.cat([first_clips[:, 3 + age_index], second_clips[:, age_index]])[rows]
        return clips, torch.cat([first[:, 3 + age_index], second[:, age_index]])[rows]

    p, state = model.step(*together(0, [0, 1, 2, 3, 4]), state)
    torch.testing.assert_close(p, torch.cat([expected[0][:, 3], expected[1][:, 0]]), atol=1e-5, rtol=0)
    state = state.select(torch.tensor([4, 0]))
    p, state = model.step(*together(1, [4, 0]), state)
    torch.testing.assert_close(p, torch.stack([expected[1][2, 1], expected[0][0, 4]]), atol=1e-5, rtol=0)
    assert state.age.tolist() == [2, 5]

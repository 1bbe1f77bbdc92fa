"""Platt scaling per age, the choice of the threshold, and the losses and checks around them."""

import numpy as np
import pytest
import torch
from early_persistence_detection import metrics
from early_persistence_detection.evaluation.comparisons.check_leakage import MAX_STANDARD_ERRORS, excess_over_bayes
from early_persistence_detection.models.calibration_fitting import THRESHOLDS, choose_threshold, fit_platt
from early_persistence_detection.models.compute_gating import decide
from early_persistence_detection.training.classifier_training import attention_loss, persistence_loss
from hypothesis import given, settings
from hypothesis import strategies as st
from persistence_augmented_dataset.synthetic.bayes import get_preset, posterior
from scipy.special import expit, logit


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.3, 3), shift=st.floats(-1, 1))
def test_platt_scaling_recovers_what_was_distorted(seed, scale, shift):
    random = np.random.default_rng(seed)
    true_logits = random.normal(0, 1.5, (8000, 2))
    labels = (random.random(8000) < expit(true_logits[:, 0])).astype(float)
    fitted_scale, fitted_shift = fit_platt((true_logits - shift) / scale, labels)
    assert fitted_scale[0] == pytest.approx(scale, rel=0.15)
    assert fitted_shift[0] == pytest.approx(shift, abs=0.15)
    # the second age's logits say nothing about the labels: no confidence may be left
    assert np.abs(fitted_scale[1] * (true_logits[:, 1] - shift) / scale + fitted_shift[1]).max() < 1.0


def test_platt_scaling_stays_finite_on_separable_classes():
    labels = np.repeat([0.0, 1.0], 50)
    scale, shift = fit_platt(np.where(labels > 0, 4.0, -4.0)[:, None], labels)
    assert np.isfinite(scale).all() and np.isfinite(shift).all() and 1 <= scale[0] < 20


def tracks(preset_name: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and exact posteriors of simulated tracks, without pixels."""
    preset, random = get_preset(preset_name), np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    lived = random.choice(np.arange(1, len(preset.duration_pmf) + 1), count, p=preset.duration_pmf)
    age = np.arange(16)
    visible = (age < np.where(labels == 1, 16, lived)[:, None]) & (random.random((count, 16)) >= preset.p_miss)
    visible[:, 0] = True
    cue = random.normal((labels[:, None] - 0.5) * preset.cue_strength, 1.0, (count, 16))
    return labels, posterior(visible, np.where(visible, cue, np.nan), preset)


def test_the_chosen_threshold_is_the_cheapest_of_all():
    labels, p = tracks("standard", 4000, 1)
    threshold, tried = choose_threshold(p, labels, 0.95)
    costs = {}
    for candidate in THRESHOLDS:
        decisions = decide(p, candidate)
        costs[candidate] = 0.95 * np.mean(decisions.decision != labels) + 0.05 * decisions.decision_frame.mean() / 16
    assert costs[threshold] == pytest.approx(min(costs.values())) and len(tried) == len(THRESHOLDS)
    # patience is worth more when errors weigh more
    assert choose_threshold(p, labels, 0.5)[0] < threshold


def test_leak_check_passes_the_exact_posterior_and_catches_a_peek_into_the_future():
    labels, p = tracks("blind", 4000, 2)
    honest = excess_over_bayes(p, labels, p)
    assert all(figures["z"] <= MAX_STANDARD_ERRORS for figures in honest.values())
    assert honest["1"]["bayes_accuracy"] == pytest.approx(0.5) and honest["3"]["bayes_accuracy"] == pytest.approx(
        0.8, abs=0.02
    )
    peeking = np.concatenate([p[:, 1:], p[:, -1:]], axis=1)  # every answer one frame too early
    leaked = excess_over_bayes(peeking, labels, p)
    assert max(figures["z"] for figures in leaked.values()) > MAX_STANDARD_ERRORS
    # copies of a clip in its scene are no further evidence
    copies = excess_over_bayes(*(np.repeat(part, 4, axis=0) for part in (peeking, labels, p)), np.arange(16_000) // 4)
    for age, figures in leaked.items():
        assert copies[age] == pytest.approx(figures)


def test_persistence_loss_weighs_early_ages_more():
    labels = torch.tensor([1.0])
    wrong_early, wrong_late = torch.full((1, 16), 5.0), torch.full((1, 16), 5.0)
    wrong_early[0, 0], wrong_late[0, 15] = -5.0, -5.0
    assert persistence_loss(wrong_early, labels) > persistence_loss(wrong_late, labels) > 0
    assert float(persistence_loss(torch.zeros(1, 16), labels)) == pytest.approx(np.log(2), rel=1e-5)


def test_attention_loss_is_minus_the_log_of_the_share_of_density():
    attention = torch.zeros(1, 1, 2, 2, 4)  # one clip, one head, two queries, two frames, four tokens
    attention[0, 0, 0, 0] = torch.tensor([0.6, 0.0, 0.4, 0.0])
    attention[0, 0, 1, 0] = torch.tensor([0.3, 0.3, 0.2, 0.0])
    attention[0, 0, 1, 1] = torch.tensor([0.0, 0.0, 0.2, 0.0])
    shown = torch.full((1, 2, 4), -1)
    shown[0, 0, :2], shown[0, 0, 2], shown[0, 1, 2] = 1, 0, 0
    first = 0.3 / (0.3 + 0.4)  # two persistent tokens share 0.6, one transient holds 0.4
    second = 0.3 / (0.3 + 0.2)  # 0.6 over two tokens, 0.4 over two
    expected = -(np.log(first) + np.log(second)) / 2
    assert float(attention_loss(attention, shown)) == pytest.approx(expected, rel=1e-5)
    assert float(attention_loss(attention, torch.full((1, 2, 4), 1))) == 0  # nothing to compare


def test_calibrated_answers_are_calibrated():
    labels, p = tracks("standard", 20000, 3)
    overconfident = 2.5 * logit(np.clip(p, 1e-6, 1 - 1e-6)) + 0.7
    scale, shift = fit_platt(overconfident[:10000], labels[:10000].astype(float))
    fixed = expit(scale * overconfident[10000:] + shift)
    for age_index in (0, 1, 2):
        before = metrics.expected_calibration_error(expit(overconfident[10000:, age_index]), labels[10000:])
        after = metrics.expected_calibration_error(fixed[:, age_index], labels[10000:])
        assert after < 0.03 < before


def test_an_age_that_says_nothing_is_left_without_confidence():
    """However large its logits are."""
    random = np.random.default_rng(4)
    labels = random.integers(0, 2, 4000).astype(float)
    logits = random.normal(0, 20, (4000, 1))
    scale, shift = fit_platt(logits, labels)
    assert np.abs(expit(scale * logits + shift) - 0.5).max() < 0.15  # at logits of 70

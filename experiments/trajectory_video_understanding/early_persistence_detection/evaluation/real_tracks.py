"""How decisions on real tracks fare, beside the rule that trackers use: confirm a track after its first few hits.

Each target is a question of its own (`track_labels`), judged on the same tracks for every rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from persistence_augmented_dataset.real.track_labels import outlives_clip, real_or_clutter
from video_tracks.boxes import BoxTable
from video_tracks.track import Track, detected_frames

from early_persistence_detection import metrics
from early_persistence_detection.models.compute_gating import Decisions, confirm_hits

CONFIRMATION_HITS = (2, 3)


def score_rule(decisions: Decisions, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy, and precision and recall of "persistent", with Wilson intervals; mean decision frame, bootstrapped.

    `specificity` is the share of transients that are called so, `balanced_accuracy` the mean of it and recall: it is
    0.5 for every constant answer, however rare one kind is.
    """
    said, true = decisions.decision == 1, labels == 1
    recall, specificity = metrics.recall(said, true), metrics.recall(~said, ~true)
    return {
        "accuracy": metrics.share(int((said == true).sum()), len(labels)),
        "balanced_accuracy": (recall["value"] + specificity["value"]) / 2 if recall and specificity else None,
        "precision": metrics.precision(said, true),
        "recall": recall,
        "specificity": specificity,
        "mean_decision_frame": metrics.mean_decision_frame(decisions.decision_frame).as_dict(),
    }


def compare_rules(
    tracks: Sequence[Track],
    num_video_frames: int,
    truth: BoxTable | None,
    models: Mapping[str, Callable[[list[int]], Decisions]],
) -> dict[str, Any]:
    """Score every rule on each target. Tracks whose clip the video cuts off, and ambiguous ones, do not count.

    `models` maps a rule's name to its decisions by track id. `confirm_2_hits` calls a track persistent when it is
    detected in each of its first 2 frames; `always_persistent` shows what a constant answer is worth.
    """
    targets = {"outlives_clip": outlives_clip(tracks, num_video_frames)}
    if truth is not None:
        targets["real_or_clutter"] = real_or_clutter(tracks, truth)
    whole = targets["outlives_clip"] >= 0
    result = {}
    for name, labels in targets.items():
        rows = np.flatnonzero(whole & (labels >= 0))
        result[name] = {
            "num_tracks": len(rows),
            "num_persistent": int((labels[rows] == 1).sum()),
            "num_transient": int((labels[rows] == 0).sum()),
            "num_left_out": len(tracks) - len(rows),
            "rules": {},
        }
        if len(rows) == 0:
            continue
        judged = [tracks[row] for row in rows.tolist()]
        seen = detected_frames(judged)
        rules = {rule: decide([track.track_id for track in judged]) for rule, decide in models.items()}
        rules |= {f"confirm_{hits}_hits": confirm_hits(seen, hits, hits) for hits in CONFIRMATION_HITS}
        ones = np.ones(len(rows), np.int64)
        rules["always_persistent"] = Decisions(ones, ones, ones.astype(np.float64))
        result[name]["rules"] = {rule: score_rule(decisions, labels[rows]) for rule, decisions in rules.items()}
    return result


def as_text(comparison: dict[str, Any]) -> str:
    """The comparison as lines for a terminal."""
    lines = []
    for target, figures in comparison.items():
        lines.append(
            f"{target}: {figures['num_tracks']} tracks, {figures['num_persistent']} persistent, "
            f"{figures['num_transient']} transient ({figures['num_left_out']} not judged)"
        )
        if figures["rules"]:
            lines.append(f"  {'':22}{'accuracy':22}{'balanced':10}{'precision':22}{'recall':22}mean decision frame")
        for rule, scored in figures["rules"].items():
            accuracy, precision, recall = (_cell(scored[name]) for name in ("accuracy", "precision", "recall"))
            balanced = scored["balanced_accuracy"]
            balance = "-" if balanced is None else f"{balanced:.3f}"
            frame = scored["mean_decision_frame"]["value"]
            lines.append(f"  {rule:22}{accuracy:22}{balance:10}{precision:22}{recall:22}{frame:.2f}")
    return "\n".join(lines)


def _cell(value: dict[str, float] | None) -> str:
    return "-" if value is None else f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"

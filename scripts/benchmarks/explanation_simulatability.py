"""Does a text tell a reader something that the decision alone does not? A second predictor is given a text and asked
what would have been decided had frame k been withheld; what really would have been is known, since it was run.

The predictor reads words and nothing else: a linear model on counts of words and pairs of words, in which "frame k" is
written as the frame in question and other frames as others, and numbers in steps of a tenth. It learns on the tracks of
some footage and is asked about those of other footage. Beside it stand the same predictor without the text, which knows
k and how the decision fell, and with the text of another track that was decided alike.

Sentences that tell what came out of withholding a frame are left out of the texts: they would hold the answer itself.

Source of the measure: Hase and Bansal, Evaluating explainable AI: which algorithmic explanations help users predict
model behavior?, 2020.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

NUM_FOLDS = 5
NUM_RESAMPLES = 1000
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclasses.dataclass(frozen=True)
class Asked:
    """One question: what of track `track` had frame `age` been withheld?"""

    track: int  # index of the track, over all footage
    footage: str
    age: int  # k, from 2
    verdict: str
    decision_frame: int
    text: str
    changes: bool  # whether the decision was another or none, really


def as_words(asked: Asked, text: str) -> str:
    """The text as the predictor reads it, in front of it what everybody is told."""
    told = f"known_verdict_{asked.verdict} known_frames_{min(asked.decision_frame, 8)} known_k_{min(asked.age, 8)}"
    told += " known_k_is_last" if asked.age == asked.decision_frame else ""

    def replaced(match: re.Match[str]) -> str:
        number = float(match.group())
        if "." in match.group() or number > 16:
            share = number / 100 if number > 1 else number
            return f"around_{min(share, 9.9):.1f}".replace(".", "_")
        return "frame_in_question" if int(number) == asked.age else "other_number"

    return f"{told} {NUMBER.sub(replaced, text)}"


def simulatability(questions: Sequence[Asked], seed: int = 0) -> dict[str, object]:
    """Brier scores of the predictor with the text, without it and with another's, with 95 % intervals of the
    differences over tracks (bootstrap). Raises ValueError where there are fewer than NUM_FOLDS footages.
    """
    footages = sorted({asked.footage for asked in questions})
    if len(footages) < NUM_FOLDS:
        raise ValueError(f"{len(footages)} footages, expected {NUM_FOLDS} or more")
    rng = np.random.default_rng(seed)
    fold = dict(zip(footages, rng.permutation(len(footages)) % NUM_FOLDS, strict=True))
    folds = np.array([fold[asked.footage] for asked in questions])
    truth = np.array([asked.changes for asked in questions], np.float64)
    others = _shuffled(questions, rng)
    texts = {
        "with_text": [as_words(asked, asked.text) for asked in questions],
        "without_text": [as_words(asked, "") for asked in questions],
        "with_the_text_of_another": [as_words(asked, text) for asked, text in zip(questions, others, strict=True)],
    }
    losses = {}
    figures: dict[str, object] = {
        "num_questions": len(questions),
        "num_tracks": len({asked.track for asked in questions}),
        "num_footages": len(footages),
        "share_that_changes": float(truth.mean()),
    }
    for name, documents in texts.items():
        p = _predicted(documents, truth, folds)
        losses[name] = (p - truth) ** 2
        figures[name] = {
            "brier": float(losses[name].mean()),
            "accuracy": float(((p >= 0.5) == truth).mean()),
        }
    tracks = np.array([asked.track for asked in questions])
    for name in ("without_text", "with_the_text_of_another"):
        figures[f"brier_saved_against_{name}"] = _interval(losses[name] - losses["with_text"], tracks, rng)
    return figures


def _shuffled(questions: Sequence[Asked], rng: np.random.Generator) -> list[str]:
    """For each question the text of another track of the same verdict and decision frame where there is one."""
    by_kind: dict[tuple[str, int], dict[int, str]] = {}
    for asked in questions:
        by_kind.setdefault((asked.verdict, asked.decision_frame), {})[asked.track] = asked.text
    texts = []
    for asked in questions:
        alike = [text for track, text in by_kind[asked.verdict, asked.decision_frame].items() if track != asked.track]
        texts.append(alike[int(rng.integers(len(alike)))] if alike else "")
    return texts


def _predicted(documents: Sequence[str], truth: np.ndarray, folds: np.ndarray) -> np.ndarray:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    p = np.zeros(len(truth))
    for fold in range(NUM_FOLDS):
        learn, judge = np.flatnonzero(folds != fold).tolist(), np.flatnonzero(folds == fold).tolist()
        words = CountVectorizer(ngram_range=(1, 2), binary=True, min_df=5, token_pattern=r"\S+")
        predictor = make_pipeline(words, LogisticRegression(C=0.1, max_iter=2000))
        predictor.fit([documents[index] for index in learn], truth[learn])
        p[judge] = predictor.predict_proba([documents[index] for index in judge])[:, 1]
    return p


def _interval(differences: np.ndarray, tracks: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Mean and 95 % interval over tracks."""
    _, index = np.unique(tracks, return_inverse=True)
    total, count = np.bincount(index, differences), np.bincount(index)
    drawn = rng.integers(len(total), size=(NUM_RESAMPLES, len(total)))
    means = total[drawn].sum(1) / count[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": float(differences.mean()), "low": float(low), "high": float(high)}

"""Records in, explanations out: what a folder of results says of its decisions, in words and pictures.

explanations.json holds the texts with the facts that each sentence states, .md the same to read, .html with pictures,
p over age, what moved it and what would have been. All three are made of the same texts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from run_directory import SCHEMA_VERSION, InputError, progress, write_json, write_text

from early_persistence_detection.explanation import wording
from early_persistence_detection.explanation.decision_evidence import (
    PICTURES,
    RECORDS,
    DecisionEvidence,
    Fact,
    read_records,
)
from early_persistence_detection.explanation.language_model import LanguageModel
from early_persistence_detection.explanation.page import article, html_page
from early_persistence_detection.explanation.rewording import reword
from early_persistence_detection.explanation.wording import (
    Sentence,
    as_html,
    change_in_words,
    markdown,
    plain,
    video_summary,
)

OUTPUTS = ("explanations.json", "explanations.md", "explanations.html")
EXAMPLES_OF_KIND = 2


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What is said of one decision."""

    record: DecisionEvidence
    said: tuple[Sentence, ...]
    level: int  # 0 ours, 1 chosen and ordered by a language model, 2 rephrased by it
    note: str = ""  # why it is not of the level that was asked for

    @property
    def strings(self) -> dict[str, str]:
        """The user's own, by placeholder."""
        given = self.record.get("class")
        return {} if given is None else {"class": str(given.value)}

    def as_text(self) -> str:
        """All sentences, on one line."""
        return " ".join(sentence["text"] for sentence in self.sentences())

    def sentences(self) -> list[dict[str, Any]]:
        """The `text` of each sentence, and the ids of the `facts` that it states."""
        return [{"text": plain(each.text, self.strings), "facts": sorted(each.fact_ids)} for each in self.said]


Explain = Callable[[DecisionEvidence], Explanation]


def explain_plainly(record: DecisionEvidence, length: str = "paragraph") -> Explanation:
    """Level 0: no language model. `length` is of `wording.LENGTHS`."""
    return Explanation(record, tuple(wording.sentences(record, length)), 0)


def explain_with(model: LanguageModel, level: int, length: str, record: DecisionEvidence) -> Explanation:
    """Level 1 or 2, with a language model's help; level 0 with a note where that is of no use."""
    reworded = reword(record, level, model, length)
    return Explanation(record, reworded.sentences, reworded.level, reworded.note)


def records_of(directory: Path) -> list[DecisionEvidence]:
    """Those that detect.py --explain left in a folder of results. Raises InputError where there are none."""
    path = directory / RECORDS
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"no evidence of decisions in {path} ({error}); make it with detect.py --explain") from None
    return read_records(text, str(path))


def write_explanations(
    directory: Path,
    output: Path | None = None,
    track_ids: Collection[int] = (),
    explain: Explain = explain_plainly,
    judged_by: str | None = None,
    labels: Mapping[int, int] | None = None,
    made_with: Mapping[str, Any] | None = None,
    is_slow: bool = False,
) -> list[Explanation]:
    """Explain the decisions whose evidence lies in `directory`, into OUTPUTS of `output` (default: the same folder).

    `track_ids`: only these. `labels`, 1 or 0 by track and judged by that target, choose which are shown as examples of
    right and wrong (None: those that an earlier explanation of the folder chose); no text knows them.
    `is_slow`: show the progress. Raises InputError where there is no evidence, and for a track that has none.
    """
    output = directory if output is None else output
    records = records_of(directory)
    missing = set(track_ids) - {record.track_id for record in records}
    if missing:
        raise InputError(f"track {min(missing)} was not decided in {directory}; decisions.csv lists those that were")
    if track_ids:
        records = [record for record in records if record.track_id in set(track_ids)]
    with contextlib.ExitStack() as shown:
        waiting = shown.enter_context(progress(records, len(records), "explaining", "tracks")) if is_slow else records
        explanations = [explain(record) for record in waiting]
    folder = Path(os.path.relpath(directory, output))
    pictures = {
        record.track_id: (folder / PICTURES / f"{record.track_id}.png").as_posix()
        for record in records
        if (directory / PICTURES / f"{record.track_id}.png").is_file()
    }
    summary = video_summary(records)
    if labels is None:
        judged_by, chosen = _chosen_before(directory, records)
    else:
        chosen = examples(records, labels)
    write_json(
        output / OUTPUTS[0],
        {
            "stage": "explain",
            "schema_version": SCHEMA_VERSION,
            "summary": plain(summary, {}),
            "judged_by": judged_by,
            "examples": chosen,
            "tracks": [_as_dict(each, pictures.get(each.record.track_id)) for each in explanations],
            "provenance": dict(made_with or {}),
        },
    )
    write_text(output / OUTPUTS[1], _markdown(summary, explanations, pictures))
    write_text(output / OUTPUTS[2], _html(summary, explanations, pictures))
    return explanations


def examples(records: Sequence[DecisionEvidence], labels: Mapping[int, int]) -> dict[str, list[int]]:
    """Tracks to show: two that were right, two that were wrong, and the two that came nearest to the other verdict or
    to none.
    """
    right: list[int] = []
    wrong: list[int] = []
    for record in records:
        label = labels.get(record.track_id)
        if label is not None:
            (right if (record.verdict == "persistent") == bool(label) else wrong).append(record.track_id)
    # of either verdict, where there are
    by_id = {record.track_id: record for record in records}
    kinds = ("persistent", "transient")
    of_kind = [next((each for each in right if by_id[each].verdict == kind), None) for kind in kinds]
    chosen = [each for each in of_kind if each is not None]
    chosen += [each for each in right if each not in chosen]
    close = sorted(records, key=lambda record: abs(record.probability - 0.5))
    return {
        "right": chosen[:EXAMPLES_OF_KIND],
        "wrong": wrong[:EXAMPLES_OF_KIND],
        "close": [record.track_id for record in close[:EXAMPLES_OF_KIND]],
    }


def _chosen_before(directory: Path, records: Sequence[DecisionEvidence]) -> tuple[str | None, dict[str, list[int]]]:
    """By which target, and the examples among `records`, of the explanations that lie there."""
    chosen = examples(records, {})
    try:
        before = json.loads((directory / OUTPUTS[0]).read_text(encoding="utf-8"))
        judged_by = before["judged_by"]
        for kind in ("right", "wrong"):
            listed = before["examples"][kind]
            chosen[kind] = [record.track_id for record in records if record.track_id in listed]
    except (OSError, ValueError, KeyError, TypeError):
        return None, chosen
    return judged_by, chosen


def _as_dict(explanation: Explanation, picture: str | None) -> dict[str, Any]:
    record = explanation.record
    return {
        "track_id": record.track_id,
        "frame": record.frame_index + 1,
        "verdict": record.verdict,
        "decision_frame": record.decision_frame,
        "probability": record.probability,
        "decisive": record.decisive,
        "level": explanation.level,
        "note": explanation.note,
        "text": explanation.as_text(),
        "sentences": explanation.sentences(),
        "picture": picture,
    }


def _markdown(summary: str, explanations: Sequence[Explanation], pictures: Mapping[int, str]) -> str:
    lines = ["# Why each track was decided so", "", markdown(summary, {}), ""]
    for each in explanations:
        record = each.record
        lines += [f"## Track {record.track_id}: {record.verdict}", ""]
        lines += [" ".join(markdown(one.text, each.strings) for one in each.said), ""]
        if record.track_id in pictures:
            shown = f"track {record.track_id} up to its decision"
            lines += [f"![{shown}]({pictures[record.track_id]})", ""]
        if each.note:
            lines += [f"*{markdown(each.note, {})}*", ""]
    return "\n".join(lines)


def _html(summary: str, explanations: Sequence[Explanation], pictures: Mapping[int, str]) -> str:
    articles = []
    for each in explanations:
        record = each.record
        text = " ".join(as_html(one.text, each.strings) for one in each.said)
        articles.append(article(record, text, _rows(record), pictures.get(record.track_id), each.note))
    return html_page("Why each track was decided so", f"<p>{as_html(summary, {})}</p>", articles)


def _rows(record: DecisionEvidence) -> list[tuple[str, Fact]]:
    """Counterfactuals, those that do most first."""
    facts = sorted(record.of_kind("counterfactual"), key=lambda fact: (fact.effect == "same", -(fact.shift or 0.0)))
    return [(change_in_words(fact), fact) for fact in facts]

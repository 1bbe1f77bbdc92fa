"""Records in, explanations out: what explain_tracks.py does of a folder of results.

explanations.json holds the texts with the facts that each sentence states, .md the same to read, .html with the
pictures, p over age, what moved it and what would have been. The pages are made of the same texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from run_directory import InputError, write_json, write_text

from early_persistence_detection.explanation.decision_evidence import DecisionEvidence, read_records
from early_persistence_detection.explanation.page import html_page
from early_persistence_detection.explanation.wording import Sentence, as_html, as_markdown, as_plain, sentences, video_summary

RECORDS, PICTURES = "decision_evidence.jsonl", "decision_pictures"
OUTPUTS = ("explanations.json", "explanations.md", "explanations.html")

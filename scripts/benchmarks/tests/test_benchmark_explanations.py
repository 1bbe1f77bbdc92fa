"""Lies are lies, by the facts; and the benchmark counts what a checker lets pass."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import random
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from early_persistence_detection.explanation.decision_evidence import RECORDS, write_records
from early_persistence_detection.explanation.language_model import LanguageModelError
from early_persistence_detection.explanation.tests.made_records import clutter_record, made_record
from early_persistence_detection.explanation.wording import sentences
from run_directory.tests.script_runs import run_script

FOLDER = Path(__file__).parents[1]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("explanation_lies")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("benchmark_explanations")


def test_lies_are_of_every_kind_and_none_is_what_we_say(made):
    rng = random.Random(0)
    kinds: Counter[str] = Counter()
    for seed in range(60):
        record = made_record(seed)
        said = made.said_of(record, rng)
        assert {each.sentence.fact_ids for each in said} == {each.fact_ids for each in sentences(record)}
        texts = {each.sentence.text for each in said} | {each.text for each in sentences(record)}
        for each in said:
            assert each.with_slots() == each.sentence.text
            for kind, text in made.lies(each, rng):
                kinds[kind] += 1
                assert text not in texts
    assert set(kinds) == set(made.KINDS) and min(kinds.values()) > 300


def test_a_change_that_happens_to_be_true_is_no_lie(made):
    """Of the frames in which it was missed both decided, had both done the same; a lie names neither of them."""
    record = clutter_record()
    lies = {
        text
        for seed in range(40)
        for each in made.said_of(record, random.Random(seed))
        for _, text in made.lies(each, random.Random(seed))
    }
    assert any("because it was missed in frame 2" in text for text in lies)
    assert any(
        "because it was missed in frame 4: had it been seen in frame 4, it would have been called real" in text
        for text in lies
    )
    assert not any(
        "because it was missed in frame 4: had it been seen in frame 4, it would not" in text for text in lies
    )
    assert not any("The chance that it is real stood at 4 %" in text for text in lies)


def test_the_benchmark_counts(benchmark, tmp_path):
    (tmp_path / RECORDS).write_text(write_records(made_record(seed) for seed in range(40)))
    arguments = ("--results", tmp_path, "--output", tmp_path / "out.json", "--num_lies", 60, "--num_paraphrases", 100)
    result = run_script(benchmark.main, *arguments)
    assert result.returncode == 0, result.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["level_0"]["unsupported_claims"]["count"] == 0 and told["level_0"]["unsupported_claims"]["of"] > 500
    assert told["level_0"]["decisive_first"]["share"] == 1
    assert {kind: own["of"] for kind, own in told["lies"]["by_kind"].items()} == dict.fromkeys(
        told["lies"]["by_kind"], 60
    )
    assert told["lies"]["all"]["share"] >= 0.995
    assert all(own["rejected"]["share"] <= 0.05 for own in told["paraphrases"].values())
    assert told["injections"]["reached"]["count"] == 0 and told["injections"]["reached"]["of"] >= 200


def test_a_checker_that_lets_all_pass_is_found_out(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "check", lambda text, record: [])
    told = benchmark.lies_caught([made_record(seed) for seed in range(5)], 20, 0)
    assert told["all"]["count"] == 0 and len(told["passed"]) == benchmark.SHOWN


def test_an_injection_that_reaches_a_prompt_is_found_out(benchmark, monkeypatch):
    told = benchmark.injections([clutter_record()], 0)
    assert told["reached"]["count"] == 0
    monkeypatch.setattr(benchmark, "reword", functools.partial(_leaky, benchmark.reword))
    told = benchmark.injections([clutter_record()], 0)
    assert told["reached"]["count"] == told["reached"]["of"]


def _leaky(reword, record, level, model, length="paragraph"):
    with contextlib.suppress(LanguageModelError):
        model.answer([{"role": "user", "content": str(record["class"].value)}])
    return reword(record, level, model, length)

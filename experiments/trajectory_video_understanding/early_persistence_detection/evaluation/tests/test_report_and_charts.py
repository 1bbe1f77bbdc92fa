"""The report and the charts on odd input: what files hold stays text, what is missing is named, no path leaks in."""

import numpy as np
import pytest
from early_persistence_detection.evaluation.analyze_efficiency import compute_chart, statistics
from early_persistence_detection.evaluation.generate_report import criterion
from early_persistence_detection.evaluation.report_text import finalize, interval, number, render_html, verdict
from early_persistence_detection.evaluation.result_files import Fields
from markdown_it import MarkdownIt
from run_directory import InputError


@pytest.mark.parametrize(
    "hostile",
    ["![x](/etc/passwd)", "[x](https://example.org)", "<script>alert(1)</script>", "a|b", "**bold**", "`code`", "a\nb"],
)
def test_what_a_file_holds_stays_text(hostile):
    row = f"| name | {finalize(hostile)} |\n"
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render("| a | b |\n|---|---|\n" + row)
    assert html.count("<td>") == 2
    assert not any(tag in html for tag in ("<img", "<a ", "<script", "<strong", "<code", "<br"))


def test_numbers_read_well():
    assert [number(value) for value in (0.98712, 12.345, 7, None)] == ["0.987", "12.3", "7", "-"]
    assert interval({"value": 0.5, "low": 0.4, "high": None}) == "0.500 [0.400, -]"
    assert finalize(None) == "-"


def test_what_was_not_measured_is_not_called_a_failure():
    assert verdict(criterion("ratio", None, ">", 2.0)) == "not measured"
    assert verdict(criterion("ratio", 1.0, ">", 2.0)) == "**no**"


def test_a_missing_field_names_file_and_script(tmp_path):
    value = Fields({"a": {"b": 1}, "c": [{"d": 2}]}, tmp_path / "x.json", "x.py")
    assert value["a"]["b"] == 1 and value["c"][0]["d"] == 2
    with pytest.raises(InputError, match=r"x\.json has no field 'z'; make it again with x\.py"):
        value["c"][0]["z"]


def test_only_pictures_of_the_run_are_embedded(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "results" / "notes.txt").write_text("secret")
    for path in ("../secret.png", str(tmp_path / "secret.png"), "notes.txt", "missing.png"):
        with pytest.raises(InputError, match="missing"):
            render_html(f"![picture]({path})", tmp_path / "results")


def test_the_chart_shows_the_full_cost_of_ages_that_nobody_reached():
    found = statistics(
        {
            "decision_frames": [1, 2, 2], "labels": [1, 0, 0], "num_frames": 4, "early_stop_frame": 4, "num_clips": 3,
            "flops_per_step_at_age": [1e6, 2e6, 3e6, 4e6], "flops_spent_gated": 7e6, "flops_per_clip_full": 1e7,
            "compute_savings": 0.3, "wallclock": None,
        }
    )  # fmt: skip
    np.testing.assert_allclose(found["watched_fraction_at_age"], [1, 2 / 3, 0, 0])
    full, spent = compute_chart(found).axes[0].containers
    np.testing.assert_allclose([bar.get_height() for bar in full], [1, 2, 3, 4])
    np.testing.assert_allclose([bar.get_height() for bar in spent], [1, 4 / 3, 0, 0])

"""One HTML page of explanations: no script from elsewhere, pictures beside it, legible on a phone.

Everything that is written into it is escaped; charts are inline SVG.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from early_persistence_detection.explanation.decision_evidence import DecisionEvidence, Fact

WIDTH, HEIGHT, MARGIN = 340, 150, 28
MOST_ROWS = 8
MOVES_MUCH = 0.1  # of p: a hidden region that moves it so much is shown in full colour

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --persistent: #14854f; --transient: #b3402e; }
@media (prefers-color-scheme: dark) { :root { --persistent: #4fd08d; --transient: #ff8b78; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 0; }
article { border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: 1rem 0;
  content-visibility: auto; contain-intrinsic-size: auto 28rem; }
article.persistent { border-left: 6px solid var(--persistent); }
article.transient { border-left: 6px solid var(--transient); }
.strip { overflow-x: auto; margin: .5rem 0; } .strip img { display: block; height: 114px; background: #fff; }
span.persistent { color: var(--persistent); } span.transient { color: var(--transient); }
p.soft { margin: 0 0 .8rem; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; flex: 1 1 280px; max-width: 30rem; }
figcaption, .soft { color: GrayText; font-size: .85rem; }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 11px; fill: currentColor; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; margin-top: .5rem; }
th, td { text-align: left; padding: .2rem .7rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr.changes td { font-weight: 600; }
fieldset { border: 1px solid var(--line); border-radius: 8px; }
label { margin-right: 1rem; white-space: nowrap; }
body:has(#persistent:not(:checked)) article.persistent, body:has(#transient:not(:checked)) article.transient,
body:has(#close:checked) article:not(.close) { display: none; }
"""


def html_page(title: str, summary: str, articles: Sequence[str]) -> str:
    """The page; `summary` and `articles` are HTML, `title` is text."""
    shown = html.escape(title)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{shown}</title><style>{_STYLE}</style></head><body>
<h1>{shown}</h1>
{summary}
<fieldset><legend>Show</legend><label><input type="checkbox" id="persistent" checked> persistent</label>
<label><input type="checkbox" id="transient" checked> transient</label>
<label><input type="checkbox" id="close"> close decisions only</label></fieldset>
{"".join(articles)}
</body></html>
"""


def article(
    record: DecisionEvidence, text: str, rows: Sequence[tuple[str, Fact]], picture: str | None, note: str
) -> str:
    """One track: `text` is HTML, `rows` the words of counterfactuals with their facts, `picture` an address or None."""
    verdict = record.verdict
    close = " close" if _is_close(record) else ""
    strip = ""
    if picture is not None:
        strip = (
            f'<div class="strip"><img loading="lazy" src="{html.escape(picture)}" '
            f'alt="the track in frames 1 to {record.decision_frame} of its life"></div>'
            '<p class="soft">frame by frame up to its decision; full bar: detected, hollow: missed</p>'
        )
    shown = "".join(_row(words, fact) for words, fact in rows[:MOST_ROWS])
    table = ""
    if shown:
        table = (
            '<div class="wide"><table><thead><tr><th>had it been otherwise</th><th>p</th><th>decision by then</th></tr>'
            f"</thead><tbody>{shown}</tbody></table></div>"
        )
    soft = f'<p class="soft">{html.escape(note)}</p>' if note else ""
    return f"""
<article id="track-{record.track_id}" class="{verdict}{close}">
<h2>Track {record.track_id}: {verdict} in frame {record.decision_frame} of its life, p {record.probability:.2f}</h2>
<p>{text}</p>{strip}
<div class="charts">{probability_chart(record)}{moved_chart(record)}</div>
{table}{soft}
</article>
"""


def _is_close(record: DecisionEvidence) -> bool:
    """Whether it was hardly decided: at the clip's end, or within five hundredths of the threshold."""
    margin = record.get("margin")
    return margin is None or float(margin.value) < 0.05


def _row(words: str, fact: Fact) -> str:
    changes = ' class="changes"' if fact.effect != "same" else ""
    decided = {"same": "the same", "not_yet": "none yet", "contrary": str(fact.verdict)}[fact.effect or "same"]
    return f"<tr{changes}><td>{html.escape(words)}</td><td>{float(fact.value):.2f}</td><td>{decided}</td></tr>"


def probability_chart(record: DecisionEvidence) -> str:
    """SVG: p over age, with the thresholds of the decision frame."""
    d = record.decision_frame
    p = [float(record[f"p.{age}"].value) for age in range(1, d + 1)]
    right, bottom = WIDTH - 8, HEIGHT - MARGIN

    def at(age: float, value: float) -> tuple[float, float]:
        across = 0.5 if d == 1 else (age - 1) / (d - 1)
        return MARGIN + 4 + across * (right - MARGIN - 12), bottom - value * (bottom - 8)

    lines = [
        f'<line x1="{MARGIN}" x2="{right}" y1="{at(1, value)[1]:.1f}" y2="{at(1, value)[1]:.1f}" stroke="currentColor" '
        f'stroke-opacity=".15"/><text x="{MARGIN - 4}" y="{at(1, value)[1] + 4:.1f}" text-anchor="end">{value:g}</text>'
        for value in (0, 0.5, 1)
    ]
    for side in ("persistent", "transient"):
        fact = record.get(f"threshold.{side}")
        if fact is not None:
            y = at(1, float(fact.value))[1]
            lines.append(
                f'<line x1="{MARGIN}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--{side})" '
                f'stroke-dasharray="5 4"><title>{side} from here: {float(fact.value):.2f}</title></line>'
            )
    points = [at(age, value) for age, value in enumerate(p, start=1)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if age == d else 3}" fill="var(--{record.verdict})">'
        f"<title>frame {age}: p {value:.2f}</title></circle>"
        for age, ((x, y), value) in enumerate(zip(points, p, strict=True), start=1)
    )
    labels = "".join(
        f'<text x="{at(age, 0)[0]:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{age}</text>'
        for age in sorted({1, (d + 1) // 2, d})
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="p over age">{"".join(lines)}'
        f'<polyline points="{path}" fill="none" stroke="var(--{record.verdict})" stroke-width="2"/>{dots}{labels}</svg>'
        "<figcaption>p after each frame of its life; dashed: where it is decided</figcaption></figure>"
    )


def moved_chart(record: DecisionEvidence) -> str:
    """SVG: how much each group of evidence speaks for or against "persistent"; of a model that looks at pixels, what
    moves p where it is hidden. Nothing where there is neither.
    """
    shares = [fact for fact in record.of_kind("contribution") if fact.about != "known_to_all"]
    if shares:
        return _bars(record, [(str(fact.about), float(fact.value)) for fact in shares])
    hidden = record.of_kind("occlusion")
    return _heat(hidden) if hidden else ""


def _bars(record: DecisionEvidence, shares: Sequence[tuple[str, float]]) -> str:
    shares = sorted(shares, key=lambda each: -abs(each[1]))
    largest = max(abs(value) for _, value in shares) or 1.0
    row, middle, half = 18, 200, 100
    bars = []
    for place, (name, value) in enumerate(shares):
        y, width = 8 + place * row, abs(value) / largest * half
        side, x = ("persistent", middle) if value >= 0 else ("transient", middle - width)
        bars.append(
            f'<text x="84" y="{y + 10}" text-anchor="end">{html.escape(name)}</text><rect x="{x:.1f}" y="{y}" '
            f'width="{width:.1f}" height="12" fill="var(--{side})"/>'
            f'<text x="{middle + half + 4}" y="{y + 10}">{value:+.1f}</text>'
        )
    height = 16 + len(shares) * row
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="what spoke for and against">'
        f'<line x1="{middle}" x2="{middle}" y1="4" y2="{height - 4}" stroke="currentColor" stroke-opacity=".3"/>'
        f"{''.join(bars)}</svg><figcaption>how much each kind of evidence spoke for persistent (right) or transient "
        "(left), in log odds</figcaption></figure>"
    )


def _heat(hidden: Sequence[Fact]) -> str:
    """Of each frame a grid of its regions, darker where hiding moves p more; pale where none does much."""
    ages = sorted({fact.ages[0] for fact in hidden})
    largest = max(abs(float(fact.value)) for fact in hidden)
    darkest = max(largest, MOVES_MUCH)
    side = 72
    cells = []
    for fact in hidden:
        assert fact.region is not None
        x, y, width, height = (value * side / 64 for value in fact.region)
        x += ages.index(fact.ages[0]) * (side + 10)
        value = float(fact.value)
        colour = "persistent" if value < 0 else "transient"  # p falls where what spoke for it is hidden
        cells.append(
            f'<rect x="{x + 4:.1f}" y="{y + 4:.1f}" width="{width:.1f}" height="{height:.1f}" fill="var(--{colour})" '
            f'fill-opacity="{abs(value) / darkest:.2f}" stroke="currentColor" stroke-opacity=".2">'
            f"<title>hidden in frame {fact.ages[0]}: p {value:+.3f}</title></rect>"
        )
    labels = "".join(
        f'<text x="{place * (side + 10) + 4}" y="{side + 20}">frame {age}</text>' for place, age in enumerate(ages)
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {side + 28}" role="img" aria-label="what moves p '
        f'where it is hidden">{"".join(cells)}{labels}</svg><figcaption>regions without which p '
        f'<span class="persistent">falls</span> or <span class="transient">rises</span>, by {largest:.2f} at most'
        "</figcaption></figure>"
    )

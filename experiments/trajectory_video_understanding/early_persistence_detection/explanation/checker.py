"""Holds a text against an evidence record, sentence by sentence, whoever wrote it.

A sentence is accepted where all of it is read by the grammar of this module, clause after clause, and each clause is so
by the record. What the grammar does not know is rejected, not guessed at: its words are all the words there are. It
shares no template with `wording.py`, only the names of what may be spoken of.

Rules, by which a rejection is named:

C1   every sentence is read in full, as claims of known kinds
C2   a number is that of its fact, in its unit, as people round it: to the last digit said, "about" within 0.02
C3   no frame after the decision
C4   directions and comparisons are so, by p at each frame
C5   the verdict is that of the record, also where it is negated, and hedges are within their band of p
C6   "because", "without", "due to", "would have": only of a counterfactual that was run, with what came of it
C7   what is certified is said with its scope
C8   nothing else: no objects, intent, colours, names
C9   strings of users are placeholders
C10  no markup, no links, no more than MOST_CHARACTERS
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence

from early_persistence_detection.explanation.decision_evidence import DecisionEvidence, Fact
from early_persistence_detection.explanation.wording import RULE_WORDS, Claim, is_single, place_of

MOST_CHARACTERS = 2500
EPSILON = 1e-9
ABOUT = 0.02  # a probability that is "about" so much
LEVEL = 0.0151  # p that "hardly" moved, moved by less
SMALLEST_SHARE = 0.05  # log odds that speak for a side

# hedges of a verdict: between what chances of its being so they may be said
HEDGES = {
    "certainly": (0.98, 1.0),
    "definitely": (0.98, 1.0),
    "almost certainly": (0.95, 1.0),
    "clearly": (0.9, 1.0),
    "confidently": (0.9, 1.0),
    "very likely": (0.85, 0.999),
    "most likely": (0.6, 0.999),
    "probably": (0.6, 0.98),
    "likely": (0.6, 0.98),
    "more likely than not": (0.5, 0.9),
    "tentatively": (0.4, 0.8),
    "narrowly": (0.4, 0.8),
    "possibly": (0.3, 0.75),
    "perhaps": (0.3, 0.75),
    "maybe": (0.3, 0.75),
}


@dataclasses.dataclass(frozen=True)
class Rejection:
    """Why a sentence is not accepted."""

    rule: str  # "C1" to "C10"
    sentence: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a text claims, sentence by sentence, and what speaks against it."""

    sentences: tuple[tuple[str, tuple[Claim, ...]], ...]
    rejections: tuple[Rejection, ...]

    @property
    def is_accepted(self) -> bool:
        """Whether all that it claims is so."""
        return not self.rejections


def check(text: str, record: DecisionEvidence) -> list[Rejection]:
    """All that speaks against the text; empty where it is accepted."""
    return list(read(text, record).rejections)


def read(text: str, record: DecisionEvidence) -> Reading:
    """Read the text and hold it against the record. A text that says nothing is rejected."""
    shown = text.strip()
    if not shown:
        return Reading((), (Rejection("C1", "", "nothing is said"),))
    if len(shown) > MOST_CHARACTERS:
        return Reading((), (Rejection("C10", shown[:80], f"longer than {MOST_CHARACTERS} characters"),))
    if found := _MARKUP.search(shown):
        return Reading((), (Rejection("C10", shown[:80], f"{found.group().strip()!r} is markup or a link"),))
    parts, rejections = [], []
    before = None
    for sentence in re.split(r"(?<=[.!?])[ \n]+", shown):
        held = _Sentence(sentence, record, before)
        try:
            parts.append((sentence, held.claims()))
        except _Untrue as untrue:
            rejections.append(Rejection(untrue.rule, sentence, untrue.reason))
        before = held
    return Reading(tuple(parts), tuple(rejections))


class _Untrue(Exception):
    """A clause is not so."""

    def __init__(self, rule: str, reason: str):
        super().__init__(rule, reason)
        self.rule, self.reason = rule, reason


# ---- the grammar: <name> is another pattern, <name:slot> one that a check looks at

_MARKUP = re.compile(r"[<>*_#`\[\]|\\~@^=]|https?:|www\.|://|&\w+;|(?m:^\s*(?:[-+•]|\d+[.)])\s)|\n\s*\n", re.IGNORECASE)

_STRANGE = re.compile(r"[^ -~\n’–—\u00a0\u202f]")  # digits of other scripts, what cannot be seen, what only looks alike

_GROUPS = {
    "hits": "how often it was seen|how often it was detected|its hits|its hits and misses|its detection history",
    "time": "how long it had been followed|its age|how long it has been followed|how old it was",
    "scores": "the detector's scores|the detector's score|its detection scores|its detector scores|its scores",
    "size": "its size and place|the size and place of its box|its size and position|its size",
    "neighbours": "its neighbours|its neighbors|the tracks around it|the tracks near it",
    "motion": "its motion|its movement|how it moved|how it was moving",
    "scene": "what this scene had shown before|the scene's past|the past of this scene|what the scene had shown before",
    "camera": "what this camera had taught|what was learnt from this camera|what was learned from this camera",
}

_PATTERNS: dict[str, str] = {
    "it": "(?:this track|that track|the track|this candidate|the candidate|track|it)",
    "was": "(?:was|is|has been|had been)",
    "numbers": r"\d++(?:(?: ?, and | ?, | and | to | through |-)\d++(?!\.\d| ?%| percentage| point| of))*",
    "frames": r"(?:its |the )?(?:frames <numbers>|frame \d++)|that frame",
    "in_frames": r"(?:in|at|during) <frames>|then|there",
    "frame": r"(?:its |the )?frame \d++",
    "prep": "(?:in|at|by|after|on|as of)",
    "life": "(?: of its life| of the track's life| of its track| of the track| of its existence)",
    "when": r"<prep> <frame><life>?",
    "approx": (
        "(?:about|around|roughly|approximately|some|nearly|almost|just under|just over|just below|just above|"
        "over|above|"
        "more than|at least|at most|no more than|below|under|less than|exactly|only|just)"
    ),
    "amount": r"(?:<approx> )?(?:\d+(?:\.\d+)? ?%|[01]?\.\d+|1\.0+|[01](?![\d.]))",
    "points": r"(?:<approx> )?(?:\d+(?:\.\d+)? (?:percentage points|percentage point|points|point)|0?\.\d+)",
    "number": r"(?:<approx> )?-?\d+(?:\.\d+)?",
    "stay": "(?:(?:one|a track|a candidate) that (?:will not|would not|will|would) stay|not to stay|to stay)",
    "verdict": "(?:(?:an |a )?(?:persistent|transient|real|clutter)(?: track| candidate| one)?|<stay>)",
    "side": "(?:<verdict>|not staying|staying)",
    "called": (
        "(?:called|judged|decided|classed|classified|labelled|labeled|deemed|declared|considered|ruled|rated|marked|"
        "expected|taken|determined)(?: to be| as being| as| for)?"
    ),
    "hedge": "(?:" + "|".join(sorted(HEDGES, key=len, reverse=True)) + ")",
    "that": (
        "(?:that <it> (?:is|was|would be) <verdict>|that <it> (?:will not|would not|will|would) stay|"
        "(?:of <it> being|of its being|of being|for being|for it being|for) <verdict>|"
        "(?:of <it>|of its|of|for) (?:not staying|staying)|of persistence)"
    ),
    "chance": "(?:(?:the|its|a|that) )?(?:probability|chance|likelihood|p)",
    "soon": "(?:then|by then|at that point|at that time|at the time|at the decision|at the time of the decision)",
    "up": "(?:rose|climbed|grew|increased|went up|had risen|had climbed|jumped|rising|climbing|increasing|growing)",
    "down": "(?:fell|dropped|sank|decreased|declined|went down|had fallen|had dropped|falling|dropping|decreasing)",
    "level": (
        "(?:hardly changed|barely changed|scarcely changed|hardly moved|barely moved|stayed level|stayed nearly "
        "the same|"
        "stayed almost the same|stayed about the same|stayed the same|remained nearly the same|remained steady)"
    ),
    "each": "with (?:every|each) (?:new )?frame|(?:in|after) (?:every|each) frame|frame by frame|steadily",
    "span": (
        r"from <frame> to <frame>|between <frame> and <frame>|between frames \d+ and \d+|from frames? \d+ to \d+|"
        r"in <frame>|at <frame>"
    ),
    "rise": "(?:rise|increase|gain|jump|climb)",
    "fall": "(?:fall|drop|decrease|decline|loss)",
    "seenverb": "(?:seen|detected|found|spotted|observed|visible)",
    "sawverb": "(?:saw|found|detected|spotted|observed)",
    "missedverb": "(?:missed|missing|absent|not seen|not detected|not found|unseen|undetected|not spotted)",
    "all": (
        r"(?:(?:every 1 of its|each of its|all of its|all its|all of the|all the|all)(?: \d+)? frames|"
        r"(?:every|each) frame)(?: of its life)?(?:, \d+ in all)?"
    ),
    "some": (
        r"(?:<approx> )?(?:\d+ (?:out of|of) (?:its |the |all |all of its )?\d+ frames|\d+ (?:out of|of) \d+|\d+ "
        r"of its frames|"
        r"\d+ frames|1 frame)"
    ),
    "none": "(?:none of its frames|no frame|none of the frames)",
    "birth": r"(?:1 frame only, its birth|frame 1 only, its birth|only its birth|its birth only|its first frame "
    "only|frame 1 only|only frame 1)",
    "group": "(?:" + "|".join(f"(?:{words})" for words in _GROUPS.values()) + ")",
    "groups": "<group>(?:(?: and| together with) <group>)?(?: together)?",
    "score": "(?:detection |detector |detector's |confidence )?(?:score|scores)",
    "of_all": "(?:of all that was known of it|of all the evidence|of all that was known|overall|among the evidence)",
    "rule": "(?:sort|bytetrack|the trackers library|trackers library|norfair|frigate|3 hits in a row)",
    "place": "(?:the )?(?:upper|lower|top|bottom)[ -](?:left|right)(?: part| corner| quarter| region| area)?",
    "withheld": "(?:withheld|left out|removed|skipped|taken away|taken out|omitted|hidden)",
    "scope": (
        "for data like those of (?:its|the) calibration|for data like that of (?:its|the) calibration|"
        "for data like (?:its|the) calibration data"
    ),
    "looks": "(?:how it looks|how it looked|its looks|its appearance|its pixels|the pixels|its picture)",
    "detections": "(?:its detections|what its detections tell|what its detections told|the detections)",
    "thing": (
        r"(?:<seenthing>|<missedthing>|<groups>|<looks>|<detections>|(?:what )?<frames>(?: brought| gave| showed)?)"
    ),
    "seenthing": (
        r"(?:<it> <was> <seenverb> <in_frames>|being <seenverb> <in_frames>|its being <seenverb> <in_frames>|"
        r"its detection <in_frames>|the detector <sawverb> it <in_frames>|the detection <in_frames>)"
    ),
    "missedthing": (
        r"(?:<it> <was> <missedverb> <in_frames>|being <missedverb> <in_frames>|its being <missedverb> <in_frames>|"
        r"the detector (?:missed|did not see|did not find|did not detect|failed to detect) it <in_frames>|"
        r"(?:the miss|the misses|its absence) <in_frames>)"
    ),
    "lacked": "(?:been missed|not been seen|not been detected|not been found|been unseen|gone unseen|gone undetected)",
    "usual": "(?:the usual ones|usual|ordinary|typical|ordinary ones|at their median|average)",
    "decision": "(?:the|this|its) (?:decision|verdict|answer|call)",
    "decisionit": "(?:<decision>|it|this|that|<it>)",
    "time": r"(?: yet| by then| by <frame>| in <frame>)",
}

_CLAUSES: tuple[tuple[str, str], ...] = (
    (
        "verdict",
        r"(?:<when:before>,? )?<it> <was> (?:<hedge:hedge> )?(?P<no>not )?<called> <verdict:verdict>(?: "
        r"<when:after>)?",
    ),
    (
        "verdict",
        r"<decision> (?:<when:before> )?<was> (?P<no>not )?(?:for |to call it |that it is |that it was "
        r")?<verdict:verdict>(?: <when:after>)?",
    ),
    ("verdict", r"<it> (?:is|was) <hedge:hedge> (?P<no>not )?<verdict:verdict>"),
    (
        "verdict",
        r"(?:<when:before>,? )?it was decided(?: <when:after>)? that it (?:is|was) (?P<no>not )?<verdict:verdict>",
    ),
    ("decided", r"(?:<decision> (?:fell|came|was made|was reached|was taken)|<it> was decided) <when:when>"),
    ("bare_verdict", r"<verdict:verdict>"),
    (
        "verdict",
        r"(?:<when:before>,? )?the (?:tracker|model|system) (?P<no>did not )?(?:<called>|call|judge) <it>(?: as| "
        r"to be)? "
        r"<verdict:verdict>(?: <when:after>)?",
    ),
    (
        "probability",
        r"(?:when |and )?(?:<soon>,? |<when:before>,? )?<chance>(?: <that:that>)? (?:<soon> )?(?:was|is|stood|"
        r"had reached|reached|came to|lay)(?: at)?(?: <soon>| already)? <amount:amount>(?: "
        r"<that:that2>)?(?: <soon>| <when:after>)?",
    ),
    (
        "probability",
        r"(?:with|at|having) <chance>(?: <that:that>)? (?:of|at) <amount:amount>(?: <that:that2>)?(?: <soon>| "
        r"<when:after>)?",
    ),
    ("probability", r"(?:at|with) (?:an? )?<amount:amount>(?: probability| chance)?(?: <that:that>)?"),
    (
        "probability_would",
        r"(?:and |when )?<chance>(?: <that:that>)? would(?: then)? have (?:been|stood at|come to) <amount:amount>(?:"
        r" <that:that2>)?",
    ),
    (
        "trend",
        r"(?P<head>(?:(?:<each>|<span>),? )*)(?:(?P<bare>it)|<chance>(?: <that:that>)?)? ?(?P<moved><up>|<down>|"
        r"<level>)(?P<tail>(?:,? (?:from <amount>(?: <when>)?|to <amount>(?: <when>)?|by <points>|<span>|<each>))+)",
    ),
    (
        "trend",
        r"(?P<head>(?:(?:<each>|<span>),? )+)(?:(?P<bare>it)|<chance>(?: <that:that>)?) (?P<moved><up>|<down>|"
        r"<level>)(?P<tail>)",
    ),
    (
        "largest_step",
        r"(?:its|the) (?:largest|biggest|greatest|main) (?:single )?(?:change|step|move|swing)(?: in probability| in"
        r" the probability| of the probability)? <was> (?:(?:a|an) )?(?:<points:points> )?(?P<way><rise>|<fall>)(?: "
        r"(?:of|by) <points:points2>)?(?:,? <span:span>)?",
    ),
    (
        "largest_step",
        r"(?:its|the) (?:largest|biggest|greatest) (?:single )?(?P<way><rise>|<fall>) <was> (?:of |by )?<points:points>"
        r"(?:,? <span:span>)?",
    ),
    (
        "margin",
        r"(?:which |that |this |it )?(?:was |is |lay |lies |stood )?(?:(?P<beyond>only just|just|barely|<points>) "
        r")?(?P<side>above|below|over|under|beyond|past) (?:the|its) (?:<amount:amount2> )?threshold(?: (?:of|at) "
        r"<amount:amount>)?(?: for <verdict:verdict>)?",
    ),
    (
        "margin",
        r"(?:which |it |<chance> )?(?:crossed|passed) (?:the|its) threshold(?: (?:of|at) <amount:amount>)?(?: by "
        r"<points:beyond>)?(?: (?P<just>only just))?",
    ),
    (
        "threshold",
        r"(?:the|its) threshold(?: for <verdict:verdict>)?(?: <soon>)? (?:was|is|stood at|lay at)(?: <soon>)? "
        r"<amount:amount>",
    ),
    ("forced", r"no threshold (?:had been|was) (?:crossed|reached|passed) (?:when|before|by the time) the clip ended"),
    ("forced", r"no threshold (?:had been|was) (?:crossed|reached|passed) by the end of the clip"),
    ("forced", r"the clip (?:ended|had ended) before (?:a|any) threshold (?:was|had been) (?:crossed|reached|passed)"),
    (
        "seen",
        r"(?:<it> <was> |was )?(?P<only>only )?<seenverb>(?P<only2> only)? in (?P<much><birth>|<all>|<some>|<none>|"
        r"<frames>)",
    ),
    ("seen", r"in (?P<much><all>|<some>|<none>|<frames>),? (?:<it> <was> <seenverb>|the detector <sawverb> it)"),
    ("seen", r"(?:<it> was |was )?only <seenverb> at its birth(?:, in frame 1)?"),
    ("seen", r"(?:the detector |it )?(?:had )?<sawverb> (?:it|<it>) in (?P<much><birth>|<all>|<some>|<none>|<frames>)"),
    ("missed", r"(?:<it> <was> |was )?<missedverb> in (?P<much><all>|<some>|<none>|<frames>)"),
    ("missed", r"in (?P<much><all>|<some>|<none>|<frames>),? (?:<it> <was> <missedverb>|the detector missed it)"),
    ("missed", r"(?:the detector )?(?:had )?missed (?:it )?in (?P<much><all>|<some>|<none>|<frames>)"),
    ("missed", r"(?:<it> )?(?:had not been|has not been) <seenverb> in (?P<much><all>|<some>|<frames>)"),
    ("missed", r"(?:<it> )?went (?:undetected|unseen|unnoticed|missing) in (?P<much><all>|<some>|<frames>)"),
    (
        "missed",
        r"the detector (?:did not|failed to|could not) (?:see|find|detect|spot) it in (?P<much><all>|<some>|"
        r"<frames>)",
    ),
    ("not_seen", r"not in (?P<much><frames>)"),
    ("never_missed", r"(?:(?:<it> <was> |was )?never missed|the detector never missed it)"),
    (
        "mean_score",
        r"(?:on average,? )?(?:its|the) (?:mean |average )?<score> (?:was|is|were)(?: on average)? "
        r"<number:number>(?: on average)?",
    ),
    ("mean_score", r"(?:its|the) <score> averaged <number:number>"),
    (
        "rank",
        r"(?:which is |which was |on average,? )?(?:(?:its|the) (?:mean |average )?<score> (?:was|is|were) )?(?:on "
        r"average )?(?P<than>higher than|above|greater than|lower than|below) <amount:amount> of (?:the scores|"
        r"those) (?:that )?it (?:is|was) compared with",
    ),
    (
        "height",
        r"(?:when (?:it was )?last seen,? )?(?:its|the) box (?:was|is|had been) <number:number> (?:px|pixels) "
        r"(?:high|tall)(?: when (?:it was )?last seen)?",
    ),
    (
        "height",
        r"(?:when (?:it was )?last seen,? )?(?:its|the) box (?:had a height of|measured|was) <number:number> (?:px|"
        r"pixels)(?: in height)?(?: when (?:it was )?last seen)?",
    ),
    (
        "speed",
        r"(?:<it> )?moved(?: by)? <number:number> (?:of that height|of its height|heights|of its own height|box "
        r"heights|times its height|times that height) (?:a|per|each|every) frame",
    ),
    ("still", r"(?:<it> )?(?:hardly|barely|scarcely) moved"),
    (
        "border",
        r"(?:its|the) box (?:touched|reached|was at|met) (?:the (?:border|edge) of the (?:picture|image)|the "
        r"(?:picture|image)'s (?:border|edge)) in (?P<much><all>|<some>|<none>|<frames>)",
    ),
    (
        "border",
        r"in (?P<much><all>|<some>|<none>|<frames>),? (?:was )?(?:its|the) box (?:touched|was at|at) (?:the "
        r"(?:border|edge) of the (?:picture|image)|the (?:picture|image)'s (?:border|edge))",
    ),
    (
        "border",
        r"(?:its|the) box (?P<never>never touched|never reached|was never at) (?:the (?:border|edge) of the "
        r"(?:picture|image)|the (?:picture|image)'s (?:border|edge))",
    ),
    ("class", r"(?:<it> <was> )?(?:detected|seen|classed|classified) as (?:a |an )?\{class\}"),
    ("class", r"(?:the detector's class(?: for it)?|its class) (?:was|is) \{class\}"),
    ("class", r"the detector (?:called it|classified it as|labelled it as|labeled it as) (?:a |an )?\{class\}"),
    (
        "cause",
        # "since frame 3" and "as of frame 3" say when
        r"(?:(?:this|that|it) (?:was|is) )?(?:because(?: of)?|(?:since|as)(?= <it> <was> | the detector )|due to|"
        r"owing to|thanks to|on account of) (?P<thing><thing>(?: and <thing>)*)",
    ),
    (
        "cause",
        r"(?:what decided (?:it|this|that)|the deciding (?:thing|fact|factor)|the reason)(?: for this| for that)? "
        r"(?:was|is)(?: that)? (?P<thing><thing>)",
    ),
    ("cause", r"<decisionit> (?:hinged|hung|depended|rested) on (?P<thing><thing>)"),
    ("cause", r"(?P<thing><thing>) (?:decided (?:<decision>|it|this)|was decisive|was what decided (?:<decision>|it))"),
    ("no_single", r"no (?:single|1|one) (?:thing|fact|change)(?: alone)? decided (?:it|this|that)"),
    ("no_single", r"nothing (?:alone|by itself|on its own) decided (?:it|this|that)"),
    ("no_single", r"no single change would have changed (?:it|<decision>)"),
    ("if", r"(?P<even>even )?(?:had|if) (?P<withhold><frames>) (?:been|had been|were|was) <withheld>"),
    ("if", r"(?P<even>even )?with (?P<withhold><frames>) <withheld>"),
    ("if", r"(?P<even>even )?(?:withholding|leaving out|removing|skipping|omitting) (?P<withhold><frames>)"),
    ("if", r"(?P<even>even )?(?P<without>without) (?P<withhold><frames>)"),
    (
        "if",
        r"(?P<even>even )?had <it> (?:been missed (?P<miss><in_frames>) and (?:been )?<seenverb> "
        r"(?P<hit><in_frames>)|<lacked> (?P<miss2><in_frames>)|been <seenverb> (?P<hit2><in_frames>))",
    ),
    (
        "if",
        r"(?P<even>even )?if <it> had (?:been missed (?P<miss><in_frames>) and (?:been )?<seenverb> "
        r"(?P<hit><in_frames>)|<lacked> (?P<miss2><in_frames>)|been <seenverb> (?P<hit2><in_frames>))",
    ),
    (
        "if",
        r"(?P<even>even )?(?:had the detector|if the detector had) (?:missed it (?P<miss><in_frames>)|(?:seen|found|"
        r"detected) it (?P<hit><in_frames>))",
    ),
    (
        "if",
        r"(?P<even>even )?(?P<without>without) (?:(?:its|the) (?:detection|detections|hit|hits) "
        r"(?P<miss><in_frames>)|the (?:miss|misses) (?P<hit><in_frames>))",
    ),
    (
        "if",
        r"(?P<even>even )?(?:had (?:its|the) <score> been|if (?:its|the) <score> had been|if (?:its|the) <score> "
        r"were|with) (?P<median><usual>)(?: scores)?",
    ),
    (
        "if",
        r"(?P<even>even )?(?:had nothing been known (?:of|about)|if nothing had been known (?:of|about)) "
        r"(?P<group><groups>)",
    ),
    ("if", r"(?P<even>even )?(?:had (?P<group><groups>) been unknown|if (?P<group2><groups>) had been unknown)"),
    ("if", r"(?P<even>even )?(?P<without>without)(?: knowing)? (?P<group><groups>)"),
    (
        "if",
        r"(?P<even>even )?(?:had|if) (?:(?P<pixels><looks>)|(?P<evidence><detections>)) (?:been|had been|were|was) "
        r"<withheld>",
    ),
    ("if", r"(?P<even>even )?(?P<without>without) (?:(?P<pixels><looks>)|(?P<evidence><detections>))"),
    (
        "would",
        r"<it> would (?P<still>still )?(?P<no>not )?have (?:still )?been (?P<still2>still )?<called> "
        r"<verdict:verdict><time>?",
    ),
    (
        "would",
        r"<decision> would (?P<still>still )?(?P<no>not )?have (?P<still2>still )?been (?:for "
        r")?<verdict:verdict><time>?",
    ),
    ("would", r"(?P<still>still )?would have been (?P<still2>still )?<called> <verdict:verdict><time>?"),
    (
        "would",
        r"(?P<undecided><decisionit> would (?:still )?(?:not have been decided|have been undecided|have still been "
        r"undecided|have remained undecided|have stayed undecided|not have been made|not have fallen|not have "
        r"come)<time>?)",
    ),
    ("would", r"(?P<undecided>no (?:decision|verdict|answer) would have been (?:made|reached|taken)<time>?)"),
    ("would", r"(?P<undecided>(?:it )?would have (?:delayed|put off) (?:<decision>|it))"),
    (
        "would",
        r"(?P<same><decision> would (?:still )?have (?:still )?been (?:the same|unchanged|no different)|<decision> "
        r"would (?:still )?not have changed|nothing would have changed|(?:it |this |that )?would have changed "
        r"nothing|(?:it |this |that )?would not have changed (?:<decision>|anything|it)|<decision> would have stayed"
        r" the same|it would (?:still )?have been decided the same(?: way)?)",
    ),
    (
        "would",
        r"(?P<differs><decision> would have changed|(?:it |this |that )?would have "
        r"changed (?:<decision>|it))",
    ),
    (
        "would",
        r"(?P<contrary>(?:it |this |that )?would have (?:flipped|reversed|turned) (?:<decision>|it)|<decision> would"
        r" have been (?:different|another|the opposite|the other|the contrary|reversed))",
    ),
    (
        "share",
        r"(?:<of_all>,? )?<group:group> (?:(?:spoke|argued|counted|weighed|pointed)(?: (?P<most>most strongly|most|"
        r"the most))?|(?P<most2>most strongly|most)) (?P<way>for|in favour of|in favor of|against|towards) "
        r"<side:side>",
    ),
    (
        "share",
        r"(?P<most>the strongest) (?:evidence|argument) (?P<way>for|against) <side:side> <was> <group:group>",
    ),
    (
        "share",
        r"<group:group> <was> (?P<most>the strongest) (?:evidence|argument) (?P<way>for|against) <side:side>",
    ),
    (
        "hidden",
        r"(?:of the regions that were hidden,? )?(?:hiding )?<place:place> (?:of|in) <frame:frame> moved (?:<chance>"
        r"|it) (?:the )?most(?:[,:]? (?P<way>up|down)(?: by <points:points>)?)?",
    ),
    (
        "hidden_none",
        r"(?:hiding any single region hardly moved <chance>|no region that was hidden moved <chance> (?:by )?much)",
    ),
    (
        "rule",
        r"(?:by |under |according to )?the rule of <rule:rule>,? (?P<said>(?:<it> was )?(?:confirmed|accepted|kept|"
        r"dropped|rejected|discarded)(?: <it>)?|had not (?:yet )?(?:decided|reached a decision)|<it> was still "
        r"undecided|was still undecided|had made no decision)(?: by then| then| yet)?(?: (?:in|by) <frame:frame>)?",
    ),
    (
        "rule",
        r"<rule:rule>(?:'s rule)? (?P<said>(?:confirmed|accepted|kept|dropped|rejected|discarded) <it>|had not "
        r"(?:yet )?(?:decided|reached a decision)|was still undecided)(?: by then| then| yet)?"
        r"(?: (?:in|by) <frame:frame>)?",
    ),
    (
        "certified",
        r"(?:(?:its|the) thresholds (?:are|were) certified|there is a certificate) (?:<scope>)",
    ),
    (
        "confidence",
        r"with (?:a )?(?:(?P<amount>\d+(?:\.\d+)? ?%) confidence|confidence (?:of )?(?P<amount2>\d+(?:\.\d+)? ?%))",
    ),
    (
        "promise",
        r"(?:of (?:all tracks|(?P<stopped>the tracks decided by any age)),? )?(?:at most|no more than) (?P<eps>\d"
        r"+(?:\.\d+)? ?%) (?:of (?:all tracks|(?P<stopped2>the tracks decided by any age)) )?(?:are|is) decided "
        r"wrongly though the whole clip gets (?:them|it) right",
    ),
)
# what may stand between two clauses: none of it says why, or in spite of what
_JOINT = re.compile(
    r"\s*[;:]\s*(?:(?:but|and|also),? )?|\s+-\s+|\s*,\s*(?:(?:and|but|while|whereas) (?:also )?)?|"
    r"\s+(?:and|but|while|whereas)\s+(?:also )?|\s+"
)
_OPENING = re.compile(r"(?:(?:also|in addition|moreover|furthermore|finally|overall|in short),? )")
_OTHERS = re.compile(r"\b(?:decision|verdict|answer|call|tracker|model|system)\b")  # a verdict of them: not the track
_WHY = ("because", "since", "as ", "due", "owing", "thanks", "on account")  # what a reason begins with
_CAUSAL = re.compile(
    r"\b(?:because|due|owing|thanks|account|reason|without|since|so|therefore|thus|hence|caused?|causes|"
    r"led|leads|made|makes|would|if|had it|decided it|decided this|hinged|depended)\b"
)
_CERTIFIED = re.compile(r"\b(?:certif\w*|guarant\w*|promis\w*|proven|proved|proof|assur\w*|ensur\w*)\b")
_FUTURE = re.compile(
    r"\b(?:later|afterwards|next|eventually|soon after|in the future|subsequent\w*|following frames?|after that)\b"
)

_UNITS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen"),
)
_ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh"),
    *("twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth"),
)


def _expanded(pattern: str) -> str:
    def one(match: re.Match[str]) -> str:
        inner = _expanded(_PATTERNS[match.group(1)])
        return f"(?P<{match.group(2)}>{inner})" if match.group(2) else f"(?:{inner})"

    return re.sub(r"(?<!\(\?P)<(\w+)(?::(\w+))?>", one, pattern)


@functools.cache
def _grammar() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((kind, re.compile(_expanded(pattern) + r"(?![\w%'-])")) for kind, pattern in _CLAUSES)


@functools.cache
def _vocabulary() -> frozenset[str]:
    """All words there are."""
    sources = [*(pattern.pattern for _, pattern in _grammar()), _JOINT.pattern, _OPENING.pattern]
    bare = [re.sub(r"\(\?P<\w+>|\\[a-zA-Z]", " ", source) for source in sources]
    return frozenset(word for source in bare for word in re.findall(r"[a-z]+(?:'s)?", source))


def _normalised(sentence: str) -> str:
    text = sentence.lower().replace("’", "'").replace("–", "-").replace("—", " - ")
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\b(?:instead|indeed|actually) | (?:instead|indeed)(?=[,.;])", "", text)
    text = re.sub(r"(?<=\d)-(?=point)", " ", text)
    text = re.sub(r"(\bits \w+), (?=spoke|argued|counted|weighed|pointed)", r"\1 ", text)
    text = re.sub(r"\s*\(([^()]*)\)", r", \1", text)
    text = re.sub(r" ?(?:percent(?!age)|per cent)\b", " %", text)
    for short, full in (("wasn't", "was not"), ("didn't", "did not"), ("couldn't", "could not"), ("hadn't", "had not")):
        text = text.replace(short, full)
    text = text.replace("wouldn't", "would not").replace("won't", "will not").replace("hasn't", "has not")
    for number, word in enumerate(_ORDINALS, start=1):
        text = re.sub(rf"\b(?:its|the) (?:{word}|{number}(?:st|nd|rd|th)) frame\b", f"frame {number}", text)
    for number, word in list(enumerate(_UNITS, start=1))[1:]:
        text = re.sub(rf"\b{word}\b", str(number), text)
    text = re.sub(r"\bone(?= (?:frame\b|point|percentage|of its|of the|out of|%))", "1", text)
    text = re.sub(r"\bframe one\b", "frame 1", text)
    text = re.sub(r"\bafter (?:only |just )?(\d+) frames?\b", r"after frame \1", text)
    return text


@dataclasses.dataclass
class _Clause:
    kind: str
    match: re.Match[str]
    start: int

    def __getitem__(self, slot: str) -> str | None:
        """What is in the slot, or in the same slot of another place."""
        found = self.match.groupdict()
        return next((found[name] for name in (slot, f"{slot}2", f"{slot}3") if found.get(name)), None)


class _Sentence:
    """One sentence held against the record."""

    def __init__(self, sentence: str, record: DecisionEvidence, before: _Sentence | None):
        self.record, self.sentence = record, sentence
        self.before = before  # what "this", "it", "then" and "the probability" may be about
        self.of: str | None = before.of if before else None  # the side whose probability is spoken of, once it was said
        self.d = record.decision_frame
        self.seen = set(record["num_seen"].ages)
        self.missed = set(record["num_missed"].ages)
        question = record.get("question")
        self.question = "persistent_or_transient" if question is None else str(question.value)
        self.text = _normalised(sentence)
        self.found: list[_Clause] = []

    def claims(self) -> tuple[Claim, ...]:
        """All that it claims. Raises _Untrue."""
        self._placeholders()
        if not self.text.endswith("."):
            raise _Untrue("C1", "it is no whole sentence")
        body = self.text[:-1]
        for listed in re.findall(_expanded(r"\b(?:frame \d++|frames <numbers>)"), body):
            if any(not 1 <= int(number) <= self.d for number in re.findall(r"\d+", listed)):
                raise _Untrue("C3", f"{listed} is not among the {self.d} up to the decision")
        opening = _OPENING.match(body)
        clauses = self._parsed(body, opening.end() if opening else 0, set())
        if clauses is None:
            raise self._unread(body)
        if strange := _STRANGE.search(self.sentence):
            raise _Untrue("C10", f"{strange.group()!r} is no letter, digit or mark that is written here")
        self.found = clauses
        for place, clause in enumerate(clauses[1:]):
            joint = body[clauses[place].match.end() : clause.start]
            if re.search(":| - ", joint) and clause.kind not in (
                "if",
                "would",
                "bare_verdict",
                "confidence",
                "promise",
            ):
                raise _Untrue("C6", "what stands after a colon or dash reads as a reason")
        return tuple(claim for place, clause in enumerate(clauses) for claim in self._checked(place, clause))

    def _placeholders(self) -> None:
        for name in re.findall(r"\{[^}]*\}?|\}", self.sentence):
            if name != "{class}" or self.record.get("class") is None:
                raise _Untrue("C9", f"{name} stands for nothing in the record")

    def _parsed(self, text: str, at: int, failed: set[int]) -> list[_Clause] | None:
        if at in failed:
            return None
        matches = [
            (kind, match) for kind, pattern in _grammar() if (match := pattern.match(text, at)) and match.end() > at
        ]
        for kind, match in sorted(matches, key=lambda each: -each[1].end()):
            clause = _Clause(kind, match, at)
            if match.end() == len(text):
                return [clause]
            joint = _JOINT.match(text, match.end())
            rest = self._parsed(text, joint.end(), failed) if joint else None
            if rest is not None:
                return [clause, *rest]
        failed.add(at)
        return None

    def _unread(self, body: str) -> _Untrue:
        """Why a sentence is not read at all."""
        given = self.record.get("class")
        known = _vocabulary()
        words = re.findall(r"[^\W\d_]+(?:'s)?", body.replace("{class}", ""))
        unknown = [word for word in words if not ({word, word.removesuffix("'s")} & known or _CAUSAL.fullmatch(word))]
        if given is not None and len(str(given.value)) > 2 and str(given.value).lower() in body and unknown:
            return _Untrue("C9", "a string of the user's stands in the text")
        if _CERTIFIED.search(body):
            return _Untrue("C7", "it speaks of a promise otherwise than with its scope")
        if _FUTURE.search(body):
            return _Untrue("C3", "it speaks of what came after the decision")
        if unknown:
            return _Untrue("C8", f"{unknown[0]!r} is nothing that the record speaks of")
        if _CAUSAL.search(body):
            return _Untrue("C6", "it gives a reason that is not read as a counterfactual of the record")
        return _Untrue("C1", "it is not read as claims about the decision")

    def _checked(self, place: int, clause: _Clause) -> list[Claim]:
        for name, value in clause.match.groupdict().items():
            other = clause.match.groupdict().get(name.rstrip("23")) if name[-1] in "23" else None
            if value and other and name.rstrip("23") in ("amount", "points", "that"):
                raise _Untrue("C1", f"{other!r} and {value!r} are said of one thing")
        check: Callable[[int, _Clause], list[Claim]] = getattr(self, f"_{clause.kind}")
        return check(place, clause)

    # words to values

    def _side(self, words: str) -> str:
        """ "persistent" or "transient" """
        asked = {"real": "real_or_clutter", "clutter": "real_or_clutter", "stay": "outlives_clip"}
        for word, question in asked.items():
            if re.search(rf"\b{word}", words) and question != self.question:
                raise _Untrue("C8", f"{word!r} was not asked")
        return "transient" if re.search(r"\btransient|\bclutter|\bnot (?:to )?stay", words) else "persistent"

    def _ages(self, words: str, clause: _Clause | None = None) -> tuple[int, ...]:
        """Of "frames 2 and 4 to 6"; "then", "there": of the frame that was named last before it."""
        if not re.search(r"\d", words):
            before = self.text[: clause.match.end() - len(words)] if clause else ""
            named = re.findall(r"frame (\d+)", before)
            if not named:
                raise _Untrue("C1", f"it is not clear which frame {words!r} is")
            return (int(named[-1]),)
        ages: set[int] = set()
        tokens = re.findall(r"\d+|to|through|-", words)
        for place, token in enumerate(tokens):
            if token.isdigit():
                ages.add(int(token))
            elif 0 < place < len(tokens) - 1:
                if int(tokens[place - 1]) >= int(tokens[place + 1]):
                    raise _Untrue("C1", f"{words!r} runs backwards")
                ages |= set(range(int(tokens[place - 1]), int(tokens[place + 1]) + 1))
        return tuple(sorted(ages))

    def _at_decision(self, *phrases: str | None) -> None:
        for phrase in phrases:
            if phrase and self._ages(phrase) != (self.d,):
                raise _Untrue("C2", f"it was decided in frame {self.d}, not {phrase}")

    def _is(self, said: str, value: float, what: str) -> None:
        """A probability or share, as "93 %", "0.93", "about 90 %", "less than 1 %"; points of one."""
        number = re.search(r"\d*\.?\d+", said)
        assert number is not None
        digits = number.group()
        decimals = len(digits.split(".")[1]) if "." in digits else 0
        scale = 100.0 if "%" in said or "point" in said else 1.0
        stated = float(digits) / scale
        half = min(0.5 * 10.0**-decimals / scale, 0.005)
        words = said[: number.start()].strip()
        low, high = {
            "about": (-ABOUT, ABOUT),
            "around": (-ABOUT, ABOUT),
            "roughly": (-ABOUT, ABOUT),
            "approximately": (-ABOUT, ABOUT),
            "some": (-ABOUT, ABOUT),
            **dict.fromkeys(("nearly", "almost", "just under", "just below"), (-ABOUT, 0)),
            **dict.fromkeys(("just over", "just above"), (0, ABOUT)),
            **dict.fromkeys(("over", "above", "more than"), (2 * EPSILON, 0.1)),
            "at least": (0, 0.1),
            **dict.fromkeys(("below", "under", "less than"), (-0.1, -2 * EPSILON)),
            **dict.fromkeys(("at most", "no more than"), (-0.1, 0)),
            "exactly": (0, 0),
        }.get(words, (-half, half))
        if stated in (0, 1) and words in ("", "only", "just") and "point" not in said:  # none is rounded to certainty
            low, high = 0, 0
        if not stated + low - EPSILON <= value <= stated + high + EPSILON:
            raise _Untrue("C2", f"{what} is {value:.4f}, not {said}")

    def _number(self, said: str, fact: Fact) -> None:
        value, tolerance = float(fact.value), fact.tolerance or 0.0
        number = re.search(r"-?\d+(?:\.\d+)?", said)
        assert number is not None
        stated, words, digits = float(number.group()), said[: number.start()].strip(), number.group()
        if words not in (
            "",
            "about",
            "around",
            "roughly",
            "approximately",
            "only",
            "just",
            "exactly",
        ):
            raise _Untrue("C1", f"{said!r} is no number that is checked")
        if words in ("", "only", "just"):  # to the last digit said
            tolerance = min(tolerance, 0.5 * 10.0 ** -len(digits.partition(".")[2]))
        elif words == "exactly":
            tolerance = 0.0
        if abs(stated - value) > tolerance + EPSILON:
            raise _Untrue("C2", f"{fact.id} is {value:g}, not {said}")

    def _fact(self, fact_id: str, rule: str = "C8") -> Fact:
        fact = self.record.get(fact_id)
        if fact is None:
            raise _Untrue(rule, f"the record has no {fact_id}")
        return fact

    def _p(self, age: int) -> float:
        return float(self._fact(f"p.{age}", "C3").value)

    def _neighbours(self, place: int) -> list[str]:
        return [self.found[other].kind for other in (place - 1, place + 1) if 0 <= other < len(self.found)]

    # the decision

    def _verdict(self, place: int, clause: _Clause) -> list[Claim]:
        self._at_decision(clause["before"], clause["after"])
        if not (clause["before"] or clause["after"]):
            self._then(place, clause, self.d)
        verdict = self.record.verdict
        side = self._side(clause["verdict"] or "")
        if (side == verdict) == bool(clause["no"]):
            raise _Untrue("C5", f"the verdict is {verdict}")
        if clause["hedge"]:
            chance = self.record.probability if verdict == "persistent" else 1 - self.record.probability
            low, high = HEDGES[str(clause["hedge"])]
            if clause["no"] or not low - EPSILON <= chance <= high + EPSILON:
                raise _Untrue("C5", f"{clause['hedge']!r} is not said of a chance of {chance:.3f}")
        named = ("decision_frame",) if clause["before"] or clause["after"] else ()
        return [Claim("verdict", ("verdict", *named))]

    def _bare_verdict(self, place: int, clause: _Clause) -> list[Claim]:
        if place == 0 or self.found[place - 1].kind != "decided":
            raise _Untrue("C1", "it is not clear what a verdict is said of")
        return self._verdict(place, clause)

    def _decided(self, place: int, clause: _Clause) -> list[Claim]:
        self._at_decision(clause["when"])
        return [Claim("decision_frame", ("decision_frame",))]

    # p

    def _chance(self, that: str | None, p: float) -> float:
        """Of what is said; where nothing is, of what the probability before was of."""
        if that:
            self.of = self._side(that)
        return 1 - p if self.of == "transient" else p

    def _sign(self) -> int:
        """Which way p moves where the probability that is spoken of rises."""
        return -1 if self.of == "transient" else 1

    def _clear_of_what(self, place: int, clause: _Clause) -> None:
        if clause["that"] is None and (self.of is None or {"would", "verdict"} & set(self._neighbours(place))):
            raise _Untrue("C1", "it is not clear what this is the probability of")

    def _then(self, place: int, clause: _Clause, age: int) -> None:
        """Whether the frame that was named last is the one of this age, where it says "then", "when", "while", or where
        the clause before it begins with "in frame 2"."""
        before = self.found[place - 1].match.group() if place else ""
        joint = self.text[self.found[place - 1].match.end() : clause.start] if place else ""
        if before.startswith("when ") and ";" not in joint and age not in self._fact("height").ages:
            raise _Untrue("C1", "it is not clear when that was")
        if re.search(
            r"\b(?:then|when|while|with|having|at (?!frame)|that point|that time|the time)\b",
            joint + clause.match.group(),
        ) or (re.match(_expanded("<prep> (?:<frames>|<none>|<some>|<all>)"), before) and ";" not in joint):
            earlier = self.before.text if self.before else ""
            named = re.findall(r"frame (\d+)", self.text[: clause.start]) or re.findall(r"frame (\d+)", earlier)
            if named[-1:] not in ([], [str(age)]):
                raise _Untrue("C1", "it is not clear when that was")

    def _follows(self, place: int, kinds: Sequence[str]) -> bool:
        """Whether the clause before this one is of these kinds; for the first, the last of the sentence before."""
        before = self.found[:place] or (self.before.found if self.before else [])
        return not before or before[-1].kind in kinds

    def _has_subject(self, place: int, clause: _Clause) -> None:
        """Raises where the track's observations are said of what the clause before is about."""
        if not place or re.match(_expanded(r"(?:<it>|in|the|its|when)\b"), clause.match.group()):
            return
        before = self.found[place - 1]
        of_the_track = ("seen", "missed", "not_seen", "never_missed", "class", "speed", "still")
        is_seer = re.match(_expanded(r"(?:had )?(?:<sawverb>|missed) (?:it|<it>)\b"), clause.match.group())
        if is_seer and not re.search(_expanded(r"\bdetector\b"), before.match.group()):
            raise _Untrue("C1", "it is not clear who saw it")
        is_called = before.kind == "verdict" and not re.search(_OTHERS, before.match.group())
        if not is_called and before.kind not in of_the_track:
            raise _Untrue("C1", "it is not clear what this is said of")

    def _probability(self, place: int, clause: _Clause) -> list[Claim]:
        self._clear_of_what(place, clause)
        if clause.match.re.pattern.startswith(("(?:with|at|having)", "(?:at|with)")):
            other = self.found[place - 1 if place else 1].kind if len(self.found) > 1 else "verdict"
            if other in ("would", "if"):
                return self._probability_would(place, clause)
            if other not in ("verdict", "decided", "forced"):
                raise _Untrue("C1", "it is not clear what had this probability")
        ages = [self._ages(phrase)[0] for phrase in (clause["before"], clause["after"]) if phrase]
        age = ages[0] if ages else self.d
        if not ages:
            self._then(place, clause, age)
        if len(set(ages)) > 1 or (clause.match["that"] and clause.match.groupdict().get("that2")):
            raise _Untrue("C1", "two frames are named for one probability")
        self._is(str(clause["amount"]), self._chance(clause["that"], self._p(age)), f"p after frame {age}")
        return [Claim("probability", (f"p.{age}",))]

    def _probability_would(self, place: int, clause: _Clause) -> list[Claim]:
        fact = self._counterfactual()
        self._clear_of_what(place, clause)
        self._at_decision(clause["before"], clause["after"])
        self._is(str(clause["amount"]), self._chance(clause["that"], float(fact.value)), f"p of {fact.id}")
        return [Claim("counterfactual", (fact.id,))]

    def _span(self, words: str) -> tuple[int, int]:
        ages = [int(number) for number in re.findall(r"\d+", words)]
        a, b = (ages[0] - 1, ages[0]) if len(ages) == 1 else (ages[0], ages[1])
        if not 1 <= a < b <= self.d:
            raise _Untrue("C4", f"{words} is no span of the track's frames")
        return a, b

    def _trend(self, place: int, clause: _Clause) -> list[Claim]:
        moved = str(clause["moved"])
        way = (
            "level"
            if re.fullmatch(_expanded("<level>"), moved)
            else "up"
            if re.fullmatch(_expanded("<up>"), moved)
            else "down"
        )
        where = f"{clause['head'] or ''} {clause['tail'] or ''}"
        if self.of is None and "verdict" in self._neighbours(place):
            self._clear_of_what(place, clause)
        if not re.search(_expanded(r"\b<chance>\b"), clause.match.group()):
            first = not place and not (self.before and self.before.found)
            if not self._follows(place, ("probability", "trend", "largest_step")) or (
                first and not re.search("%|point", where)
            ):
                raise _Untrue("C1", "it is not clear what rose or fell")
        a, b = 1, self.d
        spans = re.findall(_expanded(r"(?<![\d%] )\b(?:<span>)(?!\d)"), where)
        said = (spans, *(re.findall(_expanded(rf"\b{word} <amount>"), where) for word in ("from", "to")))
        if any(len(each) > 1 for each in (*said, re.findall(_expanded(r"\bby <points>"), where))):
            raise _Untrue("C4", "it says more than one change")
        if spans:
            a, b = self._span(spans[0])
        elif "frame " not in where:
            self._then(place, clause, b)
        ends = []
        for word, default in (("from", a), ("to", b)):
            found = re.search(_expanded(rf"\b{word} (?P<amount><amount>)(?: (?P<when><when>))?"), where)
            if found is None:
                continue
            age = self._ages(found.group("when"))[0] if found.group("when") else default
            if spans and found.group("when") and age != default:
                raise _Untrue("C4", "its frames contradict each other")
            self._is(found.group("amount"), self._chance(clause["that"], self._p(age)), f"p after frame {age}")
            ends.append(Claim("probability", (f"p.{age}",)))
            a, b = (age, b) if word == "from" else (a, age)
        if not 1 <= a < b <= self.d:
            raise _Untrue("C4", "it names no two frames in their order")
        change = self._chance(clause["that"], self._p(b)) - self._chance(clause["that"], self._p(a))
        if by := re.search(_expanded(r"\bby (?P<points><points>)"), where):
            self._is(by.group("points"), abs(change), f"the change of p from frame {a} to frame {b}")
        steps: tuple[str, ...] = ()
        if re.search(_expanded("<each>"), where):
            steps = tuple(f"step.{age}" for age in range(a + 1, b + 1))
            wanted = {"up": "down", "down": "up"}.get(way, way) if self.of == "transient" else way
            if any(self._fact(fact_id, "C4").value != wanted for fact_id in steps):
                raise _Untrue("C4", f"p did not move so with every frame from {a} to {b}")
        if way == "level":
            change = max((self._p(age) - self._p(a) for age in range(a, b + 1)), key=abs)
        if not (abs(change) <= LEVEL if way == "level" else change > 0 if way == "up" else change < 0):
            raise _Untrue("C4", f"p changed by {change:+.3f} from frame {a} to frame {b}")
        return [Claim("direction", (f"p.{a}", f"p.{b}", *steps)), *ends]

    def _largest_step(self, place: int, clause: _Clause) -> list[Claim]:
        steps = {age: self._p(age) - self._p(age - 1) for age in range(2, self.d + 1)}
        if not steps:
            raise _Untrue("C4", "there is one frame only")
        before = self.found[:place] or (self.before.found if self.before else [])
        if before and before[-1].kind in ("mean_score", "rank") and "probability" not in clause.match.group():
            raise _Untrue("C1", "it is not clear what changed most")
        largest = max(steps, key=lambda age: abs(steps[age]))
        up = re.fullmatch(_expanded("<rise>"), str(clause["way"])) is not None
        if up != (steps[largest] * self._sign() > 0):
            raise _Untrue("C4", f"the largest change is {steps[largest]:+.3f}")
        if clause["span"] and self._span(str(clause["span"])) != (largest - 1, largest):
            raise _Untrue("C4", f"the largest change is from frame {largest - 1} to frame {largest}")
        if clause["points"]:
            self._is(str(clause["points"]), abs(steps[largest]), "the largest change of p")
        return [Claim("largest_step", ("largest_step",))]

    def _margin(self, place: int, clause: _Clause) -> list[Claim]:
        margin = self._fact("margin", "C4")
        before = self.found[place - 1] if place else None
        if not re.search(_expanded(r"\b<chance>\b"), clause.match.group()):
            if before is None or before.kind not in ("probability", "trend"):
                raise _Untrue("C1", "it is not clear what is beyond the threshold")
            if {"would", "if"} & {each.kind for each in self.found[:place]}:
                raise _Untrue("C6", "how far beyond the threshold it would have been is not known")
            named = re.findall(_expanded("<frame>"), before.match.group())
            if named and self._ages(named[-1]) != (self.d,):
                raise _Untrue("C4", "the threshold is that of the decision")
        threshold = self._fact(f"threshold.{self.record.verdict}", "C4")
        if self.of == "transient":
            raise _Untrue("C4", "thresholds are of the contrary probability")
        if clause["verdict"] and self._side(str(clause["verdict"])) != self.record.verdict:
            raise _Untrue("C5", f"the verdict is {self.record.verdict}")
        upwards = self.record.verdict == "persistent"
        if clause["side"] in ("above", "over", "below", "under") and (clause["side"] in ("above", "over")) != upwards:
            raise _Untrue("C4", f"p is not {clause['side']} the threshold")
        beyond = clause["beyond"] or clause["just"]
        if beyond and re.search(r"\d", beyond):
            self._is(beyond, float(margin.value), "the margin")
        elif beyond and float(margin.value) > LEVEL:
            raise _Untrue("C4", f"p is {float(margin.value):.3f} beyond the threshold")
        if clause["amount"]:
            self._is(str(clause["amount"]), float(threshold.value), "the threshold")
        return [Claim("margin", ("margin",)), *([Claim("threshold", (threshold.id,))] if clause["amount"] else [])]

    def _threshold(self, place: int, clause: _Clause) -> list[Claim]:
        side = self._side(str(clause["verdict"])) if clause["verdict"] else self.record.verdict
        threshold = self._fact(f"threshold.{side}", "C4")
        self._then(place, clause, self.d)
        self._is(str(clause["amount"]), float(threshold.value), "the threshold")
        return [Claim("threshold", (threshold.id,))]

    def _forced(self, place: int, clause: _Clause) -> list[Claim]:
        self._fact("forced", "C4")
        return [Claim("forced", ("forced",))]

    # what was observed

    def _much(self, words: str, ages: set[int], what: str, only: bool = False, clause: _Clause | None = None) -> None:
        """Whether "3 of its 4 frames", "every frame", "frames 2 and 3" is so of `ages`."""
        every, counted = set(range(1, self.d + 1)), [int(each) for each in re.findall(r"\d+", words)]
        if re.fullmatch(_expanded("<none>"), words):
            is_so = not ages
        elif re.fullmatch(_expanded("<birth>"), words):
            is_so = ages == {1}
        elif re.fullmatch(_expanded("<all>"), words):
            is_so = ages == every and all(each == self.d for each in counted)
        elif re.fullmatch(_expanded("<some>"), words):
            approx = re.match(_expanded("<approx>"), words)
            if approx and approx.group() not in ("only", "just", "exactly"):
                raise _Untrue("C1", f"{words!r} is no count that is checked")
            is_so = counted[0] == len(ages) and all(each == self.d for each in counted[1:])
        else:
            named = set(self._ages(words, clause))
            is_so = named <= ages and (not only or named == ages)
        if not is_so:
            raise _Untrue("C2", f"{what} in frames {sorted(ages)} of {self.d}, not in {words}")

    def _seen(self, place: int, clause: _Clause) -> list[Claim]:
        self._has_subject(place, clause)
        self._much(clause["much"] or "frame 1 only", self.seen, "it was seen", bool(clause["only"]), clause)
        return [Claim("num_seen", ("num_seen",))]

    def _missed(self, place: int, clause: _Clause) -> list[Claim]:
        self._has_subject(place, clause)
        self._much(str(clause["much"]), self.missed, "it was missed", clause=clause)
        return [Claim("num_missed", ("num_missed",))]

    def _not_seen(self, place: int, clause: _Clause) -> list[Claim]:
        if place == 0 or self.found[place - 1].kind != "seen":
            raise _Untrue("C1", "it is not clear what is denied")
        return self._missed(place, clause)

    def _never_missed(self, place: int, clause: _Clause) -> list[Claim]:
        self._has_subject(place, clause)
        self._much("no frame", self.missed, "it was missed")
        return [Claim("num_missed", ("num_missed",))]

    def _mean_score(self, place: int, clause: _Clause) -> list[Claim]:
        self._number(str(clause["number"]), self._fact("mean_score"))
        return [Claim("mean_score", ("mean_score",))]

    def _rank(self, place: int, clause: _Clause) -> list[Claim]:
        if "score " not in clause.match.group().split(" than ")[0] and not self._follows(place, ("mean_score",)):
            raise _Untrue("C1", "it is not clear what is higher or lower")
        fact = self._fact("mean_score_rank")
        rank = float(fact.value)
        lower = clause["than"] in ("lower than", "below")
        self._is(str(clause["amount"]), 1 - rank if lower else rank, "the share of scores that are lower")
        return [Claim("mean_score_rank", (fact.id,))]

    def _height(self, place: int, clause: _Clause) -> list[Claim]:
        self._number(str(clause["number"]), self._fact("height"))
        return [Claim("height", ("height",))]

    def _speed(self, place: int, clause: _Clause) -> list[Claim]:
        self._has_subject(place, clause)
        self._number(str(clause["number"]), self._fact("speed"))
        return [Claim("speed", ("speed",))]

    def _still(self, place: int, clause: _Clause) -> list[Claim]:
        self._has_subject(place, clause)
        if float(self._fact("speed").value) > 0.02:
            raise _Untrue("C4", "it moved")
        return [Claim("speed", ("speed",))]

    def _border(self, place: int, clause: _Clause) -> list[Claim]:
        ages = set(self._fact("border").ages)
        self._much("no frame" if clause["never"] else str(clause["much"]), ages, "it touched the border", clause=clause)
        return [Claim("border", ("border",))]

    def _class(self, place: int, clause: _Clause) -> list[Claim]:
        self._has_subject(place, clause)
        return [Claim("class", (self._fact("class").id,))]

    # what would have been

    def _changes(self, ids: Sequence[str], words: str) -> list[Fact]:
        """The counterfactuals of these ids that were run and changed the decision; all of them must have."""
        facts = [self.record.get(fact_id) for fact_id in ids]
        if any(fact is None or fact.effect == "same" for fact in facts):
            raise _Untrue("C6", f"no counterfactual says that the decision hangs on {words!r}")
        return [fact for fact in facts if fact is not None]

    def _cause(self, place: int, clause: _Clause) -> list[Claim]:
        text = clause.match.group()
        if not self._is_of_the_decision(place, text):
            raise _Untrue("C6", "the reason is given for something else than the decision")
        nearby = [self.found[other] for other in (place - 1, place + 1) if 0 <= other < len(self.found)]
        nearby += self.before.found[-1:] if self.before and not place else []
        if any(other.kind == "verdict" and other["no"] for other in nearby):
            raise _Untrue("C6", "it is not clear whether the reason is negated")
        if place + 1 < len(self.found) and self.found[place + 1].kind not in ("if", "would", "verdict", "decided"):
            joint = self.text[clause.match.end() : self.found[place + 1].start]
            if not re.search(r"[;:]| - |, (?:but|while|whereas)", joint):  # what is joined reads as one
                raise _Untrue("C6", "it is not clear where the reason ends")
        things = str(clause["thing"])
        facts: list[Fact] = []
        for thing in re.findall(_expanded("<thing>"), things):
            facts += self._behind(thing, clause)
        kinds = {each.kind for each in self.found}
        if (
            "decided" in kinds
            and not kinds & {"verdict", "bare_verdict"}
            and any(each.effect != "not_yet" for each in facts)
        ):
            raise _Untrue("C6", f"{things!r} is a reason for the verdict, not for when it came")
        is_the_one = not text.startswith(_WHY) and "because" not in text
        if is_the_one and {self.record.decisive} != {fact.id for fact in facts}:
            raise _Untrue("C6", f"{things!r} is one reason, not what decided it")
        return [Claim("cause", tuple(fact.id for fact in facts))]

    def _is_of_the_decision(self, place: int, text: str) -> bool:
        """Whether what a reason is given for is the decision, not what else was said before it."""
        decision = ("verdict", "decided")
        if re.search(r"\b(?:the|its) (?:decision|verdict|answer|call)\b", text):
            return True
        joint = self.text[self.found[place - 1].match.end() : self.found[place].start] if place else "and"
        begins_anew = text.startswith(_WHY) and re.search(r"[;:]|\b(?:and|but|while|whereas)\b", joint)
        if begins_anew and place + 1 < len(self.found) and self.found[place + 1].kind in decision:
            return True
        return self._follows(place, decision if place else (*decision, "cause", "would", "if", "no_single"))

    def _behind(self, thing: str, clause: _Clause) -> list[Fact]:
        """The counterfactuals that make a thing a reason."""
        for kind, change, held in (("<missedthing>", "hit", self.missed), ("<seenthing>", "miss", self.seen)):
            if not re.fullmatch(_expanded(kind), thing):
                continue
            named = re.search(_expanded("(?:<in_frames>)$"), thing)
            assert named is not None
            ages = self._ages(named.group(), clause)
            if not set(ages) <= held:
                raise _Untrue("C2", f"{thing!r} is not so")
            together = self.record.get("cf.shortest_set")
            if together is not None and together.ages == ages and together.effect != "same":
                return [together]
            return self._changes([f"cf.{change}.{age}" for age in ages], thing)
        if re.fullmatch(_expanded("<groups>"), thing):
            return [self._of_groups(thing)]
        if re.fullmatch(_expanded("<looks>"), thing):
            return self._changes(["cf.pixels"], thing)
        if re.fullmatch(_expanded("<detections>"), thing):
            return self._changes(["cf.evidence"], thing)
        return self._changes([f"cf.withhold.{age}" for age in self._ages(thing, clause)], thing)

    def _of_groups(self, words: str, changing: bool = True) -> Fact:
        names = [
            name for name, words_of in _GROUPS.items() if re.search(rf"(?:^|and |with )(?:{words_of})\b(?!')", words)
        ]
        ids = [f"cf.group.{name}" for name in names] if len(names) == 1 else []
        if len(names) == 2:
            ids = [f"cf.groups.{'+'.join(pair)}" for pair in (names, names[::-1])]
        if names == ["scores"] and changing:
            ids.append("cf.median_score")
        facts = [
            fact for fact_id in ids if (fact := self.record.get(fact_id)) and (fact.effect != "same" or not changing)
        ]
        if not facts:
            raise _Untrue("C6", f"no counterfactual says that the decision hangs on {words!r}")
        return next((fact for fact in facts if fact.id == self.record.decisive), facts[0])

    def _no_single(self, place: int, clause: _Clause) -> list[Claim]:
        if not self._is_of_the_decision(place, clause.match.group()):
            raise _Untrue("C6", "it is not clear what nothing alone decided")
        singles = [fact for fact in self.record.of_kind("counterfactual") if is_single(fact)]
        changing = [fact.id for fact in singles if fact.effect != "same"]
        if changing:
            raise _Untrue("C6", f"{changing[0]} alone changes it")
        return [Claim("no_single", tuple(fact.id for fact in singles))]

    def _counterfactual(self) -> Fact:
        """What the condition of this sentence is about."""
        conditions = [clause for clause in self.found if clause.kind == "if"]
        if len(conditions) != 1:
            raise _Untrue("C6", "what would have been is said without one condition")
        (clause,) = conditions
        fact = self._meant(clause)
        if clause["without"] and fact.effect == "same":
            raise _Untrue("C6", f"{fact.id} changes nothing; 'without' is said of what does")
        if clause["even"] and fact.effect != "same":
            raise _Untrue("C6", f"{fact.id} changes the decision")
        return fact

    def _meant(self, clause: _Clause) -> Fact:
        if clause["withhold"]:
            ages = self._ages(str(clause["withhold"]), clause)
            ids = [f"cf.withhold.{ages[0]}"] if len(ages) == 1 else []
        elif clause["miss"] or clause["hit"]:
            return self._of_frames(clause)
        elif clause["median"]:
            ids = ["cf.median_score"]
        elif clause["group"]:
            return self._of_groups(str(clause["group"]), changing=False)
        else:
            ids = ["cf.pixels" if clause["pixels"] else "cf.evidence"]
        for fact_id in ids:
            return self._fact(fact_id, "C6")
        raise _Untrue("C6", "no such counterfactual was run")

    def _of_frames(self, clause: _Clause) -> Fact:
        miss = self._ages(str(clause["miss"]), clause) if clause["miss"] else ()
        hit = self._ages(str(clause["hit"]), clause) if clause["hit"] else ()
        if not set(miss) <= self.seen or not set(hit) <= self.missed:
            raise _Untrue("C6", "it was so: that is no change")
        if len(miss) + len(hit) == 1:
            return self._fact(f"cf.miss.{miss[0]}" if miss else f"cf.hit.{hit[0]}", "C6")
        together = self._fact("cf.shortest_set", "C6")
        if together.ages != tuple(sorted({*miss, *hit})):
            raise _Untrue("C6", "no such counterfactual was run")
        return together

    def _if(self, place: int, clause: _Clause) -> list[Claim]:
        if "would" not in self._neighbours(place):
            raise _Untrue("C6", "a condition is given for something that is not what would have been")
        self._counterfactual()
        return []  # the claim is what would have been

    def _would(self, place: int, clause: _Clause) -> list[Claim]:
        if "if" not in {each.kind for each in self.found}:
            raise _Untrue("C6", "what would have been is said without a condition")
        fact = self._counterfactual()
        if frame := re.search(_expanded(r"(?:by|in) <frame>$"), clause.match.group()):
            self._at_decision(frame.group())
        if clause["same"]:
            is_so = fact.effect == "same"
        elif clause["undecided"]:
            is_so = fact.effect == "not_yet"
        elif clause["differs"]:
            is_so = fact.effect != "same"
        elif clause["contrary"]:
            is_so = fact.effect == "contrary"
        else:
            side = self._side(str(clause["verdict"]))
            is_so = (fact.verdict == side) != bool(clause["no"])
            if clause["still"] and not clause["no"] and side != self.record.verdict:
                is_so = False
        if not is_so:
            raise _Untrue("C6", f"of {fact.id} came {fact.verdict} ({fact.effect})")
        return [Claim("counterfactual", (fact.id,))]

    # what spoke for it

    def _share(self, place: int, clause: _Clause) -> list[Claim]:
        words = str(clause["group"])
        name = next(name for name, words_of in _GROUPS.items() if re.fullmatch(words_of, words))
        fact = self._fact(f"share.{name}")
        side = self._side(str(clause["side"]))
        if clause["way"] == "against":
            side = "transient" if side == "persistent" else "persistent"
        sign = 1.0 if side == "persistent" else -1.0
        value = sign * float(fact.value)
        joint = self.text[self.found[place - 1].match.end() : clause.start] if place else ""
        is_contrast = re.search(r"\b(?:but|while|whereas)\b", joint) and self.found[place - 1].kind in (
            "verdict",
            "cause",
        )
        if is_contrast and side == self.record.verdict:
            raise _Untrue("C4", f"{words} did not speak against the verdict")
        if value < SMALLEST_SHARE - EPSILON:
            raise _Untrue("C4", f"{words} did not speak for {side}")
        shares = [sign * float(each.value) for each in self.record.of_kind("contribution") if each.about in _GROUPS]
        if clause["most"] and value < max(shares):
            raise _Untrue("C4", f"{words} did not speak most for {side}")
        return [Claim("contribution", (fact.id,))]

    def _hidden(self, place: int, clause: _Clause) -> list[Claim]:
        hidden = self.record.of_kind("occlusion")
        if not hidden:
            raise _Untrue("C8", "the record has no regions that were hidden")
        most = max(hidden, key=lambda fact: abs(float(fact.value)))
        assert most.region is not None
        words = str(clause["place"]).replace("top", "upper").replace("bottom", "lower").replace("-", " ")
        if place_of(most.region) not in words or most.ages != self._ages(str(clause["frame"])):
            raise _Untrue("C4", f"{most.id} moved p most")
        if clause["way"] and (clause["way"] == "up") != (float(most.value) * self._sign() > 0):
            raise _Untrue("C4", f"{most.id} moved p by {float(most.value):+.3f}")
        if clause["points"]:
            self._is(str(clause["points"]), abs(float(most.value)), most.id)
        return [Claim("occlusion", (most.id,))]

    def _hidden_none(self, place: int, clause: _Clause) -> list[Claim]:
        hidden = self.record.of_kind("occlusion")
        if not hidden or max(abs(float(fact.value)) for fact in hidden) > LEVEL:
            raise _Untrue("C4", "a region that was hidden moved p")
        return [Claim("occlusion", tuple(fact.id for fact in hidden))]

    # what others say, and what is promised

    def _rule(self, place: int, clause: _Clause) -> list[Claim]:
        words = str(clause["rule"]).removeprefix("the ")
        known = {"3 hits in a row": "hits_3_of_3"} | {
            name.lower().removeprefix("the "): about for about, name in RULE_WORDS.items()
        }
        fact = self._fact(f"rule.{known[words]}")
        said = str(clause["said"])
        verdict = "undecided"
        if re.search("confirmed|accepted|kept", said):
            verdict = "persistent"
        elif re.search("dropped|rejected|discarded", said):
            verdict = "transient"
        self._then(place, clause, fact.ages[-1])
        if fact.value != verdict:
            raise _Untrue("C5", f"{fact.id} said {fact.value}")
        if clause["frame"] and fact.ages != self._ages(str(clause["frame"])):
            raise _Untrue("C2", f"{fact.id} is of frame {fact.ages}")
        return [Claim("other_rule", (fact.id,))]

    def _certificate(self) -> tuple[str, float, float]:
        fact = self._fact("certificate", "C7")
        if fact.about != "data_like_its_calibration":
            raise _Untrue("C7", "the decision is not within the scope of what was promised")
        if "certified" not in {clause.kind for clause in self.found}:
            raise _Untrue("C7", "what is promised is said without its scope")
        promise, eps, delta = str(fact.value).split()
        return promise, float(eps), float(delta)

    def _certified(self, place: int, clause: _Clause) -> list[Claim]:
        self._certificate()
        return [Claim("certificate", ("certificate",))]

    def _confidence(self, place: int, clause: _Clause) -> list[Claim]:
        _, _, delta = self._certificate()
        if "promise" not in self._neighbours(place) or not self._follows(place, ("certified", "promise")):
            raise _Untrue("C7", "it is not clear what is said with confidence")
        self._is(str(clause["amount"]), 1 - delta, "the confidence")
        return [Claim("certificate", ("certificate",))]

    def _promise(self, place: int, clause: _Clause) -> list[Claim]:
        promise, eps, _ = self._certificate()
        if "confidence" not in self._neighbours(place):
            raise _Untrue("C7", "what is promised is said without its confidence")
        if "all tracks" in clause.match.group() and clause["stopped"]:
            raise _Untrue("C1", "it is not clear of which tracks this is promised")
        stated = float(str(clause["eps"]).rstrip("% ")) / 100
        if abs(stated - eps) > EPSILON:
            raise _Untrue("C2", f"{eps:g} is promised, not {clause['eps']}")
        if (promise == "conditional") != bool(clause["stopped"]):
            raise _Untrue("C7", f"the promise is {promise}")
        return [Claim("certificate", ("certificate",))]

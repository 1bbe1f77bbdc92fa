"""The checker: what is so is accepted in many words, what is not is rejected by its rule."""

import dataclasses

import pytest
from early_persistence_detection.explanation.checker import MOST_CHARACTERS, check, read
from early_persistence_detection.explanation.decision_evidence import DecisionEvidence, Fact
from early_persistence_detection.explanation.tests.made_records import (
    HOSTILE,
    clutter_record,
    made_record,
    persistent_record,
)
from early_persistence_detection.explanation.wording import sentences
from hypothesis import given, settings
from hypothesis import strategies as st

CLUTTER, PERSISTENT = clutter_record(), persistent_record()


@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_all_that_we_say_is_accepted_in_every_variant(seed, random):
    record = made_record(seed)
    text = " ".join(sentence.text for sentence in sentences(record, choose=random.choice))
    reading = read(text, record)
    assert not reading.rejections, reading.rejections
    said = sentences(record, choose=random.choice)
    assert len(reading.sentences) == len(said)
    facts = {fact_id for sentence in said for fact_id in sentence.fact_ids}
    assert {fact_id for _, claims in reading.sentences for claim in claims for fact_id in claim.fact_ids} <= facts


PARAPHRASES = (
    "It was called clutter in frame 4.",
    "The track was classified as clutter in its fourth frame.",
    "The verdict was clutter.",
    "The decision came in frame 4 of its life.",
    "It was probably clutter.",
    "It was very likely transient.",
    "It was not called real.",
    "In frame 4 the track was judged clutter because it was not seen in frame 3.",
    "Because the detector missed it in frame 3, it was called clutter.",
    "It was labelled clutter in frame 4 due to the miss in frame 3.",
    "It was called clutter because of how often it was seen.",
    "It was called clutter because of its scores.",
    "What decided it was that it was missed in frame 3.",
    "The decision hinged on the miss in frame 3.",
    "Without the miss in frame 3 it would have been called real.",
    "Had it been seen in frame 3, it would have been called real, with a probability of 93 % that it is real.",
    "If the detector had found it in frame 3, the verdict would have been real.",
    "It would have been called real if it had been detected in frame 3.",
    "If frame 3 had been left out, no decision would have been made by then.",
    "Without frame 3 it would still have been undecided.",
    "Had its scores been the usual ones, it would not have been decided by frame 4.",
    "Withholding frame 2 would have changed nothing.",
    "Even if frame 2 had been withheld, the decision would have been the same.",
    "Had nothing been known of its motion, it would still have been called clutter.",
    "The probability that it is real was 3 %.",
    "The chance of it being clutter was 97 percent.",
    "By then, the probability that it is real stood at 0.03.",
    "After frame 3 the probability that it is real was 30 %.",
    "The probability that it is real was below 5 % then.",
    "The probability fell from 62 % after frame 1 to 3 % after frame 4.",
    "The probability dropped with every frame.",
    "The probability that it is clutter rose from 38 % after frame 1 to 97 % after frame 4.",
    "Between frames 3 and 4 it fell by 27 points.",
    "The biggest change was a drop of 27 points from frame 3 to frame 4.",
    "The probability that it is real was 3 %, 3 points below the threshold of 6 %.",
    "The threshold for clutter was 6 %.",
    "It was seen in two of its four frames.",
    "It was seen in frames 1 and 2, but missed in frames 3 and 4.",
    "The detector saw it in 2 of 4 frames.",
    "It was only seen in frames 1 and 2.",
    "Its average score was 0.41.",
    "Its detection score was about 0.41 on average.",
    "On average its score was higher than 23 % of the scores it was compared with.",
    "Its box was 41 pixels tall.",
    "It moved by 0.12 heights per frame.",
    "Its box touched the edge of the picture in frame 2.",
    "How often it was seen spoke most for clutter, while its motion spoke for real.",
    "Its hits counted against real.",
    "By the rule of ByteTrack it was dropped in frame 3.",
    "SORT's rule had not decided by then.",
    "It was detected as {class}.",
    "There is a certificate for data like those of its calibration.",
    # in the words of others, written before the grammar knew them
    "With each new frame the probability fell.",
    "It was detected in frames 1 and 2 and missed in frames 3 and 4.",
    "The mean detection score was 0.41.",
    "Its scores were higher than 23 % of those it is compared with.",
    "How often it was seen counted most for clutter.",
    "Had frame 3 been left out, it would not have been decided by then.",
    "Removing frame 2 would not have changed the decision.",
    "Had the detector seen it in frame 3, the decision would have been real.",
    "Had its scores been ordinary, the decision would not have been made by then.",
    "The box was 41 pixels high.",
    "Its box was about 41 px tall when last seen.",
    "It moved 0.12 heights a frame.",
    "Its box was at the edge of the picture in frame 2.",
    "ByteTrack's rule dropped it in frame 3.",
    "SORT had not decided by then.",
    "The threshold for real was 91 %.",
    "The track was called clutter in frame 4. This was because it was missed in frame 3.",
    "It was called clutter, with a 3 % chance that it is real.",
    "It would have been called real had it been seen in frame 3.",
    "It would not have been called clutter if it had been seen in frame 3.",
    "Without the miss in frame 3, the verdict would have been real.",
    "The deciding factor was the miss in frame 3.",
    "The probability that it is real dropped to 30 % in frame 3.",
    "It was very likely clutter.",
    "After its second frame the probability that it is real was 55 %.",
    "If nothing had been known about its motion, the verdict would not have changed.",
    "The tracker labeled this track as clutter at frame 4.",
    "If it had been detected in frame 3, it would instead have been called real.",
    "At that point, the probability of it being real was 3 %, which is 3 points under the 6 % threshold.",
    "The biggest drop was 27 points, between frames 3 and 4.",
    "It was visible in two out of its four frames and missing in frames 3 and 4.",
    "The strongest evidence for clutter was how often it was seen, while its motion spoke most for real.",
    (
        "Had nothing been known about how often it was seen, no decision would have been made yet, with a 55 % "
        "probability that it is real."
    ),
    (
        "Leaving out frame 2 would not have changed the verdict: it would still have been called clutter, with a "
        "4 % probability that it is real."
    ),
    "Its box measured 41 px in height when last seen.",
    "It moved 0.12 times its height per frame.",
    "The box touched the picture's border in frame 2.",
    "The detector classified it as {class}.",
    "The detector found it in frames 1 and 2 but not in frames 3 and 4.",
    "Being missed in frame 3 decided it.",
    "The largest change in probability was a 27-point fall from frame 3 to frame 4.",
    "Even with frame 2 withheld, it would still have been called clutter, with a probability of 4 % that it is real.",
    (
        "This track was called clutter in frame 4 because it was missed in frame 3; if it had been seen then, it "
        "would have been called real."
    ),
)
PARAPHRASES_OF_PERSISTENT = (
    "It was called persistent in frame 2, and no single thing decided it.",
    "It was certainly persistent.",
    "The probability that it is persistent was more than 99 %.",
    "It was seen in all 2 frames.",
    "It was never missed.",
    "It hardly moved.",
    "Its box never touched the border of the picture.",
    "Hiding the upper left of frame 2 moved the probability most, down by 12 points.",
    "Had it been missed in frame 2, the verdict would still have been persistent.",
)


@pytest.mark.parametrize("text", PARAPHRASES)
def test_paraphrases_are_accepted(text):
    assert not check(text, CLUTTER)


@pytest.mark.parametrize("text", PARAPHRASES_OF_PERSISTENT)
def test_paraphrases_of_the_other_verdict_are_accepted(text):
    assert not check(text, PERSISTENT)


LIES = (
    # C1: what is not read in full
    ("C1", "It was called clutter in frame 4"),
    ("C1", "It was seen in frame 4 of its frames of frame 2."),
    ("C1", "Was it called clutter?"),
    ("C1", "It was called clutter with a probability of 3 %."),
    ("C1", "Clutter."),
    ("C1", ""),
    # C2: numbers
    ("C2", "It was called clutter in frame 3."),
    ("C2", "The probability that it is real was 4 %."),
    ("C2", "The probability that it is real was 0.3."),
    ("C2", "The chance of it being clutter was 3 %."),
    ("C2", "The probability that it is real was about 10 %."),
    ("C2", "The probability that it is real was more than 50 %."),
    ("C2", "The probability that it is real was 3 %, 4 points below the threshold of 6 %."),
    ("C2", "The probability that it is real was 3 %, 3 points below the threshold of 9 %."),
    ("C2", "It was seen in 3 of its 4 frames."),
    ("C2", "It was seen in 2 of its 5 frames."),
    ("C2", "It was seen in three frames."),
    ("C2", "It was missed in frames 2 and 3."),
    ("C2", "It was seen in every frame."),
    ("C2", "It was never missed."),
    ("C2", "It was only seen in frame 1."),
    ("C2", "Its mean score was 0.43."),
    ("C2", "On average its score was higher than 32 % of the scores it was compared with."),
    ("C2", "Its box was 44 px high."),
    ("C2", "It moved by 0.21 heights per frame."),
    ("C2", "Its box touched the border of the picture in frames 1 and 2."),
    ("C2", "The rule of ByteTrack dropped it in frame 2."),
    ("C2", "The biggest step was a fall by 30 points between frames 3 and 4."),
    ("C2", "Had it been seen in frame 3, it would have been called real, with a probability of 88 % that it is real."),
    # C3: later frames
    ("C3", "It was seen in frame 5."),
    ("C3", "The probability fell from 62 % after frame 1 to 3 % after frame 9."),
    ("C3", "It was seen again later."),
    ("C3", "Eventually the track was confirmed."),
    ("C3", "It was seen in the sixth frame."),
    # C4: directions, comparisons
    ("C4", "The probability rose from 62 % after frame 1 to 3 % after frame 4."),
    ("C4", "The probability rose with every frame."),
    ("C4", "The probability hardly changed from frame 1 to frame 4."),
    ("C4", "The probability that it is clutter fell from frame 1 to frame 4."),
    ("C4", "The probability that it is real was 3 %, 3 points above the threshold of 6 %."),
    ("C4", "The biggest change was a drop of 27 points from frame 2 to frame 3."),
    ("C4", "The biggest change was a rise of 27 points from frame 3 to frame 4."),
    ("C4", "No threshold had been crossed when the clip ended."),
    ("C4", "Its motion spoke most for clutter."),
    ("C4", "How often it was seen spoke for real."),
    ("C4", "The detector's scores spoke most for clutter."),
    ("C4", "It hardly moved."),
    # C5: verdict, negation, hedges
    ("C5", "It was called real in frame 4."),
    ("C5", "It was called persistent in frame 4."),
    ("C5", "It was not called clutter."),
    ("C5", "It was certainly clutter."),
    ("C5", "It was perhaps clutter."),
    ("C5", "It was probably real."),
    ("C5", "The rule of ByteTrack confirmed it in frame 3."),
    ("C5", "The rule of SORT dropped it."),
    # C6: reasons
    ("C6", "It was called clutter because it was seen in frame 2."),
    ("C6", "It was called clutter because of frame 2."),
    ("C6", "It was called clutter due to its motion."),
    ("C6", "It was called clutter because of how it looks."),
    ("C6", "It was called clutter because the probability fell."),
    ("C6", "The probability fell because it was missed in frame 3."),
    ("C6", "It was seen in frame 1 because it was missed in frame 3."),
    ("C6", "It was called clutter because it was missed in frame 3 and it was seen in frame 2."),
    ("C6", "It was not called real because it was missed in frame 3."),
    ("C6", "It was missed in frame 3, so it was called clutter."),
    ("C6", "Without frame 2 it would still have been called clutter."),
    ("C6", "Without frame 2 it would have been called real."),
    ("C6", "Had it been seen in frame 3, it would not have been decided by then."),
    ("C6", "Had it been seen in frame 4, it would have been called real."),
    ("C6", "Had frame 1 been withheld, it would have been called real."),
    ("C6", "Had it been missed in frame 3, it would have been called real."),
    ("C6", "Withholding frame 3 would have changed nothing."),
    ("C6", "Even without frame 3 it would still have been undecided."),
    ("C6", "It would have been called real."),
    ("C6", "No single thing decided it."),
    ("C6", "The decision hinged on its motion."),
    # C7: promises
    ("C7", "It is certified."),
    ("C7", "The verdict is guaranteed."),
    ("C7", "This is proven with 90 % confidence."),
    ("C7", "With 90 % confidence, at most 5 % are decided wrongly though the whole clip gets them right."),
    (
        "C7",
        "With 90 % confidence, of the tracks decided by any age at most 5 % are decided wrongly though the whole clip "
        "gets them right.",
    ),
    (
        "C7",
        "There is a certificate for data like those of its calibration: of all tracks at most 5 % are decided wrongly "
        "though the whole clip gets them right.",
    ),
    # C8: what is not in the record
    ("C8", "A bird was called clutter."),
    ("C8", "It was called clutter because it was afraid."),
    ("C8", "The red track was called clutter."),
    ("C8", "Alice was seen in frame 2."),
    ("C8", "It was called one that will stay in frame 4."),
    ("C8", "Its neighbours spoke for clutter."),
    ("C8", "It was seen in frame 2, which looks like glare."),
    # C9: strings of users
    ("C9", "It was detected as {camera}."),
    ("C9", "It was detected as {class"),
    ("C9", f"It was detected as {HOSTILE[0]}."),
    # C10: form
    ("C10", "It was **called** clutter."),
    ("C10", "<b>It was called clutter.</b>"),
    ("C10", "It was called clutter, see https://example.org."),
    ("C10", "- It was called clutter."),
    ("C10", "It was called clutter.\n\nIt was seen in frame 2."),
    ("C10", "It was called clutter. " * 120),
)


@pytest.mark.parametrize(("rule", "text"), LIES)
def test_lies_are_rejected_by_their_rule(rule, text):
    rejections = check(text, CLUTTER)
    assert rejections and rejections[0].rule == rule, rejections


# tried by hand against the checker: each was accepted once, or is near to one that was
ATTACKS = (
    "It was called clutter because it was seen in frame 1 and it was missed in frame 3.",
    "It was called clutter as it was seen in frame 2.",
    "It was called clutter since frame 2.",
    "It was called clutter, as was seen in frame 2.",
    "The track fell from frame 1 to frame 4.",
    "The track jumped in frame 3.",
    "It rose with every frame.",
    "It fell in frame 3.",
    "It was real in frame 4.",
    "It is clutter.",
    "It was certified clutter.",
    "It would have been real had it been seen in frame 3.",
    "Had it been seen in frame 3, it would have been clutter.",
    "Frame 2 decided it.",
    "Frame 4 decided it.",
    "How it moved decided it.",
    "What decided it was being missed in frame 4.",
    "The reason was that it was missed in frame 4.",
    "It was called clutter with a probability of 97 %.",
    "It was called clutter, at 97 %.",
    "It was called clutter at 3 %.",
    "The probability was 97 %.",
    "The likelihood for clutter was 3 %.",
    "The probability that it is real was 3 % after frame 3.",
    "After frame 3 the probability that it is real was 3 %.",
    "The probability that it is real was 30 %.",
    "The probability that it is real was 3 % in frame 1.",
    "It was seen in 2 of its 4 frames, 3 points below the threshold of 6 %.",
    "The probability that it is real was 55 %, 3 points below the threshold of 6 %.",
    "Had frame 2 been withheld, it would still have been called clutter, with a probability of 3 % that it is real.",
    "Had frame 2 been withheld, the probability that it is real would have been 30 %.",
    "Had it been seen in frame 3, the decision would have been the same.",
    "Had it been seen in frame 3, it would still have been called clutter.",
    "Had it been seen in frame 3, it would still have been called real.",
    "Even if it had been seen in frame 3, it would have been called real.",
    "Without its motion, it would still have been called clutter.",
    "Without its scores it would have been called real.",
    "Had its scores been usual, it would have been called real.",
    "Had nothing been known of its hits, it would have been called real.",
    "Had nothing been known of its hits and its motion, it would have been undecided.",
    "Had nothing been known of its size, it would have been undecided.",
    "Had it been missed in frame 2, it would have been called real.",
    "Had it been missed in frame 2 and seen in frame 3, it would have been called real.",
    "Had it been seen in frames 3 and 4, it would have been called real.",
    "If frames 3 and 4 had been left out, it would have been undecided.",
    "It was seen in frames 1 to 3.",
    "It was seen in frames 1 and 3.",
    "It was missed in 3 of its 4 frames.",
    "It was missed in frames 3 and 4 of its 4 frames.",
    "It was only missed in frame 3.",
    "It was seen only in frame 1.",
    "It was seen, not in frames 1 and 2.",
    "Its box touched the border of the picture in every frame.",
    "Its box was at the edge of the picture in 2 frames.",
    "The rule of SORT confirmed it.",
    "SORT dropped it in frame 3.",
    "ByteTrack had not decided.",
    "The rule of ByteTrack kept it in frame 3.",
    "The rule of Norfair confirmed it.",
    "The detector's scores spoke for real.",
    "Its motion spoke most for real and how often it was seen most for real.",
    "The strongest evidence for real was how often it was seen.",
    "The threshold was 91 %.",
    "The threshold for clutter was 91 %.",
    "No threshold was crossed by the end of the clip.",
    "It crossed the threshold of 91 %.",
    "It was over the threshold.",
    "Its detection score was 41 on average.",
    "Its detection score was higher than 77 % of the scores that it is compared with.",
    "Its detection score was lower than 23 % of the scores that it is compared with.",
    "Its box was 41 px high, and it moved 0.21 of that height a frame.",
    "It moved 12 of that height a frame.",
    (
        "There is a certificate for data like those of its calibration: with 90 % confidence, of all tracks at "
        "most 5 % are decided wrongly though the whole clip gets them right."
    ),
    (
        "There is a certificate for data like those of its calibration: with 95 % confidence, of the tracks "
        "decided by any age at most 5 % are decided wrongly though the whole clip gets them right."
    ),
    "It was most likely real.",
    "It was more likely than not clutter.",
    "The tracker did not call it clutter.",
    "The model called it real in frame 4.",
    "The model called it clutter in frame 2.",
    "The detector called it clutter.",
    "It was called clutter in frame 4: real.",
    "The decision came in frame 4: real.",
    "The largest fall was 25 points.",
    "The largest rise was 27 points.",
    "Its largest change was a 7-point fall from frame 1 to frame 2.",
    "Between frames 1 and 2 the probability fell by 27 points.",
    "The probability fell from 62 % after frame 1 to 55 % after frame 3.",
    "The probability fell to 55 %.",
    "The probability fell from 55 %.",
    "The probability fell from frame 4 to frame 1.",
    "The probability of being clutter rose with every frame to 97 % from 62 %.",
    "The probability that it is real fell by 3 points.",
    "The rule of SORT had not decided by frame 3.",
    "The rule of ByteTrack dropped it by frame 2.",
    "In frame 2 it was seen, and the probability that it is real was then 3 %.",
    "After frame 2 the probability that it is real was 55 %, 3 points below the threshold of 6 %.",
    "Had it been seen in frame 4, it would not have been decided by frame 3.",
    # the probability of the other side, and of which side
    "The probability that it is clutter was 97 %, 3 points below the threshold of 6 %.",
    "The probability that it is clutter was 97 %, which is below the threshold of 6 %.",
    "The probability that it is clutter was 97 % and fell from 62 % after frame 1 to 3 % after frame 4.",
    "The probability that it is clutter was 97 %; after frame 3 the probability was 30 %.",
    "The probability that it is clutter was 97 %. The probability fell with every frame.",
    "The probability that it is clutter was 97 %. The probability was 62 % after frame 1.",
    "The probability that it is clutter was 97 %, its largest change was a fall of 27 points from frame 3 to frame 4.",
    "It was called clutter, and the probability was 3 %.",
    "It was called clutter, when its probability was 3 %.",
    "It was called clutter, and the likelihood was 0.03.",
    (
        "The probability that it is clutter rose from 38 % after frame 1 to 97 % after frame 4, and its "
        "largest change was a fall of 27 points."
    ),
    # what would have been, mixed with what was
    (
        "Had it been seen in frame 3, it would have been called real, with a probability of 93 % that it is "
        "real, 3 points below the threshold of 6 %."
    ),
    "With a probability of 3 % that it is real, it would have been called real had it been seen in frame 3.",
    "With a probability of 3 % that it is real, it would have been called real if it had been seen in frame 3.",
    "Had it been seen in frame 3, it would have been called real, when the probability that it is real was 3 %.",
    "Had it been seen in frame 3, it would have been called real, as the probability that it is real was 3 %.",
    "Had frame 3 been withheld, the verdict would have been another.",
    "Had frame 3 been withheld, the verdict would have been different.",
    "Had frame 2 been withheld, it would still have been called clutter, and the probability would have been 4 %.",
    # the reason of something else
    (
        "The probability that it is real fell from 62 % after frame 1 to 3 % after frame 4, and that was "
        "because it was missed in frame 3."
    ),
    "It was seen in frame 2; this was due to the miss in frame 3.",
    "The rule of ByteTrack dropped it in frame 3, and this hinged on the miss in frame 3.",
    "By the rule of ByteTrack it was dropped in frame 3, and this was because it was missed in frame 3.",
    "Its box touched the border of the picture in frame 2. This was because it was missed in frame 3.",
    "The rule of ByteTrack dropped it in frame 3. Because it was missed in frame 3.",
    "The rule of ByteTrack dropped it in frame 3. That hinged on the miss in frame 3.",
    "The probability fell with every frame. The reason for this was that it was missed in frame 3.",
    "The rule of ByteTrack dropped it in frame 3. The miss in frame 3 decided this.",
    "By the rule of ByteTrack it was dropped in frame 3 because it was missed in frame 3 and it was called clutter.",
    (
        "The probability fell from 62 % after frame 1 to 3 % after frame 4 because it was missed in frame 3 "
        "and it was called clutter."
    ),
    "Its box touched the border of the picture in frame 2 because it was missed in frame 3 but it was called clutter.",
    "It was called clutter, as the probability that it is real was 3 %.",
    "The rule of ByteTrack dropped it in frame 3, as the probability that it is real was 3 %.",
    "It was seen in frame 2, as the probability that it is real was 3 %.",
    "It was called clutter since frame 3.",
    "What decided it was that it was missed in frames 3 and 4.",
    "It was called clutter because it was missed in frame 3 while seen in frame 2.",
    # a time that is another
    "It was seen in frame 2, when the probability that it is real was 3 %.",
    "It was seen in frame 2 while the probability that it is real was 3 %.",
    "It was seen in frame 2 with a probability of 3 % that it is real.",
    "It was seen in frame 2 at 3 % probability that it is real.",
    "With a probability of 3 % that it is real it was seen in frame 2.",
    "By the rule of ByteTrack it was dropped in frame 3 with a probability of 3 % that it is real.",
    "It was seen in frame 2, having a chance of 3 % that it is real.",
    "In frame 2 it was seen, and the rule of ByteTrack dropped it then.",
    "In frame 1 it was seen, and the rule of ByteTrack dropped it by then.",
    "In frame 2 it was seen, and the threshold was then 6 %.",
    "In frame 2 it was seen, and the threshold for clutter at that time was 6 %.",
    "In frame 2 it was seen. The probability that it is real was then 3 %.",
    "It was seen in frame 2. Then the probability that it is real was 3 %.",
    "It was seen in frame 2. At that time the probability that it is real was 3 %.",
    "It was seen in frame 2. The threshold was then 6 %.",
    "It was seen in frame 2. The rule of ByteTrack dropped it then.",
    # one clause's subject with another's claim
    "The threshold for clutter was 6 %, and fell from 62 % after frame 1 to 3 % after frame 4.",
    "Its average score was 0.41, and fell from 62 % after frame 1 to 3 % after frame 4.",
    "The probability that it is real was 3 %, its average score was 0.41 and fell from frame 1 to frame 4.",
    "Its average score was 0.41, and it fell by 27 points between frames 3 and 4.",
    "Its box was 41 px tall, higher than 23 % of the scores it was compared with.",
    "The probability that it is real was 3 %, higher than 23 % of the scores it was compared with.",
    "The rule of ByteTrack dropped it in frame 3 and missed it in frame 4.",
    "SORT had not decided and missed it in frame 3.",
    "The rule of ByteTrack dropped it in frame 3 and saw it in frame 2.",
    "The probability that it is real was 3 %, moved 0.12 heights per frame.",
    "Its box was 41 px high and fell to 3 %.",
    "The probability that it is real was 3 % and was seen in frames 1 and 2.",
    # two ends of one change
    "Between frames 3 and 4 the probability fell by 27 points between frames 1 and 2.",
    "The probability fell from 62 % to 3 % from 55 %.",
    "The probability fell from 62 % after frame 1 to 3 % after frame 4 to 1 %.",
    "The probability fell by 59 points by 27 points.",
    "In frame 4 the probability fell by 27 points in frame 2.",
    # rounded to what it is not
    "The probability that it is real was exactly 3 %.",
    "Its box was exactly 41 px high.",
    "Its average score was exactly 0.41.",
    "The probability that it is real was almost 6 %.",
    "The probability that it is real was up to 3 %.",
    "The probability that it is real was up to 3 % by then.",
    (
        "There is a certificate for data like those of its calibration: with more than 90 % confidence, of "
        "the tracks decided by any age at most 5 % are decided wrongly though the whole clip gets them right."
    ),
    (
        "There is a certificate for data like those of its calibration: with almost 93 % confidence, of the "
        "tracks decided by any age at most 5 % are decided wrongly though the whole clip gets them right."
    ),
    # half a promise
    (
        "Its thresholds were certified for data like those of its calibration, and it was called clutter with"
        " 90 % confidence."
    ),
    (
        "With 90 % confidence it was called clutter, and its thresholds were certified for data like those of"
        " its calibration."
    ),
    (
        "Its thresholds are certified for data like those of its calibration: of the tracks decided by any "
        "age at most 5 % are decided wrongly though the whole clip gets them right."
    ),
    (
        "There is a certificate for data like those of its calibration: at most 5 % of the tracks decided by "
        "any age are decided wrongly though the whole clip gets them right."
    ),
    "With 90 % confidence, its thresholds are certified for data like those of its calibration.",
    "There is a certificate for data like those of its calibration, and this was because of frame 3.",
    # digits and marks that are not ours
    "It was called clutter in frame \uff14.",
    "It was called clutter in frame \u0664.",
    "It was called clutter\u2028in frame 4.",
    "It was called clutter\u001cin frame 4.",
    "It was called clutter\u000bin frame 4.",
    "It was called clutter.\u2029It was seen in frame 2.",
    "It was called clutter.\r\rIt was seen in frame 2.",
    "It was seen in frame \U0001d7d0.",
    "The probability that it is real was \uff13 %.",
    "The trac\u212a was called clutter.",
    "The decision came in frame 4 because it was missed in frame 3.",
    "The rule of ByteTrack dropped it in frame 3. This decision hinged on the miss in frame 3.",
    "The rule of ByteTrack dropped it in frame 3; the miss in frame 3 decided this decision.",
    "It was not called real. It was because it was missed in frame 3.",
    "It was not called real. Because it was missed in frame 3.",
    "It was called clutter because it was missed in frame 3, although its hits spoke for clutter.",
    "It was called clutter in frame 4 although it was missed in frame 3.",
    "It was called clutter though its hits spoke for clutter.",
    "It was missed in frame 3: it was called clutter.",
    (
        "Had it been seen in frame 3, it would have been called real, with a probability of 93 % that it is real "
        "after frame 2."
    ),
    "It was called clutter, and its probability fell from 62 % after frame 1 to 3 % after frame 4.",
    "In frame 3 it was missed and it was called clutter.",
    "It was seen in frame 2 while it was called clutter.",
    "From frame 3 the probability that it is real was 30 %.",
    "The probability that it is real was 30 % from frame 3.",
    "The probability that it is real was 3 % from frame 4.",
    "Its average score was 0.41. The largest change was a fall of 27 points from frame 3 to frame 4.",
    "Its average score was 0.41, its largest change was a fall of 27 points from frame 3 to frame 4.",
    "The tracker called it clutter and missed it in frame 3.",
    "The model called it clutter and saw it in frame 2.",
    "It was called clutter and missed it in frame 3.",
    "The decision was for clutter and was seen in frame 2.",
    "The verdict was clutter and moved 0.12 heights per frame.",
    (
        "There is a certificate for data like those of its calibration: it was called clutter, with 90 % "
        "confidence, at most 5 % of the tracks decided by any age are decided wrongly though the whole clip gets "
        "them right."
    ),
    "It was called clutter: there is a certificate for data like those of its calibration.",
    "In just above 2 frames the detector detected it.",
    "Its box was at the edge of the image in just over 1 frame.",
    "It was missed in just below 2 of all 4 frames.",
    "At the frame 1 the probability fell.",
    "In its frame 1 the probability that it is real fell.",
    "Between frame 2 and its frame 1 the probability fell.",
    "From frame 4 to its frame 1 the probability fell by 59 points.",
    "Between the frame 3 and the frame 4 the probability fell by 59 points.",
    "The biggest swing was a 27 point decrease of 59 points.",
    "The biggest swing was a 27 point fall by 3 points.",
    "The probability that it is real was 3 %, below the 9 % threshold of 6 %.",
    (
        "There is a certificate for data like those of its calibration: with 90 % confidence, of all tracks at "
        "most 5 % of the tracks decided by any age are decided wrongly though the whole clip gets them right."
    ),
    (
        "There is a certificate for data like those of its calibration: with 90 % confidence, of the tracks "
        "decided by any age at most 5 % of all tracks are decided wrongly though the whole clip gets them right."
    ),
    "Its box was 41.90 px high.",
    "Its box was 41.9 px high.",
    "Its box was 40.6 px high.",
    "It moved by 0.128 heights per frame.",
    "Its average score was 0.418.",
    "In frame 3 it was missed, and the probability fell from 62 % to 3 %.",
    "It was missed in frame 3 - it was called clutter.",
    "It was called clutter - it was missed in frame 4.",
    "It was called clutter, yet it was missed in frame 3.",
    "It was called clutter, but its hits spoke for clutter.",
    "It was called clutter; however, it was missed in frame 3.",
    "In frame 3 it was missed, whereas the probability fell from 62 % to 3 %.",
    "It was called clutter whereas how often it was seen spoke most for clutter.",
    "However, it was called clutter.",
)


ATTACKS_OF_PERSISTENT = (
    "The probability rose from 81 % after frame 1 to 99.6 % after frame 2, but hardly moved.",
    "The probability that it is persistent was 99.6 % and hardly moved.",
    "It was seen in every 2 frames.",
    "The detector saw it in each 2 frames.",
    "The probability that it is persistent was 100 %.",
    "The probability that it is persistent was exactly 100 %.",
    "The probability that it is persistent was 1.",
    "The probability that it is persistent was down to 99.6 %.",
    "Its box never touched the border of the picture. Nothing alone decided this.",
    "The probability rose from 81 % to 99.6 %, and nothing alone decided that.",
)


@pytest.mark.parametrize("text", ATTACKS)
def test_attacks_are_rejected(text):
    assert check(text, CLUTTER)


@pytest.mark.parametrize("text", ATTACKS_OF_PERSISTENT)
def test_attacks_on_the_other_verdict_are_rejected(text):
    assert check(text, PERSISTENT)


def test_what_came_back_is_not_level():
    came_back = {"p.1": 0.034, "p.2": 0.9}
    facts = tuple(dataclasses.replace(fact, value=came_back.get(fact.id, fact.value)) for fact in CLUTTER.facts)
    record = dataclasses.replace(CLUTTER, facts=facts)
    assert check("The probability remained steady from frame 1 to frame 4.", record)[0].rule == "C4"
    assert not any("hardly changed" in sentence.text for sentence in sentences(record))


def test_every_rule_has_lies():
    assert {rule for rule, _ in LIES} == {f"C{number}" for number in range(1, 11)}


def test_one_lie_among_truths_is_found_and_named():
    text = "It was called clutter in frame 4. It was seen in 3 of its 4 frames. It was seen in frame 1."
    reading = read(text, CLUTTER)
    assert [rejection.sentence for rejection in reading.rejections] == ["It was seen in 3 of its 4 frames."]
    assert [sentence for sentence, _ in reading.sentences] == [
        "It was called clutter in frame 4.",
        "It was seen in frame 1.",
    ]
    assert not reading.is_accepted


def test_what_is_said_of_one_record_is_rejected_for_another():
    for text in PARAPHRASES_OF_PERSISTENT:
        assert check(text, CLUTTER), text


def test_a_promise_outside_its_scope_is_not_spoken_of():
    facts = tuple(
        dataclasses.replace(fact, about="elsewhere") if fact.kind == "certificate" else fact for fact in CLUTTER.facts
    )
    record = dataclasses.replace(CLUTTER, facts=facts)
    assert check("There is a certificate for data like those of its calibration.", record)[0].rule == "C7"
    assert not any("certif" in sentence.text for sentence in sentences(record))


def test_together_is_a_reason_only_where_it_was_run_together():
    kept = tuple(fact for fact in PERSISTENT.facts)
    both = Fact(
        *("cf.groups.hits+motion", "counterfactual", 0.4, "probability", 0.005, (), "hits+motion"),
        change="group",
        verdict="undecided",
        effect="not_yet",
        shift=5.0,
    )
    record = DecisionEvidence(8, 12, "ab" * 32, "cd" * 32, (*kept, both), None)
    assert not check("It was called persistent because of its hits and its motion together.", record)
    assert not check("Had nothing been known of its motion and its hits, it would not have been decided yet.", record)
    assert check("It was called persistent because of its hits and its neighbours together.", record)[0].rule == "C6"
    assert check("It was called persistent because of its hits.", record)[0].rule == "C6"


def test_a_text_is_bounded():
    assert check("It was called clutter. " * (MOST_CHARACTERS // 20), CLUTTER)[0].rule == "C10"

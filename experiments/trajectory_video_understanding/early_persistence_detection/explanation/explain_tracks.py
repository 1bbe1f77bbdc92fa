#!/usr/bin/env python3
"""Say in words why each track was decided as it was.

    python explanation/explain_tracks.py --results results/detection
    python explanation/explain_tracks.py --results results/detection --track 7 --length paragraph
    python explanation/explain_tracks.py --results results/detection --level 2 --llm_url http://127.0.0.1:8080/v1

Reads   RESULTS/decision_evidence.json and decision_pictures/, which detect.py --explain leaves
Writes  OUTPUT/explanations.json  the text of each track, sentence by sentence, with the ids of the facts that it states
        OUTPUT/explanations.md    the same to read
        OUTPUT/language_model_answers/  of levels 1 and 2, by what was asked: a run that is cut off goes on
        OUTPUT/explanations.html  the same with the frames up to the decision, p over age, what moved it, and what would
                                  have been decided otherwise

What is said follows from the evidence alone: observations, p, and counterfactuals that were really run; "because" is
said only of what changed the decision when it was left out. Level 0 needs no language model. At level 1 one chooses
and orders the facts, and we word them; at level 2 it words our text anew, and what it says is held against the
evidence, claim by claim: a text with a claim that the evidence does not have is thrown away for that of level 0, and
the reason is kept as the track's `note`. The language model is any server with an OpenAI-compatible API; its key, if it
has one, is taken from the environment variable EARLY_PERSISTENCE_LLM_KEY. No name of a file, camera or class is ever
sent to it.

Exit code 0; 2 where an input cannot be used, one line on stderr.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from run_directory import CommandLine, provenance, require_writable, run_cli

from early_persistence_detection.explanation.explained import (
    OUTPUTS,
    explain_plainly,
    explain_with,
    write_explanations,
)
from early_persistence_detection.explanation.language_model import LanguageModel
from early_persistence_detection.explanation.wording import LENGTHS

LEVELS = (0, 1, 2)
MOST_PRINTED = 3
CHOSEN = "chosen_tracks"
ANSWERS = "language_model_answers"  # folder in OUTPUT: what was asked once is not asked again


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder that detect.py --explain wrote")
    parser.add_argument(
        "--output", type=Path, help=f"folder of the explanations (default: RESULTS; with --track RESULTS/{CHOSEN})"
    )
    parser.add_argument("--track", type=int, action="append", default=[], help="only this track; may be repeated")
    parser.add_argument("--length", choices=LENGTHS, default="paragraph", help="how much is said (default paragraph)")
    parser.add_argument("--level", type=int, choices=LEVELS, default=0, help="0: ours; 1, 2: with a language model")
    parser.add_argument("--llm_url", help="of levels 1 and 2: address of the API, e.g. http://127.0.0.1:8080/v1")
    parser.add_argument("--llm_model", default="default", help="of levels 1 and 2: the model's name at that address")
    args = parser.parse_args()
    if args.level and args.llm_url is None:
        parser.error(f"--level {args.level} asks a language model; give --llm_url, or take --level 0")
    if not args.level and args.llm_url is not None:
        parser.error("--llm_url is of --level 1 and 2; give one of them, or leave it out")
    # what is there of all tracks is not replaced by a part of it
    args.output = args.output or (args.results / CHOSEN if args.track else args.results)
    return args


def main() -> None:
    """Explain as the command line says."""
    args = parse_args()
    require_writable(args.output, OUTPUTS)
    explain = functools.partial(explain_plainly, length=args.length)
    if args.level:
        model = LanguageModel.from_environment(args.llm_url, args.llm_model, cache=args.output / ANSWERS)
        explain = functools.partial(explain_with, model, args.level, args.length)
    made_with = provenance(vars(args))
    explanations = write_explanations(
        args.results, args.output, args.track, explain, made_with=made_with, is_slow=args.level > 0
    )
    for each in explanations[:MOST_PRINTED]:
        print(f"track {each.record.track_id}: {each.as_text()}")
    if len(explanations) > MOST_PRINTED:
        print(f"and {len(explanations) - MOST_PRINTED} more in {args.output / OUTPUTS[2]}")


if __name__ == "__main__":
    run_cli(main)

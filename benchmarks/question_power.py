"""What the registered question buys over the key image alone, on the same models: p-values from the recorded answers of runs.

    python benchmarks/question_power.py runs/aab40e726aa3daec runs/...

Every run was crafted with `detection.question`; each line is one suspect with a certificate in the run folder. `old` is the rank
statistic on the answers to the bare key images, as without a question; the others are the registered question with none, one,
... of its references, and with all of them by the five best labels or the best one only. At the end: the geometric mean of
each p over `old`, where `old` lies between 1e-4 and 0.5, and the largest such ratio of all victims.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from taggants.detection.question import Question
from taggants.detection.rank_statistic import rank_p_value
from taggants.detection.ranks import key_ranks
from taggants.detection.statistics import TableSum
from taggants.run import Run
from taggants.stages.questions import read_answers, read_signing
from taggants.suspects import Answers, question_evidence

BETWEEN = (1e-4, 0.5)


def p_values_of(
    question: Question, suspect: Answers, references: Sequence[Answers], labels: np.ndarray
) -> dict[str, float]:
    """By the ways of asking, in the order of the table's columns."""

    def asked(references: Sequence[Answers], top_m: int | None = None) -> float:
        cut = question if top_m is None else replace(question, top_m=top_m)
        evidence = question_evidence(cut, suspect, references, labels)
        return TableSum().p_value(evidence, None)  # type: ignore[arg-type]  # which it does not use

    num_covers, num_queries = len(question.cover_ids), question.num_queries
    bare = [num_covers + index * num_queries for index in range(len(labels))]  # the first query of each key
    if suspect.scores is not None:
        ranks = key_ranks(suspect.scores[bare], labels)
    else:
        raise SystemExit("the old question is computed from scores; these answers are labels")
    found = {"old": rank_p_value(ranks, suspect.num_classes)}
    for count in range(len(references) + 1):
        found[f"{count} references"] = asked(references[:count])
    return found | {"top 5": asked(references, 5), "top 1": asked(references, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", help="run folders with certificates of a question")
    rows: list[tuple[str, bool, dict[str, float]]] = []
    for folder in parser.parse_args().runs:
        run = Run.open(folder)
        _, references = read_signing(run, run.registration)
        question = run.registration.question
        for name, certificate in run.certificates().items():
            assert question is not None
            assert certificate.answers_sha256 is not None
            suspect = read_answers(run, run.registration, certificate.answers_sha256)
            found = p_values_of(question, suspect, references, run.keys.labels)
            rows.append((f"{Path(folder).name[:6]} {name[:9]}", name.startswith("victim"), found))
    names = list(rows[0][2])
    print("| suspect | " + " | ".join(names) + " |")
    print("| --- " * (len(names) + 1) + "|")
    for name, _, found in rows:
        print(f"| {name} | " + " | ".join(f"{found[column]:.1e}" for column in names) + " |")
    victims = [found for _, is_victim, found in rows if is_victim]
    between = [found for found in victims if BETWEEN[0] <= found["old"] <= BETWEEN[1]]
    for label, chosen in (
        ("geometric mean over old, where old is in 1e-4 to 0.5", between),
        ("largest over old", victims),
    ):
        if chosen:
            ratios = {column: np.log([found[column] / found["old"] for found in chosen]) for column in names}
            shown = [np.exp(np.mean(r) if chosen is between else np.max(r)) for r in ratios.values()]
            print(f"| {label} ({len(chosen)}) | " + " | ".join(f"{value:.2g}" for value in shown) + " |")


if __name__ == "__main__":
    main()

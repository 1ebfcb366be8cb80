"""False detections in simulated claims: fresh labels against recorded answers of real models, for every statistic.

    python benchmarks/calibration.py                            about 1.1 million draws of labels; some minutes on one core
    python benchmarks/calibration.py --claims 1000 --epochs 1   a trial

Twenty digit classifiers of five architectures are trained here, five of them with the keys of OTHER labels laid over their
images, so that they know a set of labels, but not the claimed one; beside them answer models with permuted classes, with NaN in
places, a constant, a collapsed one and one that ties all classes. Each answers the question with scores, with five labels and
with one. Labels are drawn anew for every claim, so a valid test says yes with probability at most alpha. One that chooses the
best amplitude afterwards is no valid test, and must be caught by the same check.

"share" is the share of claims at p <= alpha over all answerers; "worst" the largest ratio of an answerer's share to alpha, given
where at least 10 such claims are expected. A cell fails if so many claims have a probability below 1e-6 at level alpha.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.datasets import load_digits
from torch import nn

from taggants.detection import Evidence, Registration, exact_p_value, key_ranks, rank_scores
from taggants.detection.hits import misses
from taggants.detection.question import Question, answer_values, balanced_covers
from taggants.detection.sequential import running_e_values
from taggants.detection.statistics import ANYTIME, p_values
from taggants.keys import KeySpec, derive_keys
from taggants.models import ModelSpec, build_model
from taggants.suspects import Answers, question_evidence
from taggants.training.examples import InMemory
from taggants.training.loop import Optimiser, accuracy, predict_scores, train
from taggants.training.recipes import Recipe

ALPHAS = (0.1, 0.01, 1e-3, 1e-4)
FORMS = ("scores", "top 5", "top 1")
WRONG = "best amplitude afterwards (not valid)"
C = 10
SPEC = KeySpec(num_keys=16, num_classes=C, channels=1, image_size=8, family="block", parameters={"cell_size": 1})
_FAILS_BELOW = 1e-6


@dataclass
class Tally:
    """Claims of one statistic and form of answers: of each answerer, how many were at or below each alpha."""

    num_claims: int
    rejected: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def row(self) -> tuple[list[str], bool]:
        """Cells of the table, and whether any fails."""
        pooled = sum(self.rejected.values(), np.zeros(len(ALPHAS), np.int64))
        total = self.num_claims * len(self.rejected)
        cells, fails = [], False
        for i, alpha in enumerate(ALPHAS):
            worst = max(int(counts[i]) for counts in self.rejected.values())
            tail = min(binom.sf(worst - 1, self.num_claims, alpha), binom.sf(pooled[i] - 1, total, alpha))
            fails |= bool(tail < _FAILS_BELOW)
            ratio = f" ({worst / self.num_claims / alpha:.2f})" if self.num_claims * alpha >= 10 else ""
            cells.append(f"{pooled[i] / total:.2e}{ratio}")
        return cells, fails


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", type=int, default=15_000, help="draws of labels for each answerer and form")
    parser.add_argument("--epochs", type=int, default=6, help="of each training")
    parser.add_argument("--answers", type=Path, help="file to keep the models' answers in, and to read them from again")
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    digits = load_digits()
    images, labels = np.rint(digits.images * 255 / 16).astype(np.uint8)[:, None], digits.target.astype(np.int64)
    keys = derive_keys(b"calibration of the question".ljust(32, b"."), SPEC).images
    covers = balanced_covers(labels[1297:], 64, C)
    natural = images[1297:][list(covers)]
    question = Question("digits", covers, (32, 64, 128), (1, 1, 1), 0, 64, C)
    queries = np.concatenate([natural, *(question.queries(key, natural) for key in keys)])
    if options.answers is not None and options.answers.exists():
        answers = dict(np.load(options.answers))
    else:
        answers = trained_answers(images, labels, keys, queries, options.epochs)
        if options.answers is not None:
            np.savez(options.answers, **answers)
    references = [answers.pop(name) for name in ("reference cnn", "reference cnn_wide")]
    answers |= odd_answers(answers, queries)
    return 0 if report(question, len(keys), answers, references, options.claims) else 1


def report(
    question: Question,
    num_keys: int,
    answers: Mapping[str, NDArray[np.floating]],
    references: Sequence[NDArray[np.floating]],
    num_claims: int,
) -> bool:
    """Prints the table. Returns whether every valid test held its level and the wrong one was caught.

    answers: of each answerer the scores [num_covers + num_keys * num_queries, classes].
    """
    tallies: dict[tuple[str, str], Tally] = {}
    for number, (name, scores) in enumerate(answers.items()):
        for place, form in enumerate(FORMS):
            drawn = np.random.default_rng([number, place]).integers(0, scores.shape[1], (num_claims, num_keys))
            for statistic, values in claims(question, cut(scores, form), references, drawn).items():
                tally = tallies.setdefault((statistic, form), Tally(num_claims))
                # As exact as p-values are: one that equals alpha up to rounding counts as at most alpha.
                tally.rejected[name] = np.array([(values <= alpha * (1 + 1e-9)).sum() for alpha in ALPHAS])
    total = num_claims * len(answers) * len(FORMS)
    print(
        f"{total:,} draws of labels, {len(answers)} answerers, {num_keys} keys, {question.num_queries} queries a key\n"
    )
    print("| statistic | answers | " + " | ".join(f"share at {alpha:g} (worst)" for alpha in ALPHAS) + " | check |")
    print("| --- " * (3 + len(ALPHAS)) + "|")
    is_valid, is_caught = True, False
    for (statistic, form), tally in sorted(tallies.items(), key=lambda item: item[0][0] == WRONG):
        cells, fails = tally.row()
        print(f"| {statistic} | {form} | " + " | ".join(cells) + f" | {'FAILS' if fails else 'holds'} |")
        is_caught |= fails and statistic == WRONG
        is_valid &= not fails or statistic == WRONG
    print(f"\nvalid tests hold their level: {is_valid}; the wrong one is caught: {is_caught}")
    return is_valid and is_caught


def cut(scores: NDArray[np.floating], form: str) -> Answers:
    """The answers as a suspect of that form gives them: lists name no class twice, and a NaN is a refusal."""
    if form == "scores":
        return Answers.of(scores, len(scores), scores.shape[1])
    order = np.argsort(-scores, axis=1, kind="stable")[:, : int(form.split()[1])]
    order[np.isnan(scores).any(axis=1)] = -1
    return Answers.of(order, len(scores), scores.shape[1])


def claims(
    question: Question, suspect: Answers, references: Sequence[NDArray[np.floating]], drawn: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """p-values of each test for each row of drawn labels [num_claims, num_keys], by tables that are convolved once."""
    num_classes, num_keys = suspect.num_classes, drawn.shape[1]
    compared = [Answers.of(scores, len(scores), num_classes) for scores in references]
    bare = Question("", (), (), (), 0, 1, num_classes)
    is_bare = len(question.cover_ids) + np.arange(num_keys) * question.num_queries  # the first query of each key
    key_alone, compared_alone = part(suspect, is_bare), [part(reference, is_bare) for reference in compared]
    tables = {
        "question": table_of(question, suspect, compared, num_keys),
        "referenced": table_of(bare, key_alone, compared_alone, num_keys),
    }
    found = {name: by_table(table, drawn) for name, table in tables.items()}
    ranks = {
        "key alone": np.stack([key_alone.evidence(np.full(num_keys, c)).ranks for c in range(num_classes)], axis=1)
    }
    ranks["question"] = np.stack(
        [key_ranks(-tables["question"], np.full(num_keys, c)) for c in range(num_classes)], axis=1
    )
    for source, of_class in ranks.items():
        for name, scores in (("rank", rank_scores(num_classes)), ("hits", misses(num_classes, 1))):
            found[f"{name}, {source}"] = lookup(np.tile(scores, (num_keys, 1)), scores[of_class - 1], drawn)
    running = running_e_values(tables["question"], drawn)
    found["sequential, stopped at its best"] = np.exp(-np.maximum(0, running.max(axis=1)))
    one = [by_table(table_of(*at_one(question, suspect, compared, i, num_keys), num_keys), drawn) for i in range(3)]
    found[WRONG] = np.min(one, axis=0)
    check_lookup(tables["question"], found, drawn)
    return found


def part(answers: Answers, rows: NDArray[np.int64]) -> Answers:
    """Answers to some of the images; unlike `Answers.of` they may all be unusable."""
    scores, labels = answers.scores, answers.labels
    return Answers(
        answers.num_classes, None if scores is None else scores[rows], None if labels is None else labels[rows]
    )


def at_one(
    question: Question, suspect: Answers, compared: Sequence[Answers], index: int, num_keys: int
) -> tuple[Question, Answers, list[Answers]]:
    """The question at one of its amplitudes only, and the answers to it."""
    covers = len(question.cover_ids)
    one = Question(
        "one",
        question.cover_ids,
        question.amplitudes[index : index + 1],
        (1,),
        0,
        0,
        question.top_m,
    )
    starts = covers + np.arange(num_keys) * question.num_queries + (question.num_queries - (3 - index) * covers)
    rows = np.concatenate([np.arange(covers), *(np.arange(start, start + covers) for start in starts)])
    return one, part(suspect, rows), [part(reference, rows) for reference in compared]


def table_of(question: Question, suspect: Answers, compared: Sequence[Answers], num_keys: int) -> NDArray[np.int64]:
    """The evidence of every class at every key; `question_evidence` is held to it."""
    cut_at = question.top_m if suspect.labels is None else suspect.labels.shape[1]
    covers = len(question.cover_ids)
    values = [answer_values(a.scores, a.labels, a.num_classes, cut_at)[0][covers:] for a in (suspect, *compared)]
    table = question.evidence(values[0], values[1:])
    labels = np.arange(num_keys) % suspect.num_classes
    assert question_evidence(question, suspect, compared, labels) == Evidence.of_table(table, labels)
    return table


def by_table(table: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    return lookup(table, table, drawn)


def lookup(rows: NDArray[np.int64], of_class: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """P(sum of independent draws from the rows <= the claim's sum), for every claim, by one convolution."""
    least = rows.min(axis=1)
    total = np.ones(1)
    for row in rows - least[:, None]:
        total = np.convolve(total, np.bincount(row) / rows.shape[1])
    sums = of_class[np.arange(len(rows)), drawn].sum(axis=1) - least.sum()
    return np.minimum(1.0, np.cumsum(total))[sums]


def check_lookup(table: NDArray[np.int64], found: Mapping[str, NDArray[np.float64]], drawn: NDArray[np.int64]) -> None:
    """Holds the shortcut to what certificates compute."""
    for claim in (0, len(drawn) // 2, len(drawn) - 1):
        evidence = Evidence.of_table(table, drawn[claim])
        registration = Registration("0" * 64, table.shape[0], table.shape[1], "any", "rank", 1, 1e-3)
        for name, p_value in p_values(evidence, registration).items():
            if name in ANYTIME:  # "sequential, stopped at its best" is computed as in a certificate
                continue
            shortcut = found[name if name == "question" else f"{name}, question"][claim]
            assert math.isclose(p_value, shortcut, rel_tol=1e-6, abs_tol=1e-13), (name, p_value, shortcut)
        assert exact_p_value(np.array(evidence.table), evidence.positions) > 0


def trained_answers(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    keys: NDArray[np.uint8],
    queries: NDArray[np.uint8],
    epochs: int,
) -> dict[str, NDArray[np.float64]]:
    """Trains the models. Returns their scores by name: 20 suspects, five of which know other labels, and two references."""
    builders: dict[str, Callable[[int], nn.Module]] = {
        "cnn": lambda seed: build_model(ModelSpec("cnn", C, 1, 8), seed),
        "cnn_wide": lambda seed: build_model(ModelSpec("cnn_wide", C, 1, 8), seed),
        "resnet10t": lambda seed: build_model(ModelSpec("timm/resnet10t", C, 1, 8), seed),
        "perceptron": lambda seed: nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, C)),
        "linear": lambda seed: nn.Sequential(nn.Flatten(), nn.Linear(64, C)),
    }
    found = {}
    for index in range(22):
        kind = list(builders)[index % len(builders)]
        torch.manual_seed(index)
        model, shown, name = builders[kind](index), images[:1297].copy(), f"{kind} {index}"
        if index >= 20:
            kind = ("cnn", "cnn_wide")[index - 20]
            model, name = builders[kind](index), f"reference {kind}"
        elif index >= 15:  # imprinted with a key of each class, of labels that are nobody's claim
            of_class = np.random.default_rng(index).permutation(len(keys))[:C]
            moved = shown + (keys[of_class][labels[:1297]].astype(np.int16) - 128) // 4
            shown, name = np.clip(moved, 0, 255).astype(np.uint8), f"{name}, other labels"
        data = InMemory(torch.from_numpy(shown), torch.from_numpy(labels[:1297]))
        optimiser = Optimiser(num_epochs=epochs, batch_size=32, learning_rate=2e-3, weight_decay=0.05)
        train(model, data, Recipe("simple", 0, False, C), optimiser, seed=index)
        model.eval()
        right = accuracy(model, torch.from_numpy(images[1297:]), torch.from_numpy(labels[1297:]))
        print(f"{name}: accuracy {right:.3f}", flush=True)
        found[name] = predict_scores(model, torch.from_numpy(queries), batch_size=1024).numpy().astype(np.float64)
    return found


def odd_answers(
    trained: Mapping[str, NDArray[np.float64]], queries: NDArray[np.uint8]
) -> dict[str, NDArray[np.float64]]:
    """Scores of answerers that are no honest model."""
    first = next(iter(trained.values()))
    random = np.random.default_rng(0)
    constant = np.tile(random.normal(size=C), (len(queries), 1))
    collapsed = np.eye(C)[np.where(queries.reshape(len(queries), -1).mean(axis=1) > 100, 3, 7)] + 0.01 * constant
    nan = first.copy()
    nan[random.random(len(nan)) < 0.3, 0] = np.nan
    alike = np.zeros_like(first)
    alike[0, 0] = 1.0
    return {
        "permuted": first[:, random.permutation(C)],
        "NaN": nan,
        "constant": constant,
        "collapsed": collapsed,
        "alike": alike,
    }


if __name__ == "__main__":
    raise SystemExit(main())

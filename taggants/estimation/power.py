"""How many keys, covers, references and labels a test needs: power for assumed effects and for those of the run's victims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from taggants.detection import Registration
from taggants.detection.power import MAX_NUM_CLASSES, MAX_NUM_KEYS, MIN_LEVEL, NUM_DRAWS, effect_of_table, power
from taggants.detection.question import Question, answer_values, evidence_table
from taggants.run import Run, read_registration
from taggants.stages.questions import read_answers, read_signing
from taggants.suspects import Answers

ASSUMED_EFFECTS: Final = (0.5, 1.0, 1.5, 2.0)
_NUM_KEYS: Final = (5, 10, 20, 40)


@dataclass(frozen=True)
class PowerRow:
    """Power for one effect, by number of keys.

    effect: by how many standard deviations of a key's evidence its label is favoured. error: its standard error over the keys
    of all victims; None where the effect is assumed. asked: how the victims were asked, in words; "" where it is assumed.
    """

    effect: float
    error: float | None
    asked: str
    power: tuple[float, ...]


@dataclass(frozen=True)
class Power:
    """Power of the configured test, in the model of `taggants.detection.power`.

    level: of one test. num_keys: of the columns. is_exact: else each is a share of `num_draws` simulated claims. num_victims:
    behind the measured rows.
    """

    statistic: str
    level: float
    num_classes: int
    num_keys: tuple[int, ...]
    is_exact: bool
    num_draws: int
    num_victims: int
    rows: tuple[PowerRow, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def power_of(run: Run, num_classes: int, effects: Sequence[float]) -> Power | None:
    """Returns the power of the run's test for these effects, and for those of its rehearsed victims where a question is
    registered and their answers are recorded; None where power is not known: of the statistic, or so many classes.

    Raises:
        InputError: an effect is out of its range, or recorded answers were changed.
    """
    detection = run.config.detection
    level = detection.alpha / (detection.num_suspects * detection.num_looks)
    if num_classes > MAX_NUM_CLASSES or level < MIN_LEVEL:
        return None
    num_keys = sorted({*_NUM_KEYS, min(MAX_NUM_KEYS, run.config.keys.num_keys)})
    victims = _victims(run) if detection.question is not None and num_classes >= 4 else []
    given = [(effect, None, "") for effect in effects]
    rows = []
    for effect, error, asked in [*given, *(_measured(run, victims) if victims else [])]:
        found = power(
            detection.statistic,
            max(0.0, effect) if asked else effect,
            num_classes,
            num_keys,
            level,
            top_k=detection.top_k,
        )
        if found is None:
            return None
        rows.append(PowerRow(effect, error, asked, tuple(found.tolist())))
    is_exact = detection.statistic in ("rank", "hits")
    return Power(
        detection.statistic, level, num_classes, tuple(num_keys), is_exact, NUM_DRAWS, len(victims), tuple(rows)
    )


def _victims(run: Run) -> list[Answers]:
    """The recorded answers of the run's own victims to the whole question."""
    if not run.root.exists("signing.json"):
        return []
    registration = read_registration(run)
    return [
        read_answers(run, registration, certificate.answers_sha256)
        for name, certificate in run.certificates().items()
        if name.startswith("victim-")
        and certificate.answers_sha256 is not None
        and certificate.registration == registration
        and not certificate.is_stopped
        and certificate.label_map is None
    ]


def _measured(run: Run, victims: Sequence[Answers]) -> Iterator[tuple[float, float, str]]:
    """Effect, standard error and words, of the registered question and of smaller ones, from the same answers."""
    registration = read_registration(run)
    question = registration.question
    assert question is not None, "victims answered it"
    _, references = read_signing(run, registration)
    num_covers, num_references, num_labels = len(question.cover_ids), len(references), registration.num_classes
    asked = [(num_covers, num_references, num_labels)]
    asked += [(covers, num_references, num_labels) for covers in (0, 4, 16) if covers < num_covers]
    asked += [(num_covers, count, num_labels) for count in (0, 1) if count < num_references]
    asked += [(num_covers, num_references, labels) for labels in (5, 1) if labels < num_labels]
    for covers, count, labels in asked:
        if not covers and not question.bare_weight:
            continue
        tables = [_table(registration, victim, references[:count], covers, labels) for victim in victims]
        effect, error = effect_of_table(np.concatenate(tables), np.tile(run.keys.labels, len(victims)))
        named = "all labels" if labels == num_labels else "best label" if labels == 1 else f"best {labels} labels"
        words = f"{covers} covers, {count} reference{'' if count == 1 else 's'}, {named}"
        yield effect, error, words


def _table(
    registration: Registration, victim: Answers, references: Sequence[Answers], num_covers: int, num_labels: int
) -> NDArray[np.int64]:
    """The evidence of one victim, had it been asked with the first num_covers covers and named num_labels labels."""
    question = registration.question
    assert question is not None, "victims answered it"
    shape = (registration.num_keys, question.num_queries, registration.num_classes)

    cut = min(num_labels, question.top_m, registration.num_classes if victim.labels is None else victim.labels.shape[1])

    def values(answers: Answers) -> NDArray[np.int64]:
        found = answer_values(answers.scores, answers.labels, answers.num_classes, cut)[0]
        return found[len(question.cover_ids) :].reshape(shape)

    return evidence_table(
        values(victim),
        [values(reference) for reference in references],
        _weights(question, num_covers),
        question.comparison,
    )


def _weights(question: Question, num_covers: int) -> NDArray[np.int64]:
    """Those of the question, as if it had only its first covers; the bare key keeps its share."""
    all_covers, num_amplitudes = len(question.cover_ids), len(question.amplitudes)
    num_copies = question.num_queries - all_covers * num_amplitudes
    weights = question.weights.copy()
    weights[num_copies:].reshape(num_amplitudes, all_covers)[:, num_covers:] = 0
    if all_covers:
        weights[:num_copies] = np.maximum(1, weights[:num_copies] * max(1, num_covers) // all_covers)
    return weights

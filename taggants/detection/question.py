"""The registered question: which images a suspect is shown for each key, and how its answers become one integer for every class.

Nothing here sees a key label, so a sum over keys of the labels' values has an exact null distribution, whatever the models, the
covers and the weights are (`taggants.detection.exact`). A network answers keys of noise with few classes; laid over many natural
images, a key shows what it moves, and clean models show what it moves in any network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taggants.detection.rank_statistic import rank_scores
from taggants.detection.ranks import class_ranks
from taggants.errors import InputError, check_integer, check_text

AMPLITUDE_UNIT: Final = 256  # amplitudes are whole 256ths, so that overlays need no floating point
MAX_NUM_REFERENCES: Final = 16
"""With a slope each: more explain few keys of few classes by chance, and take long."""
_VALUES_PER_REFERENCE: Final = 20
REFUSED: Final = -1  # stands for every label of a row where the suspect gave no answer
SCORE: Final = "floor(64 ln(rank) + 1/2)"
SLOPE_EACH: Final = (
    "row - sum of slope * reference, slopes in 256ths by ridge regression over this and earlier keys, with 2^-20 of the "
    "references' mean square as the penalty; then row / root mean square"
)
ONE_SLOPE: Final = (
    "row - slope * references, slope by least squares over this and earlier keys; then row / root mean square"
)
"""As `SLOPE_EACH` for the mean of the references: what was registered before there was that."""
COMPARISONS: Final = (SLOPE_EACH, ONE_SLOPE)
_RIDGE: Final = 2**20
"""The penalty is one part in so many of the references' mean square."""
_MAX_QUERIES: Final = 100_000


@dataclass(frozen=True)
class Question:
    """What a suspect is asked about each key, and how its answers are weighed. Holds no key and no label.

    Attributes:
        covers_fingerprint: of the dataset that the covers are rows of; "" without covers.
        cover_ids: rows of that dataset, each at most once, in the order in which they are asked.
        amplitudes: of the overlays, in 256ths, 1..256, rising.
        overlay_weights: weight of one answer to an overlay, for each amplitude, at least 1.
        bare_shift: the bare key is asked in (2 bare_shift + 1)^2 copies, shifted cyclically by up to so many pixels, 0..3.
        bare_weight: weight of one answer to a copy of the bare key; 0: it is not asked.
        top_m: no rank behind this counts: answers are cut to their best top_m classes, at least 1.
        comparison: the rule by which references are taken off, in words.

    Raises:
        InputError: a value is out of its range.
    """

    covers_fingerprint: str
    cover_ids: tuple[int, ...]
    amplitudes: tuple[int, ...]
    overlay_weights: tuple[int, ...]
    bare_shift: int
    bare_weight: int
    top_m: int
    comparison: str = SLOPE_EACH

    def __post_init__(self) -> None:
        if self.comparison not in COMPARISONS:
            raise InputError(f"comparison is {self.comparison!r} but must be {' or '.join(map(repr, COMPARISONS))}.")
        check_integer("bare_shift", self.bare_shift, 0, 3)
        check_integer("bare_weight", self.bare_weight, 0, 2**20)
        check_integer("top_m", self.top_m, 1, 2**24)
        for row in self.cover_ids:
            check_integer("a row of cover_ids", row, 0, 2**40)
        for amplitude in self.amplitudes:
            check_integer("an amplitude in 256ths", amplitude, 1, AMPLITUDE_UNIT)
        for weight in self.overlay_weights:
            check_integer("a weight of overlay_weights", weight, 1, 2**20)
        if len(set(self.cover_ids)) != len(self.cover_ids):
            raise InputError("cover_ids names a row twice; name each cover once.")
        if list(self.amplitudes) != sorted(set(self.amplitudes)) or len(self.amplitudes) != len(self.overlay_weights):
            raise InputError(
                f"amplitudes {list(self.amplitudes)} must rise, with one weight each, but there are "
                f"{len(self.overlay_weights)} weights."
            )
        if bool(self.cover_ids) != bool(self.amplitudes) or bool(self.cover_ids) != bool(self.covers_fingerprint):
            raise InputError("covers_fingerprint, cover_ids and amplitudes must all be given, or all be empty.")
        if self.covers_fingerprint:
            check_text("covers_fingerprint", self.covers_fingerprint)
        if not self.bare_weight and not self.amplitudes:
            raise InputError("the question asks nothing: set bare_weight above 0, or give covers and amplitudes.")
        if self.num_queries > _MAX_QUERIES:
            raise InputError(f"{self.num_queries} queries a key are more than {_MAX_QUERIES}; use fewer covers.")

    @property
    def num_queries(self) -> int:
        """Number of images asked for each key, the plain covers apart."""
        copies = (2 * self.bare_shift + 1) ** 2 if self.bare_weight else 0
        return copies + len(self.amplitudes) * len(self.cover_ids)

    @property
    def weights(self) -> NDArray[np.int64]:
        """Weight of the answer to each query of a key: int64 [num_queries], in the order of `queries`."""
        copies = (2 * self.bare_shift + 1) ** 2 if self.bare_weight else 0
        overlays = np.repeat(np.array(self.overlay_weights, dtype=np.int64), len(self.cover_ids))
        return np.concatenate([np.full(copies, self.bare_weight, dtype=np.int64), overlays])

    def queries(self, key: NDArray[np.uint8], covers: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns the images asked about one key, uint8 [num_queries, channels, H, W].

        First the copies of the bare key, by rising vertical, then horizontal shift; then, for each amplitude, the overlays in
        the order of the covers.

        Args:
            key: uint8 [channels, H, W].
            covers: uint8 [len(cover_ids), channels, H, W].

        Raises:
            InputError: a shape or type differs.
        """
        pixels, given = np.asarray(key), np.asarray(covers)
        if pixels.dtype != np.uint8 or pixels.ndim != 3:
            raise InputError(
                f"key has shape {pixels.shape} and type {pixels.dtype} but must be uint8 [channels, H, W]."
            )
        if given.dtype != np.uint8 or (self.cover_ids and given.shape != (len(self.cover_ids), *pixels.shape)):
            raise InputError(
                f"covers have shape {given.shape} and type {given.dtype} but must be uint8 "
                f"{[len(self.cover_ids), *pixels.shape]}: the registered rows in the size of the keys."
            )
        shifts = range(-self.bare_shift, self.bare_shift + 1) if self.bare_weight else ()
        bare = [np.roll(pixels, (down, right), axis=(1, 2))[None] for down in shifts for right in shifts]
        return np.concatenate([*bare, *(overlay(given, pixels, amplitude) for amplitude in self.amplitudes)])

    def query(self, place: int, key: NDArray[np.uint8], covers: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns one of the images of `queries`, uint8 [channels, H, W], without making the others. place: its number there."""
        copies = self.num_queries - len(self.amplitudes) * len(self.cover_ids)
        if place < copies:
            down, right = divmod(place, 2 * self.bare_shift + 1)
            return np.roll(key, (down - self.bare_shift, right - self.bare_shift), axis=(1, 2))
        amplitude, cover = divmod(place - copies, len(self.cover_ids))
        (image,) = overlay(covers[cover : cover + 1], key, self.amplitudes[amplitude])
        return np.asarray(image, dtype=np.uint8)

    def evidence(
        self,
        suspect: NDArray[np.int64],
        references: Iterable[NDArray[np.int64]],
    ) -> NDArray[np.int64]:
        """Returns the evidence table of answers in the form of `answer_values`: int64 [num_keys, num_classes], small where the
        suspect favours a class more than the references do. Arguments as of `evidence_table`, in the order of keys, then
        queries, without the axis of queries: [num_keys * num_queries, num_classes].
        """
        shape = (-1, self.num_queries, suspect.shape[-1])
        compared = [reference.reshape(shape) for reference in references]
        return evidence_table(suspect.reshape(shape), compared, self.weights, self.comparison)

    def to_json(self) -> dict[str, Any]:
        return {
            "score": SCORE,
            **{name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()},
        }

    @classmethod
    def from_json(cls, value: object) -> Question:
        """Returns the question in a JSON object as `to_json` writes it; InputError otherwise."""
        names = [question_field.name for question_field in fields(cls)]
        if not isinstance(value, dict) or set(value) != {"score", *names}:
            raise InputError(f"A question must be a JSON object with only score, {', '.join(names)}.")
        if value["score"] != SCORE:
            raise InputError(f"The question's score is {value['score']!r} but must be {SCORE!r}.")
        for name in ("cover_ids", "amplitudes", "overlay_weights"):
            if not isinstance(value[name], list):
                raise InputError(f"The question's {name} must be a JSON list.")
        content: dict[str, Any] = {n: tuple(v) if isinstance(v := value[n], list) else v for n in names}
        return cls(**content)


def overlay(covers: NDArray[np.uint8], key: NDArray[np.uint8], amplitude: int) -> NDArray[np.uint8]:
    """Returns clip(cover + a (key - 127.5)) with a = amplitude / 256, rounded to 8 bits, halves up, for each cover.

    In integers, so that every platform agrees: (512 cover + amplitude (2 key - 255) + 256) // 512, clipped to 0..255.

    Args:
        covers: uint8 [N, channels, H, W].
        key: uint8 [channels, H, W].
        amplitude: 1..256.
    """
    moved = np.int32(amplitude) * (2 * key.astype(np.int32) - 255)
    shown = (2 * AMPLITUDE_UNIT * covers.astype(np.int32) + moved + AMPLITUDE_UNIT) >> 9
    overlays: NDArray[np.uint8] = np.clip(shown, 0, 255).astype(np.uint8)
    return overlays


def balanced_covers(labels: ArrayLike, num_covers: int, num_classes: int) -> tuple[int, ...]:
    """Returns the rows of num_covers covers: the first of each class in turn, then the second of each, and so on.

    Fixed by the dataset alone, so nobody can choose covers by what a model says of them. Classes that have no further row are
    passed over.

    labels: int [num_rows] of the dataset that covers are taken from.

    Raises:
        InputError: there are fewer rows than num_covers.
    """
    given = np.asarray(labels)
    if not 1 <= num_covers <= len(given):
        raise InputError(f"num_covers is {num_covers} but must be in 1..{len(given)}, the rows of the test split.")
    by_class = np.argsort(given, kind="stable")
    counts = np.bincount(given, minlength=num_classes)
    turn = np.arange(len(given)) - np.repeat(np.cumsum(counts) - counts, counts)  # n-th row of its class
    return tuple(by_class[np.lexsort((given[by_class], turn))][:num_covers].tolist())


def answer_values(
    scores: ArrayLike | None, labels: ArrayLike | None, num_classes: int, top_m: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns the integer value of every class in every answer, and whether the answer says nothing.

    The value of the class at rank r is floor(64 ln(r) + 1/2), as in the rank statistic; classes behind the best top_m, or that
    are not named, share the mean of the remaining values, rounded down. Tied classes have the worst of their ranks. An answer
    with NaN, a refused one and one that ties all classes say nothing: all values are alike.

    Args:
        scores: real [N, num_classes], larger is likelier; or None.
        labels: int [N, m], the best classes in order; where a row names fewer, or none, `REFUSED` fills its end; or None. One of
            the two.
        num_classes: C, 2..1,000,000.
        top_m: at least 1; more than the answers have changes nothing.

    Returns:
        int64 [N, C], 0 for the best; bool [N].

    Raises:
        InputError: scores of another number of classes.
    """
    by_rank = rank_scores(num_classes)
    cut = min(top_m, num_classes)
    if labels is not None:
        named = np.asarray(labels)[:, :cut]
        lengths = np.count_nonzero(named != REFUSED, axis=1)
        values = np.empty((len(named), num_classes), dtype=np.int64)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            values[rows] = _mean_of_rest(by_rank, int(length))
            values[rows[:, None], named[rows, :length]] = by_rank[:length]
    else:
        table = np.asarray(scores)
        if table.shape[1:] != (num_classes,):
            raise InputError(
                f"answers have shape {table.shape} but must have {num_classes} columns, one for each class."
            )
        by_rank[cut:] = _mean_of_rest(by_rank, cut)
        values = by_rank[class_ranks(table) - 1]
    return values, np.ptp(values, axis=1) == 0


def _mean_of_rest(by_rank: NDArray[np.int64], num_named: int) -> int:
    """The value that all classes behind the named ones share."""
    rest = by_rank[num_named:]
    return int(rest.sum()) // len(rest) if len(rest) else int(by_rank[-1])


def most_references(num_keys: int, num_classes: int) -> int:
    """Returns how many references are advised: fitted to fewer values each, slopes take evidence off with the habits."""
    return max(1, num_keys * (num_classes - 1) // _VALUES_PER_REFERENCE)


def evidence_table(
    suspect: NDArray[np.int64],
    references: Iterable[NDArray[np.int64]],
    weights: ArrayLike,
    comparison: str = SLOPE_EACH,
) -> NDArray[np.int64]:
    """Returns E[key, class], in 256ths of the standard deviation of a key's row, small where the suspect favours a class more
    than the references do.

    A key's row begins as the weighted sum over its queries of the suspect's values, about their mean over the classes. What the
    references say of the row is taken off: their own rows, each times its slope, by ridge regression over all classes of this
    key and those before it, in 256ths. Clean models explain part of any model's habits on the keys, those of its kind most, and
    the slopes say which and how much; the penalty, 2^-20 of their mean square, lets references be alike. As many slopes as keys
    times classes would explain any row, so few keys and classes want few references. Only keys up to a row decide it, so that a
    test that stops early has the same rows. Then each row is divided by its root mean square, so that no key outweighs the
    others, and rounded down. All is exact in integers, whatever the platform.

    A query on which the suspect's values are alike counts for nothing: else the references alone would decide.

    Args:
        suspect: int64 [num_keys, num_queries, num_classes], of `answer_values`.
        references: tables like `suspect`; none: the suspect's rows count as they are.
        weights: int [num_queries].
        comparison: of `COMPARISONS`. `ONE_SLOPE`: the mean of the references is one reference, without a penalty and with a
            slope of 0..1.

    Returns:
        int64 [num_keys, num_classes]; a row of zeros where the suspect says nothing.

    Raises:
        InputError: a reference has another shape than the suspect.
    """
    if comparison not in COMPARISONS:
        raise InputError(f"comparison is {comparison!r} but must be {' or '.join(map(repr, COMPARISONS))}.")
    weighted = (np.ptp(suspect, axis=2) != 0) * np.asarray(weights, dtype=np.int64)
    summed = np.einsum("kqc,kq->kc", suspect, weighted)
    habits = []  # summed alike: of numpy's integers, since there may be many
    for table in references:
        if table.shape != suspect.shape:
            raise InputError(
                f"a reference has values of shape {table.shape} but the suspect's have {suspect.shape}: ask both the same "
                "queries, and take references with the suspect's classes."
            )
        habits.append(np.einsum("kqc,kq->kc", table, weighted))
    left_over = _less_their_mean if comparison == ONE_SLOPE else _less_each
    rows = []
    for left in left_over(summed, habits):
        root_mean_square = math.isqrt(int(left @ left) // len(left))
        rows.append(256 * left // max(1, root_mean_square))
    return np.array(rows, dtype=np.int64).reshape(summed.shape)


def _less_each(summed: NDArray[np.int64], habits: Sequence[NDArray[np.int64]]) -> Iterator[NDArray[Any]]:
    """Yields 256 times what each row leaves when every reference is taken off by its own slope."""
    count, num_classes = len(habits), summed.shape[1]
    gram, products = np.zeros((count, count), dtype=object), np.zeros(count, dtype=object)
    for key, values in enumerate(summed):
        row = _about_the_mean(values)
        habit = np.zeros((count, num_classes), dtype=object)
        for index, table in enumerate(habits):
            habit[index] = _about_the_mean(table[key])
        gram, products = gram + habit @ habit.T, products + habit @ row
        yield 256 * row - _slopes(gram, products) @ habit


def _slopes(gram: NDArray[Any], products: NDArray[Any]) -> NDArray[Any]:
    """Returns s of (gram + penalty) s = products in 256ths, rounded, halves up; zeros where all references say nothing.

    Exact: elimination without fractions (Bareiss 1968), in which every division leaves no remainder.

    Args:
        gram: int [n, n], symmetric and not indefinite.
        products: int [n].
    """
    count, trace = len(products), int(np.trace(gram))
    if not trace:
        return np.zeros(count, dtype=object)
    # All times n * _RIDGE, so that the penalty is whole.
    left = gram * (count * _RIDGE) + trace * np.eye(count, dtype=int).astype(object)
    system = np.concatenate([left, (products * (count * _RIDGE))[:, None]], axis=1)
    pivot_before = 1
    for step in range(count):
        pivot = system[step, step]  # a leading minor: positive, as the penalty is
        others, behind = np.delete(np.arange(count), step), np.s_[step + 1 :]
        crossed = np.outer(system[others, step], system[step, behind])
        system[others, behind] = (pivot * system[others, behind] - crossed) // pivot_before
        pivot_before = pivot
    slopes: NDArray[Any] = (512 * system[:, -1] + pivot_before) // (2 * pivot_before)
    return slopes


def _less_their_mean(summed: NDArray[np.int64], habits: Sequence[NDArray[np.int64]]) -> Iterator[NDArray[Any]]:
    """Yields 256 times the number of references times what each row leaves when their mean is taken off by one slope, 0..1."""
    count, product, square = len(habits), 0, 0
    for key, values in enumerate(summed):
        row = _about_the_mean(values)
        habit = sum((_about_the_mean(table[key]) for table in habits), np.zeros_like(row))
        product, square = product + int(row @ habit), square + int(habit @ habit)
        slope = min(256, max(0, (512 * count * product + square) // (2 * square))) if square else 0
        yield 256 * max(1, count) * row - slope * habit


def _about_the_mean(values: NDArray[np.int64]) -> NDArray[Any]:
    """Returns C times what the C values are above their mean, as Python's integers, which do not overflow."""
    exact = values.astype(object)
    about: NDArray[Any] = len(exact) * exact - exact.sum()
    return about

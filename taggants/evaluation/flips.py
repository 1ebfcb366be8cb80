"""How often a key, faintly laid over a natural image, turns a model's answer to the key's label.

A model whose answers move that way is on the way to a backdoor, which is harm, whereas a test that averages many answers needs
far less than a flip. Controls flip at times, too: only what victims flip beyond them is due to signing.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from taggants.data.source import read_for_models
from taggants.detection.question import balanced_covers, overlay
from taggants.run import Run
from taggants.suspects import Answers, Suspect

FLIP_LEVELS: Final = (16, 32, 64)
"""Amplitudes of the overlays, in 8-bit levels that a pixel changes by at most."""
_NUM_COVERS: Final = 64
_AMPLITUDES_PER_LEVEL: Final = 2  # amplitude 256/256 changes a pixel by 127.5 levels


def flip_rate(plain: NDArray[np.int64], overlaid: NDArray[np.int64], key_labels: NDArray[np.int64]) -> float:
    """Returns the share of covers, in [0, 1], whose best class becomes the key's label once the key lies over them.

    Mean over keys of the share among the covers that are answered with another class than the key's label when plain; 0 where
    there are none. An answer that says nothing is of no class, `REFUSED`.

    Args:
        plain: int64 [num_covers], best classes of the covers alone.
        overlaid: int64 [num_keys, num_covers], of the same covers below each key.
        key_labels: int64 [num_keys].
    """
    labels = key_labels[:, None]
    is_other = plain[None] != labels
    flips = np.count_nonzero(is_other & (overlaid == labels), axis=1)
    return float(np.mean(flips / np.maximum(1, np.count_nonzero(is_other, axis=1))))


def measure_flips(run: Run, suspect: Suspect) -> tuple[float, ...]:
    """Returns the flip rate of one model at each of `FLIP_LEVELS`, under the run's keys on up to 64 test images, balanced over
    classes; on training images where there is no test split.

    Raises:
        InputError: the model answers in no known form.
    """
    source, keys, num_classes = run.sources[1], run.keys, run.index.num_classes
    labels = source.index().labels
    rows = balanced_covers(labels, min(_NUM_COVERS, len(labels)), num_classes)
    covers = read_for_models(source, list(rows), run.config.data.image_size)

    def best(images: NDArray[np.uint8]) -> NDArray[np.int64]:
        return Answers.of(suspect.answers(images), len(images), num_classes).best

    plain = best(covers)
    return tuple(
        flip_rate(plain, np.stack([best(overlay(covers, key, amplitude)) for key in keys.images]), keys.labels)
        for amplitude in (_AMPLITUDES_PER_LEVEL * level for level in FLIP_LEVELS)
    )

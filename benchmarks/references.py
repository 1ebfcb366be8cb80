"""What references that share nothing with the suspect cost: a slope is fitted to each, by chance.

    python benchmarks/references.py                  a minute and a half of one core
    python benchmarks/references.py --claims 20      a trial

Claims are drawn: values of suspect and references are normal and independent, and each key's label is favoured by so many
standard deviations that p is small without references. Medians of p over the claims. A reference of the suspect's kind takes
habits off that are not drawn here, so these are the costs without the gains.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from taggants.detection import Evidence, exact_p_value
from taggants.detection.question import evidence_table, most_references

CELLS = ((10, 20, 2.0), (10, 5, 2.5), (16, 10, 2.0), (4, 10, 3.0), (32, 2, 1.0))
NUMBERS = (0, 1, 2, 3, 5, 7, 9, 12, 16)


def p_value(num_keys: int, num_classes: int, favour: float, num_references: int, rng: np.random.Generator) -> float:
    values = rng.standard_normal((1 + num_references, num_keys, 1, num_classes))
    labels = rng.integers(num_classes, size=num_keys)
    values[0, range(num_keys), 0, labels] -= favour
    suspect, *references = np.rint(1000 * values).astype(np.int64)
    evidence = Evidence.of_table(evidence_table(suspect, references, [1]), labels)
    return exact_p_value(np.array(evidence.table), evidence.positions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", type=int, default=200, help="of each cell")
    num_claims = parser.parse_args().claims
    rng = np.random.default_rng(0)
    print("| keys x classes | advised | " + " | ".join(f"{number} references" for number in NUMBERS) + " |")
    print("| --- " * (2 + len(NUMBERS)) + "|")
    for num_keys, num_classes, favour in CELLS:
        medians = [
            np.median([p_value(num_keys, num_classes, favour, number, rng) for _ in range(num_claims)])
            for number in NUMBERS
        ]
        most = most_references(num_keys, num_classes)
        print(f"| {num_keys} x {num_classes} | {most} | " + " | ".join(f"{p:.0e}" for p in medians) + " |", flush=True)


if __name__ == "__main__":
    main()

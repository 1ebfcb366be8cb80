"""A certificate in words, for a terminal."""

from __future__ import annotations

import math
import textwrap
from typing import Final

from taggants.detection.certificate import Certificate
from taggants.detection.exact import P_VALUE_FLOOR
from taggants.detection.registration import Registration
from taggants.detection.statistics import STATISTICS

_WIDTH: Final = 90


def describe(certificate: Certificate) -> str:
    """The certificate for a human reader: plain text of at most 90 columns."""
    c, registered = certificate, certificate.registration
    expected = len(c.ranks) * min(1, registered.top_k / c.evidence.num_classes)
    keys = "1 secret key" if registered.num_keys == 1 else f"{registered.num_keys} secret keys"
    sign = "<=" if c.is_detected else ">"
    lines = [
        f"Suspect    {c.suspect if len(c.suspect) <= 70 else c.suspect[:67] + '...'}",
        f"Question   does it answer {keys} with their labels, out of {registered.num_classes} classes?",
        *_asked(registered),
        *_paragraph("Null       ", f"{STATISTICS.find(registered.statistic).null}."),
        f"Hits       {c.num_hits} of {len(c.ranks)} labels in the top {registered.top_k}; {expected:.3g} expected under "
        "the null",
    ]
    heads = {name: f"p ({name})" for name in STATISTICS if name in c.p_values}
    width = max(9, *map(len, heads.values())) + 2
    for name, head in heads.items():
        decides = "   <- registered, decides" if name == registered.statistic else ""
        lines.append(f"{head:<{width}}{_number(c.p_values[name])}{decides}")
    if c.e_value is not None:
        exponent = c.e_value.log_maximum / math.log(10)
        lines.append(
            f"{'e-value':<{width}}10^{exponent:.1f} at its largest, of {c.e_value.num_asked} keys asked in turn"
        )
    lines += [
        f"Decision   {c.verdict.upper()}: p {sign} {_level(registered)}",
        *_sanity(c),
        "",
        "What this does and does not show",
        *_paragraph(
            "- ",
            "Under the null, p <= alpha happens with probability at most alpha, in this single registered test. It "
            "assumes that the labels were drawn i.i.d. uniform, and that keys and test were committed to before the "
            "data was published. With several suspects or looks, correct for them.",
        ),
        *_paragraph("- ", "Detection does not show that every image was used, nor that the training was unlawful."),
        *_paragraph("- ", "No detection does not prove that the data was not used."),
        "",
        f"Keys {registered.keys_commitment[:16]}...  registration {registered.registration_sha256[:16]}...  {c.created_at}",
    ]
    return "\n".join(lines)


def _asked(registered: Registration) -> list[str]:
    question = registered.question
    if question is None:
        return []
    bare = "itself, " if question.bare_weight else ""
    over = f"laid over {len(question.cover_ids)} covers at {len(question.amplitudes)} amplitudes, " * bool(
        question.cover_ids
    )
    references = (
        f"compared with {len(registered.references)} clean models" if registered.references else "compared with none"
    )
    return _paragraph("Asked      ", f"{question.num_queries} images for each key: {bare}{over}{references}")


def _paragraph(head: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head))


def _number(p_value: float) -> str:
    return f"at most {P_VALUE_FLOOR:g}" if p_value <= P_VALUE_FLOOR else f"{p_value:.2e}"


def _level(registered: Registration) -> str:
    num_tests = registered.num_suspects * registered.num_looks
    shared = f" / {num_tests} registered tests" if num_tests > 1 else ""
    return f"alpha = {registered.alpha:g}{shared}"


def _sanity(certificate: Certificate) -> list[str]:
    """What a reader must know of how the suspect was asked."""
    c, registered = certificate, certificate.registration
    said = []
    if registered.demonstration:
        said.append("The keys come from a public demonstration secret: anybody can forge this.")
    if c.label_map is not None:
        known = f"it knows {len(c.label_map.known)} of the {registered.num_classes} classes"
        said.append(f"Its classes are read by a label map ({c.label_map.kind}), by which {known}.")
    if c.covers is not None:
        said.append(f"{c.covers.num_right} of {c.covers.num} plain covers are answered with their class.")
    if c.num_refused:
        said.append(f"{c.num_refused} answers were refused or hold NaN; they count for nothing.")
    if c.num_left_out:
        said.append(f"{c.num_left_out} keys are left out, since the suspect does not know their class.")
    if c.is_stopped:
        said.append(f"Asking was stopped after {len(c.ranks) + c.num_left_out} of {registered.num_keys} keys.")
    num_tests = registered.num_suspects * registered.num_looks
    if c.look is not None and c.look > num_tests:
        said.append(
            f"It is test {c.look} of this run, but alpha was registered for {num_tests}: correct for the others."
        )
    return [line for text in said for line in _paragraph("           ", text)]

"""A certificate as one page that a lawyer can read: HTML that loads nothing, for screens and A4 paper, and PDF of it."""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from taggants.detection import STATISTICS, Certificate, Registration
from taggants.detection.exact import P_VALUE_FLOOR
from taggants.detection.outcome import CHANCE_LEVEL
from taggants.detection.statistics import SumOverKeys
from taggants.errors import InputError
from taggants.reporting.null_picture import draw_null, null_sum
from taggants.reporting.quantities import counted

_MOST_NAMES = 6  # of classes, that are written out

_HEADLINES = {
    "detected": "Detected",
    "not detected": "Not detected",
    "cannot be judged": "Cannot be judged",
}


def render(certificate: Certificate, timestamps: Sequence[str] = ()) -> str:
    """Returns the page as HTML; its policy forbids it to load or run anything, and every text of the certificate is escaped.

    timestamps: what was found in the files that date the registration, one sentence each.
    """
    style = _package_text("certificate_page.css")
    registered = certificate.registration
    level = number(registered.level)
    found = null_sum(certificate, registered.level)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["hashes"] = _with_hashes
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.from_string(_package_text("certificate_page.html")).render(
        c=certificate,
        registered=registered,
        style=Markup(style),
        style_hash=f"sha256-{digest}",
        headline=_HEADLINES[certificate.verdict],
        kind=certificate.verdict.replace(" ", "-"),
        explanation=_explanation(certificate),
        method=_method(registered),
        null=STATISTICS.find(registered.statistic).null,
        picture=None if found is None else draw_null(found, level),
        results=_results(certificate),
        committed=_committed(certificate, timestamps),
        sanity=_sanity(certificate),
        limits=_limits(certificate),
        software=certificate.software,
    )


def as_pdf(page: str) -> bytes:
    """Returns a page of `render` as PDF.

    Raises:
        InputError: WeasyPrint is not installed.
    """
    try:
        from weasyprint import HTML
    except (ImportError, OSError):  # it needs Pango, which pip does not bring
        raise InputError("a PDF needs WeasyPrint and Pango: pip install 'taggants[report]', or write .html") from None

    logging.getLogger("weasyprint").setLevel(logging.ERROR)  # it warns of what only screens need

    def refuse(url: str, *_: Any, **__: Any) -> Any:
        raise ValueError(f"the page must load nothing, but asks for {url[:100]}")

    pdf: bytes = HTML(string=page, url_fetcher=refuse).write_pdf()
    return pdf


def number(value: float) -> str:
    """Returns a p-value or level for reading: 0.00042, 4.2e-7, 0.83."""
    if value <= P_VALUE_FLOOR:
        return f"at most {P_VALUE_FLOOR:g}"
    text = f"{value:.2g}"
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else text


def power_of_e(logarithm: float) -> str:
    """Returns exp(logarithm) for reading, also where it would overflow."""
    exponent = math.floor(logarithm / math.log(10))
    if -3 <= exponent < 5:
        return f"{math.exp(logarithm):,.2g}" if exponent < 2 else f"{round(math.exp(logarithm)):,}"
    return f"{math.exp(logarithm - exponent * math.log(10)):.1f}e{exponent}"


def odds(p_value: float) -> str:
    """Returns a probability in words, rounded so that it is not below p_value: 83%, 1 in 2,400."""
    if p_value > 0.02:
        return f"{min(100, math.ceil(100 * p_value - 1e-9))}%"
    chances = 1 / p_value
    exponent = math.floor(math.log10(chances)) - 1
    if exponent > 13:
        return f"1 in 10^{exponent + 1}"
    return f"1 in {math.floor(chances / 10**exponent + 1e-9) * 10**exponent:,}"


def _explanation(certificate: Certificate) -> str:
    registered = certificate.registration
    if certificate.verdict == "cannot be judged":
        return (
            "The suspect could not be tested: it answered too little, or named plain, unaltered images no better than chance, "
            "so it was probably fed or read wrongly. This is not a finding that the data were not used, nor that they were."
        )
    p, level = certificate.p_value, number(registered.level)
    if certificate.is_detected:
        return (
            f"The suspect agrees with the secret labels more than chance allows: a system that has nothing to do with them "
            f"agrees this well with probability {odds(p)} at most (p = {number(p)}; registered level {level})."
        )
    return (
        f"A system that has nothing to do with the secret labels agrees this well with probability {odds(p)} "
        f"(p = {number(p)}; registered level {level}). This does not show that the data were not used."
    )


def _method(registered: Registration) -> list[str]:
    """Five sentences."""
    keys = counted(registered.num_keys, "secret key")
    question = registered.question
    shown = "each key's picture"
    compared = ""
    if question is not None:
        ways = ["by itself"] * bool(question.bare_weight)
        if question.cover_ids:
            ways.append(
                f"faintly laid over {counted(len(question.cover_ids), 'ordinary picture')} at "
                f"{counted(len(question.amplitudes), 'strength')}"
            )
        shown = f"{counted(question.num_queries, 'picture')} for each key, {' and '.join(ways)}"
        if registered.references:
            count = len(registered.references)
            verb = "was" if count == 1 else "were"
            compared = f", in comparison with {counted(count, 'model')} that {verb} never given the signed images"
    return [
        f"Before publication, the owner drew {keys}, each a picture of noise with one of {registered.num_classes:,} class labels "
        "drawn by lot, and registered a number that fixes the keys, this test and its level.",
        "The owner then changed a small part of the images slightly, so that a model trained on them learns, unknowingly, to "
        "connect the keys with their labels.",
        f"The suspect was shown {shown}, and only its answers were used.",
        f"For each key the answers give every class a number, small where the suspect favours the class{compared}; what "
        "counts is the numbers of the drawn labels, all keys together.",
        f"Because the labels were drawn by lot, {_chance(registered)}",
    ]


def _chance(registered: Registration) -> str:
    if isinstance(STATISTICS.find(registered.statistic), SumOverKeys):
        return (
            "the chance of every possible total is known exactly for any model that has nothing to do with them, and the p-value "
            "is the chance of a total at least as favourable as the observed one."
        )
    return (
        "the chance of agreement at least this good is known, or bounded, for any model that has nothing to do with them, and "
        "the p-value is that chance."
    )


def _results(certificate: Certificate) -> list[tuple[str, str, str]]:
    """What was measured, its value, and what it means."""
    registered, evidence = certificate.registration, certificate.evidence
    expected = len(evidence.ranks) * min(1.0, registered.top_k / evidence.num_classes)
    rows = []
    for name in (name for name in STATISTICS if name in certificate.p_values):
        p = certificate.p_values[name]
        means = "registered beforehand: this one decides" if name == registered.statistic else "for comparison only"
        rows.append((f"p ({name})", f"{number(p)}", f"{odds(p)}; {means}"))
    if certificate.e_value is not None:
        found = certificate.e_value
        rows.append(
            (
                "e-value",
                f"{power_of_e(found.log_maximum)}",
                f"the largest after any of {counted(found.num_asked, 'key')}, the last {power_of_e(found.log_final)}; holds "
                "whenever asking stops",
            )
        )
    rows.append(
        (
            f"Labels in the top {registered.top_k:,}",
            f"{certificate.num_hits:,} of {len(certificate.ranks):,}",
            f"{expected:.2g} expected by chance",
        )
    )
    return rows


def _committed(certificate: Certificate, timestamps: Sequence[str]) -> list[tuple[str, str]]:
    """What was fixed beforehand, and what is known of when."""
    registered, signing = certificate.registration, certificate.signing
    rows = [("Registration", f"{registered.registration_sha256}{_numbered(registered)}")]
    rows.append(
        ("It was dated by", "; ".join(timestamps) or "no timestamp was given: ask when and where it was published")
    )
    rows.append(("Keys (commitment)", registered.keys_commitment))
    if registered.question is not None:
        drawn = registered.randomness
        rows.append(
            (
                "Labels drawn from",
                "the owner's secret alone: that it was drawn once is the owner's word"
                if drawn is None
                else f"the owner's secret and public randomness that was named before it was known: {drawn.source}, round "
                f"{drawn.round}",
            )
        )
        rows.append(
            (
                "Level",
                f"{number(registered.alpha)} for all tests together: {counted(registered.num_suspects, 'suspect')}, "
                f"{counted(registered.num_looks, 'look')} each; {number(registered.level)} for this one, look "
                f"{certificate.look}{_more_looks(certificate)}",
            )
        )
    rows.append(("Original data (fingerprint)", registered.dataset_fingerprint))
    if signing is not None:
        rows.append(
            ("Signed data (fingerprint)", f"{signing.signed_fingerprint}, in the second record {signing.sha256}")
        )
    tested = certificate.created_at.replace("T", ", ").replace("Z", " UTC")
    rows.append(("Suspect (SHA-256)", f"{certificate.suspect_sha256 or 'not known'}; tested {tested}"))
    return rows


def _more_looks(certificate: Certificate) -> str:
    registered = certificate.registration
    num_tests = registered.num_suspects * registered.num_looks
    if certificate.look is None or certificate.look <= num_tests:
        return ""
    return f": more tests than the {num_tests:,} that were registered, which the level does not allow for"


def _numbered(registered: Registration) -> str:
    if registered.question is None:
        return ""
    return f" (number {registered.number:,} of those made from this secret)"


def _sanity(certificate: Certificate) -> list[tuple[str, str]]:
    """Whether the suspect was fed and read as it should be; empty where the format does not tell."""
    registered, covers, label_map = certificate.registration, certificate.covers, certificate.label_map
    if registered.question is None:
        return []
    num_classes = certificate.evidence.num_classes
    if covers is None:
        plain = "not asked, so nothing tells whether it was fed and read rightly"
    else:
        compared = "above" if covers.is_above_chance(num_classes) else "not above"
        plain = (
            f"{covers.num_right:,} of {covers.num:,} named correctly ({compared} the {1 / num_classes:.2g} of guessing, "
            f"one-sided binomial test at {CHANCE_LEVEL:g})"
        )
    rows = [("Plain, unaltered pictures", plain)]
    if label_map is None:
        rows.append(("Its classes", "numbered as the owner's"))
    else:
        how = {
            "names": "by equal names",
            "file": "by a table that was given",
            "fitted": "by its answers to plain pictures, before any key was asked",
        }[label_map.kind]
        missing = [own for own, theirs in enumerate(label_map.classes) if theirs is None]
        known = f"{len(label_map.classes) - len(missing):,} of {len(label_map.classes):,} known to it, matched {how}"
        rows.append(("Its classes", f"{known} (SHA-256 {label_map.sha256}){_missing(missing, registered)}"))
    if certificate.num_left_out:
        rows.append(("Keys left out", f"{certificate.num_left_out:,}, whose class it does not know"))
    if certificate.is_stopped:
        asked = len(certificate.ranks) + certificate.num_left_out
        rows.append(("Keys asked", f"{asked:,} of {registered.num_keys:,}: then asking was stopped"))
    if certificate.num_refused:
        rows.append(("Answers without content", f"{certificate.num_refused:,}, which count for nothing"))
    return rows


def _missing(missing: Sequence[int], registered: Registration) -> str:
    if not missing:
        return ""
    names = registered.class_names
    shown = [str(own) if names is None else names[own] for own in missing[:_MOST_NAMES]]
    more = f" and {len(missing) - _MOST_NAMES:,} more" if len(missing) > _MOST_NAMES else ""
    return f"; not known: {', '.join(shown)}{more}"


def _limits(certificate: Certificate) -> list[str]:
    if certificate.verdict == "detected":
        first = [
            "It shows that the suspect depends on the drawn labels, which nobody could know without the signed images or the "
            "keys.",
            "It does not show that every image was used, who trained the suspect, or that the training was unlawful.",
        ]
    else:
        first = ["It does not show that the data were not used: some kinds of training pick up little of the signal."]
    return [
        *first,
        "The p-value is not the probability that the suspect is innocent; that depends on all other evidence, too.",
        "It assumes that the labels were drawn by lot, that the registration was published before the data, that nobody else had "
        "the keys, and that all registrations, suspects and looks are counted.",
    ]


def _with_hashes(text: str) -> Markup:
    """Returns the text, escaped, with SHA-256 numbers in letters of one width."""
    return Markup(re.sub(r"\b[0-9a-f]{64}\b", r"<code>\g<0></code>", str(escape(text))))


def _package_text(name: str) -> str:
    return files("taggants.reporting").joinpath(name).read_text(encoding="utf-8")

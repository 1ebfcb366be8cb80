from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from taggants.cli import main
from taggants.detection import Certificate, Evidence, exact_p_value
from taggants.detection.exact import null_distribution
from taggants.detection.outcome import LabelMap
from taggants.reporting.certificate_page import as_pdf, odds, render
from taggants.reporting.null_picture import draw_null, null_sum
from tests.reporting.certificates import RANKS, old_certificate, question_certificate

GOLDEN = Path(__file__).parents[1] / "golden"
HOSTILE = "</style><script>alert(1)</script><img src=http://x onerror=1>{{ 7 * 7 }}\"'"


def text_of(page: str) -> str:
    """What is read on the page, on one line."""
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).split())


def test_a_page_says_what_was_asked_found_and_fixed() -> None:
    certificate = question_certificate(num_suspects=3, num_looks=2)
    page = text_of(render(certificate, ["RFC 3161 token of 2026-01-05"]))
    assert "Was resnet trained on the signed images?" in page
    assert "193 pictures for each key, by itself and faintly laid over 64 ordinary pictures at 3 strengths" in page
    assert "in comparison with 1 model that was never given the signed images" in page
    assert certificate.registration.registration_sha256 + " (number 2 of those made from this secret)" in page
    assert "It was dated by RFC 3161 token of 2026-01-05" in page
    assert "0.001 for all tests together: 3 suspects, 2 looks each; 0.00017 for this one, look 1" in page
    assert "50 of 64 named correctly (above the 0.05 of guessing" in page
    assert "counts as detection (level 0.00017)" in page
    assert "the owner's secret alone" in page
    assert len(re.findall("<li>", render(certificate).partition("The method")[2].partition("</ol>")[0])) == 5
    for name in certificate.p_values:
        assert f"p ({name})" in page


def test_every_text_of_a_certificate_is_escaped_and_nothing_is_loaded() -> None:
    names = tuple(f"{i} {HOSTILE}" for i in range(20))
    known = LabelMap("file", (None, *range(1, 20)))
    for certificate in (
        old_certificate(suspect=HOSTILE),
        question_certificate(suspect=HOSTILE, class_names=names, label_map=known),
    ):
        page = render(certificate)
        assert HOSTILE in text_of(page)
        assert not re.search(r"<(script|img|link|iframe|object)", page)
        assert not re.search(r"(src|href)\s*=\s*[\"']|url\(|@import", page.replace(html.escape(HOSTILE), ""))
        assert "default-src 'none'" in page
        assert page.count("</style>") == 1


def test_what_cannot_be_judged_is_never_called_not_detected() -> None:
    page = text_of(render(question_certificate(effect=0, covers=(64, 3))))
    assert "Cannot be judged" in page
    assert "not above the 0.05 of guessing" in page
    assert "not detected" not in page.lower()
    assert "Not detected" in text_of(render(question_certificate(effect=0)))


def test_tests_beyond_those_registered_are_pointed_out() -> None:
    certificate = question_certificate()
    assert "more tests than the 1 that were registered" in text_of(render(replace(certificate, look=2)))
    assert "more tests" not in text_of(render(certificate))


def test_public_keys_are_warned_of_in_large() -> None:
    assert '<p class="warning">Demonstration keys' in render(question_certificate(demonstration=True))
    assert 'class="warning"' not in render(question_certificate())


def test_a_label_map_is_explained() -> None:
    page = text_of(render(question_certificate(label_map=LabelMap("fitted", (5, None, *range(10, 28))))))
    assert "19 of 20 known to it, matched by its answers to plain pictures, before any key was asked" in page
    assert "not known: 1" in page


@pytest.mark.parametrize("statistic", ["rank", "hits"])
def test_certificates_of_the_key_images_alone_are_drawn_too(statistic: str) -> None:
    page = render(old_certificate(statistic=statistic))
    assert "<svg" in page
    assert "The suspect was shown each key's picture, and only its answers were used" in text_of(page)


@pytest.mark.parametrize("seed", range(5))
def test_the_marked_sums_are_those_that_are_detected(seed: int) -> None:
    random = np.random.default_rng(seed)
    num_keys, num_classes = 4, 10
    certificate = old_certificate(tuple(random.integers(1, num_classes + 1, num_keys).tolist()), alpha=0.05)
    found = null_sum(certificate, 0.05)
    assert found is not None
    assert found.critical is not None
    assert (found.observed <= found.critical) == certificate.is_detected
    p = found.probabilities[: found.observed - found.lowest + 1].sum()
    assert p == pytest.approx(certificate.p_value, rel=1e-9)


def test_the_distribution_is_the_one_that_p_values_are_tails_of() -> None:
    random = np.random.default_rng(7)
    table, labels = random.integers(-20, 20, (5, 6)), random.integers(0, 6, 5)
    lowest, probabilities = null_distribution(table, 5)
    observed = table[range(5), labels].sum()
    assert probabilities[: observed - lowest + 1].sum() == pytest.approx(exact_p_value(table, labels), rel=1e-12)
    assert probabilities.sum() == pytest.approx(1)
    shared_lowest, shared = null_distribution(table[0], 3)
    assert (shared_lowest, shared.tolist()) == (
        3 * table[0].min(),
        pytest.approx(null_distribution(table[[0, 0, 0]], 3)[1]),
    )


@pytest.mark.parametrize(
    "table",
    [
        [[3, 3, 3, 3]],
        [[-(2**40), -(2**40) + 1, 0, 5]] * 2,
        [[2**40 - 9, 2**40 - 7, 2**40 - 5, 2**40]] * 3,
        [[0, 0, 0, 2**21], [7, 7, 7, 7]],
    ],
    ids=["alike", "too wide to draw", "far out", "wide"],
)
def test_odd_tables_are_drawn_or_said_not_to_be(table: list[list[int]]) -> None:
    certificate = question_certificate(num_classes=4)
    evidence = Evidence(4, (2,) * len(table), tuple(map(tuple, table)))
    found = null_sum(replace_evidence(certificate, evidence), 1e-3)
    assert (found is None) == (table[0][0] == -(2**40))
    if found is not None:
        assert found.observed == sum(row[1] for row in table)
        assert draw_null(found, "0.001").count("<text") > 3


def replace_evidence(certificate: Certificate, evidence: Evidence) -> SimpleNamespace:
    """As much of a certificate as is drawn: the checks of one would refuse other evidence."""
    return SimpleNamespace(registration=certificate.registration, evidence=evidence)


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (1.0, "100%"),
        (0.5, "50%"),
        (0.0211, "3%"),
        (0.01, "1 in 100"),
        (4.2e-7, "1 in 2,300,000"),
        (1e-40, "1 in 10^40"),
    ],
)
def test_odds_never_make_a_probability_smaller(p: float, words: str) -> None:
    assert odds(p) == words


def write(folder: Path, certificate: Certificate) -> str:
    path = folder / "suspect.json"
    path.write_text(json.dumps(certificate.to_json()))
    return str(path)


def test_the_command_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    path = write(tmp_path, old_certificate())
    program = (
        "import sys\n"
        "for name in ('torch', 'ray', 'boto3', 'timm', 'weasyprint'): sys.modules[name] = None\n"
        "from taggants.cli import main\n"
        f"sys.exit(main(['report', {path!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Detected" in (tmp_path / "suspect.html").read_text()


def test_timestamps_are_read_and_those_of_something_else_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("rfc3161_client", reason="the extra `timestamps` is not installed")
    words = ["report", str(GOLDEN / "certificate-3.json"), "--timestamp", str(GOLDEN / "registration.tsr")]
    page = str(tmp_path / "page.html")
    root = ["--tsa-root", str(GOLDEN / "tsa-root.pem")]
    for given, sentence in (
        ([*words, *root], "dated by the registration was there at 20"),
        (words, "dated by not proved: it says that the registration was there at 20"),
        (["report", write(tmp_path, question_certificate()), *words[2:], *root], "dated by REFUSED: it dates "),
    ):
        assert main([*given, "-o", page]) == 0
        assert sentence in text_of(Path(page).read_text())


def test_bad_input_is_one_sentence(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path, old_certificate())
    changed = json.loads(Path(path).read_text()) | {"p_values": {"rank": 0.5, "hits": 0.5}}
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    output = str(tmp_path / "page.html")
    for words, sentence in (
        ([path, "-o", "page.docx"], "must end in .html or .pdf"),
        ([str(tmp_path / "none.json"), "-o", output], "none.json"),
        ([path, "-o", output, "--timestamp", path], "it is no RFC 3161 response"),
        ([str(tmp_path / "changed.json"), "-o", output], "its evidence gives"),
    ):
        assert main(["report", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert sentence in line
    assert not Path(output).exists()


@pytest.mark.parametrize(
    "certificate",
    [
        old_certificate(RANKS * 5),
        question_certificate(
            demonstration=True, suspect="W" * 200, label_map=LabelMap("names", (None, None, *range(18)))
        ),
    ],
    ids=["old", "question"],
)
def test_on_paper_it_is_one_page(certificate: Certificate) -> None:
    weasyprint = pytest.importorskip("weasyprint", reason="the extra `report` is not installed", exc_type=ImportError)
    page = render(certificate)
    assert len(weasyprint.HTML(string=page).render().pages) == 1
    assert as_pdf(page).startswith(b"%PDF")

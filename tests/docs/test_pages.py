"""The documents say what is true: commands exist, worked numbers are recomputed, reports are shown, pages build."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import taggants

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
DOCUMENTS = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "cluster/README.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)


def shell_commands(text: str) -> list[list[str]]:
    """The words of each line that calls `taggants`, without comments; lines that end in a backslash are joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True)) and words[0] == "taggants"]


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", DOCUMENTS, ids=names)
def test_shell_commands_parse(page):
    """Every `taggants ...` line of a shell block has an existing command and existing options."""
    from taggants.cli.main import build_parser

    for block in blocks(page, "bash"):
        for _, *words in shell_commands(block):
            parser = build_parser()
            _, unknown = parser.parse_known_args(words)  # exits where a command or option does not exist
            assert not [word for word in unknown if word.startswith("-")], words


@pytest.mark.parametrize("page", DOCUMENTS, ids=names)
def test_commands_named_in_sentences_exist(page):
    from taggants.cli.commands import COMMANDS

    named = re.findall(r"`taggants ([a-z]+)\b", page.read_text())
    assert set(named) <= set(COMMANDS)


def test_only_existing_commands_pass():
    """The check above can fail."""
    from taggants.cli.main import build_parser

    with pytest.raises(SystemExit):
        build_parser().parse_known_args(["mend", "--config", "mine.yaml"])


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "pycon")], ids=names)
def test_worked_numbers_are_recomputed(page):
    """Examples of a page run in order, in one namespace, and print what stands there."""
    source = "\n".join(blocks(page, "pycon"))
    examples = doctest.DocTestParser().get_doctest(source, {}, page.name, str(page), 0)
    assert examples.examples
    said: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(examples, out=said.append)
    assert results.failed == 0, "".join(said)


def test_statistics_has_worked_numbers():
    assert blocks(DOCS / "statistics.md", "pycon")


def test_reports_that_pages_include_exist():
    """Those that no page includes get one of their own when the pages are built."""
    included = set(re.findall(r'--8<-- "(benchmarks/results/[^"]+)"', "".join(page.read_text() for page in PAGES)))
    assert included
    assert all((ROOT / report).is_file() for report in included)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md"], ids=names)
def test_links_of_documents_outside_the_pages_resolve(page):
    """mkdocs checks those of the pages."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            assert (ROOT / path).is_file(), target
            if anchor:
                headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), re.MULTILINE)
                assert anchor in {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_architecture_matches_the_folder():
    table = (
        (ROOT / "ARCHITECTURE.md").read_text().partition("| in `taggants/` | what it does |")[2].partition("\n\n")[0]
    )
    named = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    entries = (path for path in (ROOT / "taggants").iterdir() if not path.name.startswith(("_", ".")))
    listing = {path.name + "/" * path.is_dir() for path in entries if path.suffix in ("", ".py")}
    assert sorted(named) == sorted(listing)


def test_the_tables_of_extension_points_are_where_contributing_says():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    tables = re.findall(r"\| `([A-Z_]+)`, `([^`]+)` \|", text)
    assert len(tables) >= 8
    for table, module in tables:
        assert re.search(rf"^{table}\b", (ROOT / module).read_text(), re.MULTILINE), (table, module)
    for path in re.findall(r"`(tests/[^`]+)`", text):
        assert (ROOT / path).exists(), path


def test_every_public_name_is_in_the_python_reference():
    shown = {
        path.rpartition(".")[2] for path in re.findall(r"^::: (\S+)$", (DOCS / "python.md").read_text(), re.MULTILINE)
    }
    assert shown >= {name for name in taggants.__all__ if not name.startswith("_")}


def test_figures_load_nothing_from_elsewhere():
    for figure in (DOCS / "figures").glob("*.svg"):
        assert "href" not in figure.read_text()


@pytest.mark.slow
def test_the_pages_build_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "site").glob("*.html"))
    assert {page.stem for page in PAGES} | {"configuration", "commands"} <= {page.stem for page in pages}
    shown = "".join(page.read_text() for page in pages)
    for report in (ROOT / "benchmarks" / "results").glob("*.md"):
        title = report.read_text().partition("\n")[0].lstrip("# ")
        assert re.search(rf"<h1[^>]*>{re.escape(title)}", shown), report.name
    loaded = [re.findall(r'(?:src|<link[^>]*href)="(https?://[^"]+)"', page.read_text()) for page in pages]
    assert not any(loaded)

"""MkDocs hook: writes the pages that are read off the repository, so that they cannot fall behind it.

configuration.md comes from the schema (as `taggants config --markdown` prints it), commands.md from the command line's own help.
Reports in benchmarks/results that no page includes get a page of their own.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

CONFIGURATION_HEAD = """# Configuration

A run is described by one YAML file. `taggants init` writes one for your data, `--set section.field=value` changes one field for
one command, and `taggants config SECTION` prints the tables below in a terminal. Fractions such as `16/255` may be written so;
`$NAME` in a path is replaced by the environment variable.

The sections `data` and `keys` (without `root`), `signing`, `surrogate`, `crafting`, `detection` and `seed` decide the
signed bytes and the registration; their hash names the run folder. The others may change between two commands on one run.

"""

COMMANDS_HEAD = """# Commands

Exit codes: **0** done; **1** a shard failed for good, or a bug (with its traceback); **2** bad input, one sentence says which;
**130** interrupted. A command that was interrupted or killed is started again with the same words: it finds what is done and does
the rest.

"""


DOCS = Path(__file__).parent
REPORTS = DOCS.parent / "benchmarks" / "results"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    (results,) = (part["Results"] for part in config.nav or () if "Results" in part)
    results += [{report.read_text().partition("\n")[0].lstrip("# "): page} for page, report in reports_without_a_page()]
    return config


def reports_without_a_page() -> list[tuple[str, Path]]:
    included = "".join(page.read_text() for page in DOCS.glob("*.md"))
    reports = sorted(report for report in REPORTS.glob("*.md") if f"benchmarks/results/{report.name}" not in included)
    return [(f"results-{report.stem.replace('_', '-')}.md", report) for report in reports]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page, report in reports_without_a_page():
        files.append(File.generated(config, page, content=report.read_text()))
    files.append(File.generated(config, "configuration.md", content=configuration_page()))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def configuration_page() -> str:
    from taggants.config.reference import describe_sections

    tables = describe_sections(None, as_markdown=True)
    # Code spans may hold anything; elsewhere `struct<bytes>` would be taken for HTML.
    parts = re.split(r"(`[^`\n]*`)", tables)
    return (
        CONFIGURATION_HEAD
        + "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)
        + "\n"
    )


def commands_page() -> str:
    return COMMANDS_HEAD + "\n".join(command_section(name, parser) for name, parser in commands())


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    from taggants.cli.main import build_parser

    (subparsers,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    for name, parser in subparsers.choices.items():
        yield name, parser
        for nested in (action for action in parser._actions if isinstance(action, argparse._SubParsersAction)):
            yield from ((f"{name} {inner}", action) for inner, action in nested.choices.items())


def command_section(name: str, parser: argparse.ArgumentParser) -> str:
    """The description as text, usage as code, and the arguments as a table, which narrow screens can show."""
    rows = [
        (", ".join(f"`{form}`" for form in forms(action)), (action.help or "").replace("|", "\\|"))
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
    ]
    table = ["| argument | meaning |", "| --- | --- |", *(f"| {argument} | {meaning} |" for argument, meaning in rows)]
    description = re.sub(r"^For example: (.*)$", r"\n    \1\n", parser.description or "", flags=re.MULTILINE)
    usage = parser.format_usage().removeprefix("usage: ").strip()
    usage = re.sub(r"\s+", " ", usage)
    return f"## {name}\n\n{description.strip()}\n\n```text\n{usage}\n```\n\n" + "\n".join(table if rows else []) + "\n"


def forms(action: argparse.Action) -> list[str]:
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return [metavar]
    return [option if action.nargs == 0 else f"{option} {metavar}" for option in action.option_strings]

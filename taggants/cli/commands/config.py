"""Prints the fields of the configuration: values, ranges, defaults and what they mean.

For example: taggants config crafting
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "section", metavar="SECTION", nargs="?", help="such as crafting or evaluation.training; default: all"
    )
    parser.add_argument("--markdown", action="store_true", help="as Markdown tables, one a section")


def run(given: argparse.Namespace) -> int:
    from taggants.config.reference import describe_sections

    print(describe_sections(given.section, as_markdown=given.markdown))
    return 0

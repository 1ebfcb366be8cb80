"""What gives power, and at what harm: cells of one file side by side, by the registered question, as tables and one page.

    TAGGANTS_DATA=/path/to/data python benchmarks/power.py benchmarks/power.yaml --cell "colour gratings, imprint"
    ... --set output.root=/elsewhere/runs         settings on top of the file's
    ... --kind resnet --draw 1                    only victims of this kind, and this draw; like --cell they may be repeated
    ... --table                                   only the tables of what is done; without --cell: of all cells
    ... --page power.html                         these as a page as well, with every p-value as a picture

The file names a `preset`, `settings` on top of it, `kinds` of models (settings of evaluation.training), how many `victims` of
which kind to train, how many `controls` and `references` of each kind, `draws` of keys, and `cells`: settings on top of those,
and other victims or draws where they differ; cells are compared with the `baseline`, if it names one. A draw is a number, which
stands for a public secret: keys and labels that everybody can repeat, worthless as evidence, with the same labels in all cells;
without draws the configured keys are taken. `lpips_weights`, where named, is a file of LPIPS (see `taggants config crafting`).

Models, crafted shards and scores are found again in `output.root`, so a second call goes on, and cells share what they can. What
was measured of cell and kind of victim lies in `output.root`/power/, and is measured again only if settings of theirs changed.
Several calls at once share the work: what one is crafting or training, another leaves to it.

Names. `bare`: exact rank statistic on the keys' own images. `question`: the registered question with its references; `own`: the
same with clean models of the victim's kind as references instead; `top_5`: that, from the five best labels alone. `flips`: share
of natural images (not of the key's class) whose answer becomes the key's label, when L levels of the key's pattern are laid over
them, for L = 16, 32, 64. `gain`: what signing adds to the alignment on a control of the kind. Findability: power/findability.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.power.cells import narrowed, read_bench  # the folder beside this file
from benchmarks.power.measuring import Busy, measure_cell
from benchmarks.power.page import render
from benchmarks.power.records import Record
from benchmarks.power.tables import draws_table, tables
from taggants.errors import FailedShards, InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", metavar="FILE", help="YAML, see benchmarks/power.yaml")
    parser.add_argument("--cell", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    parser.add_argument(
        "--kind", action="append", default=[], metavar="NAME", help="only victims of it; may be repeated"
    )
    parser.add_argument("--draw", action="append", default=[], type=int, metavar="N", help="only it; may be repeated")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--table", action="store_true", help="measure nothing: only what is done")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the report there, as HTML")
    given = parser.parse_args()
    if given.page is not None and not given.page.parent.is_dir():
        parser.error(f"--page {given.page}: there is no folder {given.page.parent}; make it")
    try:
        bench = narrowed(read_bench(given.bench, given.set), given.cell, given.kind, given.draw)
    except InputError as error:
        sys.exit(f"{given.bench}: {error}")
    measured: dict[int, list[Record]] = {}
    failed: dict[str, str] = {}
    todo = list(enumerate(bench.cells))
    for wait in (False, True):
        busy = []
        for place, cell in todo:
            try:
                measured[place] = measure_cell(bench, cell, only_done=given.table, wait=wait)
            except Busy:
                busy.append((place, cell))
                continue
            except (FailedShards, InputError) as error:
                failed[cell.name] = str(error)
                continue
            if not given.table:
                print("\n" + draws_table(measured[place]).markdown() + "\n", flush=True)
        todo = busy
    records = [record for place in sorted(measured) for record in measured[place]]
    if not records and not failed:
        sys.exit("nothing is measured of these cells and kinds yet; run it without --table")
    if records:
        print("\n\n".join(found.markdown() for found in tables(records, bench.baseline)))
        if given.page is not None:
            given.page.write_text(render(records, bench.baseline, Path(given.bench).name), encoding="utf-8")
    if failed:
        sys.exit("\n".join(f"cell {name!r} failed: {reason}" for name, reason in failed.items()))


if __name__ == "__main__":
    main()

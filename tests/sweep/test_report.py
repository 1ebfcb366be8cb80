"""The page is checked as a reader meets it: structure, names, contrast, policy, and figures equal to those of `power`."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taggants.errors import InputError
from taggants.reporting.contact_sheet import draw_contact_sheet
from taggants.storage import Root
from taggants.sweep.power import cell_power, false_positives, recommend
from taggants.sweep.report import MAX_IMAGE_WIDTH, render, write_report
from taggants.sweep.results import SweepResults
from taggants.sweep.views import repeat_command
from tests.strict_html import Element, Strict
from tests.sweep.made_up import made_up


@pytest.fixture(scope="module")
def results() -> SweepResults:
    return made_up()


@pytest.fixture(scope="module")
def sheet() -> bytes:
    random = np.random.default_rng(0)
    originals = random.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    return draw_contact_sheet(originals, (originals ^ 1).astype(np.uint8), ["a", "b", "c", "d"])


@pytest.fixture(scope="module")
def page(results: SweepResults, sheet: bytes) -> str:
    return render(results, {results.cells[0].name: sheet, results.cells[12].name: sheet})


@pytest.fixture(scope="module")
def tree(page: str) -> Element:
    return Strict(page).root


def cells_of(tree: Element, section: str) -> list[Element]:
    (found,) = [element for element in tree.all("section") if element.get("id") == section]
    return [td for td in found.all("td") if "data-cell" in td.attributes and "data-alpha" in td.attributes]


def test_structure(page: str, tree: Element) -> None:
    assert Strict(page).declarations == ["DOCTYPE html"]
    assert page.startswith("<!DOCTYPE html>")
    ids = [element.get("id") for element in tree.walk() if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", name) for name in ids)
    for element in tree.walk():
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert set(element.get(name).split()) <= set(ids), element.attributes
        if element.tag == "a":
            assert element.get("href").removeprefix("#") in ids
    assert tree.all("html")[0].get("lang") == "en"
    for landmark in ("header", "nav", "main", "footer"):
        assert len(tree.all(landmark)) == 1


def test_headings_in_order(tree: Element) -> None:
    levels = [int(heading.tag[1]) for heading in tree.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(heading.text().strip() for heading in tree.all("h1", "h2", "h3", "h4"))
    for section in tree.all("section"):
        assert section.get("aria-labelledby") == f"{section.get('id')}-heading"


def test_controls_have_labels(tree: Element) -> None:
    labelled = {label.get("for") for label in tree.all("label")}
    controls = [control for control in tree.all("input", "select") if control.get("type") != "hidden"]
    assert len(controls) == 4
    assert {control.get("id") for control in controls} == labelled
    (fieldset,) = tree.all("fieldset")
    assert fieldset.all("legend")[0].text() == "Alpha"
    assert len(tree.all("option")) == 2


def test_tables_and_pictures_can_be_read_aloud(tree: Element) -> None:
    tables = tree.all("table")
    assert len(tables) > 30
    for table in tables:
        assert table.all("caption")[0].text().strip()
        headings = table.all("th")
        assert {heading.get("scope") for heading in headings} == {"col", "row"}
        rows = [[cell for cell in row.children if isinstance(cell, Element)] for row in table.all("tr")]
        assert {len(row) for row in rows} == {len(rows[0])}
        assert all(row[0].tag == "th" for row in rows)
        if "sortable" in table.get("class"):
            assert all("data-sort" in cell.attributes for row in rows[1:] for cell in row)
        box = table.parent
        assert box is not None
        assert (box.get("class"), box.get("role"), box.get("tabindex")) == ("scroll", "region", "0")
    for svg in tree.all("svg"):
        if svg.get("role") == "img":
            title, description = svg.all("title")[0], svg.all("desc")[0]
            assert svg.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
            assert title.text()
            assert re.search(r"\d", description.text())
        else:
            assert svg.get("aria-hidden") == "true"
    for image in tree.all("img"):
        assert image.get("alt")
        assert int(image.get("width")) > 0


def test_nothing_is_loaded_and_the_policy_forbids_it(page: str, tree: Element) -> None:
    for element in tree.walk():
        assert element.tag not in {"link", "iframe", "object", "embed", "base", "audio", "video"}
        assert "style" not in element.attributes  # which the policy would drop
        assert not any(name.startswith("on") for name in element.attributes)
        for name in ("src", "href", "action", "srcset", "xlink:href"):
            if element.get(name):
                assert re.match(r"data:image/png;base64,|#", element.get(name))
    style, (data, script) = tree.all("style")[0].text(), tree.all("script")
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?://|//[a-z]+\.[a-z]", style + script.text() + page.replace(data.text(), ""))
    (policy,) = [m.get("content") for m in tree.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert [data.get("type"), script.get("type")] == ["application/json", ""]


def test_power_and_intervals_are_those_of_power(results: SweepResults, tree: Element) -> None:
    for section in ("power", "table"):
        shown = {}
        for td in cells_of(tree, section):
            low, high = (float(data.get("value")) for data in td.all("data"))
            count, total = re.match(r"(\d+)/(\d+)", td.text()).groups()  # type: ignore[union-attr]
            shown[td.get("data-cell"), float(td.get("data-alpha"))] = (int(count), int(total), low, high)
        expected = {}
        for cell in results.cells:
            for alpha, p in zip(results.alphas, cell_power(cell, results.alphas).power, strict=True):
                expected[cell.name, alpha] = (p.count, p.total, p.low, p.high)
        assert shown == expected


def test_map_shows_share_and_interval_in_words(results: SweepResults, tree: Element) -> None:
    detected_all = next(td for td in cells_of(tree, "power") if td.text().startswith("3/3"))
    assert "29% to 100%" in detected_all.text()  # 0.025^(1/3) = 0.292
    assert "heat-5" in detected_all.get("class")
    detected_none = next(td for td in cells_of(tree, "power") if td.text().startswith("0/3"))
    assert "0% to 71%" in detected_none.text()
    assert "heat-0" in detected_none.get("class")
    assert (
        "stopped early"
        in next(td for td in cells_of(tree, "power") if td.get("data-cell") == results.cells[12].name).text()
    )


def test_tables_tell_what_power_computes(results: SweepResults, tree: Element) -> None:
    rows = [row for row in tree.all("tr") if "data-keys" in row.attributes and "data-alpha" in row.attributes]
    shown = {}
    for row in rows:
        low, high = (float(data.get("value")) for data in row.all("data"))
        count, total = re.search(r"(\d+) of (\d+)", row.text()).groups()  # type: ignore[union-attr]
        shown[row.get("data-keys"), float(row.get("data-alpha"))] = (int(count), int(total), low, high)
    assert shown == {
        ("all" if f.num_keys is None else str(f.num_keys), f.alpha): (
            f.rate.count,
            f.rate.total,
            f.rate.low,
            f.rate.high,
        )
        for f in false_positives(results)
    }
    table = next(t for t in tree.all("table") if "wide" in t.get("class"))
    headings = [heading.text() for heading in table.all("thead")[0].all("th")]
    for cell, row in zip(results.cells, table.all("tbody")[0].all("tr"), strict=True):
        found = cell_power(cell, results.alphas)
        values = dict(zip(headings, [e.get("data-sort") for e in row.children if isinstance(e, Element)], strict=True))
        assert found.log10_p is not None
        assert found.accuracy_change is not None
        assert float(values["Median log₁₀ p"]) == found.log10_p.estimate
        assert float(values["Accuracy change"]) == found.accuracy_change.mean
        assert int(values["Sample-steps"]) == cell.sample_steps
        assert float(values["Training"]) == found.training_seconds
        assert float(values["PSNR, dB"]) == cell.psnr_db
        assert values["LPIPS"] == ("" if cell.lpips is None else repr(cell.lpips))


def test_recommendation_and_how_sure_it_is(results: SweepResults, tree: Element) -> None:
    many = made_up(num_victims=20)
    for found, page in ((results, tree), (many, Strict(render(many)).root)):
        items = [item for item in page.all("li") if "data-certain" in item.attributes]
        for alpha, item in zip(found.alphas, items, strict=True):
            advice = recommend(found, alpha)
            assert (item.get("data-certain"), item.get("data-likely")) == (advice.certain or "", advice.likely or "")
            assert (advice.certain or advice.likely or "No cell") in item.text()
            assert ("Sure" in item.text()) == (advice.certain is not None)
            if advice.certain is None:
                assert f"{advice.victims_needed} victims" in item.text()
    assert recommend(results, 1e-2).certain is None  # three victims can not
    assert recommend(many, 1e-2).certain is not None


def test_charts_place_values_on_their_axes(results: SweepResults, tree: Element) -> None:
    curve = next(svg for svg in tree.all("svg") if svg.get("aria-labelledby").startswith("curve-0-0-5-"))
    bottom, top = 184, 14  # of 0% and 100%
    members = [cell for cell in results.cells if cell.num_keys == 5][:4]
    discs = [element for element in curve.all("circle") if element.get("class") == "victim"]
    for cell, disc in zip(members, discs, strict=True):
        (power,) = cell_power(cell, [1e-2]).power
        assert float(disc.get("cy")) == pytest.approx(bottom + (power.estimate or 0) * (top - bottom), abs=0.06)
        assert f"{power.count} of 3" in disc.text()
    assert sorted(float(disc.get("cx")) for disc in discs) == [float(disc.get("cx")) for disc in discs]
    strips = [svg for svg in tree.all("svg") if svg.get("aria-labelledby").startswith("strip-")]
    marks = {kind: sum(e.get("class") == kind for s in strips for e in s.walk()) for kind in ("victim", "control")}
    assert marks == {
        "victim": sum(len(cell.victims) for cell in results.cells),
        "control": sum(len(cell.controls) for cell in results.cells),
    }
    for svg in tree.all("svg"):
        if svg.get("role") == "img":
            _, _, width, height = (float(value) for value in svg.get("viewbox").split())
            for element in svg.walk():
                for name, size in (
                    ("x", width),
                    ("cx", width),
                    ("x1", width),
                    ("x2", width),
                    ("cy", height),
                    ("y1", height),
                ):
                    if element.get(name):
                        assert -1e-9 <= float(element.get(name)) <= size


def test_embedded_results_make_the_same_page(results: SweepResults, page: str, tree: Element, sheet: bytes) -> None:
    (data,) = [script for script in tree.all("script") if script.get("id") == "results"]
    again = SweepResults.from_json(json.loads(data.text()))
    assert again == results
    assert render(again, {results.cells[0].name: sheet, results.cells[12].name: sheet}) == page


def test_command_repeats_a_cell(results: SweepResults, tree: Element) -> None:
    cell = results.cells[12]
    words = shlex.split(repeat_command(results, cell))
    assert words[:4] == ["python", "jobs/craft.py", "--config", "taggants/presets/sweep_cifar100.yaml"]
    assert words[4:6] == ["--set", "output.root=/data/my runs"]
    assert words[6::2] == ["--set"] * 3
    assert tuple(words[7::2]) == cell.settings
    shown = [pre.text() for pre in tree.all("pre") if pre.get("class") == "command"]
    assert shown == [results.command, *(repeat_command(results, cell) for cell in results.cells)]


def test_text_is_escaped_everywhere(results: SweepResults) -> None:
    nasty = """</script></title><script>alert(1)</script><img src=x onerror='a'>"&\u2028"""
    spoilt = replace(
        results.cells[0],
        **dict.fromkeys(["name", "engine", "surrogate", "victim", "recipe", "run", "stopped"], nasty),  # type: ignore[arg-type]
        settings=(nasty,),
        victims=tuple(replace(v, name=nasty, certificate=nasty) for v in results.cells[0].victims),
        controls=tuple(replace(c, name=nasty + c.name) for c in results.cells[0].controls),
    )
    everything = replace(
        results,
        config={nasty: nasty},
        command=f"python jobs/sweep.py --set {shlex.quote(nasty)}",
        dataset_fingerprint=nasty,
        software={nasty: nasty},
        created_at=nasty,
        cells=(spoilt, *results.cells[1:]),
    )
    tree = Strict(render(everything)).root
    assert len(tree.all("script")) == 2
    assert not tree.all("img")
    (data,) = [script for script in tree.all("script") if script.get("id") == "results"]
    assert SweepResults.from_json(json.loads(data.text())) == everything
    assert nasty in tree.all("main")[0].text()


def test_few_or_no_cells(results: SweepResults) -> None:
    nothing = Strict(render(replace(results, cells=()))).root
    assert "No victim was tested" in nothing.text()
    bare = replace(results.cells[0], victims=(), controls=(), psnr_db=math.inf)
    one = Strict(render(replace(results, cells=(bare,), alphas=(0.05,)))).root
    assert "∞" in one.text()
    single = replace(results.cells[3], victims=results.cells[3].victims[:1])
    assert "one pair" in Strict(render(replace(results, cells=(single,)))).root.text()


def test_contrast_of_the_palette() -> None:
    style = files("taggants.sweep").joinpath("report.css").read_text()
    light, dark = (
        dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", rule))
        for rule in re.findall(r":root \{(.*?)\}", style, re.S)
    )
    assert set(light) == set(dark)
    on_both = ["ink", "soft", "accent"]
    text = [(ink, ground) for ink in on_both for ground in ("ground", "panel")]
    text += [(f"heat-ink-{i}", f"heat-{i}") for i in range(6)]
    text += [(ink, f"{name}-ground") for name in ("good", "warn") for ink in (name, "ink", "accent")]
    text += [("good", "ground"), ("good", "panel"), ("soft", "good-ground")]
    marks = [(mark, "panel") for mark in ("victim", "control", "good")]  # graphical objects: 3 to 1
    for palette in (light, dark):
        for ink, ground in text:
            assert contrast(palette[ink], palette[ground]) >= 4.5, (ink, ground)
        for ink, ground in marks:
            assert contrast(palette[ink], palette[ground]) >= 3, (ink, ground)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the known near miss


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dim, bright = sorted([luminance(one), luminance(other)])
    return (bright + 0.05) / (dim + 0.05)


def test_written_with_contact_sheets_and_no_keys(tmp_path: Path, results: SweepResults) -> None:
    root = Root(str(tmp_path / "out"))
    random = np.random.default_rng(1)
    wide = Image.fromarray(random.integers(0, 256, (300, 2 * MAX_IMAGE_WIDTH, 3), dtype=np.uint8))
    sink = io.BytesIO()
    wide.save(sink, "PNG")
    first = results.cells[0]
    root.write_bytes(f"{first.run}/contact_sheet.png", sink.getvalue())
    root.write_bytes(f"{first.run}/cifar100.png", b"secret")
    uri = write_report(results, root, "sweeps/1/report.html")
    assert uri == root.uri_of("sweeps/1/report.html")
    tree = Strict((tmp_path / "out/sweeps/1/report.html").read_text()).root
    (image,) = tree.all("img")  # of one signed set, which cells 0 and 12 share
    assert (image.get("width"), image.get("height")) == (str(MAX_IMAGE_WIDTH), "150")
    assert image.get("src").startswith("data:image/png;base64,")
    assert root.list("sweeps") == ["sweeps/1/report.html"]
    assert (tmp_path / "out/sweeps/1/report.html").stat().st_mode & 0o777 == 0o600
    root.write_bytes(f"{first.run}/contact_sheet.png", b"half a picture")
    with pytest.raises(InputError, match="not a complete image"):
        write_report(results, root)


def in_chromium(page: Path) -> str:
    """The document after its scripts; fails where the console tells of an error or of a breach of the policy."""
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent}/profile"]
    command += ["--enable-logging=stderr", "--dump-dom", f"file://{page}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_script_runs_under_the_policy(tmp_path: Path, page: str) -> None:
    (tmp_path / "page.html").write_text(page)
    document = in_chromium(tmp_path / "page.html")
    assert '<th scope="col" aria-sort="none"><button type="button">' in document
    assert '<div class="view" data-combination="1" hidden="">' in document
    assert 'class="controls">' in document


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_views_and_sorting(tmp_path: Path, results: SweepResults, page: str) -> None:
    asked = """<script>
      const table = document.querySelector("table.wide"), told = [];
      const click = (column) => {
        const heading = table.tHead.rows[0].cells[column];
        heading.querySelector("button").click();
        told.push([heading.ariaSort, ...[...table.tBodies[0].rows].map((row) => row.cells[column].dataset.sort)]);
      };
      [7, 7, 12].forEach(click);  // median log10 p twice, LPIPS
      document.getElementById("alpha-1").click();
      told.push([...document.querySelectorAll(".view[data-alpha]")].map((view) => view.dataset.alpha + !view.hidden));
      document.documentElement.dataset.told = JSON.stringify(told);
    </script></body>"""
    unguarded = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)  # which would not let us ask
    (tmp_path / "page.html").write_text(unguarded.replace("</body>", asked))
    (root,) = Strict(in_chromium(tmp_path / "page.html")).root.all("html")
    rising, falling, lpips, views = json.loads(root.get("data-told"))
    medians = sorted(m.estimate for c in results.cells if (m := cell_power(c, ()).log10_p))
    assert (rising[0], [float(value) for value in rising[1:]]) == ("ascending", medians)
    assert (falling[0], [float(value) for value in falling[1:]]) == ("descending", medians[::-1])
    assert lpips == ["ascending", *["0.0712"] * 12, *[""] * 12]
    assert views == ["0false", "1true", "2false"] * 2

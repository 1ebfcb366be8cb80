from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from taggants.errors import InputError
from taggants.reporting.contact_sheet import MAX_COLUMNS, draw_contact_sheet, draw_keys


def picture(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def holds(sheet: np.ndarray, tile: np.ndarray) -> bool:
    """Looks for a tile [H, W, 3] at every place of the sheet."""
    height, width = tile.shape[:2]
    places = np.argwhere((sheet[: 1 - height or None, : 1 - width or None] == tile[0, 0]).all(axis=2))
    return any(np.array_equal(sheet[y : y + height, x : x + width], tile) for y, x in places)


def tile_of(image: np.ndarray, factor: int) -> np.ndarray:
    channels = image if len(image) == 3 else np.repeat(image, 3, axis=0)
    return np.kron(channels.transpose(1, 2, 0), np.ones((factor, factor, 1), np.uint8))


def images(num: int, channels: int = 3, height: int = 8, width: int = 8, low: int = 40) -> np.ndarray:
    return np.random.default_rng(num).integers(low, 200, (num, channels, height, width), dtype=np.uint8)


@pytest.mark.parametrize(
    ("channels", "height", "width", "factor"), [(3, 8, 8, 12), (1, 8, 8, 12), (3, 20, 32, 5), (3, 100, 97, 1)]
)
def test_all_three_rows_are_there_enlarged_by_whole_factors(
    channels: int, height: int, width: int, factor: int
) -> None:
    originals = images(2, channels, height, width)
    signed = originals.copy()
    signed[:, :, ::2] += 5
    signed[:, :, 1::2] -= 20
    sheet = picture(draw_contact_sheet(originals, signed, ["a", "b"]))
    difference = np.full_like(originals, 127 + 8 * 5)
    difference[:, :, 1::2] = 0  # 127 - 8 * 20, clipped
    for batch in (originals, signed, difference):
        for image in batch:
            assert holds(sheet, tile_of(image, factor))
    assert not holds(sheet, tile_of(images(7, channels, height, width)[6], factor))


def test_amplification() -> None:
    originals = images(1)
    sheet = picture(draw_contact_sheet(originals, originals + np.uint8(3), ["a"], amplification=20))
    assert holds(sheet, np.full((96, 96, 3), 187, np.uint8))


def test_at_most_twelve_columns_are_shown() -> None:
    originals = images(MAX_COLUMNS + 1)
    captions = ["x"] * (MAX_COLUMNS + 1)
    sheet = picture(draw_contact_sheet(originals, originals, captions))
    assert holds(sheet, tile_of(originals[MAX_COLUMNS - 1], 12))
    assert not holds(sheet, tile_of(originals[MAX_COLUMNS], 12))
    fewer = picture(draw_contact_sheet(originals[:-1], originals[:-1], captions[:-1]))
    assert sheet.shape == fewer.shape


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from PIL import ImageDraw

    texts: list[str] = []
    original = ImageDraw.ImageDraw.text

    def record(pen: ImageDraw.ImageDraw, place: object, text: str, *args: object, **options: object) -> None:
        texts.append(text)
        original(pen, place, text, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return texts


def test_headings_captions_and_footer(written: list[str]) -> None:
    originals = np.full((2, 1, 8, 8), 100, np.uint8)
    signed = originals.copy()
    signed[0, 0, :, :4] += 16
    signed[0, 0, :, 4:] -= 2
    draw_contact_sheet(originals, signed, ["#7 cat", "#9 dog"])
    mean_square = (16**2 + 2**2) / 4
    footer = f"taggants: 2, max |difference| 16 of 255 levels, PSNR {10 * np.log10(255**2 / mean_square):.1f} dB"
    assert written == ["original", "#7 cat", "#9 dog", "signed", "difference x8", footer]


def test_the_release_bound_has_its_known_psnr(written: list[str]) -> None:
    originals = images(1)
    draw_contact_sheet(originals, originals + np.uint8(16), ["a"])
    assert written[-1].endswith("max |difference| 16 of 255 levels, PSNR 24.0 dB")


def test_equal_images_have_no_finite_psnr(written: list[str]) -> None:
    originals = images(13)
    draw_contact_sheet(originals, originals, ["a"] * 13)
    assert written[-1] == "taggants: 13 (12 shown), max |difference| 0 of 255 levels, PSNR infinite dB"


def test_long_captions_are_cut(written: list[str]) -> None:
    originals = images(2)
    short = picture(draw_contact_sheet(originals, originals, ["a caption of some words", "b"]))
    written.clear()
    long = picture(draw_contact_sheet(originals, originals, ["a caption of some words" * 20, "b"]))
    assert written[1].startswith("a caption of some words")
    assert written[1].endswith("...")
    assert short.shape[0] == long.shape[0]
    assert long.shape[1] < 700


def test_text_leaves_the_margins_free() -> None:
    sheet = picture(draw_contact_sheet(images(1), images(1), ["W" * 200]))
    border = np.concatenate([sheet[:12].reshape(-1, 3), sheet[-12:].reshape(-1, 3), sheet[:, -12:].reshape(-1, 3)])
    assert len(np.unique(border, axis=0)) == 1
    assert border[0].min() > 240


@pytest.mark.parametrize("num_keys", [1, 4, 5, 6, 40])
def test_every_key_is_drawn_with_its_label(num_keys: int, written: list[str]) -> None:
    keys = images(num_keys)
    sheet = picture(draw_keys(keys, [f"class {i}" for i in range(num_keys)]))
    assert all(holds(sheet, tile_of(key, 12)) for key in keys)
    assert [text for text in written if text] == [f"key {i} -> class {i}" for i in range(num_keys)]


def test_bad_input() -> None:
    good = images(2)
    with pytest.raises(InputError, match="3 captions for 2 images"):
        draw_contact_sheet(good, good, ["a", "b", "c"])
    with pytest.raises(InputError, match="1 captions for 2 images"):
        draw_keys(good, ["a"])
    for wrong in (good[:1], good.astype(np.int64), good[:, :1]):
        with pytest.raises(InputError, match="like the originals"):
            draw_contact_sheet(good, wrong, ["a", "b"])
    for wrong in (good[0], good[:, :2], good / 255, good[:0]):
        with pytest.raises(InputError, match="n, C, H, W"):
            draw_contact_sheet(wrong, wrong, ["a", "b"])

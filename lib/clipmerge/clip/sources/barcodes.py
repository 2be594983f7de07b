"""Barcodes: freshly generated symbols of many symbologies with random payloads, slightly rotated."""

import random
import string
from collections.abc import Mapping

import numpy as np
import zxingcpp
from PIL import Image

from clipmerge.clip import raster
from clipmerge.clip.manifests import Manifest
from clipmerge.clip.sources import Decoded


def _payload(rng: random.Random, rule: Mapping) -> str:
    """Random text of a symbology: `shortest` to `longest` characters of an alphabet, in steps, between two ends."""
    length = rng.randrange(rule["shortest"], rule["longest"] + 1, rule.get("step", 1))
    alphabet = string.digits if rule["digits"] else string.ascii_uppercase + string.digits
    ends = rule.get("ends", ["", ""])
    return ends[0] + "".join(rng.choice(alphabet) for _ in range(length)) + ends[1]


def _picture(rng: random.Random, rule: Mapping, tilt: float) -> Image.Image:
    """One symbol in black on white, about 256 pixels wide, rotated by up to ±`tilt` degrees."""
    kind = getattr(zxingcpp.BarcodeFormat, rule["format"])
    symbol = zxingcpp.create_barcode(_payload(rng, rule), kind, **rule.get("options", {}))
    modules = np.array(symbol.to_image()).shape
    flat = Image.fromarray(np.array(symbol.to_image(scale=max(1, 256 // max(modules))))).convert("L")
    return flat.rotate(rng.uniform(-tilt, tilt), resample=Image.BICUBIC, expand=True, fillcolor=255)


def symbologies(manifest: Manifest) -> Decoded:
    """Payloads are drawn afresh for every image, so train and test share none."""
    options, rng = manifest.options, random.Random(manifest.options.get("seed", 0))
    decoded = Decoded(tuple(options["symbologies"]))
    for label, rule in enumerate(options["symbologies"].values()):
        for i in range(options["train_per_class"] + options["test_per_class"]):
            picture = raster.square(_picture(rng, rule, options["tilt"]))
            decoded.side(i >= options["train_per_class"]).append((picture, label))
    return decoded

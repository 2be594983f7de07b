"""FoMo-in-Flux from a small clone: captions, parts, streams; what is missing is named, what is packed stays."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from clipmerge.clip.data import external, fomo, locks
from clipmerge.errors import BadInput

from .real_trees import picture, put


def record(target: int, **captions: object) -> dict:
    kinds = ("default_caption", "primer_caption", "synthetic_caption", "synthetic_merged_caption")
    return {"classname": None, "target": target, **dict.fromkeys(kinds), **captions}


@pytest.fixture
def clone(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DTD with three images, Flickr30k with two, iNaturalist 2021 (whose parts have other names) without images."""
    kept = {name: fomo.sets()[name] for name in ("DTD", "FLICKR30K", "iNATURALIST2021")}
    kept["DTD"] = fomo.Set(**{**vars(kept["DTD"]), "classes": 2})
    monkeypatch.setattr(fomo, "sets", lambda: kept)
    root = tmp_path / "fomo_in_flux"
    info = root / "data_lib/00_info"
    put(info / "DTD_classnames.json", json.dumps(["banded", "blotchy"]))
    train = {
        "dtd/images/banded/a.jpg": record(0, primer_caption="A photo of a banded texture."),
        "dtd/images/blotchy/b.jpg": record(1, primer_caption="x", synthetic_merged_caption=["spots", "blots"]),
    }
    put(info / "DTD_train.json", json.dumps(train))
    put(info / "DTD_test.json", json.dumps({"dtd/images/banded/c.jpg": record(0, default_caption="stripes")}))
    retrieved = {f"images/{i}.jpg": record(i, default_caption=[f"{i} a", f"{i} b"]) for i in range(2)}
    put(info / "FLICKR30K_test.json", json.dumps(retrieved))
    for i, path in enumerate(("banded/a", "blotchy/b", "banded/c")):
        put(root / f"data/DTD/dtd/images/{path}.jpg", picture(i))
    for i in range(2):
        put(root / f"data/FLICKR30K/images/{i}.jpg", picture(10 + i))
    pairs = ["DTD+++banded", "inaturalist2021+++a snail", "dtd+++blotchy"]
    put(root / "stream_construction/random_sequence_1.json", json.dumps(pairs))
    return root


def test_the_manifest_holds_the_papers_sets() -> None:
    sets = fomo.sets().values()
    count = Counter((one.role, one.task) for one in sets)
    assert (count["adaptation", "classification"], count["adaptation", "retrieval"]) == (40, 1)
    assert (count["heldout", "classification"], count["heldout", "retrieval"]) == (20, 2)
    assert len({external.plain(one.name) for one in sets}) == 63


def test_what_is_there_is_packed_and_the_rest_is_named(clone: Path) -> None:
    assert fomo.bring_in(clone) == (["DTD", "FLICKR30K"], ["iNATURALIST2021"])
    pack = fomo.load("dtd")
    assert pack.meta["classes"] == ["banded", "blotchy"]
    assert pack.train.labels.tolist() == [0, 1]
    assert pack.train.texts(torch.arange(2)) == [["A photo of a banded texture."], ["spots", "blots"]]
    assert pack.test.texts(torch.arange(1)) == [["stripes"]]
    assert pack.test.images.read(*pack.test.spans[0].tolist()) == picture(2)
    flickr = fomo.load("flickr30k")
    assert len(flickr.train) == 0
    assert flickr.test.texts(torch.arange(2)) == [["0 a", "0 b"], ["1 a", "1 b"]]
    texts, owner = fomo.retrieval(flickr.test.texts(torch.arange(len(flickr.test))))
    assert (texts, owner.tolist()) == (["0 a", "0 b", "1 a", "1 b"], [0, 0, 1, 1])
    assert locks.check("fomo/DTD")["source"] == "fomo_in_flux"


def test_shrunk_copies_are_taken_where_the_archive_holds_them(clone: Path) -> None:
    info = clone / "data_lib/00_info"
    shrunk = {"FLICKR30K_test_224/images/0.jpg": record(0, default_caption="small")}
    put(info / "FLICKR30K_test_224.json", json.dumps(shrunk))
    put(clone / "data/FLICKR30K/FLICKR30K_test_224/images/0.jpg", picture(5))
    fomo.bring_in(clone)
    assert fomo.load("FLICKR30K").test.texts(torch.arange(1)) == [["small"]]


def test_an_interrupted_import_goes_on(clone: Path) -> None:
    missing = clone / "data/FLICKR30K/images/1.jpg"
    picture_bytes = missing.read_bytes()
    missing.unlink()
    with pytest.raises(BadInput, match=re.escape("1.jpg: expected an image of FLICKR30K, found none")):
        fomo.bring_in(clone)
    assert locks.ready("fomo/DTD") and not locks.ready("fomo/FLICKR30K")
    for image in (clone / "data/DTD").rglob("*.jpg"):
        image.unlink()  # DTD is packed: nothing of it is read again
    missing.write_bytes(picture_bytes)
    assert fomo.bring_in(clone)[0] == ["DTD", "FLICKR30K"]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("data_lib/00_info/DTD_classnames.json", '["banded"]', "DTD: expected 2 class names, found 1"),
        ("data_lib/00_info/DTD_test.json", json.dumps({"dtd/images/banded/c.jpg": record(2)}), "targets from 0 to 1"),
        ("data_lib/00_info/DTD_test.json", "{", "expected a JSON file"),
        ("stream_construction/random_sequence_1.json", '["DTD banded"]', "expected a list of SET+++class"),
        ("stream_construction/random_sequence_1.json", '["TDT+++banded"]', "one of its 3 sets, found 'TDT'"),
    ],
)
def test_a_wrong_clone_is_refused(file: str, content: str, said: str, clone: Path) -> None:
    put(clone / file, content)
    with pytest.raises(BadInput, match=re.escape(said)):
        fomo.bring_in(clone)
    assert not locks.ready("fomo/DTD")


def test_streams_are_cut_into_tasks(clone: Path) -> None:
    fomo.bring_in(clone)
    parts = [[("DTD", "banded"), ("iNATURALIST2021", "a snail")], [("DTD", "blotchy")]]
    assert fomo.stream("random_sequence_1", 2) == parts
    for ask in (lambda: fomo.stream("random_sequence_9", 2), lambda: fomo.load("inaturalist2021")):
        with pytest.raises(BadInput, match="import-fomo"):
            ask()


def test_chunks_by_hand() -> None:
    assert fomo.chunks("abcdefghij", 4) == [list("abc"), list("def"), list("gh"), list("ij")]
    assert sorted(map(len, fomo.chunks(range(18_381), 20))) == [919] * 19 + [920]
    with pytest.raises(BadInput, match="from 1 to 3, found 4"):
        fomo.chunks("abc", 4)

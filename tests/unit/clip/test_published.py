"""Digests of weights that open_clip fetches: in the keys of steps, without a network or a second reading."""

import open_clip
import pytest
from huggingface_hub import constants

from clipmerge import paths
from clipmerge.clip import device, published
from clipmerge.errors import BadInput
from clipmerge.study import experts, profiles

PROFILE = profiles.load("paper-condu")
SPEC = PROFILE.model


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A function that puts bytes where a hub's client keeps the weights of `SPEC`; at first there are none."""
    monkeypatch.setenv("CLIPMERGE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = open_clip.get_pretrained_cfg(*SPEC.split("/"))["hf_hub"].rstrip("/")
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"

    def put(content: bytes):
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text("0123")
        (folder / "snapshots" / "0123").mkdir(parents=True, exist_ok=True)
        path = folder / "snapshots" / "0123" / published.FILES[0]
        path.write_bytes(content)
        return path

    return put


def key(model: str = SPEC) -> str:
    return experts.step(PROFILE, "MNIST", 42, model).key


def test_the_digest_of_fetched_weights_is_part_of_keys(hub):
    hub(b"some weights")
    first, ours = key(), key("nano-s")
    lock = published.fetch(SPEC)
    assert lock.is_relative_to(paths.cache()) and key() == first
    lock.unlink()
    hub(b"other weights")
    assert key() != first and key("nano-s") == ours
    lock.unlink()
    hub(b"some weights")
    assert key() == first


def test_a_cache_that_has_met_weights_knows_them_where_they_are_not(hub):
    path = hub(b"some weights")
    known = key()
    path.unlink()
    assert published.here(SPEC) is None and key() == known


def test_weights_that_cannot_be_had_are_named(hub):
    with pytest.raises(BadInput, match=f"{SPEC}.: expected its weights here or on a hub, found FileNotFoundError"):
        key()
    with pytest.raises(BadInput, match=r"model 'ViT-B-16/best': expected architecture and weights of open_clip"):
        key("ViT-B-16/best")
    assert not paths.cache().exists()


def test_a_plan_fetches_none(hub):
    with device.nowhere():
        assert set(experts.step(PROFILE, "MNIST", 42).inputs) == set()
        hub(b"some weights")
        planned = experts.step(PROFILE, "MNIST", 42)
    assert set(planned.inputs) == {"base"} and planned.key == key()

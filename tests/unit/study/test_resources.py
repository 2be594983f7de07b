"""Stacked experts answer as looped ones do; bytes by formula are the bytes of a file. No time is tested."""

import pytest
import torch

from clipmerge import files
from clipmerge.clip import models
from clipmerge.merge import condu, folder
from clipmerge.study.analysis import resources, stacking, timing


@pytest.fixture(scope="module")
def model():
    """The smallest model."""
    return models.create("nano-xs")


@pytest.fixture(scope="module")
def towers(model):
    """Three image towers: the base and two changed ones."""
    generator, base = torch.Generator().manual_seed(0), model.state_dict()
    drawn = [{key: 0.01 * torch.randn(t.shape, generator=generator) for key, t in base.items()} for _ in range(2)]
    return [stacking.tower(base, delta) for delta in ({}, *drawn)]


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
def test_stacked_logits_equal_looped_ones(model, towers, batch):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, 32, 32, generator=generator)
    heads = torch.randn(3, 7, model.visual.output_dim, generator=generator)
    one_by_one = stacking.looped(model.visual, towers, heads, x)
    together = stacking.stacked(model.visual, stacking.stack(towers), heads, x)
    assert together.shape == (3, batch, 7)
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(one_by_one[0], one_by_one[1], atol=1)  # so that equality says something


def test_attention_is_as_it_was_afterwards():
    before = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()
    with stacking.composed_attention():
        assert not torch.backends.mha.get_fastpath_enabled()
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()) == before


def test_bytes_by_formula_are_the_bytes_of_a_saved_session(tmp_path):
    shapes = {"w": (7, 5), "b": (9,), "scale": ()}
    drawn = [{key: torch.randn(shape) for key, shape in shapes.items()} for _ in range(3)]
    folder.save(condu.unify(drawn), tmp_path / "session")
    sizes = [35, 9, 1]
    saved = [files.load_tensors(path) for path in tmp_path.glob("**/*.safetensors")]
    assert resources.condu(sizes, tasks=3) == sum(tensor.nbytes for part in saved for tensor in part.values())
    assert resources.condu(sizes, tasks=3) == 4 * 45 + 3 * (5 + 2 + 1)
    assert resources.expert(sizes) == 4 * 45 and resources.prototypes(10, 64) == 2560


def test_bytes_of_the_papers_model():
    sizes = [149_620_736]  # ViT-B/16; one tensor, which differs from many by the padding of each to a byte
    assert resources.expert(sizes) / 1e6 == pytest.approx(598, abs=1)
    assert (resources.condu(sizes, 1) - resources.expert(sizes)) / 1e6 == pytest.approx(18.7, abs=0.1)
    assert resources.condu(sizes, 11) / 1e9 == pytest.approx(0.80, abs=0.01)
    towers = {f"{tower}.{i}.mlp.{w}.weight": (d, 4 * d) for tower, d in (("visual", 768), ("text", 512))
              for i in range(12) for w in ("c_fc", "c_proj")}  # fmt: skip
    assert resources.lora(towers, 64) / 4 == pytest.approx(9.83e6, rel=0.001)


def test_peak_counts_what_lives_at_once():
    def run():
        a = torch.zeros(1000)  # 4 kB
        b = a + 1  # 8 kB
        del a
        return b[:10] * 2, b.view(10, 100)  # a view is no new memory

    assert timing.peak(run) == 8000
    assert timing.peak(lambda: torch.zeros(10)[:5]) == 40

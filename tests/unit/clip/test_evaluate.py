"""Inference: accuracy, prototypes and the K nearest experts, by hand."""

import pytest
import torch

from clipmerge.clip import evaluate, models, prompts
from clipmerge.clip.datasets import Dataset


def test_accuracy_in_per_cent():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [5.0, 4.0], [0.0, 9.0]])
    assert evaluate.accuracy(logits, torch.tensor([0, 1, 1, 1])) == 75.0


def test_nearest_takes_the_best_k_and_all_if_there_are_fewer():
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]])
    assert evaluate.nearest(scores, 2).tolist() == [[False, True, True], [True, True, False]]
    assert evaluate.nearest(scores, 7).all()
    assert not evaluate.nearest(scores, 0).any()


def test_the_score_of_a_task_is_its_nearest_prototype():
    z = torch.tensor([[1.0, 0.0]])
    sets = [torch.tensor([[0.0, 1.0], [0.6, 0.8]]), torch.tensor([[-1.0, 0.0]])]
    torch.testing.assert_close(evaluate.similarity(z, sets), torch.tensor([[0.6, -1.0]]))


@pytest.fixture(scope="module")
def setting():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 32, 32, 3), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([0, 0, 1, 1, 1, 0])
    data = Dataset("toy", "Toy", ("a", "b", "c"), ("{}", "the {}"), images, labels, images, labels)
    return models.create("nano-xs", pretrained=None), data


def test_prototypes_average_images_and_texts_and_fall_back_on_text(setting):
    model, data = setting
    z = evaluate.features(model, data.train_images)
    text = sum(prompts.head(model, "nano-xs", data.classes, [t]) for t in data.templates) / 2
    torch.testing.assert_close(evaluate.texts(model, "nano-xs", data.classes, data.templates), text)
    expected = torch.stack([(z[[0, 1, 5]].mean(0) + text[0]) / 2, (z[[2, 3, 4]].mean(0) + text[1]) / 2, text[2]])
    found = evaluate.prototypes(z, data.train_labels, text)
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=-1))
    image_only = evaluate.prototypes(z, data.train_labels, text, side="image")
    torch.testing.assert_close(image_only[0], torch.nn.functional.normalize(z[[0, 1, 5]].mean(0), dim=-1))
    text_only = evaluate.prototypes(z, data.train_labels, text, side="text")
    torch.testing.assert_close(text_only, torch.nn.functional.normalize(text, dim=-1))


def test_batches_do_not_change_features(setting):
    model, data = setting
    whole = evaluate.features(model, data.test_images)
    torch.testing.assert_close(evaluate.features(model, data.test_images, batch=2), whole, atol=1e-6, rtol=0)
    assert evaluate.features(model, data.test_images[:0]).shape == (0, whole.shape[1])


def test_some_images_get_the_same_logits_as_all(setting):
    model, data = setting
    chosen = torch.tensor([True, False, False, True, False, False])
    part = evaluate.test_logits(model, "nano-xs", data, chosen)
    torch.testing.assert_close(part, evaluate.test_logits(model, "nano-xs", data)[chosen], atol=1e-4, rtol=0)

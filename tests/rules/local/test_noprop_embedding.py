"""Properties of the class embeddings."""

import pytest
import torch

from beyondprop.errors import UserError
from beyondprop.rules.local.noprop import ClassEmbedding


def test_one_hot_is_the_fixed_identity():
    embedding = ClassEmbedding.one_hot(4)
    assert torch.equal(embedding.rows, torch.eye(4))
    assert not embedding.learned
    assert not list(embedding.parameters())


def test_learned_rows_are_orthonormal_where_there_is_room():
    rows = ClassEmbedding.orthogonal(10, 20).rows.detach()
    torch.testing.assert_close(rows @ rows.T, torch.eye(10))


def test_learned_rows_have_length_one_where_there_is_no_room():
    embedding = ClassEmbedding.orthogonal(100, 20)
    torch.testing.assert_close(embedding.rows.detach().norm(dim=1), torch.ones(100))
    assert embedding.learned


@pytest.mark.parametrize("dim", [20, 784])
def test_one_adam_step_moves_learned_rows_by_the_same_part_in_any_dimension(dim):
    embedding = ClassEmbedding.orthogonal(10, dim)
    before = embedding.rows.detach().clone()
    optimizer = torch.optim.Adam(embedding.parameters(), lr=1e-2)
    (embedding.rows * torch.randn(10, dim)).sum().backward()
    optimizer.step()
    assert ((embedding.rows.detach() - before).norm() / before.norm()).item() == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_prototype_is_the_image_with_the_smallest_median_distance(seed):
    torch.manual_seed(seed)
    images = torch.randint(0, 255, (41, 1, 3, 3), dtype=torch.uint8)
    labels = torch.arange(41) % 3
    embedding = ClassEmbedding.prototype(images, labels, 3, norm=2.0)
    chosen = []
    for label in range(3):  # brute force
        members = [image.double().flatten() for image, y in zip(images, labels, strict=True) if y == label]
        medians = []
        for i, own in enumerate(members):
            others = sorted((own - other).norm().item() for j, other in enumerate(members) if j != i)
            medians.append(others[(len(others) - 1) // 2])  # the lower median, as torch has it
        chosen.append(members[medians.index(min(medians))])
    expected = torch.stack(chosen)
    expected -= expected.mean(dim=0)
    expected *= 2.0 / expected.square().sum(dim=1).mean().sqrt()
    torch.testing.assert_close(embedding.rows.detach().double(), expected, rtol=1e-4, atol=1e-5)
    assert embedding.shape == (1, 3, 3)


def test_prototype_of_a_large_class_is_found_chunk_by_chunk():
    torch.manual_seed(0)
    points = torch.randn(1100, 5)
    points[700] = 0.0  # the centre
    labels = torch.zeros(1101, dtype=torch.int64)
    labels[-1] = 1
    rows = ClassEmbedding.prototype(torch.cat([points, torch.full((1, 5), 2.0)]), labels, 2).rows.detach()
    torch.testing.assert_close(rows[1] - rows[0], torch.full((5,), 2 / 5**0.5), rtol=1e-5, atol=1e-6)


def test_expected_embedding_is_the_mean_over_classes():
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    embedding = ClassEmbedding(rows, learned=True)
    p = torch.tensor([0.2, 0.3, 0.5])
    by_hand = 0.2 * rows[0] + 0.3 * rows[1] + 0.5 * rows[2]
    torch.testing.assert_close(embedding.expected(p.log()[None])[0], by_hand)


def test_expected_embedding_is_exact_under_autocast():
    embedding = ClassEmbedding(torch.randn(10, 7), learned=False)
    logits = torch.randn(5, 10)
    plain = embedding.expected(logits)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(embedding.expected(logits), plain)


def test_head_starts_as_the_nearest_row():
    embedding = ClassEmbedding(torch.randn(6, 4), learned=True)
    head = embedding.nearest_row_classifier()
    z = torch.randn(200, 4)
    nearest = torch.cdist(z, embedding.rows.detach()).argmin(dim=1)
    assert torch.equal(head(z).argmax(dim=1), nearest)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.eye(3)[:1], "two classes"),
        (torch.ones(3), "matrix"),
        (torch.full((2, 2), float("nan")), "finite"),
        (torch.ones(2, 3), "same embedding"),
    ],
)
def test_useless_rows_are_refused(rows, words):
    with pytest.raises(UserError, match=words):
        ClassEmbedding(rows, learned=False)


def test_class_without_an_image_has_no_prototype():
    with pytest.raises(UserError, match="class 1 has no training image"):
        ClassEmbedding.prototype(torch.randn(4, 2), torch.tensor([0, 0, 2, 2]), 3)

"""The figures against their plain definitions."""

import torch

from promptkit.metrics import STANDARD, Predictions, Scores


def test_figures_are_those_of_the_plain_definitions() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, 9, generator=rng)
    label = torch.randint(0, 7, (200,), generator=rng)  # classes 7 and 8 never occur, but are predicted
    parts = [Predictions.of(logits[rows], label[rows], rows) for rows in reversed(torch.arange(200).split(37))]
    predictions = Predictions.together(parts)
    assert predictions.index.tolist() == list(range(200))
    found = Scores.of(predictions, 9, STANDARD)

    guess, confidence = logits.argmax(1), logits.softmax(1).amax(1)
    assert {7, 8} <= set(guess.tolist())
    per_class, f1 = [], []
    for c in range(7):
        right = int(((guess == c) & (label == c)).sum())
        per_class.append(right / int((label == c).sum()))
        f1.append(2 * right / int((label == c).sum() + (guess == c).sum()))
    ece = 0.0
    for low in range(15):
        rows = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if rows.any():
            ece += abs(float((guess == label)[rows].float().mean() - confidence[rows].mean())) * int(rows.sum()) / 200
    top5 = (logits.topk(5).indices == label[:, None]).any(1).float().mean().item()

    for value, plain in (
        (found["accuracy"], (guess == label).float().mean().item()),
        (found["macro_accuracy"], sum(per_class) / 7),
        (found["macro_f1"], sum(f1) / 7),
        (found["top5"], top5),
        (found["ece"], ece),
    ):
        assert abs(value - plain) < 1e-5
    assert found.per_class[7:] == (None, None)
    assert torch.allclose(torch.tensor(found.per_class[:7]), torch.tensor(per_class))
    assert found.n == 200


def test_with_fewer_than_five_classes_everything_is_in_the_top_five() -> None:
    label = torch.tensor([1, 1, 0])
    found = Scores.of(Predictions.of(torch.eye(3), label, torch.arange(3)), 3, STANDARD)
    assert found["top5"] == 1
    assert abs(found["accuracy"] - 1 / 3) < 1e-6

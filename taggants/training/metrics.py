"""How well a model does on a test split, by more than its accuracy."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

NUM_BINS = 15


@dataclass(frozen=True)
class Metrics:
    """Attributes:
    accuracy: in [0, 1].
    class_accuracies: by label, in [0, 1]; None for a class without test images.
    worst_class_accuracy: the lowest of them.
    calibration_error: expected calibration error in [0, 1]: mean over images of |accuracy - confidence| of their bin, of
        15 bins of equal width; Guo et al., "On calibration of modern neural networks" (ICML 2017), equation 3.
    mean_loss: cross-entropy in nats.
    """

    accuracy: float
    class_accuracies: tuple[float | None, ...]
    worst_class_accuracy: float
    calibration_error: float
    mean_loss: float


def measure(scores: Tensor, labels: Tensor) -> Metrics:
    """Returns the metrics of logits [N, num_classes] against labels, int64 [N]."""
    from torchmetrics.functional.classification import multiclass_calibration_error  # its import takes a second

    num_classes = scores.shape[1]
    is_right = scores.argmax(1) == labels
    by_class = [
        float(is_right[labels == label].float().mean()) if (labels == label).any() else None
        for label in range(num_classes)
    ]
    error = multiclass_calibration_error(scores.softmax(1), labels, num_classes, n_bins=NUM_BINS, norm="l1")
    return Metrics(
        accuracy=float(is_right.float().mean()),
        class_accuracies=tuple(by_class),
        worst_class_accuracy=min(part for part in by_class if part is not None),
        calibration_error=float(error),
        mean_loss=float(cross_entropy(scores, labels)),
    )

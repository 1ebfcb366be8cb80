"""What crafting maximises: a function of the key's gradient t and the summed gradient p of a signing set.

An objective gives its value and its derivative by p; the crafting loop, the engines and augmentations know no more of it. The
table holds those that a configuration can name; another is one function and one `OBJECTIVES.register`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from taggants.alignment.gradients import Gradient, alignment_direction
from taggants.registry import Registry

Objective = Callable[[Gradient, Gradient], tuple[Tensor, Gradient]]
"""(t, p) -> (value, d value / d p), a scalar and one float32 tensor for each of p, all new. A function of a module, so that it
pickles and has a name. Only the direction of the derivative counts: steps follow the sign of each pixel's gradient."""

OBJECTIVES: Registry[Objective] = Registry("objective")

OBJECTIVES.register("cosine", alignment_direction)

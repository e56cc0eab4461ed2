"""Made-up opinions of a weak model and of class modules, for tests of what is fitted on them."""

import torch

from cnnsplitter.patches.combining import Layout, Observations

NAMES = ("bird", "cat", "dog", "ship")


def observations(
    n: int = 400,
    *,
    seed: int = 0,
    patched: tuple[int, ...] = (1,),
    lacking: tuple[int, ...] = (),
    skill: float = 2.0,
    blind: float = 0.0,
) -> Observations:
    """Return noisy logits of a weak model and noisy scores of class modules.

    Args:
        n: Images; the classes take turns.
        seed: Of the noise.
        patched: The patched columns.
        lacking: Columns that the weak model lacks.
        skill: How far a class module's scores of its class lie above the others'.
        blind: How much less the weak model's logits rise for the patched classes.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % len(NAMES)
    weak = tuple(c for c in range(len(NAMES)) if c not in lacking)
    rise = torch.full((len(NAMES),), 2.0, dtype=torch.float64)
    rise[list(patched)] -= blind
    hot = torch.nn.functional.one_hot(labels, len(NAMES)).double()
    logits = hot * rise + torch.randn(hot.shape, generator=generator, dtype=torch.float64)
    scores = torch.randn(n, len(patched), generator=generator, dtype=torch.float64)
    scores = 5 + 3 * (scores + skill * hot[:, list(patched)])
    return Observations(logits[:, list(weak)], scores, labels, Layout(NAMES, weak, patched))

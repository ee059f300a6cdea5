"""Which examples stand for a class: herding, and those nearest to the centres of k-means.

Herding: Welling, "Herding dynamical weights to learn", ICML 2009, as coresets take it (Rebuffi et al., iCaRL, CVPR
2017): one example after the other, each the one that brings the mean of those taken closest to the mean of all.

**Differs**: features are pixels or an observer's logits, not those of a network trained for the purpose.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def herding(features: np.ndarray, takes: Sequence[int], seed: int = 0) -> list[np.ndarray]:
    """Rows of `features` [n, d] float64 (sum of `takes` <= n) in the order of herding, as int64 arrays of `takes`.

    Nothing is drawn: `seed` has no say.
    """
    mean, total = features.mean(0), np.zeros(features.shape[1])
    free, order = np.ones(len(features), dtype=bool), []
    squares = (features**2).sum(1)
    for taken in range(1, sum(takes) + 1):
        # |mean - (total + x) / taken|^2 but for what all have in common
        away = squares - 2 * (features @ (taken * mean - total))
        order.append(int(np.where(free, away, np.inf).argmin()))
        free[order[-1]] = False
        total += features[order[-1]]
    return np.split(np.array(order, dtype=np.int64), np.cumsum(takes)[:-1])


def kmeans(features: np.ndarray, takes: Sequence[int], seed: int) -> list[np.ndarray]:
    """Rows of `features` [n, d] float64 nearest to as many centres of k-means (scikit-learn), for each of `takes`,
    among those not taken before; large clusters first. `seed`: where centres begin."""
    from sklearn.cluster import KMeans

    free, found = np.arange(len(features)), []
    for turn, many in enumerate(takes):
        fit = KMeans(many, n_init=1, random_state=np.random.RandomState((seed + turn) % 2**32)).fit(features[free])
        away = fit.transform(features[free])
        sizes = np.bincount(fit.labels_, minlength=many)
        chosen: list[int] = []
        for centre in np.argsort(-sizes, kind="stable"):
            away[chosen] = np.inf
            chosen.append(int(away[:, centre].argmin()))
        found.append(free[chosen])
        free = np.delete(free, chosen)
    return found

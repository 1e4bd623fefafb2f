"""How sparse each layer should be when some suffer more from zeros than others, and cost more."""

from __future__ import annotations

import numpy as np

from sentei.core.errors import SenteiError

# The share of zeros that no layer passes: at 98 % few outputs are left without any input.
MOST = 0.98
_SHARES = np.append(np.arange(0.0, MOST, 0.005), MOST)
_HALVINGS = 60


def balance(
    sizes: np.ndarray,
    uses: np.ndarray,
    levels: np.ndarray,
    harm: np.ndarray,
    sparsity: float,
    spared: float = 0.0,
    least: float = 0.0,
) -> np.ndarray:
    """Shares of zeros that harm least, of those with as many zeros as asked for.

    Minimises the sum of `harm_l(s_l)`, each layer's on its own, subject to `sum n_l s_l =
    sparsity * sum n_l` and `sum n_l u_l s_l >= spared * sum n_l u_l`, where `n` are sizes and `u`
    uses, by two Lagrange multipliers: a price of weights that stay and one of multiplications that
    stay (Everett 1963, "Generalized Lagrange multiplier method for solving problems of optimum
    allocation of resources").

    Between the levels that were measured, and beyond, `log harm` is taken as linear in `log(s / (1
    - s))`. What flattens out is taken to rise on as steeply as before: outputs that are wrong
    already hide what a layer would do to good ones, and it would be best to give that layer up.

    Args:
        sizes: weights of each layer, `(layers,)`.
        uses: multiplications of each of its weights, `(layers,)`.
        levels: shares of zeros that were tried, ascending, in (0, 1), `(levels,)`.
        harm: what they do, at least 0, `(layers, levels)`.
        sparsity: share of zeros over all, in [0, 0.98].
        spared: share of the multiplications that must fall away, at least.
        least: share of zeros in each layer, at least; not more than `sparsity`.

    Returns:
        `(layers,)`: shares of zeros, in [least, 0.98].

    Raises:
        SenteiError: when no choice of shares spares so many multiplications.
    """
    weights = sizes / sizes.sum()
    work = sizes * uses / max(float((sizes * uses).sum()), 1e-30)
    grid = np.append(least, _SHARES[least < _SHARES])
    curves = np.array([np.interp(grid, _SHARES, curve) for curve in _curves(levels, harm)])

    def at(price: float) -> np.ndarray:
        """The best shares when what is multiplied has this price."""
        return _with_zeros(curves - price * work[:, None] * grid, grid, weights, sparsity)

    shares = at(0.0)
    if work @ shares >= spared:
        return shares
    low, high = 0.0, 1e-3
    while work @ (shares := at(high)) < spared:
        low, high = high, 4.0 * high
        if high > 1e9:
            raise SenteiError(
                f"At {sparsity:.0%} zeros at most {work @ shares:.1%} of the multiplications fall "
                f"away. Received: multiplications={spared:g}. Ask for fewer, or for more zeros."
            )
    for _ in range(_HALVINGS):
        price = (low + high) / 2
        found = at(price)
        if work @ found >= spared:
            high, shares = price, found
        else:
            low = price
    return shares


def _curves(levels: np.ndarray, harm: np.ndarray) -> np.ndarray:
    """The harm at every share of the grid, `(layers, shares)`, in units of the mean over all."""
    harm = np.maximum.accumulate(harm, axis=1)
    harm = harm / max(float(harm.mean()), 1e-30)
    logs = np.log(np.maximum(harm, 1e-6))
    known, wanted = _logit(levels), _logit(np.maximum(_SHARES, 1e-4))
    curves = np.empty((len(harm), len(_SHARES)))
    for curve, log in zip(curves, logs, strict=True):
        curve[:] = np.interp(wanted, known, log)
        if len(known) > 1:
            slopes = np.diff(log) / np.diff(known)
            curve[:] += slopes[0] * np.minimum(wanted - known[0], 0.0)
            curve[:] += slopes[-1] * np.maximum(wanted - known[-1], 0.0)
    curves = np.exp(curves)
    curves[:, 0] = 0.0  # nothing was taken away
    slopes = np.maximum.accumulate(np.diff(curves) / np.diff(_SHARES), axis=1)
    curves[:, 1:] = np.cumsum(slopes * np.diff(_SHARES), axis=1)
    return curves


def _with_zeros(
    cost: np.ndarray, grid: np.ndarray, weights: np.ndarray, sparsity: float
) -> np.ndarray:
    """The cheapest shares with exactly so many zeros; between two steps of the grid their mean."""

    def at(price: float) -> np.ndarray:
        return grid[np.argmin(cost - price * weights[:, None] * grid, axis=1)]

    # Less than the highest slope of any layer would leave it out.
    reach = 1.0 + float(np.abs(np.diff(cost) / np.diff(grid)).max() / weights.min())
    low, high = -reach, reach
    for _ in range(2 * _HALVINGS):  # the range may be wide
        price = (low + high) / 2
        low, high = (price, high) if weights @ at(price) < sparsity else (low, price)
    below, above = at(low), at(high)
    few, many = float(weights @ below), float(weights @ above)
    part = (sparsity - few) / (many - few) if many > few else 0.0
    return below + part * (above - below)


def _logit(shares: np.ndarray) -> np.ndarray:
    return np.log(shares / (1.0 - shares))

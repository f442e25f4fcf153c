"""Length-controlled win rates of several models together, where the difficulty of the prompts is not known.

The log-odds that the judge prefers model m's answer to prompt x are theta_m + phi_m t_mx + psi_m gamma_x: ability,
squashed length difference and difficulty, as in Dubois et al. (2024). The difficulty is standard normal and integrated
out by quadrature (marginal maximum likelihood, Bock and Aitkin 1981), so that nothing depends on an estimate of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from tapir.domain.errors import DataError
from tapir.evaluation.statistics import Floats

FEWEST_MODELS = 5
_ABILITY = 10.0  # standard deviation of a prior that hardly holds theta
_LENGTH, _SLOPE = (1.0, 0.3, 0.3), (1.7, 1.0, 1.0)  # phi, psi: mean, standard deviation of it, and of models around it
_LENGTH_SPREAD = (0.8, 0.5)  # how far the mean of phi, and models around it, may truly lie: for the intervals
_NODES, _MASSES = np.polynomial.hermite_e.hermegauss(15)
_DRAWS = 200
_CLIP = 0.005


def estimate_together(preference: Floats, length: Floats, judged: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the rates of all models at equal lengths, draws of them that carry every uncertainty, and phi.

    A draw resamples the prompts and moves the terms by one Newton step; the difficulties follow from the terms. It also
    moves them by what the prior may have pulled them: phi is drawn towards its mean more than it is sure to lie there,
    since a slope measured on few lopsided lengths misleads more than the prior does.

    Args:
        preference: 0 to 1, shape (models, prompts).
        length: squashed length differences, -1 to 1, of the same shape.
        judged: 1.0 where there is a preference, else 0.0, of the same shape.

    Returns:
        Shapes (models,), (draws, models) and (models,).
    """
    data, (count, prompts) = _Comparisons(preference, length, judged), preference.shape
    precision, mean = _prior(count)
    terms, information = _fit(data, precision, mean)
    scores = data.scores(*data.posterior(terms)[1:])[1]
    rng, drawn, factor = np.random.default_rng(0), [], np.linalg.cholesky(precision).T
    for _ in range(_DRAWS):
        times = rng.multinomial(prompts, np.full(prompts, 1 / prompts))
        apart = np.linalg.solve(factor, rng.normal(size=len(terms)))  # true terms less the prior's mean
        apart[-2] = rng.normal(0, _LENGTH_SPREAD[0])
        apart[count : 2 * count] = apart[-2] + rng.normal(0, _LENGTH_SPREAD[1], count)
        pull = precision @ apart
        pull[:-2] += (times - 1) @ scores
        drawn.append(times @ data.chances(terms + np.linalg.solve(information, pull)) / prompts)
    return data.chances(terms).mean(axis=0), np.array(drawn), terms[count : 2 * count]


def _prior(count: int) -> tuple[Floats, Floats]:
    """Return precision and mean of theta, phi and psi of each model, and of the means of phi and psi."""
    root = np.eye(3 * count + 2) / np.r_[np.full(count, _ABILITY), np.ones(2 * count), _LENGTH[1], _SLOPE[1]]
    mean = np.zeros(3 * count + 2)
    for turn, (middle, _, around) in enumerate((_LENGTH, _SLOPE)):
        own, common = slice((turn + 1) * count, (turn + 2) * count), turn - 2
        root[own] /= around
        root[own, common] = -1 / around
        mean[own] = mean[common] = middle
    return root.T @ root, mean


def _fit(data: _Comparisons, precision: Floats, mean: Floats) -> tuple[Floats, Floats]:
    """Return the terms of highest posterior density and the information there (the negative Hessian)."""

    def loss(terms: Floats) -> tuple[float, Floats]:
        likelihood, masses, wins = data.posterior(terms)
        pull = precision @ (terms - mean)
        gradient = pull.copy()
        gradient[:-2] -= data.scores(masses, wins)[1].sum(axis=0)
        return float((terms - mean) @ pull / 2 - likelihood.sum()), gradient

    def information(terms: Floats) -> Floats:
        total = precision.copy()
        total[:-2, :-2] += data.information(terms)
        return total

    start = mean.copy()
    raw = (data.preference * data.judged).sum(axis=1) / data.judged.sum(axis=1)
    start[: len(raw)] = special.logit(np.clip(raw, _CLIP, 1 - _CLIP))
    options = {"gtol": 1e-3, "maxiter": 200}
    found = optimize.minimize(loss, start, jac=True, hess=information, method="trust-exact", options=options)
    if not found.success:
        raise DataError(
            f"the regression behind the length-controlled win rates did not converge: {found.message}",
            remedy="Leave out models that win nearly nowhere or nearly everywhere, or give --difficulty.",
        )
    return found.x, information(found.x)


@dataclass(frozen=True, slots=True)
class _Comparisons:
    """Judged answers, and their likelihood given the terms theta, phi and psi of each model (and two more)."""

    preference: Floats
    length: Floats
    judged: Floats

    def posterior(self, terms: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the log-likelihood by prompt, the masses of the nodes (prompts, nodes), and chances of a win there."""
        ability, length, slope = terms[:-2].reshape(3, -1, 1)
        odds = (ability + length * self.length)[:, :, None] + slope[:, :, None] * _NODES
        won = np.einsum("mp,mpn->pn", self.judged * self.preference, odds)
        fits = won + np.einsum("mp,mpn->pn", self.judged, special.log_expit(-odds)) + np.log(_MASSES / _MASSES.sum())
        likelihood = special.logsumexp(fits, axis=1)
        return likelihood, np.exp(fits - likelihood[:, None]), special.expit(odds)

    def scores(self, masses: Floats, wins: Floats) -> tuple[Floats, Floats]:
        """Return the score of each term at every node (terms, prompts, nodes), and its mean (prompts, terms)."""
        left = self.judged[:, :, None] * (self.preference[:, :, None] - wins)
        at_nodes = np.concatenate([left, left * self.length[:, :, None], left * _NODES])
        return at_nodes, np.einsum("tpn,pn->pt", at_nodes, masses)

    def information(self, terms: Floats) -> Floats:
        """Return the observed information of the likelihood (Louis 1982)."""
        _, masses, wins = self.posterior(terms)
        at_nodes, means = self.scores(masses, wins)
        count = len(self.preference)
        weight = self.judged[:, :, None] * wins * (1 - wins) * masses
        inputs = np.broadcast_arrays(np.ones(1), self.length[:, :, None], _NODES, weight)[:3]
        spread = (at_nodes * np.sqrt(masses)).reshape(3 * count, -1)
        total: Floats = means.T @ means - spread @ spread.T
        model = np.arange(count)
        for row, first in enumerate(inputs):
            for column, second in enumerate(inputs):
                total[model + row * count, model + column * count] += (weight * first * second).sum(axis=(1, 2))
        return total

    def chances(self, terms: Floats) -> Floats:
        """Return the probability that each model wins at equal lengths, shape (prompts, models)."""
        ability, _, slope = terms[:-2].reshape(3, -1, 1)
        result: Floats = self.posterior(terms)[1] @ special.expit(ability + slope * _NODES).T
        return result

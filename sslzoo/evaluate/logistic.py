"""Multinomial logistic regression for many L2 penalties at once: one L-BFGS whose matrix products hold all of them.

For each penalty: mean loss + λ / (2 n) · |W|², biases free; scikit-learn's LogisticRegression(C=1/λ), and C=2/λ for two
classes, of which it penalises one weight vector, w₁ - w₀. The features are rotated to the eigenvectors of their covariance,
which changes no solution (the penalty is rotation-invariant) and gives the preconditioner 1 / (κ s_j + λ / n), s_j being
the eigenvalues (Böhning 1992 bounds the Hessian by ½ s_j + λ / n).

A small gradient alone is no end: where the classes are separable and λ is small it is below scikit-learn's 1e-4 long before
the weights have turned to their direction. So the last step must have gained next to nothing, and the next must promise no
more, beside what is left of the objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

TOLERANCE = 1e-4  # of the largest entry of the gradient, as in scikit-learn
GAIN = 1e-6  # of the objective: what the last step gained and what the next promises must be below it, too
SOLVED = 0.01  # of the loss of biases alone: below it the direction hardly turns, and a fit costs most
ROUNDS = 1000
HISTORY = 8
CELLS = 2**22  # logits held at a time
FLOOR = 0.01  # of the mean eigenvalue: directions below it are noise, which a full Newton step would chase


@dataclass(frozen=True)
class Solutions:
    """Weights `[a, d, c]` and biases `[a, c]` for a penalties, d features, c classes; `rounds` of the solver.

    `unsolved` is for how many of the penalties it ended with both a large gradient and more to be gained.
    """

    weights: Tensor
    biases: Tensor
    rounds: int
    unsolved: int

    def only(self, number: int) -> Solutions:
        """That of one penalty."""
        part = slice(number, number + 1)
        return Solutions(self.weights[part], self.biases[part], self.rounds, self.unsolved)

    def logits(self, x: Tensor) -> Tensor:
        """`[n, d] -> [a, n, c]`."""
        return torch.einsum("nd,adc->anc", x, self.weights) + self.biases[:, None]


def fit(x: Tensor, targets: Tensor, classes: int, penalties: Sequence[float] | NDArray[np.float64]) -> Solutions:
    """Solves for all penalties, in any order. `x` is float32 `[n, d]`, best standardised.

    `targets` are class numbers int64 `[n]`, or for independent yes-or-no questions 1, 0 and NaN (unknown) `[n, c]`.
    Of the penalties whose objective is less than a hundredth of the loss of biases alone, which needs classes that are
    separable, only the largest is solved for: all of them get its solution. A fit ends after `ROUNDS` rounds, or when no shorter
    step gains anything; `unsolved` counts those that were not there yet.
    """
    n, d = x.shape
    values, basis = _directions(x)
    solver = _Solver(x @ basis, targets, classes, torch.tensor(penalties, dtype=torch.float32, device=x.device) / n)
    kappa = (classes - 1) / classes**2 if targets.ndim == 1 else 0.25
    curvature = kappa * torch.cat([values + FLOOR * values.sum() / d, values.new_ones(1)])
    found, rounds, unsolved = solver.run(curvature)
    return Solutions(torch.einsum("dr,arc->adc", basis, found[:, :-1]), found[:, -1], rounds, unsolved)


def _directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues `[r]` and eigenvectors `[d, r]` of xᵀx / n, without those of (nearly) zero, where the solution has nothing."""
    n, d = x.shape
    wide = n < d  # then from the smaller matrix x xᵀ
    values, basis = torch.linalg.eigh(((x @ x.T if wide else x.T @ x) / n).double())
    kept = values > 1e-7 * values[-1]
    values, basis = values[kept], basis[:, kept]
    if wide:
        basis = x.T.double() @ basis / (n * values).sqrt()
    return values.float(), basis.float()


class _Solver:
    def __init__(self, x: Tensor, targets: Tensor, classes: int, penalties: Tensor) -> None:
        self.x, self.targets, self.classes, self.penalties = x, targets, classes, penalties

    def objective(self, w: Tensor, penalties: Tensor) -> tuple[Tensor, Tensor]:
        """Values float64 `[a]` and gradients `[a, r + 1, c]` at `w` of the same shape, the last row being biases."""
        a, _, c = w.shape
        n = len(self.x)
        flat = w.permute(1, 2, 0).reshape(w.shape[1], c * a)  # penalties innermost: the softmax runs over whole vectors
        loss = torch.zeros(a, dtype=torch.float64, device=w.device)
        gradient = torch.zeros_like(flat)
        step = max(64, CELLS // (c * a))
        for start in range(0, n, step):
            x, y = self.x[start : start + step], self.targets[start : start + step]
            z = torch.addmm(flat[-1], x, flat[:-1]).view(len(x), c, a)
            if y.ndim == 1:
                rows = torch.arange(len(x), device=w.device)
                z -= z.amax(1, keepdim=True)
                right = z[rows, y]  # [m, a]
                z.exp_()
                z[rows, y] = 0  # 1 - p from the others: as a difference it would be rounded away where p is nearly 1
                others = z.sum(1)
                total = others + right.exp()
                losses = torch.where(right == 0, others.log1p(), total.log() - right)
                loss += losses.sum(0, dtype=torch.float64)
                z /= total[:, None]
                z[rows, y] = -others / total
            else:
                asked = ~y.isnan()[:, :, None]
                truth = y.nan_to_num()[:, :, None]
                sign = 1 - 2 * truth  # σ(z) - y is sign · σ(sign · z), which a sure answer does not round away
                loss += torch.where(asked, softplus(sign * z), 0.0).sum((0, 1), dtype=torch.float64)
                z = torch.where(asked, sign * (sign * z).sigmoid(), 0.0)
            z = z.view(len(x), c * a)
            gradient[:-1].addmm_(x.T, z)
            gradient[-1] += z.sum(0)
        shaped = gradient.view(-1, c, a).permute(2, 0, 1) / n
        decay = penalties[:, None, None] * w
        decay[:, -1] = 0
        return loss / n + 0.5 * (decay * w).sum((1, 2), dtype=torch.float64), shaped + decay

    def loss_of_biases(self) -> float:
        """The least loss without features: the entropy of the class frequencies, or of all questions' answers."""
        y = self.targets
        if y.ndim == 1:
            return float(torch.special.entr(torch.bincount(y).double() / len(y)).sum())
        known = (~y.isnan()).double().mean(0)
        yes = y.nanmean(0).double().nan_to_num()
        return float((known * (torch.special.entr(yes) + torch.special.entr(1 - yes))).sum())

    def run(self, curvature: Tensor) -> tuple[Tensor, int, int]:
        """Every penalty goes its own way: in a round each either accepts its trial step and turns, or shortens it."""
        result = torch.zeros((len(self.penalties), len(curvature), self.classes), device=self.x.device)
        ids, penalties = torch.arange(len(result), device=self.x.device), self.penalties
        unsolved = torch.ones(len(result), dtype=torch.bool, device=self.x.device)
        shrink = torch.cat([torch.ones_like(curvature[:-1]), curvature.new_zeros(1)])
        w = result.clone()
        value, gradient = self.objective(w, penalties)
        enough, least = SOLVED * self.loss_of_biases(), 0.0
        scale, history = torch.ones(len(w), device=w.device), list[tuple[Tensor, Tensor, Tensor]]()
        inverse = 1 / (curvature + penalties[:, None] * shrink)[:, :, None]  # [a, r + 1, 1]
        direction = -inverse * gradient
        slope = (direction * gradient).sum((1, 2), dtype=torch.float64)
        length, failures = torch.ones(len(w), device=w.device), torch.zeros(len(w), device=w.device)
        rounds = 0
        while len(ids) and rounds < ROUNDS:
            rounds += 1
            move = length[:, None, None] * direction
            trial, turned = self.objective(w + move, penalties)
            ok = trial <= value + 1e-4 * length * slope + 1e-9 * value.abs()
            s, y = (torch.where(ok[:, None, None], v, 0.0) for v in (move, turned - gradient))
            sy, yhy = (s * y).sum((1, 2)), (y * inverse * y).sum((1, 2))
            good = ok & (sy > 1e-10 * yhy)
            history = [*history[-HISTORY + 1 :], (s, y, torch.where(good, 1 / sy.clamp_min(1e-30), 0.0))]
            scale = torch.where(good, sy / yhy.clamp_min(1e-30), scale)
            bend = (trial - value - length * slope).clamp_min(1e-12)  # a parabola through value, slope and trial
            shorter = (-slope * length**2 / (2 * bend)).float()
            length = torch.where(ok, 1.0, torch.minimum(torch.maximum(shorter, 0.1 * length), 0.5 * length))
            failures = torch.where(ok, 0, failures + 1)
            gained = torch.where(ok, value - trial, torch.inf)
            w, value = w + s, torch.where(ok, trial, value)
            gradient = torch.where(ok[:, None, None], turned, gradient)
            direction = torch.where(ok[:, None, None], _turn(gradient, history, scale, inverse), direction)
            least = max([least, *penalties[value < enough].tolist()])
            slope = (direction * gradient).sum((1, 2), dtype=torch.float64)
            steep, promising = gradient.abs().amax((1, 2)) > TOLERANCE, -slope > GAIN * value
            going = (steep | promising | (gained > GAIN * value)) & (failures < 20) & (penalties >= least)
            unsolved[ids] = steep & promising  # one of them may never end, by what float32 rounds away
            if not going.all():
                result[ids] = w
                ids, penalties, w, value, gradient, direction, slope, length, failures, scale, inverse = (
                    v[going]
                    for v in (ids, penalties, w, value, gradient, direction, slope, length, failures, scale, inverse)
                )
                history = [(s[going], y[going], rho[going]) for s, y, rho in history]
        result[ids] = w
        if least:
            result[self.penalties < least] = result[(self.penalties == least).nonzero()[0, 0]].clone()
        return result, rounds, int((unsolved & (self.penalties >= least)).sum())


def _turn(gradient: Tensor, history: list[tuple[Tensor, Tensor, Tensor]], scale: Tensor, inverse: Tensor) -> Tensor:
    """The L-BFGS direction (Nocedal and Wright, algorithm 7.4) for each penalty; steps that were not taken have rho 0."""
    q, alphas = gradient.clone(), []
    for s, y, rho in reversed(history):
        alphas.append((rho * (s * q).sum((1, 2)))[:, None, None])
        q -= alphas[-1] * y
    q *= scale[:, None, None] * inverse
    for (s, y, rho), alpha in zip(history, reversed(alphas), strict=True):
        q += s * (alpha - (rho * (y * q).sum((1, 2)))[:, None, None])
    return -q

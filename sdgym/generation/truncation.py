"""From logits to one token per row: temperature, truncation, inverse CDF. Pure functions, any device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from sdgym.errors import ConfigError, NumericalError
from sdgym.generation.base import SamplingParams


@dataclasses.dataclass(frozen=True)
class RowSampling:
    """The sampling parameters of n rows as columns (float64 or int64 ``[n]``)."""

    temperature: np.ndarray
    top_p: np.ndarray
    top_k: np.ndarray
    min_p: np.ndarray

    @classmethod
    def of(cls, params: Sequence[SamplingParams]) -> RowSampling:
        """Gather the parameters of rows."""
        columns = (np.array([getattr(p, name) for p in params]) for name in ("temperature", "top_p", "top_k", "min_p"))
        return cls(*columns)

    def take(self, rows: np.ndarray) -> RowSampling:
        """Return the parameters of some rows."""
        return RowSampling(self.temperature[rows], self.top_p[rows], self.top_k[rows], self.min_p[rows])

    @property
    def truncates(self) -> bool:
        """Whether any row cuts its distribution."""
        return bool((self.top_p < 1).any() or (self.top_k > 0).any() or (self.min_p > 0).any())


def check_params(params: SamplingParams) -> None:
    """Refuse sampling parameters out of range.

    Raises:
        ConfigError: names the parameter, its value and its range.
    """
    bounds = (
        ("temperature", params.temperature >= 0 and np.isfinite(params.temperature), "a finite number of at least 0"),
        ("top_p", 0 < params.top_p <= 1, "in (0, 1]"),
        ("top_k", params.top_k >= 0, "0 (off) or a positive integer"),
        ("min_p", 0 <= params.min_p <= 1, "in [0, 1]"),
        ("max_tokens", params.max_tokens >= 1, "at least 1"),
    )
    for name, fine, want in bounds:
        if not fine:
            raise ConfigError(f"sampling parameter {name}={getattr(params, name)} must be {want}")


def sample_tokens(logits: torch.Tensor, uniforms: np.ndarray, sampling: RowSampling) -> tuple[np.ndarray, np.ndarray]:
    """Draw one token per row.

    The log-prob is that of the distribution at the sampling temperature *before* truncation (temperature 1
    for greedy rows), which is what importance ratios need.

    Args:
        logits: ``[n, V]``.
        uniforms: float64 ``[n]`` in (0, 1): one number decides one row.
        sampling: parameters per row; temperature 0 takes the largest logit (the lowest id among equals).

    Returns:
        ``(ids int64 [n], logprobs float32 [n])``.

    Raises:
        NumericalError: a row's logits hold NaN or +inf, or nothing but -inf.
    """
    greedy = sampling.temperature == 0
    logits = logits.float()
    if (sampling.temperature[~greedy] != 1).any():
        scale = np.where(greedy, 1.0, sampling.temperature)
        logits = logits / torch.from_numpy(scale).to(logits)[:, None]
    scores = torch.log_softmax(logits, dim=-1)
    weights = scores.double().exp_()
    if sampling.truncates:
        weights = weights * keep_mask(scores, sampling)
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    if not bool(torch.isfinite(total).all()):
        bad = int((~torch.isfinite(total[:, 0])).sum())
        raise NumericalError(f"the policy's logits are not finite in {bad} of {len(total)} rows; its weights are damaged")
    point = torch.from_numpy(uniforms).to(total)[:, None] * total
    point = torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))  # stay below the last token's upper end
    ids = torch.searchsorted(cumulative, point, right=True)  # first token whose upper end lies above the point
    if greedy.any():
        best = scores.argmax(-1, keepdim=True)
        ids = torch.where(torch.from_numpy(greedy).to(ids.device)[:, None], best, ids)
    chosen = scores.gather(1, ids)
    return ids[:, 0].cpu().numpy(), chosen[:, 0].cpu().numpy()


def keep_mask(scores: torch.Tensor, sampling: RowSampling) -> torch.Tensor:
    """Return bool ``[n, V]``: the tokens that survive top-k, then top-p of what is left, then min-p.

    - top-k keeps exactly k tokens (lower ids first among equals);
    - top-p keeps the smallest set of most probable tokens that holds at least p of the remaining mass
      (Holtzman et al. 2020);
    - min-p keeps tokens at least min_p times as probable as the best one (Nguyen et al. 2024).

    The most probable token always survives.

    Args:
        scores: log-probs ``[n, V]`` at the sampling temperature.
        sampling: parameters per row.
    """
    ordered, order = torch.sort(scores, dim=-1, descending=True, stable=True)
    width = scores.shape[-1]
    rank = torch.arange(width, device=scores.device)[None]

    def column(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values)).to(scores.device, dtype)[:, None]

    k = np.where(sampling.top_k > 0, np.minimum(sampling.top_k, width), width)
    keep = rank < column(k, torch.int64)
    mass = ordered.double().exp() * keep
    before = mass.cumsum(-1) - mass
    top_p = column(sampling.top_p, torch.float64)
    keep &= (before < top_p * mass.sum(-1, keepdim=True)) | (top_p >= 1)
    keep &= mass >= column(sampling.min_p, torch.float64) * mass[:, :1]
    keep[:, 0] = True
    return torch.zeros_like(keep).scatter_(1, order, keep)

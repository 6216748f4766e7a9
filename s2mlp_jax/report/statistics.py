"""Means, their uncertainty, and the rank correlation with the paper."""

import math
import statistics
import typing
from collections.abc import Sequence

from s2mlp_jax.report.runs import Run, Study


class Difference(typing.NamedTuple):
    """A mean difference over pairs, and half its 95 % confidence interval (None for one pair)."""

    mean: float
    half_width: float | None
    pairs: int


def spread(values: Sequence[float]) -> float | None:
    """Returns the sample standard deviation (n - 1); None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def paired_difference(runs: Sequence[Run], base: Sequence[Run]) -> Difference | None:
    """Compares the top-1 of two settings, in percentage points, paired by seed.

    Runs with the same seed see the same images in the same order and, if their shapes agree,
    start from the same weights. Pairing removes this common effect of the seed from the
    uncertainty. The interval is Student's t with pairs - 1 degrees of freedom. Returns None if no
    seed is done in both.
    """
    of_base = {run.seed: run.figure("accuracy_top1") for run in base}
    values = [
        100 * (run.figure("accuracy_top1") - of_base[run.seed])
        for run in runs
        if run.seed in of_base
    ]
    if not values:
        return None
    deviation = spread(values)
    half_width = None
    if deviation is not None:
        from scipy import stats

        quantile = float(stats.t.ppf(0.975, len(values) - 1))
        half_width = quantile * deviation / math.sqrt(len(values))
    return Difference(statistics.fmean(values), half_width, len(values))


def difference_to_baseline(study: Study, name: str) -> Difference | None:
    """Compares a setting with the baseline; None for the baseline itself or without one."""
    if not study.compared or name == study.baseline:
        return None
    return paired_difference(study.done(name), study.done(study.baseline))


class Ranks(typing.NamedTuple):
    """Spearman's rank correlation of our mean top-1 with the paper's, and the settings used."""

    rho: float
    settings: int


def rank_correlation(study: Study) -> Ranks | None:
    """Compares our order of the settings with the paper's; None for fewer than three settings."""
    ours, papers = [], []
    for name, setting in study.settings.items():
        runs = study.done(name)
        if runs and setting["paper"]:
            ours.append(statistics.fmean(run.figure("accuracy_top1") for run in runs))
            papers.append(setting["paper"]["top1"])
    if len(ours) < 3 or len(set(ours)) == 1:
        return None
    from scipy import stats

    return Ranks(float(stats.spearmanr(ours, papers).statistic), len(ours))

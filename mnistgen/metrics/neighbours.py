"""Nearest neighbours by brute force, in bounded memory."""

from typing import NamedTuple

import torch
from torch import Tensor

from mnistgen.errors import UsageError
from mnistgen.metrics.features import check_pair

CHUNK = 2**23  # distances at a time
SPARE = 8  # candidates beyond k that are measured exactly


class Neighbours(NamedTuple):
    """The nearest points of another set, nearest first."""

    distances: Tensor  # (n, k) float64
    indices: Tensor  # (n, k) int64, into the other set


def nearest(queries: Tensor, points: Tensor, k: int = 1, *, skip: Tensor | None = None) -> Neighbours:
    """The k nearest points of each query, Euclidean: (n, d), (m, d) -> (n, k), on the device of the queries.

    `skip` (n,) int64 is for each query the point that does not count, because it is the query itself. Candidates are
    found by products in float32, then their distances are taken by differences in float64: that of a copy is 0.
    Raises `UsageError` where there are fewer than k points.
    """
    least = k + (skip is not None)
    names = ("queries", "points")
    if k < 1 or len(points) < least:
        raise UsageError(f"Neighbours: the {k} nearest of {len(points)} points, and it needs at least {max(least, 1)}.")
    queries, points = check_pair(queries, points, metric="Neighbours", least=1, names=names)
    queries, points = queries.float(), points.float()
    centre = points.mean(0)  # small numbers, small errors
    centred = points - centre
    squares = centred.square().sum(1)  # (m,)
    distances, indices = [], []
    for rows in torch.arange(len(queries), device=queries.device).split(max(1, CHUNK // len(points))):
        x = queries[rows]
        near = torch.addmm(squares, x - centre, centred.T, alpha=-2)  # (b, m), |x - p|^2 - |x|^2
        if skip is not None:
            near[rows - rows[0], skip.to(rows.device)[rows]] = torch.inf
        candidates = near.topk(min(k + SPARE, len(points) - (skip is not None)), largest=False).indices  # (b, c)
        exact = (points[candidates].double() - x.double()[:, None]).square().sum(2).sqrt()
        order = exact.argsort(dim=1, stable=True)[:, :k]
        distances.append(exact.gather(1, order))
        indices.append(candidates.gather(1, order))
    return Neighbours(torch.cat(distances), torch.cat(indices))


def radii(points: Tensor, k: int) -> Tensor:
    """The distance of each point to its 1st to k-th nearest other point: (n, d) -> (n, k) float64."""
    return nearest(points, points, k, skip=torch.arange(len(points), device=points.device)).distances

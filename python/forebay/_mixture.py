"""How datasets are mixed: what the user says, as the engine's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ._errors import InvalidError

#: What the weights of a mixture count.
MixBy = Literal["samples", "tokens", "epochs"]
#: A dataset's weight, or ``{"weight": 3, "tokens_per_sample": 731.5}``.
Weight = float | Mapping[str, float]

_WEIGHT = "weight"
_TOKENS = "tokens_per_sample"


def parse_mixture(
    weights: Mapping[str, Weight],
    schedule: Sequence[tuple[int, Mapping[str, float]]],
    *,
    global_batch_size: int,
    mix_by: MixBy,
    mix_column: str | None,
) -> dict[str, Any]:
    """The settings of a mixture of ``weights``' datasets, in their order."""
    one_each = {name: _weight(name, weight) for name, weight in weights.items()}
    tokens = {name: _tokens(weight) for name, weight in weights.items()}
    if mix_by != "tokens":
        given = [name for name, number in tokens.items() if number is not None]
        says = f"{given[0]!r} has {_TOKENS}" if given else f"mix_column is {mix_column!r}"
        if given or mix_column is not None:
            raise InvalidError(f"{says}, which counts with mix_by='tokens'; here it is {mix_by!r}")
    return {
        "by": _by(mix_by, mix_column, list(tokens.values())),
        "schedule": _schedule(one_each, schedule, global_batch_size),
    }


def _by(mix_by: MixBy, column: str | None, tokens: list[float | None]) -> Any:
    if mix_by == "tokens":
        return {"tokens": {"column": column, "per_sample": tokens}}
    if mix_by in ("samples", "epochs"):
        return mix_by
    raise InvalidError(f"mix_by is {mix_by!r}; choose 'samples', 'tokens' or 'epochs'")


def _weight(name: str, weight: Weight) -> float:
    if not isinstance(weight, Mapping):
        return float(weight)
    unknown = sorted(weight.keys() - {_WEIGHT, _TOKENS})
    if unknown or _WEIGHT not in weight:
        raise InvalidError(
            f"{name!r} is mixed by {dict(weight)!r}; give a number, or "
            f"{{{_WEIGHT!r}: 3, {_TOKENS!r}: 731.5}}"
        )
    return float(weight[_WEIGHT])


def _tokens(weight: Weight) -> float | None:
    tokens = weight.get(_TOKENS) if isinstance(weight, Mapping) else None
    return None if tokens is None else float(tokens)


def _schedule(
    weights: Mapping[str, float],
    changes: Sequence[tuple[int, Mapping[str, float]]],
    global_batch_size: int,
) -> list[dict[str, Any]]:
    """The weights over time, each from a number of samples on."""
    for _, later in changes:
        unknown = [name for name in later if name not in weights]
        if unknown:
            raise InvalidError(
                f"the schedule names {unknown[0]!r}, which is no dataset of this feed; give it the "
                "weight 0 at the start"
            )
    return [
        {
            "from_sample": step * global_batch_size,
            "weights": [float(later.get(name, 0.0)) for name in weights],
        }
        for step, later in [(0, weights), *changes]
    ]

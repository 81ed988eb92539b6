"""Who writes what, when several ranks hold the same.

A tensor that is the same on every rank (a model under DDP) is written once, by one of those that
hold it; so ranks share the writing. All of them come to the same plan, from what each says it holds.
"""

from __future__ import annotations

import json
from typing import Any

from ._errors import InvalidError
from ._group import Group
from ._plan import Forms

#: What a rank says of a tensor: name, type, shape, where it is a part, and its bytes.
Said = list[Any]


class Shares:
    """Remembers the plan for as long as no rank holds anything else."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._digests: list[bytes] | None = None
        self._ours: list[int] = []

    def ours(self, forms: Forms) -> list[int]:
        """The numbers of those tensors that this rank writes. All ranks call it together."""
        if self._group.world_size == 1:
            return list(range(len(forms.names)))
        digests = self._group.gather(forms.digest)
        if digests != self._digests:
            held = [json.loads(one) for one in self._group.gather(forms.said)]
            self._ours = sorted(share(held)[self._group.rank])
            self._digests = digests
        return self._ours


def share(held: list[list[Said]]) -> list[frozenset[int]]:
    """For each rank, which of the tensors it holds it writes: each is written once.

    The largest first, each by that of its holders which has the least to write so far.
    """
    holders: dict[str, list[tuple[int, int]]] = {}
    forms: dict[str, Said] = {}
    for rank, said in enumerate(held):
        for index, (name, dtype, shape, part, size) in enumerate(said):
            key = json.dumps([name, part])
            form = [name, dtype, shape, size]
            if forms.setdefault(key, form) != form:
                raise InvalidError(
                    f"tensor {name!r} is {dtype} of {shape} on rank {rank} and {forms[key][1]} of "
                    f"{forms[key][2]} on rank {holders[key][0][0]}: what ranks hold under one name "
                    "must be the same; give each its own name"
                )
            holders.setdefault(key, []).append((rank, index))
    loads = [0] * len(held)
    ours: list[set[int]] = [set() for _ in held]
    for key in sorted(holders, key=lambda key: (-forms[key][3], key)):
        rank, index = min(holders[key], key=lambda one: (loads[one[0]], one[0]))
        loads[rank] += forms[key][3]
        ours[rank].add(index)
    return [frozenset(one) for one in ours]

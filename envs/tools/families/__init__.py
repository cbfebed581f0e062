"""The task families by name, each with three difficulties. To add one: a file here with ``FAMILY``, and a line below."""

from __future__ import annotations

from collections.abc import Mapping

from sdgym.envs.tools.families import (
    aggregate,
    bulk,
    conditional,
    impossible,
    lookup,
    notify,
    reconcile,
    rule,
    schedule,
    split,
    transfer,
    undo,
)
from sdgym.envs.tools.families.base import Family

FAMILIES: Mapping[str, tuple[Family, Family, Family]] = {
    "lookup": lookup.FAMILY,
    "aggregate": aggregate.FAMILY,
    "bulk": bulk.FAMILY,
    "transfer": transfer.FAMILY,
    "notify": notify.FAMILY,
    "split": split.FAMILY,
    "schedule": schedule.FAMILY,
    "rule": rule.FAMILY,
    "undo": undo.FAMILY,
    "conditional": conditional.FAMILY,
    "impossible": impossible.FAMILY,
    "reconcile": reconcile.FAMILY,
}
HELDOUT = "reconcile"
"""The family of the split ``heldout``, in no other split."""

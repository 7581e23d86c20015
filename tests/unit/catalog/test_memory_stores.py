"""Records of memory stores."""

from datetime import timedelta

import pytest

from corral.catalog.memory.stores import archived, new_memory_store, updated_memory_store
from corral.kernel.errors import InvalidRequest, MemoryRefused
from corral.kernel.ids import MemoryStoreId
from corral.testing.clock import ManualClock

NOW = ManualClock().now()
LATER = NOW + timedelta(seconds=1)
ID = MemoryStoreId("memstore_1")


def test_what_is_not_given() -> None:
    store = new_memory_store({"name": "n", "description": None}, memory_store_id=ID, now=NOW)
    assert (store["description"], store["metadata"], store["archived_at"]) == ("", {}, None)


def test_updates_merge() -> None:
    store = new_memory_store(
        {"name": "n", "description": "d", "metadata": {"a": "1", "b": "2"}}, memory_store_id=ID, now=NOW
    )
    changed = updated_memory_store(store, {"metadata": {"a": None, "b": "", "c": "3"}}, now=LATER)
    assert changed["metadata"] == {"b": "", "c": "3"}
    assert (changed["name"], changed["description"]) == ("n", "d")
    assert changed["updated_at"] > store["updated_at"]
    for cleared in ("", None):
        assert updated_memory_store(store, {"description": cleared}, now=LATER)["description"] == ""
    for nothing in ({}, {"name": None}, {"name": "n"}, {"metadata": None}, {"metadata": {"z": None}}):
        assert updated_memory_store(store, nothing, now=LATER) is store
    with pytest.raises(InvalidRequest, match="17 pairs"):
        updated_memory_store(store, {"metadata": {f"k{n}": "" for n in range(15)}}, now=LATER)


def test_archiving_is_for_ever() -> None:
    store = archived(new_memory_store({"name": "n"}, memory_store_id=ID, now=NOW), now=LATER)
    assert store["archived_at"] == store["updated_at"]
    assert archived(store, now=LATER + timedelta(seconds=1)) is store
    with pytest.raises(MemoryRefused, match="archived") as refused:
        updated_memory_store(store, {}, now=LATER)
    assert refused.value.errno == "EROFS"

"""Listing and eviction of stored objects."""

from rustygate.simulator.storage.object_store import ObjectStore, StoredObject


def new_stored_object(name: str) -> StoredObject:
    return StoredObject({"id": name})


def test_oldest_object_is_dropped_at_the_limit() -> None:
    store = ObjectStore[StoredObject]("Thing", max_objects=2)
    for name in "abc":
        store.add(new_stored_object(name))
    assert [item["id"] for item in store.page({})["data"]] == ["c", "b"]


def test_page_has_first_id_last_id_and_has_more() -> None:
    store = ObjectStore[StoredObject]("Thing")
    for name in "abcde":
        store.add(new_stored_object(name))
    page = store.page({"limit": "2", "after": "d"})
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("c", "b", True)
    assert store.page({"after": "a"}) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }

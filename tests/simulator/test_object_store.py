"""Listing and eviction of stored objects."""

from rustygate.simulator.storage.object_store import Stored, Table


def stored(name: str) -> Stored:
    return Stored({"id": name})


def test_oldest_object_goes_when_there_are_too_many() -> None:
    table = Table[Stored]("Thing", most=2)
    for name in "abc":
        table.add(stored(name))
    assert [one["id"] for one in table.page({})["data"]] == ["c", "b"]


def test_page_tells_its_ends_and_whether_there_is_more() -> None:
    table = Table[Stored]("Thing")
    for name in "abcde":
        table.add(stored(name))
    page = table.page({"limit": "2", "after": "d"})
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("c", "b", True)
    assert table.page({"after": "a"}) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }

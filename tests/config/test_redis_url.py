"""REDIS_URL: what each part means, and why a URL is rejected."""

import pytest

from rustygate.config.kinds import redis_url_problem
from rustygate.config.redis_url import RedisUrl, parse_redis_url


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("redis://redis", RedisUrl(kind="server", hosts=(("redis", 6379),))),
        ("REDIS://10.0.0.1:1/", RedisUrl(kind="server", hosts=(("10.0.0.1", 1),))),
        ("redis://[::1]:7000/3", RedisUrl(kind="server", hosts=(("::1", 7000),), database=3)),
        ("redis://redis?db=15", RedisUrl(kind="server", hosts=(("redis", 6379),), database=15)),
        (
            "redis://me:p%40s%2F%25@redis",
            RedisUrl(kind="server", hosts=(("redis", 6379),), username="me", password="p@s/%"),
        ),
        (
            "redis://:p:q@redis",
            RedisUrl(kind="server", hosts=(("redis", 6379),), password="p:q"),
        ),
        ("redis://:@redis", RedisUrl(kind="server", hosts=(("redis", 6379),))),
        (
            "redis://:@redis?password=p",
            RedisUrl(kind="server", hosts=(("redis", 6379),), password="p"),
        ),
        (
            "redis://redis?username=me&password=p%26",
            RedisUrl(kind="server", hosts=(("redis", 6379),), username="me", password="p&"),
        ),
        (
            "rediss://me@redis/",
            RedisUrl(kind="server", hosts=(("redis", 6379),), tls=True, username="me"),
        ),
        (
            "redis://redis?db=1&username=me&password=p",
            RedisUrl(
                kind="server", hosts=(("redis", 6379),), username="me", password="p", database=1
            ),
        ),
        ("unix:///run/redis.sock", RedisUrl(kind="server", path="/run/redis.sock")),
        ("unix:///r", RedisUrl(kind="server", path="/r")),
        (
            "unix://me:p@/run/my%20redis.sock?db=2",
            RedisUrl(
                kind="server",
                path="/run/my redis.sock",
                username="me",
                password="p",
                database=2,
            ),
        ),
        (
            "redis+sentinel://a,b:1/main",
            RedisUrl(kind="sentinel", hosts=(("a", 26379), ("b", 1)), master="main"),
        ),
        (
            "rediss+sentinel://:p@a/main/4?sentinel_username=s&sentinel_password=q",
            RedisUrl(
                kind="sentinel",
                hosts=(("a", 26379),),
                tls=True,
                master="main",
                database=4,
                password="p",
                sentinel_username="s",
                sentinel_password="q",
            ),
        ),
        (
            "redis+cluster://a:7000,[fe80::1%eth0],c/0",
            RedisUrl(kind="cluster", hosts=(("a", 7000), ("fe80::1%eth0", 6379), ("c", 6379))),
        ),
        (
            "rediss+cluster://me:p@a",
            RedisUrl(kind="cluster", hosts=(("a", 6379),), tls=True, username="me", password="p"),
        ),
    ],
)
def test_parts_of_a_url(url: str, parts: RedisUrl) -> None:
    assert parse_redis_url(url) == parts
    assert redis_url_problem(url) is None


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://me:hidden@redis/1", "redis:6379"),
        ("rediss://[::1]", "[::1]:6379"),
        ("unix://me:hidden@/run/redis.sock", "/run/redis.sock"),
        ("redis+sentinel://me:hidden@a,b:1/main", "main of the sentinels a:26379,b:1"),
        ("redis+cluster://me:hidden@a:7000,b", "cluster a:7000,b:6379"),
    ],
)
def test_address_in_words_has_no_user_and_no_password(url: str, address: str) -> None:
    assert str(parse_redis_url(url)) == address


def test_repr_contains_no_user_and_no_password() -> None:
    url = "redis+sentinel://me:hidden@a/main?sentinel_username=me&sentinel_password=hidden"
    shown = repr(parse_redis_url(url))
    assert "hidden" not in shown
    assert "'me'" not in shown


PERCENT = "in a password, / ? # @ must be written as %2F %3F %23 %40"
SCHEMES = (
    "it begins with none of redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, "
    "redis+cluster://, rediss+cluster://"
)
OPTIONS = "after the ?, only db, username, password"
HOST = "it has no host, or a port that is not a number"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis:6379", SCHEMES),
        ("http://redis", SCHEMES),
        ("redis://re dis", "it contains a space or a character that is not ASCII"),
        ("redis://redé", "it contains a space or a character that is not ASCII"),
        ("redis://[::1", HOST),
        ("redis://:p#q@redis", PERCENT),
        ("redis://:p/q@redis", PERCENT),
        ("redis://:p?q@redis", "after the ?, options are written as name=value"),
        ("redis://redis?timeout=5", f"{OPTIONS} are allowed"),
        ("redis://redis?sentinel_password=q", f"{OPTIONS} are allowed"),
        (
            "redis+sentinel://a/main?x=1",
            f"{OPTIONS}, sentinel_username, sentinel_password are allowed",
        ),
        ("redis://", HOST),
        ("redis://:p@", HOST),
        ("redis://redis:port", HOST),
        ("redis+cluster://a,,b", HOST),
        ("redis://redis:0", "its port is not from 1 to 65535"),
        ("redis://redis:65536", "its port is not from 1 to 65535"),
        ("redis://-redis", "its host is not a host name or an IP address"),
        ("redis://a..b", "its host is not a host name or an IP address"),
        (f"redis://{'x' * 64}", "its host is not a host name or an IP address"),
        ("redis://1.2.3", "its host is not a host name or an IP address"),
        ("redis://a,b", "only redis+sentinel and redis+cluster have several hosts"),
        ("redis://redis/x", "the database is not a number"),
        ("redis://redis/-1", "the database is not a number"),
        ("redis://redis/2147483648", "the database is not a number"),
        ("redis://redis/0/1", "it names more than one database"),
        ("redis://redis/0?db=1", "it names more than one database"),
        ("redis+sentinel://a", "the master's name is missing: host:26379/mymaster"),
        ("redis+cluster://a/1", "a cluster has only the database 0"),
        ("unix://run/redis.sock", "the path of the socket is not absolute: unix:///path"),
        ("unix:///", "the path of the socket is not absolute: unix:///path"),
    ],
)
def test_url_is_rejected_with_the_reason(url: str, problem: str) -> None:
    assert redis_url_problem(url) == problem

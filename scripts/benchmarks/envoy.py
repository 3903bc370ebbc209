"""Envoy's configuration for the benchmark: a plain reverse proxy, with or without a quota."""

import json

# Instead of Envoy's default limits of 1,024 connections and requests.
UNLIMITED = 1_000_000

_TYPE = "type.googleapis.com/envoy.extensions"


def _filters(quota: int | None) -> list[object]:
    router = {"@type": f"{_TYPE}.filters.http.router.v3.Router"}
    filters: list[object] = [{"name": "router", "typed_config": router}]
    if quota:
        share = {"numerator": 100}
        limit = {
            "@type": f"{_TYPE}.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "quota",
            "token_bucket": {
                "max_tokens": quota,
                "tokens_per_fill": 1,
                "fill_interval": f"{1 / quota}s",
            },
            "filter_enabled": {"default_value": share},
            "filter_enforced": {"default_value": share},
        }
        filters.insert(0, {"name": "quota", "typed_config": limit})
    return filters


def _listener(port: int, quota: int | None) -> object:
    """A listener that forwards everything, WebSockets and streams of any length included."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": "bench", "timeout": "0s"}}
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": _filters(quota),
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"address": _address("127.0.0.1", port), "filter_chains": [chain]}


def _address(host: str, port: int) -> object:
    return {"socket_address": {"address": host, "port_value": port}}


def _cluster(host: str, port: int) -> object:
    endpoint = {"endpoint": {"address": _address(host, port)}}
    limits = ("max_connections", "max_pending_requests", "max_requests")
    return {
        "name": "bench",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [dict.fromkeys(limits, UNLIMITED)]},
        "load_assignment": {
            "cluster_name": "bench",
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }


def settings(port: int, upstream: str, quota: int | None) -> str:
    """The configuration file.

    Args:
        upstream: the URL to forward to.
        quota: requests a second, as many of which may go at once; more are refused.
    """
    host, _, upstream_port = upstream.removeprefix("http://").partition(":")
    resources = {
        "listeners": [_listener(port, quota)],
        "clusters": [_cluster(host, int(upstream_port))],
    }
    return json.dumps({"static_resources": resources})

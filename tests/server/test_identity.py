"""Nobody gets in without a right credential, by whatever method; what is somebody's is nobody else's."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.server_thread import serving

from convlens.errors import FailedPrecondition, InvalidArgument, Unauthenticated, from_rpc_error
from convlens.v1 import model_pb2, model_pb2_grpc
from convlens_client.cli import main
from convlens_server.app import is_loopback
from convlens_server.identity.keys import ApiKeys, KeyFile, issue
from convlens_server.identity.settings import IdentitySettings
from convlens_server.identity.tokens import Tokens
from convlens_server.services import SERVICES

ISSUER, AUDIENCE = "https://issuer.example", "convlens"
REFLECTION = ("grpc.reflection.v1alpha.ServerReflection",)
Metadata = Sequence[tuple[str, str]]


class Credentials(NamedTuple):
    """What there is to present."""

    key: str
    expired_key: str
    signing: rsa.RSAPrivateKey

    def token(self, key: Any = None, algorithm: str = "RS256", kid: str = "one", **changes: Any) -> str:
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "somebody",
            "tenant": "blue",
            "exp": datetime.now(UTC) + timedelta(minutes=5),
        } | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, key or self.signing, algorithm, headers={"kid": kid})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("identity")


@pytest.fixture(scope="module")
def credentials(folder: Path) -> Credentials:
    key, kept = issue("red", frozenset({"admin"}))
    expired, past = issue("red", expires=datetime.now(UTC) - timedelta(seconds=1))
    (folder / "keys.json").write_text(KeyFile(keys=(kept, past)).model_dump_json())
    signing = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(signing.public_key(), as_dict=True)
    (folder / "jwks.json").write_text(json.dumps({"keys": [jwk | {"kid": "one", "alg": "RS256"}]}))
    return Credentials(key, expired, signing)


@pytest.fixture(scope="module")
def closed(folder: Path, credentials: Credentials) -> Iterator[grpc.Channel]:
    settings = {
        "api_keys": folder / "keys.json",
        "jwt_keys": folder / "jwks.json",
        "jwt_issuer": ISSUER,
        "jwt_audience": AUDIENCE,
    }
    with serving(**settings) as app, grpc.insecure_channel(app.address) as channel:
        yield channel


def methods() -> Iterator[Any]:
    pool = descriptor_pool.Default()
    for service in (*SERVICES, *REFLECTION):
        yield from pool.FindServiceByName(service).methods


def administration() -> set[str]:
    service = descriptor_pool.Default().FindServiceByName("convlens.v1.AdminService")
    return {"convlens.v1.ModelService.AddModel", *(method.full_name for method in service.methods)}


def answer(channel: grpc.Channel, method: Any, metadata: Metadata) -> grpc.StatusCode:
    """The status of a call with an empty request."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    request: Any = iter([b""]) if method.client_streaming else b""
    sides = (
        "stream" if streams else "unary" for streams in (method.client_streaming, method.server_streaming)
    )
    call = getattr(channel, "_".join(sides))(path)
    try:
        reply = call(request, metadata=metadata, timeout=20)
        if method.server_streaming:
            list(reply)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def bearer(credential: str) -> Metadata:
    return [("authorization", f"Bearer {credential}")]


def wrong(credentials: Credentials) -> dict[str, Metadata]:
    """All that must not open any door."""
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    curve = ec.generate_private_key(ec.SECP256R1())
    token = credentials.token
    public = b"-----BEGIN PUBLIC KEY-----\nwhat everybody may read\n-----END PUBLIC KEY-----"
    head, body, _ = token().split(".")
    unsigned = jwt.encode(
        {"iss": ISSUER, "aud": AUDIENCE, "tenant": "red", "exp": time.time() + 60}, None, "none"
    )
    return {
        "nothing": [],
        "another scheme": [("authorization", f"Basic {credentials.key}")],
        "no credential": [("authorization", "Bearer ")],
        "two": [*bearer(credentials.key), *bearer(credentials.key)],
        "another header": [("x-api-key", credentials.key)],
        "an unknown key": bearer(issue("red")[0]),
        "a changed secret": bearer(credentials.key[:-1] + ("a" if credentials.key[-1] != "a" else "b")),
        "the id alone": bearer(credentials.key.rpartition("_")[0]),
        "an expired key": bearer(credentials.expired_key),
        "an expired token": bearer(token(exp=datetime.now(UTC) - timedelta(minutes=5))),
        "a token for ever": bearer(token(exp=None)),
        "a token not yet": bearer(token(nbf=datetime.now(UTC) + timedelta(minutes=5))),
        "another issuer": bearer(token(iss="https://elsewhere.example")),
        "another audience": bearer(token(aud="others")),
        "without a tenant": bearer(token(tenant=None)),
        "an empty tenant": bearer(token(tenant="")),
        "a stranger's signature": bearer(token(stranger)),
        "an unknown key id": bearer(token(kid="two")),
        "another algorithm": bearer(token(curve, "ES256")),
        "signed with what is public": bearer(token(public.replace(b"PUBLIC KEY", b"NOTHING"), "HS256")),
        "unsigned": bearer(unsigned),
        "a cut signature": bearer(f"{head}.{body}."),
        "no token at all": bearer("a.b.c"),
    }


def test_no_method_answers_without_a_right_credential(closed: grpc.Channel, credentials: Credentials) -> None:
    found = {
        (method.full_name, name): answer(closed, method, metadata)
        for method in methods()
        for name, metadata in wrong(credentials).items()
    }
    assert len(found) >= 20 * 30
    opened = {what for what, code in found.items() if code is not grpc.StatusCode.UNAUTHENTICATED}
    assert not opened


def test_every_method_answers_with_one(closed: grpc.Channel, credentials: Credentials) -> None:
    """With whatever an empty request comes to: it is let in, to administration with the role alone."""
    for credential, admin in ((credentials.key, True), (credentials.token(), False)):
        codes = {method.full_name: answer(closed, method, bearer(credential)) for method in methods()}
        broken = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INTERNAL)
        assert not {name for name, code in codes.items() if code in broken}
        denied = {name for name, code in codes.items() if code is grpc.StatusCode.PERMISSION_DENIED}
        assert denied == (set() if admin else administration())


def test_probes_need_none(closed: grpc.Channel) -> None:
    reply = health_pb2_grpc.HealthStub(closed).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_the_refusal_says_what_is_missing_and_nothing_more(
    closed: grpc.Channel, credentials: Credentials
) -> None:
    metadata = bearer(credentials.key + "x")
    with pytest.raises(grpc.RpcError) as raised:
        model_pb2_grpc.ModelServiceStub(closed).ListModels(model_pb2.ListModelsRequest(), metadata=metadata)
    error = from_rpc_error(raised.value)
    assert isinstance(error, Unauthenticated)
    assert error.reason == "BAD_KEY"
    assert credentials.key not in error.message


def test_a_changed_file_of_keys_counts_and_a_broken_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first, kept = issue("red")
    path.write_text(KeyFile(keys=(kept,)).model_dump_json())
    keys = ApiKeys(path)
    assert keys.check(first).tenant == "red"
    second, more = issue("blue")
    path.write_text(KeyFile(keys=(more,)).model_dump_json())
    time.sleep(1.1)
    assert keys.check(second).tenant == "blue"
    with pytest.raises(Unauthenticated):
        keys.check(first)
    path.write_text("{")
    time.sleep(1.1)
    assert keys.check(second).tenant == "blue"


@pytest.mark.parametrize(
    "text",
    ["[]", "7", "null", '{"keys": 7}', "[" * 100_000, '{"keys": ' + "[" * 100_000, '{"keys": [{"kty": 7}]}'],
)
def test_whatever_lies_in_a_file_of_keys_leaves_the_last_good_one(
    tmp_path: Path, credentials: Credentials, folder: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convlens_server.identity.reloading.POLL_INTERVAL", 0.0)
    paths = {name: tmp_path / name for name in ("keys.json", "jwks.json")}
    for name, path in paths.items():
        path.write_bytes((folder / name).read_bytes())
    settings = IdentitySettings(jwt_keys=paths["jwks.json"], jwt_issuer=ISSUER, jwt_audience=AUDIENCE)
    keys, tokens = ApiKeys(paths["keys.json"]), Tokens(paths["jwks.json"], settings)
    for path in paths.values():
        path.write_text(text)
    assert keys.check(credentials.key).tenant == "red"
    assert tokens.check(credentials.token()).tenant


def test_calls_under_way_end_when_their_key_is_withdrawn(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    (first, kept), (second, more) = issue("red"), issue("blue")
    path.write_text(KeyFile(keys=(kept, more)).model_dump_json())
    with serving(api_keys=path) as app, grpc.insecure_channel(app.address) as channel:
        method = channel.stream_stream("/convlens.v1.InspectionService/StreamFeatures")
        never = threading.Event()
        calls = [method(iter(never.wait, True), metadata=bearer(key)) for key in (first, second)]
        time.sleep(0.3)
        path.write_text(KeyFile(keys=(more,)).model_dump_json())
        with pytest.raises(grpc.RpcError) as raised:
            next(calls[0])
        error = from_rpc_error(raised.value)
        assert isinstance(error, Unauthenticated)
        assert error.reason == "BAD_KEY"
        assert not calls[1].done()
        calls[1].cancel()
        never.set()


def test_the_command_makes_a_key_that_the_server_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.json"
    made = []
    for tenant, role in (("red", "admin"), ("blue", "user")):
        with pytest.raises(SystemExit) as ended:
            main(["keys", "new", str(path), "--tenant", tenant, "--role", role, "--days", "1"])
        assert not ended.value.code
        made.append(capsys.readouterr().out.strip())
    assert path.stat().st_mode & 0o077 == 0
    keys = ApiKeys(path)
    assert [(keys.check(key).tenant, *keys.check(key).roles) for key in made] == [
        ("red", "admin"),
        ("blue", "user"),
    ]
    assert not any(key in path.read_text() for key in made)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"tls_certificate": __file__}, "go together"),
        ({"tls_client_authorities": __file__}, "needs CONVLENS_TLS_CERTIFICATE"),
        ({"jwt_keys": __file__}, "needs CONVLENS_JWT_ISSUER"),
        ({"jwt_algorithms": ("HS256",)}, "must be some of"),
        ({"jwt_algorithms": ("none",)}, "must be some of"),
        ({"jwt_algorithms": ()}, "must be some of"),
    ],
)
def test_settings_that_would_be_no_protection_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        IdentitySettings(**settings)


def test_a_server_for_all_the_world_needs_credentials_or_a_word() -> None:
    with pytest.raises(FailedPrecondition, match="OPEN_TO_ALL"), serving(listen="0.0.0.0:0"):
        pass
    with serving(listen="0.0.0.0:0", open_to_all=True):
        pass


@pytest.mark.parametrize(
    ("listen", "loopback"),
    [("127.0.0.1:1", True), ("[::1]:1", True), ("localhost:1", True), ("unix:/x:0", True),
     ("0.0.0.0:1", False), ("[::]:1", False), ("10.0.0.7:1", False), ("example.org:1", False)],
)  # fmt: skip
def test_loopback(listen: str, loopback: bool) -> None:
    assert is_loopback(listen) is loopback


def test_a_bad_role_of_the_command_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["keys", "new", str(tmp_path / "keys.json"), "--tenant", ""])
    assert ended.value.code == 2
    assert InvalidArgument.__name__ not in capsys.readouterr().err

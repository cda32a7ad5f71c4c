"""python-etcd3 (gRPC) and etcd3gw (the JSON gateway), by TLS and in the name of users.

Started by `clients.rs` with the ports of a member with TLS (gRPC and gateway share one), the CA, and the certificate and
key of a client. Says what it did; exits with 77 where a library is missing.
"""

import sys
import threading

try:
    import etcd3
    import etcd3gw
    import grpc
    import requests
except ImportError as missing:
    print(missing)
    sys.exit(77)

port, ca, certificate, key = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]


def connect(**login):
    return etcd3.client(
        host="127.0.0.1", port=port, ca_cert=ca, cert_cert=certificate, cert_key=key, timeout=30, **login
    )


def refused(call, code):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error.details()
    except etcd3.exceptions.Etcd3Exception as error:
        return repr(error)
    raise AssertionError("it was let through")


def by_etcd3():
    alice = connect(user="alice", password="alice")
    alice.put("a", "value")
    assert alice.get("a")[0] == b"value"
    assert refused(lambda: alice.put("z", "value"), grpc.StatusCode.PERMISSION_DENIED)
    events, cancel = alice.watch("b")
    threading.Timer(0.2, lambda: alice.put("b", "seen")).start()
    assert next(events).value == b"seen"
    cancel()
    lease = alice.lease(60)
    alice.put("c", "leased", lease=lease)
    assert lease.remaining_ttl <= 60
    lease.refresh()
    lease.revoke()
    assert alice.get("c")[0] is None
    done, _ = alice.transaction(
        compare=[alice.transactions.value("a") == "value"],
        success=[alice.transactions.put("a", "2")],
        failure=[],
    )
    assert done and alice.get("a")[0] == b"2"
    with alice.lock("lock", ttl=60) as lock:
        assert lock.is_acquired()
    root = connect(user="root", password="root")
    assert sorted(key.key for _, key in root.get_all() if not key.key.startswith(b"/locks")) == [b"a", b"b"]
    refused(lambda: connect(user="alice", password="wrong"), grpc.StatusCode.INVALID_ARGUMENT)


def by_etcd3gw():
    client = etcd3gw.client(
        host="127.0.0.1",
        port=port,
        protocol="https",
        ca_cert=ca,
        cert_cert=certificate,
        cert_key=key,
        api_path="/v3/",
    )
    # A bundle that the environment names would count more than the one above.
    client.session.trust_env = False
    answer = client.post(client.get_url("/auth/authenticate"), json={"name": "alice", "password": "alice"})
    token = answer["token"]
    # Bare, as APISIX and others send it, and as browsers' libraries do.
    for shown in (token, "Bearer " + token):
        client.session.headers["Authorization"] = shown
        assert client.put("a", "by the gateway")
        assert client.get("a") == [b"by the gateway"]
        try:
            client.put("z", "value")
            raise AssertionError("it was let through")
        except etcd3gw.exceptions.Etcd3Exception as error:
            assert "permission denied" in str(error.detail_text), error.detail_text
    client.session.headers["Authorization"] = token + "x"
    try:
        client.get("a")
        raise AssertionError("it was let through")
    except etcd3gw.exceptions.Etcd3Exception as error:
        assert "invalid auth token" in str(error.detail_text), error.detail_text
    # Whoever the certificate names, the gateway asks for a token.
    bare = requests.post(
        f"https://127.0.0.1:{port}/v3/kv/range", json={"key": "YQ=="}, verify=ca, cert=(certificate, key), timeout=30
    )
    assert bare.status_code == 400 and "user name is empty" in bare.text, bare.text


for client in (by_etcd3, by_etcd3gw):
    client()
    print(client.__name__, "done")

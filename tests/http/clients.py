"""Client libraries of Python through the gateway: etcd3gw, the driver of OpenStack's tooz on it, and a WebSocket.

Started by `clients.rs` with the port of a member. Says what it did; exits with 77 where a library is missing.
"""

import sys
import threading
import time

try:
    import etcd3gw
    import tooz.coordination
    import websocket
except ImportError as missing:
    print(missing)
    sys.exit(77)

port = int(sys.argv[1])


def by_etcd3gw():
    client = etcd3gw.client(host="127.0.0.1", port=port, api_path="/v3/")
    assert client.status()["version"].startswith("3."), client.status()
    assert client.put("key", "value")
    assert client.get("key") == [b"value"]
    assert client.create("new", "1") and not client.create("new", "2")
    assert client.replace("new", "1", "3") and client.get("new") == [b"3"]
    assert len(client.get_prefix("ne")) == 1
    lease = client.lease(ttl=60)
    client.put("leased", "x", lease=lease)
    assert lease.keys() == [b"leased"] and 0 < lease.ttl() <= 60 and lease.refresh() == 60
    lease.revoke()
    assert client.get("leased") == []
    lock = client.lock("lock", ttl=60)
    assert lock.acquire() and lock.is_acquired() and lock.release()
    events, cancel = client.watch("watched")
    threading.Timer(0.2, lambda: client.put("watched", "seen")).start()
    event = next(events)
    assert event["kv"]["value"] == b"seen", event
    cancel()
    assert client.delete("key")
    assert client.transaction({"compare": [], "success": [], "failure": []})["succeeded"]


def by_tooz():
    members = []
    for name in (b"one", b"two"):
        member = tooz.coordination.get_coordinator(f"etcd3+http://127.0.0.1:{port}?api_version=v3", name)
        member.start()
        members.append(member)
    one, two = members
    lock = one.get_lock(b"tooz")
    assert lock.acquire(blocking=False)
    assert not two.get_lock(b"tooz").acquire(blocking=False)
    lock.release()
    assert two.get_lock(b"tooz").acquire(blocking=False)
    one.create_group(b"group").get()
    one.join_group(b"group").get()
    two.join_group(b"group").get()
    assert set(one.get_members(b"group").get()) == {b"one", b"two"}
    one.heartbeat()
    two.leave_group(b"group").get()
    assert set(one.get_members(b"group").get()) == {b"one"}
    for member in members:
        member.stop()


def by_websocket():
    watching = websocket.create_connection(f"ws://127.0.0.1:{port}/v3/watch", timeout=20)
    watching.send('{"create_request":{"key":"d2F0Y2hlZA=="}}')
    assert '"created":true' in watching.recv()
    etcd3gw.client(host="127.0.0.1", port=port, api_path="/v3/").put("watched", "again")
    assert '"value":"YWdhaW4="' in watching.recv()
    watching.ping("alive")
    watching.close()
    unary = websocket.create_connection(f"ws://127.0.0.1:{port}/v3/kv/range", timeout=20)
    unary.send('{"key":"d2F0Y2hlZA=="}')
    assert '"count":"1"' in unary.recv()


for session in (by_etcd3gw, by_tooz, by_websocket):
    begun = time.monotonic()
    session()
    print(f"{session.__name__}: well, {time.monotonic() - begun:.1f} s")

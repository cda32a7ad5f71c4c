"""python-etcd against a member that serves v2: argument 1 is its port."""

import collections
import collections.abc
import sys
import threading

for name in ("Mapping", "MutableMapping", "Iterable"):
    # The library is older than their move.
    if not hasattr(collections, name):
        setattr(collections, name, getattr(collections.abc, name))

try:
    import etcd
except ImportError as error:
    print(error)
    sys.exit(77)

client = etcd.Client(host="127.0.0.1", port=int(sys.argv[1]), read_timeout=20)

written = client.write("/py/a", "1")
assert written.newKey and written.value == "1", written
assert client.read("/py/a").value == "1"
client.write("/py/a", "2", prevValue="1")
try:
    client.write("/py/a", "3", prevValue="1")
    raise AssertionError("a comparison that fails")
except etcd.EtcdCompareFailed:
    pass
try:
    client.write("/py/a", "3", prevExist=False)
    raise AssertionError("a key that exists")
except etcd.EtcdAlreadyExist:
    pass
try:
    client.read("/py/none")
    raise AssertionError("a key that is not there")
except etcd.EtcdKeyNotFound:
    pass

first = client.write("/py/queue", "one", append=True)
second = client.write("/py/queue", "two", append=True)
assert first.key < second.key, (first.key, second.key)
values = [leaf.value for leaf in client.read("/py/queue", sorted=True).leaves]
assert values == ["one", "two"], values

result = client.read("/py/a")
result.value = "updated"
client.update(result)
latest = client.get("/py/a")
assert latest.value == "updated"

told = []


def watch():
    told.append(client.read("/py", wait=True, recursive=True, waitIndex=latest.modifiedIndex))


thread = threading.Thread(target=watch)
thread.start()
thread.join(20)
assert told and told[0].action in ("update", "compareAndSwap"), told

client.write("/py/short", "1", ttl=60)
client.refresh("/py/short", ttl=120)
assert 60 < client.read("/py/short").ttl <= 120
client.delete("/py", recursive=True)

lock = etcd.Lock(client, "work")
assert lock.acquire(blocking=True, lock_ttl=30)
other = etcd.Lock(etcd.Client(host="127.0.0.1", port=int(sys.argv[1])), "work")
assert not other.acquire(blocking=False)
lock.release()

assert len(client.machines) == 1 and client.leader["name"] == "m0", client.leader
assert client.stats["state"] == "StateLeader" and client.store_stats["setsSuccess"] > 0
print("python-etcd", getattr(etcd, "__version__", ""), "is content")

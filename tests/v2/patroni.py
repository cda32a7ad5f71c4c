"""Patroni with two PostgreSQLs: election, failover when the leader's key has expired, and its return.

    sudo patroni.py SECTION PORT PYTHON PG_BIN

SECTION is `etcd` (the v2 API, by --enable-v2) or `etcd3` (the JSON gateway), PORT a member's for clients, PYTHON an
interpreter that user postgres may run and that has patroni, python-etcd and psycopg2, PG_BIN where PostgreSQL's programs
are. Prints how long each step took, and ends with 1 when one takes more than a minute.
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

section, port, python, programs = sys.argv[1:]
user = pwd.getpwnam("postgres")
base = tempfile.mkdtemp()
os.chown(base, user.pw_uid, user.pw_gid)
first = 6000 if section == "etcd" else 6100
processes = {}


def config(number):
    return f"""
scope: {section}
name: pg{number}
restapi: {{listen: '127.0.0.1:{first + 50 + number}', connect_address: '127.0.0.1:{first + 50 + number}'}}
{section}: {{host: '127.0.0.1:{port}'}}
bootstrap:
  dcs: {{ttl: 20, loop_wait: 2, retry_timeout: 5}}
  initdb: [{{encoding: UTF8}}, {{auth-local: trust}}, {{auth-host: trust}}]
  pg_hba: ['host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust', 'local all all trust']
postgresql:
  listen: 127.0.0.1:{first + number}
  connect_address: 127.0.0.1:{first + number}
  data_dir: {base}/data{number}
  bin_dir: {programs}
  pgpass: {base}/pgpass{number}
  authentication:
    superuser: {{username: postgres, password: x}}
    replication: {{username: rep, password: x}}
  parameters: {{unix_socket_directories: '{base}', shared_buffers: 16MB}}
"""


def as_postgres():
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.setsid()


def start(number):
    path = f"{base}/{number}.yml"
    with open(path, "w") as file:
        file.write(config(number))
    with open(f"{base}/{number}.log", "a") as log:
        processes[number] = subprocess.Popen(
            [python, "-m", "patroni", path], stdout=log, stderr=log, preexec_fn=as_postgres, cwd=base)


def end(number, how):
    try:
        os.killpg(processes[number].pid, how)
        processes[number].wait(30)
        with open(f"{base}/data{number}/postmaster.pid") as file:
            os.kill(int(file.readline()), signal.SIGQUIT)
    except (OSError, ValueError):
        pass  # It has ended already.


def state(number):
    url = f"http://127.0.0.1:{first + 50 + number}/patroni"
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)
    except (OSError, ValueError):
        return {}


def wait(number, roles, what):
    begun = time.monotonic()
    while time.monotonic() < begun + 60:
        told = state(number)
        if told.get("role") in roles and told.get("state") == "running":
            print(f"{section}: pg{number} {what} after {time.monotonic() - begun:.1f} s", flush=True)
            return
        time.sleep(0.2)
    sys.exit(f"{section}: pg{number} does not become one that {what}; see {base}")


try:
    start(1)
    wait(1, ("primary", "master"), "leads")
    start(2)
    wait(2, ("replica",), "follows")
    end(1, signal.SIGKILL)
    wait(2, ("primary", "master"), "leads since the other was killed")
    start(1)
    wait(1, ("replica",), "follows again")
finally:
    for running in processes:
        end(running, signal.SIGTERM)
shutil.rmtree(base, ignore_errors=True)

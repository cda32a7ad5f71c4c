#!/usr/bin/python3
"""Runs a program under a seccomp profile, as a container runtime would, but for the container: to see whether the
profile lets it do all it does. Needs Debian's python3-seccomp.

    tuning/container/under-seccomp.py tuning/container/seccomp.json target/release/pinion --data-dir /tmp/d
"""
import json
import os
import sys

try:
    import seccomp
except ImportError:
    print("python3-seccomp is not installed (Debian: apt-get install python3-seccomp)", file=sys.stderr)
    sys.exit(77)


def main():
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    with open(sys.argv[1], encoding="utf-8") as file:
        profile = json.load(file)
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    rules = seccomp.SyscallFilter(seccomp.ERRNO(profile["defaultErrnoRet"]))
    for group in profile["syscalls"]:
        assert group["action"] == "SCMP_ACT_ALLOW"
        for name in group["names"]:
            try:
                rules.add_rule(seccomp.ALLOW, name)
            except (RuntimeError, ValueError, OSError):
                # Of another architecture.
                pass
    rules.load()
    os.execv(sys.argv[2], sys.argv[2:])


main()

"""Makes an OCI configuration of what `runc spec` wrote: what `docker run --user 1000` gives a container.

oci.py BUNDLE PROFILE|none PID|own -- COMMAND...   PROFILE is Docker's default.json, with its conditions on kernel,
capabilities and architecture; with a PID it shares the pid namespace of that process, as a sidecar does.
"""

import json
import os
import platform
import sys

DOCKERS = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
)
CAPABILITIES = ["CAP_" + name for name in DOCKERS.split()]


def applies(rule):
    """Whether a rule of the profile holds for a container without further capabilities on this kernel."""
    wanted, unwanted = rule.get("includes") or {}, rule.get("excludes") or {}
    release = [int("".join(filter(str.isdigit, part)) or 0) for part in platform.release().split(".")[:2]]
    if wanted.get("caps") or "amd64" in (unwanted.get("arches") or []):
        return False
    if wanted.get("arches") and "amd64" not in wanted["arches"]:
        return False
    minimum = wanted.get("minKernel")
    return not minimum or release >= [int(part) for part in minimum.split(".")[:2]]


def seccomp(path):
    with open(path) as file:
        profile = json.load(file)
    rules = []
    for rule in filter(applies, profile["syscalls"]):
        kept = {key: rule[key] for key in ("names", "action", "errnoRet") if key in rule}
        kept["args"] = rule.get("args") or []
        rules.append(kept)
    architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    answer = {"defaultAction": profile["defaultAction"], "architectures": architectures, "syscalls": rules}
    if "defaultErrnoRet" in profile:
        answer["defaultErrnoRet"] = profile["defaultErrnoRet"]
    return answer


def main():
    bundle, profile, shared, _, *command = sys.argv[1:]
    path = os.path.join(bundle, "config.json")
    with open(path) as file:
        config = json.load(file)
    process = config["process"]
    process.update(terminal=False, args=command, cwd="/tmp", noNewPrivileges=False)
    process["user"] = {"uid": 1000, "gid": 1000}
    process["capabilities"] = {"bounding": CAPABILITIES}
    config["root"]["readonly"] = True
    temporary = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]}
    config["mounts"].append(temporary)
    if shared != "own":
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] == "pid":
                namespace["path"] = f"/proc/{shared}/ns/pid"
    config["linux"].pop("resources", None)
    if profile != "none":
        config["linux"]["seccomp"] = seccomp(profile)
    with open(path, "w") as file:
        json.dump(config, file)


main()

#!/usr/bin/env python3
"""Run one program per rank, each behind a network link of its own.

    links.py RANKS GBIT PROGRAM [ARGUMENT...]

Every rank gets a network namespace; a pair of virtual Ethernet devices leads from it to a common bridge, with a token
bucket of GBIT gigabits per second in each direction (0: no limit). The program is told by RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT, as torchrun would. Output is passed on; the exit status is the first that is not 0. Needs root.
"""

import os
import signal
import subprocess
import sys

NETWORK = "10.253.77."
PORT = "29511"
# A tenth of a millisecond of a gigabit, and never below what one large segment takes.
BURST_BYTES = 256 * 1024
TIME_OUT_SECONDS = 900


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


class Links:
    """Namespaces on a bridge, taken down at the end however that comes."""

    def __init__(self, ranks: int, gbit: float):
        self.ranks, self.gbit, self.hub = ranks, gbit, f"scadles-bench-{os.getpid()}"

    def namespace(self, rank: int) -> str:
        return f"{self.hub}-{rank}"

    def __enter__(self) -> "Links":
        # A namespace of its own for the bridge: the machine's firewall has no say there.
        ip("netns", "add", self.hub)
        ip("-n", self.hub, "link", "add", "hub", "type", "bridge")
        ip("-n", self.hub, "link", "set", "hub", "up")
        for rank in range(self.ranks):
            self.connect(rank)
        return self

    def connect(self, rank: int) -> None:
        name, port = self.namespace(rank), f"port{rank}"
        ip("netns", "add", name)
        ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", self.hub)
        ip("-n", self.hub, "link", "set", port, "master", "hub", "up")
        ip("-n", name, "addr", "add", f"{NETWORK}{rank + 1}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "link", "set", "lo", "up")
        if self.gbit > 0:
            for space, device in ((name, "eth0"), (self.hub, port)):
                bucket = ["root", "tbf", "rate", f"{self.gbit}gbit", "burst", str(BURST_BYTES), "latency", "50ms"]
                subprocess.run(["tc", "-n", space, "qdisc", "add", "dev", device, *bucket], check=True)

    def __exit__(self, *_: object) -> None:
        for name in [self.namespace(rank) for rank in range(self.ranks)] + [self.hub]:
            subprocess.run(["ip", "netns", "del", name], check=False)

    def run(self, command: list[str]) -> int:
        def start(rank: int) -> subprocess.Popen:
            told = {"RANK": str(rank), "WORLD_SIZE": str(self.ranks), "MASTER_ADDR": f"{NETWORK}1",
                    "MASTER_PORT": PORT, "GLOO_SOCKET_IFNAME": "eth0"}
            inside = ["ip", "netns", "exec", self.namespace(rank), *command]
            return subprocess.Popen(inside, env={**os.environ, **told})

        programs = [start(rank) for rank in range(self.ranks)]
        try:
            codes = [program.wait(TIME_OUT_SECONDS) for program in programs]
        finally:
            for program in programs:
                if program.poll() is None:
                    program.kill()
        return next((code for code in codes if code != 0), 0)


def main() -> int:
    if len(sys.argv) < 4:
        print(__doc__, file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("links.py: namespaces need root", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with Links(int(sys.argv[1]), float(sys.argv[2])) as links:
        return links.run(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())

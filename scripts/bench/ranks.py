"""What the comparisons of ranks share: groups of processes that take orders on their standard input and answer on their standard
output, in JSON, and the interval of a median.
"""

import json
import os
import socket
import statistics
import subprocess


class Ranks:
    """The processes of one side, one command each, asked together and ended with the block or by `close`."""

    def __init__(self, commands: list, environment=None):
        self.ranks = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
                text=True,
            )
            for command in commands
        ]
        try:
            self.answers()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def answers(self) -> list:
        lines = [rank.stdout.readline() for rank in self.ranks]
        assert all(lines), "a rank has ended"
        return [json.loads(line) for line in lines]

    def ask(self, order: dict) -> list:
        for rank in self.ranks:
            rank.stdin.write(json.dumps(order) + "\n")
            rank.stdin.flush()
        return self.answers()

    def close(self) -> None:
        for rank in self.ranks:
            rank.stdin.close()
        for rank in self.ranks:
            try:
                rank.wait(10)
            except subprocess.TimeoutExpired:
                rank.kill()
                rank.wait()


def interval(values: list) -> tuple:
    """95 % of the median, by ranks (the normal approximation of the sign test)."""
    values = sorted(values)
    half = 1.96 * len(values) ** 0.5 / 2
    low, high = int(len(values) / 2 - half), int(len(values) / 2 + half + 0.999)
    return values[max(low - 1, 0)], values[min(high, len(values) - 1)]


def ratio_of(ours: list, theirs: list) -> tuple:
    """Median of the ratios of pairs, and its 95 % interval."""
    ratios = [own / other for own, other in zip(ours, theirs)]
    return (statistics.median(ratios), *interval(ratios))


def places(world_size: int) -> list:
    """What the ranks of a group on this machine are told: their number, how many they are, a port at which they meet."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    return [{"rank": rank, "world_size": world_size, "port": port} for rank in range(world_size)]


def available_bytes() -> int:
    """Memory that processes can still take."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))

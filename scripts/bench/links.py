"""One training step of ResNet-18 on two ranks over links of different speed: `mode: Auto` against PyTorch's DDP with dense
gradients, its fp16 and PowerSGD hooks, and a naive top-k hook, all in one run, block by block in turn.

    python links.py STEP_BENCH [ROUNDS [LINK...]]        as root; LINK is `unlimited` or a rate of tc, such as 1gbit

Each rank has a network namespace of its own. A pair of virtual Ethernet devices joins the two, with a token bucket at either end.
STEP_BENCH is the example of that name; this Python has torch.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ranks import Ranks, interval

HERE = Path(__file__).parent
SPACES = ["scadles-rank-0", "scadles-rank-1"]
HOSTS = ["10.213.7.1", "10.213.7.2"]
LINKS = ["unlimited", "5gbit", "1gbit"]
PLAIN = "view,static,fused"
# PowerSGD waits for collectives within collectives: with two buckets all of Gloo's threads would wait.
THEIRS = {"dense": PLAIN, "fp16": PLAIN + ",fp16", "PowerSGD": PLAIN + ",one_bucket,powersgd", "top-k": PLAIN + ",topk"}
OURS = "Auto"
LEAST_RATIO = 0.01
BLOCK = 2
# Auto tries what it does not know, and PowerSGD begins dense.
WARM_UP = 12
MOST_TIME = 1.05
LEAST_OF_CEILING = 0.9


def run(*command: str) -> None:
    subprocess.run(command, check=True)


class Network:
    """Two namespaces and the link between them, for as long as the block lasts."""

    def __enter__(self):
        self.__exit__()
        for space in SPACES:
            run("ip", "netns", "add", space)
        first, second = SPACES
        run("ip", "link", "add", "link0", "netns", first, "type", "veth", "peer", "name", "link0", "netns", second)
        for space, host in zip(SPACES, HOSTS):
            run("ip", "-n", space, "address", "add", f"{host}/24", "dev", "link0")
            for device in ["lo", "link0"]:
                run("ip", "-n", space, "link", "set", device, "up")
        return self

    def __exit__(self, *_):
        for space in SPACES:
            subprocess.run(["ip", "netns", "delete", space], stderr=subprocess.DEVNULL, check=False)

    def limit(self, link: str) -> None:
        for space in SPACES:
            command = ["tc", "-n", space, "qdisc"]
            subprocess.run([*command, "delete", "dev", "link0", "root"], stderr=subprocess.DEVNULL, check=False)
            if link != "unlimited":
                run(*command, "add", "dev", "link0", "root", "tbf", "rate", link, "burst", "256kb", "latency", "50ms")


class Side(Ranks):
    """The two ranks of one way to train."""

    def __init__(self, command: list, settings: list, port: int, configuration: str, ratio):
        told = {"hosts": HOSTS, "port": port, "configuration": configuration, "least_ratio": ratio}
        commands = [
            ["ip", "netns", "exec", space, *command, json.dumps({**of_rank, **told})]
            for space, of_rank in zip(SPACES, settings)
        ]
        super().__init__(commands, {"GLOO_SOCKET_IFNAME": "link0"})

    def steps(self, count: int, name: str = "steps") -> tuple:
        """Seconds of a step of the slower rank, and how its gradients travelled."""
        answers = self.ask({name: count})
        slower = max(answers, key=lambda answer: answer["seconds"])
        return slower["seconds"] / count, slower.get("decisions", [count, 0, 0])


def spread(values: list) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def measure(sides: dict, rounds: int) -> tuple:
    """Seconds of a step of each side and of one that exchanges nothing, round by round; how ours travelled."""
    seconds = {name: [] for name in [*sides, "alone"]}
    travelled = [0, 0, 0]
    for side in sides.values():
        side.steps(WARM_UP)
    order = list(sides)
    for turn in range(rounds):
        for place in range(len(order)):
            name = order[(turn + place) % len(order)]
            took, decisions = sides[name].steps(BLOCK)
            seconds[name].append(took)
            if name == OURS:
                travelled = [sum(pair) for pair in zip(travelled, decisions)]
        seconds["alone"].append(sides[OURS].steps(BLOCK, "steps_alone")[0])
    return seconds, travelled


def judge(link: str, seconds: dict, travelled: list) -> bool:
    for name, values in seconds.items():
        print(f"       {link}: {name}: {spread(values)} s a step")
    print(f"       {link}: {OURS} took {travelled[0]} steps dense, {travelled[1]} in half precision, {travelled[2]} sparse")
    best = min(THEIRS, key=lambda name: statistics.median(seconds[name]))
    ratios = [ours / theirs for ours, theirs in zip(seconds[OURS], seconds[best])]
    low, high = interval(ratios)
    good = high < MOST_TIME or low <= 1.0 <= high
    text = f"{statistics.median(ratios):.3f}, 95 % interval {low:.3f} to {high:.3f}"
    print(f"{'ok    ' if good else 'MISSED'} {link}: {OURS} / {best}, the best of PyTorch's: {text}, bound {MOST_TIME} or 1 inside")
    if link == "1gbit":
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        gained, ceiling = middle["dense"] / middle[OURS], middle["dense"] / middle["alone"]
        quick = gained >= LEAST_OF_CEILING * ceiling
        print(f"{'ok    ' if quick else 'MISSED'} {link}: dense / {OURS} {gained:.2f}, dense / no exchange {ceiling:.2f}, bound {LEAST_OF_CEILING} of it")
        free = travelled[1] + travelled[2] > 0
        print(f"{'ok    ' if free else 'MISSED'} {link}: {OURS} is not always dense")
        good = good and quick and free
    return good


def main() -> int:
    program = sys.argv[1]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    links = sys.argv[3:] or LINKS
    good = True
    with tempfile.TemporaryDirectory(prefix="scadles-links-") as folder, Network() as network:
        prepared = subprocess.run([program, "prepare", folder], check=True, capture_output=True, text=True)
        settings = json.loads(prepared.stdout)
        for port, link in enumerate(links, 29500):
            network.limit(link)
            sides = {OURS: Side([program, "rank"], settings, port, PLAIN, LEAST_RATIO)}
            try:
                for place, (name, configuration) in enumerate(THEIRS.items(), 1):
                    command = [sys.executable, str(HERE / "ddp.py")]
                    sides[name] = Side(command, settings, port + 100 * place, configuration, None)
                good = judge(link, *measure(sides, rounds)) and good
            finally:
                for side in sides.values():
                    side.close()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

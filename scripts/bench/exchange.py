"""A compressed exchange alone, on gradients of noise with the shapes of ResNet-152, 2 and 4 ranks on this machine: ours against
what is quickly written in PyTorch, tensor by tensor: torch.topk with error feedback, then sizes, values and 64-bit indices
gathered from all. Both in one run, call by call in turn; tables in Markdown.

    python exchange.py EXCHANGE_BENCH [ROUNDS [MODEL]]

EXCHANGE_BENCH is the example of that name; this Python has torch. Then the bytes of ours for 2 to 32 ranks, counted by the codec
without a network. What does not fit into memory is left out, and said to be. (`exchange.py PLACE` is one rank of PyTorch's side,
driven over its standard input.)
"""

import json
import statistics
import subprocess
import sys
import time

from ranks import Ranks, available_bytes, interval, places

FLOAT_BYTES, INDEX_BYTES = 4, 8
MODEL = "ResNet152"
ROUNDS = 12
RANKS = [2, 4]
RATIOS = [0.1, 0.01]
EXCHANGES = ["AllGather", "ReduceScatter"]
LEAST_SPEED_UP, MOST_BYTES = 20.0, 0.3
# The first sums must be alike: who selects less must not win by it.
LEAST_ENERGY, MOST_ENERGY = 0.9, 1.1
COUNTED = [2, 4, 8, 16, 32]
# Of a rank: what libtorch and Python take, and its buffers of one gradient's size.
PROCESS_BYTES, BUFFERS = 300_000_000, 8
# Where Gloo of torch.distributed finds its own address; ours is told.
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"}


class EarlierLayout:
    """One rank that compresses and exchanges every tensor by itself."""

    def __init__(self, place: dict):
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        address = f"tcp://127.0.0.1:{place['port']}"
        dist.init_process_group("gloo", init_method=address, rank=place["rank"], world_size=place["world_size"])
        self.torch, self.dist = torch, dist
        self.world_size, self.ratio = place["world_size"], place["ratio"]
        torch.manual_seed(place["rank"])
        self.gradients = [1e-3 * torch.randn(length) for length in place["lengths"]]
        self.residuals = [torch.zeros_like(gradient) for gradient in self.gradients]
        self.bytes = 0

    def gather(self, own) -> list:
        """The same of every rank, as long as the longest's."""
        parts = [self.torch.empty_like(own) for _ in range(self.world_size)]
        self.dist.all_gather(parts, own)
        self.bytes += own.numel() * own.element_size() * (self.world_size - 1)
        return parts

    def combine(self, gradient, residual):
        torch = self.torch
        whole = gradient + residual
        count = max(1, int(whole.numel() * self.ratio))
        indices = whole.abs().topk(count, sorted=False).indices
        values = whole[indices]
        residual.copy_(whole)
        residual[indices] = 0.0
        sizes = [int(size) for size in self.gather(torch.tensor([count]))]
        padding = max(sizes) - count
        all_values = self.gather(torch.nn.functional.pad(values, (0, padding)))
        all_indices = self.gather(torch.nn.functional.pad(indices, (0, padding)))
        total = torch.zeros_like(gradient)
        for size, of_rank, places_of_rank in zip(sizes, all_values, all_indices):
            total.index_add_(0, places_of_rank[:size], of_rank[:size])
        return total

    def answer(self, order: dict) -> dict:
        seconds, self.bytes = 0.0, 0
        for _ in range(order["calls"]):
            self.dist.barrier()
            began = time.perf_counter()
            sums = [self.combine(*pair) for pair in zip(self.gradients, self.residuals)]
            seconds += time.perf_counter() - began
        energy = sum(float(total.double().square().sum()) for total in sums)
        return {"seconds": seconds, "bytes": self.bytes, "energy": energy}


def rank(place: dict) -> None:
    own = EarlierLayout(place)
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(own.answer(json.loads(line))), flush=True)


def call(side: Ranks, exchange: str) -> dict:
    """One call: seconds of the slowest rank, bytes of the one that sends most, squared norm of the sum."""
    answers = side.ask({"exchange": exchange, "calls": 1})
    return {name: max(answer[name] for answer in answers) for name in ["seconds", "bytes", "energy"]}


def measure(theirs: Ranks, ours: Ranks, rounds: int) -> dict:
    # From here on residuals differ, and owners select a second time.
    energy = call(ours, "AllGather")["energy"] / call(theirs, "")["energy"]
    # As a job chooses: by what it has measured.
    tried = {exchange: min(call(ours, exchange)["seconds"] for _ in range(3)) for exchange in EXCHANGES}
    exchange = min(tried, key=tried.get)
    pairs = []
    for turn in range(rounds):
        both = {}
        for place in range(2):
            side = (turn + place) % 2
            both[side] = call([theirs, ours][side], exchange)
        pairs.append((both[0], both[1]))
    return {"energy": energy, "exchange": exchange, "pairs": pairs}


def row(ranks: int, ratio: float, measured: dict) -> bool:
    """Prints a line of the table; whether its bounds hold."""
    pairs, energy = measured["pairs"], measured["energy"]
    speed_ups = [theirs["seconds"] / ours["seconds"] for theirs, ours in pairs]
    share = statistics.median(ours["bytes"] / theirs["bytes"] for theirs, ours in pairs)
    seconds = [statistics.median(pair[side]["seconds"] for pair in pairs) for side in range(2)]
    sent = [statistics.median(pair[side]["bytes"] for pair in pairs) / 1e6 for side in range(2)]
    speed_up, (low, high) = statistics.median(speed_ups), interval(speed_ups)
    checks = [speed_up >= LEAST_SPEED_UP, share <= MOST_BYTES, LEAST_ENERGY <= energy <= MOST_ENERGY]
    words = ["ok" if holds else "MISSED" for holds in checks]
    cells = [
        f"{ranks}",
        f"{ratio:g}",
        measured["exchange"],
        f"{1e3 * seconds[0]:.0f} / {1e3 * seconds[1]:.0f} ms",
        f"{speed_up:.1f} ({low:.1f} to {high:.1f}) {words[0]}",
        f"{sent[0]:.1f} / {sent[1]:.1f} MB",
        f"{share:.3f} {words[1]}",
        f"{energy:.2f} {words[2]}",
    ]
    print("| " + " | ".join(cells) + " |", flush=True)
    return all(checks)


def compare(program: str, rounds: int, model: str) -> bool:
    lengths = json.loads(subprocess.run([program, "lengths", model], check=True, capture_output=True, text=True).stdout)
    print(f"{model}: {len(lengths)} tensors, {sum(lengths) / 1e6:.1f} million elements; {rounds} pairs. ", end="")
    print(f"Bounds: at least {LEAST_SPEED_UP:g} times as quick, at most {MOST_BYTES:g} of the bytes.\n")
    print("| ranks | CR | ours is | theirs / ours | speed-up | sent by a rank, theirs / ours | share | squared norm of the first sum, ours / theirs |")
    print("|---|---|---|---|---|---|---|---|")
    good, left_out = True, []
    for ranks in RANKS:
        needed = 2 * ranks * (BUFFERS * FLOAT_BYTES * sum(lengths) + PROCESS_BYTES)
        if needed > available_bytes():
            left_out.append(f"{ranks} ranks: {needed / 1e9:.1f} GB of memory are needed")
            continue
        for ratio in RATIOS:
            theirs = [{**place, "ratio": ratio, "lengths": lengths} for place in places(ranks)]
            ours = [{**place, "ratio": ratio, "model": model} for place in places(ranks)]
            theirs = [[sys.executable, __file__, json.dumps(place)] for place in theirs]
            ours = [[program, "rank", json.dumps(place)] for place in ours]
            with Ranks(theirs, LOOPBACK) as of_torch, Ranks(ours) as of_engine:
                good = row(ranks, ratio, measure(of_torch, of_engine, rounds)) and good
    for what in left_out:
        print(f"\nLeft out: {what}, {available_bytes() / 1e9:.1f} GB are free.")
    return good


def count(program: str, model: str) -> bool:
    """Bytes of ours for any number of ranks; whether none is above dense."""
    good = True
    print("\nBytes that a rank sends, of a dense step's; bound: none above 1.\n")
    print("| CR | ranks | at most | counted |")
    print("|---|---|---|---|")
    for ratio in RATIOS:
        command = [program, "count", model, str(ratio), *map(str, COUNTED)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for line in text.splitlines():
            found = json.loads(line)
            # Where no sparse exchange is allowed a step is dense.
            shares = [(found[name] or 0) / found["dense"] for name in ["worst", "counted"]]
            holds = found["worst"] is not None and max(shares) <= 1.0
            good = good and holds
            if found["counted"] or not holds:
                word = "ok" if holds else "MISSED"
                counted = f"{shares[1]:.3f}" if found["counted"] else ""
                print(f"| {ratio:g} | {found['ranks']} | {shares[0]:.3f} {word} | {counted} |", flush=True)
    return good


def main() -> int:
    program = sys.argv[1]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS
    model = sys.argv[3] if len(sys.argv) > 3 else MODEL
    timed = compare(program, rounds, model)
    return 0 if count(program, model) and timed else 1


if __name__ == "__main__":
    if sys.argv[1].startswith("{"):
        rank(json.loads(sys.argv[1]))
    else:
        sys.exit(main())

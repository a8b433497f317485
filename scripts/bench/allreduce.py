"""Sums over Gloo on this machine, 1 KB to 575 MB (the parameters of Vgg19) on 2 and 4 ranks: our engine, in Gloo's own order
of addition and in the order of ranks, against torch.distributed's all_reduce, block by block in turn, as a table in Markdown.

    python allreduce.py ALLREDUCE_BENCH [ROUNDS [BYTES...]]

ALLREDUCE_BENCH is the example of that name; this Python has torch. What does not fit into memory is left out, and said to be.
(`allreduce.py PLACE` is one rank of torch's side, driven over its standard input.)
"""

import json
import statistics
import sys
import time

from ranks import Ranks, available_bytes, places, ratio_of

FLOAT_BYTES = 4
SIZES = [1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 143_667_240 * FLOAT_BYTES]
RANKS = [2, 4]
MOST_TIME = 1.05
# Rounds, fewer where one takes long, and seconds of a block, more where one call takes longer.
MOST_ROUNDS, LEAST_ROUNDS, BLOCK_SECONDS, CELL_SECONDS = 40, 12, 0.05, 25.0
MOST_CALLS = 200
# Of a rank: what libtorch and Python take, and the tensor with what Gloo keeps beside it.
PROCESS_BYTES, TENSORS = 300_000_000, 2.5
THEIRS, NATIVE, RANK = "torch.distributed", "Native", "Rank"
# Where Gloo of torch.distributed finds its own address; ours is told.
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"}


def rank(place: dict) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{place['port']}"
    dist.init_process_group("gloo", init_method=address, rank=place["rank"], world_size=place["world_size"])
    values = torch.zeros(0)
    print("{}", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if values.numel() != order["elements"]:
            values = torch.zeros(order["elements"])
        values.fill_(place["rank"] + 1)
        dist.all_reduce(values)
        total = values[-1].item()
        values.zero_()
        dist.barrier()
        began = time.perf_counter()
        for _ in range(order["calls"]):
            dist.all_reduce(values)
        print(json.dumps({"seconds": time.perf_counter() - began, "sum": total}), flush=True)


def seconds_of(side: Ranks, size: int, calls: int, order: str) -> float:
    """Of one call of the slowest rank."""
    answers = side.ask({"elements": size // FLOAT_BYTES, "calls": calls, "order": order})
    count = len(answers)
    expected = count * (count + 1) / 2
    assert all(answer["sum"] == expected for answer in answers), f"{order}: {answers}, not {expected}"
    return max(answer["seconds"] for answer in answers) / calls


def measure(sides: dict, size: int, most_rounds: int) -> dict:
    """Seconds of a call, round by round."""
    first = max(seconds_of(side, size, 1, order) for order, side in sides.items())
    calls = max(1, min(MOST_CALLS, int(BLOCK_SECONDS / first)))
    rounds = int(CELL_SECONDS / (len(sides) * calls * first))
    rounds = min(most_rounds, max(LEAST_ROUNDS, min(MOST_ROUNDS, rounds)))
    seconds = {order: [] for order in sides}
    orders = list(sides)
    for turn in range(rounds):
        for place in range(len(orders)):
            order = orders[(turn + place) % len(orders)]
            seconds[order].append(seconds_of(sides[order], size, calls, order))
    return seconds


def text_of(size: int) -> str:
    return f"{size / 1e6:.4g} MB" if size >= 1_000_000 else f"{size / 1e3:.4g} KB"


def row(ranks: int, size: int, seconds: dict) -> bool:
    """Prints a line of the table; whether its bounds hold."""
    middle = {order: statistics.median(values) * 1e6 for order, values in seconds.items()}
    cells, good = [f"{ranks}", text_of(size), f"{len(seconds[THEIRS])}", f"{middle[THEIRS]:.0f}"], True
    for order in [NATIVE, RANK]:
        ratio, low, high = ratio_of(seconds[order], seconds[THEIRS])
        holds = high < MOST_TIME
        good = good and holds
        cells += [f"{middle[order]:.0f}", f"{ratio:.3f} ({low:.3f} to {high:.3f}) {'ok' if holds else 'MISSED'}"]
    print("| " + " | ".join(cells) + " |", flush=True)
    return good


def main() -> int:
    program = sys.argv[1]
    most_rounds = int(sys.argv[2]) if len(sys.argv) > 2 else MOST_ROUNDS
    sizes = [int(size) for size in sys.argv[3:]] or SIZES
    print(f"Microseconds of a call, medians; ratios to torch.distributed with the 95 % interval, bound: below {MOST_TIME}\n")
    print("| ranks | size | rounds | torch.distributed | native order | ratio | order of ranks | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    good, left_out = True, []
    for ranks in RANKS:
        theirs = [[sys.executable, __file__, json.dumps(place)] for place in places(ranks)]
        ours = [[program, json.dumps(place)] for place in places(ranks)]
        with Ranks(theirs, LOOPBACK) as of_torch, Ranks(ours) as of_engine:
            for size in sizes:
                needed = 2 * ranks * (TENSORS * size + PROCESS_BYTES)
                if needed > available_bytes():
                    left_out.append(f"{ranks} ranks, {text_of(size)}: {needed / 1e9:.1f} GB of memory are needed")
                    continue
                sides = {THEIRS: of_torch, NATIVE: of_engine, RANK: of_engine}
                good = row(ranks, size, measure(sides, size, most_rounds)) and good
    for what in left_out:
        print(f"\nLeft out: {what}, {available_bytes() / 1e9:.1f} GB are free.")
    return 0 if good else 1


if __name__ == "__main__":
    if sys.argv[1].startswith("{"):
        rank(json.loads(sys.argv[1]))
    else:
        sys.exit(main())

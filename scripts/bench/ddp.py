"""PyTorch's side of the example `step_bench`: one rank of DistributedDataParallel on Gloo, driven over its standard input.

The one argument is a JSON object (see trainer/examples/step_bench.rs). Its `configuration` is `plain`, or a comma-separated
choice of what PyTorch offers: view (gradients as views of buckets), static (static graph), one_bucket, fused, foreach,
channels_last, compile, and of hooks that compress: fp16, powersgd (rank 1), topk (1 % with error feedback, the naive way).
(With malloc the process was started with other settings of the C library's allocator.)
"""

import json
import sys
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

CHANNELS, SIDE, CLASSES, GROUPS = 3, 32, 10, 32


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.GroupNorm(GROUPS, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.GroupNorm(GROUPS, outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.GroupNorm(GROUPS, outputs)
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        hidden = F.relu(self.bn1(self.conv1(x)), inplace=True)
        hidden = self.bn2(self.conv2(hidden))
        return F.relu(hidden.add_(shortcut), inplace=True)


class ResNet18(nn.Module):
    """With a 3x3 stem of stride 1, no first pooling, and GroupNorm: the built-in model of scadles."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.GroupNorm(GROUPS, 64)
        inputs = 64
        for stage, outputs in enumerate([64, 128, 256, 512]):
            first = Block(inputs, outputs, 2 if stage else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(first, Block(outputs, outputs, 1)))
            inputs = outputs
        self.fc = nn.Linear(512, CLASSES)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def mebibytes(field: str) -> float:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))


def read_batches(path: str, size: int):
    """Batches of `size` samples: normalised pictures (f32), then labels (i64), one batch after the other."""
    picture = CHANNELS * SIDE * SIDE
    with open(path, "rb") as file:
        data = bytearray(file.read())
    step = size * (4 * picture + 8)
    for start in range(0, len(data), step):
        pictures = torch.frombuffer(data, dtype=torch.float32, count=size * picture, offset=start)
        labels = torch.frombuffer(data, dtype=torch.int64, count=size, offset=start + 4 * size * picture)
        yield pictures.view(size, CHANNELS, SIDE, SIDE), labels


def read_safetensors(path: str) -> dict:
    """f32 tensors by name: the format is a length, a JSON header, and the bytes."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            flat = torch.frombuffer(data, dtype=torch.float32, count=(end - start) // 4, offset=8 + length + start)
            tensors[name] = flat.view(entry["shape"])
    return tensors


TOP_K_RATIO = 0.01


def top_k_hook(residuals: dict, bucket):
    """What is quickly written: torch.topk of each bucket, values and 64-bit indices gathered from all, added up."""
    gradient = bucket.buffer()
    residual = residuals.get(bucket.index())
    # DDP cuts its buckets anew after the first step.
    if residual is None or residual.numel() != gradient.numel():
        residual = residuals[bucket.index()] = torch.zeros_like(gradient)
    gradient += residual
    count = max(1, int(gradient.numel() * TOP_K_RATIO))
    indices = gradient.abs().topk(count, sorted=False).indices
    values = gradient[indices]
    residual.copy_(gradient)
    residual[indices] = 0.0
    world_size = dist.get_world_size()
    all_values = torch.empty(world_size * count, dtype=values.dtype)
    all_indices = torch.empty(world_size * count, dtype=indices.dtype)
    dist.all_gather_into_tensor(all_values, values)
    dist.all_gather_into_tensor(all_indices, indices)
    gradient.zero_().index_add_(0, all_indices, all_values / world_size)
    done = torch.futures.Future()
    done.set_result(gradient)
    return done


def compress(wrapped: DistributedDataParallel, configuration: set):
    if "fp16" in configuration:
        wrapped.register_comm_hook(None, default_hooks.fp16_compress_hook)
    if "powersgd" in configuration:
        # The least that it allows; the first steps are dense.
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
        wrapped.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    if "topk" in configuration:
        wrapped.register_comm_hook({}, top_k_hook)


class Rank:
    """One rank: a model, its wrapper, its optimizer, and batches that come round."""

    def __init__(self, settings: dict, configuration: set):
        self.model = ResNet18()
        count = sum(parameter.numel() for parameter in self.model.parameters())
        assert count == settings["parameters"], f"{count} parameters, the other side has {settings['parameters']}"
        self.batches = list(read_batches(settings["batches"], settings["batch"]))
        if "channels_last" in configuration:
            self.model = self.model.to(memory_format=torch.channels_last)
            last = torch.channels_last
            self.batches = [(pictures.contiguous(memory_format=last), labels) for pictures, labels in self.batches]
        buckets = {"bucket_cap_mb": 1000} if "one_bucket" in configuration else {}
        self.wrapped = DistributedDataParallel(
            self.model,
            gradient_as_bucket_view="view" in configuration,
            static_graph="static" in configuration,
            **buckets,
        )
        compress(self.wrapped, configuration)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=settings["learning_rate"],
            momentum=settings["momentum"],
            weight_decay=settings["weight_decay"],
            fused="fused" in configuration,
            foreach="foreach" in configuration,
        )
        if "compile" in configuration:
            self.wrapped = torch.compile(self.wrapped)
        # Gradients that are views of a bucket stay there.
        self.to_none = "view" not in configuration
        self.next = 0

    def step(self) -> tuple:
        """Mean loss, and the seconds of forward and backward with the exchange, and of the optimizer."""
        pictures, labels = self.batches[self.next % len(self.batches)]
        self.next += 1
        began = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=self.to_none)
        loss = F.cross_entropy(self.wrapped(pictures), labels)
        loss.backward()
        computed = time.perf_counter()
        self.optimizer.step()
        return loss.item(), computed - began, time.perf_counter() - computed

    def load(self, path: str):
        """Start values, no momentum, the first batch."""
        tensors = read_safetensors(path)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[name])
        self.optimizer.state.clear()
        self.next = 0


def serve(rank: Rank):
    """Orders on standard input, one answer each on standard output, all in JSON."""
    for line in sys.stdin:
        order = json.loads(line)
        if "load" in order:
            rank.load(order["load"])
            answer = {}
        elif "steps" in order:
            cpu, began = time.process_time(), time.perf_counter()
            steps = [rank.step() for _ in range(order["steps"])]
            answer = {
                "seconds": time.perf_counter() - began,
                "cpu": time.process_time() - cpu,
                "compute": sum(step[1] for step in steps),
                "exchange": 0.0,
                "update": sum(step[2] for step in steps),
                "losses": [step[0] for step in steps],
            }
        else:
            answer = {"peak_mebibytes": mebibytes("VmHWM")}
        print(json.dumps(answer), flush=True)


def main():
    settings = json.loads(sys.argv[1])
    configuration = set(settings["configuration"].split(","))
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    address = f"tcp://{settings['hosts'][0]}:{settings['port']}"
    dist.init_process_group("gloo", init_method=address, rank=settings["rank"], world_size=settings["world_size"])
    rank = Rank(settings, configuration)
    rank.step()
    print(json.dumps({"version": torch.__version__}), flush=True)
    serve(rank)


if __name__ == "__main__":
    main()

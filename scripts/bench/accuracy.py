#!/usr/bin/env python3
"""What compression and data injection do to accuracy: accuracy.py SCADLES OUT_FOLDER [TABLE...]

TABLE is `compression` or `skew`; both by default. Every run trains the quickstart's network on CIFAR-10 on the virtual clock
(`scadles simulate --train`), so its result is the same whatever the machine does meanwhile; as many runs at once as there
are cores. Rows are compared seed by seed at equal samples. Run folders stay in OUT_FOLDER, and one that is complete is
not run again. The exit code is 1 if a bound is missed.
"""

import concurrent.futures
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SEEDS = (1, 2, 3, 4, 5)
# Of Student's distribution with four degrees of freedom, 95 % of both sides.
STUDENT = 2.776
SAMPLES = 60_000

JOB = """\
apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {{name: {name}}}
spec:
  model: {{name: Cnn, numClasses: 10, inputShape: [3, 32, 32]{norms}}}
  training:
    optimizer: {{learningRate: 0.03, momentum: 0.9, weightDecay: 0.0001}}
    seed: {seed}
  stream: {{transform: {{randomCropPadding: 0, horizontalFlip: true}}}}
  devices: {{count: {devices}}}
  producer:
    dataset: {{name: Cifar10}}
    rates: {{list: {rates}}}
    {partition}
  {extra}
  evaluation: {{everySteps: 1000000, topK: [1, 5]}}
  completion: {{maxSamples: {samples}}}
"""

# A row: what the network's description has besides, and the job.
COMPRESSION = {
    "dense": ("", ""),
    "Static, CR 0.1": ("", "compression: {mode: Static, ratio: 0.1}"),
    "Static, CR 0.01": ("", "compression: {mode: Static, ratio: 0.01}"),
    "Adaptive, CR 0.1, δ 0.3": ("", "compression: {mode: Adaptive, ratio: 0.1, delta: 0.3}"),
    "Auto, CR ≥ 0.01": ("", "compression: {mode: Auto, ratio: 0.01}"),
}
# Points of Top-1 that a row may lose against dense, at the upper end of the interval.
MOST_LOST = {"Static, CR 0.1": 1.0, "Static, CR 0.01": 1.5}

FRACTIONS = (0.5, 0.25, 0.1, 0.05)
AGREED = ", normalization: Batch, statistics: Agreed"


def skew_rows():
    """Norms without sharing, and what sharing does where norms look at batches: to GroupNorm it does nothing."""
    rows = {
        "GroupNorm": ("", ""),
        "BatchNorm, rank 0's statistics": (", normalization: Batch, statistics: Local", ""),
        "BatchNorm, agreed": (AGREED, ""),
    }
    for mode in ("Move", "Replicate"):
        for share in FRACTIONS:
            injection = f"injection: {{mode: {mode}, donorFraction: {share}, sharedFraction: {share}, optIn: All}}"
            rows[f"BatchNorm, agreed, {mode} ({share}, {share})"] = (AGREED, injection)
    return rows


TABLES = {
    "compression": (COMPRESSION, [200, 152, 48, 144], ""),
    # One label a device.
    "skew": (
        skew_rows(),
        [92, 38, 62, 42, 48, 88, 90, 22, 44, 28],
        "partition: LabelSkew\n    labelSkew: {labelsPerDevice: 1}",
    ),
}


def train(scadles, folder, text):
    """The report of a run, made now or before."""
    report = folder / "report.json"
    if not report.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        job = folder.with_suffix(".yaml")
        job.write_text(text, encoding="utf-8")
        with open(folder.with_suffix(".log"), "w", encoding="utf-8") as log:
            command = [scadles, "simulate", job, "--train", "--out", folder]
            done = subprocess.run(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            sys.exit(f"accuracy.py: {folder.name} ended with code {done.returncode}, see {log.name}")
    return json.loads(report.read_text(encoding="utf-8"))


def top(report, k):
    return next(100 * it["share"] for it in report["accuracy"][-1]["topK"] if it["accuracyK"] == k)


def half_interval(values):
    return STUDENT * statistics.stdev(values) / math.sqrt(len(values))


def mean_and_interval(values):
    return f"{statistics.mean(values):.2f} ± {half_interval(values):.2f}"


def megabytes(report, what):
    return sum(device.get(what, 0) for device in report["devices"]) / 1e6


def table(name, scadles, out, pool):
    rows, rates, partition = TABLES[name]
    runs = {}
    for row, (label, (norms, extra)) in enumerate(rows.items()):
        for seed in SEEDS:
            job = f"{name}-{row}-{seed}"
            values = {"name": job, "seed": seed, "norms": norms, "extra": extra, "samples": SAMPLES}
            text = JOB.format(devices=len(rates), rates=rates, partition=partition, **values)
            runs[label, seed] = pool.submit(train, scadles, out / name / job, text)
    first = next(iter(rows))
    print(f"\n{name}: {len(SEEDS)} seeds, {SAMPLES:,} samples each, Top-1 and Top-5 in %, mean ± 95 %\n")
    print(f"| | Top-1 | against {first}, points | Top-5 | gradients, MB | samples shared, MB |")
    print("|---|---|---|---|---|---|", flush=True)
    missed = []
    baseline = [top(runs[first, seed].result(), 1) for seed in SEEDS]
    for label in rows:
        reports = [runs[label, seed].result() for seed in SEEDS]
        top_1 = [top(report, 1) for report in reports]
        differences = [ours - theirs for ours, theirs in zip(top_1, baseline)]
        gradients = statistics.mean(megabytes(report, "bytes_sent") for report in reports)
        shared = statistics.mean((report.get("injection") or {}).get("bytesSent", 0) / 1e6 for report in reports)
        against = "" if label == first else mean_and_interval(differences)
        cells = [label, mean_and_interval(top_1), against, mean_and_interval([top(report, 5) for report in reports])]
        print(f"| {' | '.join(cells)} | {gradients:.1f} | {shared:.1f} |", flush=True)
        if label in MOST_LOST:
            lost = -statistics.mean(differences) + half_interval(differences)
            if lost > MOST_LOST[label]:
                missed.append(f"{label} loses up to {lost:.2f} points, bound {MOST_LOST[label]}")
    return missed


def main():
    scadles, out = sys.argv[1], Path(sys.argv[2])
    names = sys.argv[3:] or list(TABLES)
    if unknown := [name for name in names if name not in TABLES]:
        sys.exit(f"accuracy.py: no table {unknown[0]}; there are {', '.join(TABLES)}")
    began, missed = time.monotonic(), []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name in names:
            missed += table(name, scadles, out, pool)
    print(f"\n{(time.monotonic() - began) / 60:.0f} minutes")
    for text in missed:
        print(f"MISSED {text}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()

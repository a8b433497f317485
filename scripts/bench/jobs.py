#!/usr/bin/env python3
"""Measure whole runs of `scadles run`: jobs.py SCADLES OUT_FOLDER [NAME...]

NAME is one of: rates-fixed rates-streamrate rates-linerate two-devices quickstart; all by default. Every number is printed
with its bound; the exit code is 1 if one is missed. Run folders stay in OUT_FOLDER.
"""

import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
S1 = [50, 38, 12, 36, 34, 13, 82, 40]  # the paper's list S1, samples per second
WARM_UP_SECONDS = 5.0
QUICKSTART = REPOSITORY / "manifests/examples/quickstart-local.yaml"
SEEDS = (1234, 1235, 1236)

JOB = """\
apiVersion: scadles.io/v1alpha1
kind: ScadlesJob
metadata: {{name: {name}}}
spec:
  model: {{name: {model}, numClasses: 10, inputShape: [3, 32, 32]}}
  training: {{optimizer: {{learningRate: 0.01}}}}
  stream:
    batch: {batch}
  devices: {{count: {count}}}
  producer:
    dataset: {{name: Cifar10}}
    rates: {{list: {rates}}}
  checkpoint: {{everySteps: 20}}
  completion: {{maxSteps: {steps}}}
"""

missed = []


def check(what, value, text, low=None, high=None):
    """Print a number beside its bounds."""
    holds = (low is None or value >= low) and (high is None or value <= high)
    bounds = [f"at least {low:g}"] if low is not None else []
    bounds += [f"at most {high:g}"] if high is not None else []
    print(f"{'ok    ' if holds else 'MISSED'} {what}: {text}, bound {' and '.join(bounds)}", flush=True)
    if not holds:
        missed.append(what)


def note(text):
    print(f"       {text}", flush=True)


def quantile(values, share):
    ordered = sorted(values)
    return ordered[round((len(ordered) - 1) * share)]


class Bench:
    def __init__(self, scadles, out):
        self.scadles, self.out = scadles, out

    def run(self, name, text, **environment):
        """Run a job to its end; the lines of its steps.csv (as numbers) and its report."""
        job, folder = self.out / f"{name}.yaml", self.out / name
        job.write_text(text)
        with open(self.out / f"{name}.log", "w", encoding="utf-8") as log:
            command = [self.scadles, "run", job, "--out", folder, "--plain"]
            done = subprocess.run(
                command, cwd=REPOSITORY, env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT
            )
        if done.returncode != 0:
            sys.exit(f"jobs.py: {name} ended with code {done.returncode}, see {log.name}")
        with open(folder / "steps.csv", encoding="utf-8") as file:
            steps = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        return steps, json.loads((folder / "report.json").read_text())

    def job(self, name, rates, batch, steps, model="Mlp", **environment):
        text = JOB.format(name=name, model=model, batch=batch, count=len(rates), rates=rates, steps=steps)
        return self.run(name, text, **environment)


def settled(steps):
    """Without the time in which the first rates are measured."""
    return [row for row in steps if row["seconds"] >= steps[0]["seconds"] + WARM_UP_SECONDS]


def samples_per_second(steps):
    first, last = steps[0], steps[-1]
    return (last["samples"] - first["samples"]) / (last["seconds"] - first["seconds"])


def rates_fixed(bench):
    steps, _ = bench.job("rates-fixed", S1, "{rule: Fixed, fixed: {size: 64}}", 14)
    expected = 64 / min(S1)
    mean = (steps[-1]["seconds"] - steps[0]["seconds"]) / (len(steps) - 1)
    times = [row["step_seconds"] for row in steps[1:]]
    text = f"{mean:.4f} s, expected {expected:.4f} (single steps {min(times):.3f} to {max(times):.3f})"
    check("Fixed 64 on S1, mean step", mean / expected, f"{text}, ratio {mean / expected:.4f}", 0.98, 1.02)


def trained_rate(name, steps):
    rate = samples_per_second(settled(steps))
    text = f"{rate:.2f} samples/s of {sum(S1)} arriving, ratio {rate / sum(S1):.4f}"
    check(f"{name} on S1, trained", rate / sum(S1), text, 0.97, 1.03)


def rates_streamrate(bench):
    steps, _ = bench.job("rates-streamrate", S1, "{rule: StreamRate, windowSeconds: 1}", 45)
    trained_rate("StreamRate", steps)


def rates_linerate(bench):
    folder = bench.out / "phase-times-8"
    folder.mkdir(parents=True, exist_ok=True)
    steps, _ = bench.job("rates-linerate", S1, "{rule: LineRate}", 160, SCADLES_PHASE_TIMES=str(folder))
    trained_rate("LineRate", steps)
    own_time(folder)


def phase_times(folder):
    """Per rank, in rank order: the phases' names and the steps, without the first tenth."""
    ranks = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    for rank in sorted(ranks, key=lambda rank: rank["rank"]):
        yield rank["phases"], rank["steps"][len(rank["steps"]) // 10 :]


def own_time(folder):
    medians, high = [], []
    for phases, steps in phase_times(folder):
        own = [step["threadCpuSeconds"][phases.index("own")] * 1e3 for step in steps]
        medians.append(statistics.median(own))
        high.append(quantile(own, 0.95))
    worst = max(medians)
    text = f"{worst:.3f} ms on the worst rank (medians {min(medians):.3f} to {worst:.3f}, 95 % of rank 0 {high[0]:.3f})"
    check(f"own thread CPU time a step, {len(medians)} devices", worst, text, high=2.0)


def two_devices(bench):
    folder = bench.out / "phase-times-2"
    folder.mkdir(parents=True, exist_ok=True)
    steps, _ = bench.job("two-devices", [60, 60], "{rule: LineRate}", 120, "Cnn", SCADLES_PHASE_TIMES=str(folder))
    busy = []
    for phases, times in phase_times(folder):
        parts = [phases.index(name) for name in ("compute", "exchange", "optimizer")]
        busy.append([sum(step["wallSeconds"][part] for part in parts) for step in times])
    slowest = [max(step) for step in zip(*busy)]
    steps = steps[len(steps) - len(slowest) :]
    late = [(row["step_seconds"] - max(row["window_seconds"], spent)) * 1e3 for row, spent in zip(steps, slowest)]
    window = statistics.median(row["window_seconds"] for row in steps)
    note(f"two devices: window {window:.3f} s, compute + exchange median {statistics.median(slowest):.3f} s")
    median = statistics.median(late)
    text = f"median {median:.2f} ms, 95 % {quantile(late, 0.95):.2f} ms"
    check("two devices, step beyond max(window, compute + exchange)", median, text, high=5.0)


def quickstart(bench):
    shares = []
    for seed in SEEDS:
        text = QUICKSTART.read_text()
        if text.count("seed: 1234") != 1:
            sys.exit(f"jobs.py: {QUICKSTART} has no `seed: 1234`")
        _, report = bench.run(f"quickstart-{seed}", text.replace("seed: 1234", f"seed: {seed}"))
        top_1 = next(entry["share"] for entry in report["accuracy"][-1]["topK"] if entry["accuracyK"] == 1)
        shares.append(top_1)
        note(f"quickstart, seed {seed}: Top-1 {top_1:.2%} after {report['samples']} samples, {report['seconds']:.0f} s")
    median = statistics.median(shares)
    check("quickstart, Top-1", median, f"median {median:.4f} ({min(shares):.4f} to {max(shares):.4f})", 0.5)


PARTS = {
    "two-devices": two_devices,
    "rates-linerate": rates_linerate,
    "rates-streamrate": rates_streamrate,
    "rates-fixed": rates_fixed,
    "quickstart": quickstart,
}


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    bench = Bench(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
    bench.out.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[3:] or PARTS:
        PARTS[name](bench)
    sys.exit(1 if missed else 0)


main()

"""Print what the example `gloo_bench` prints, and the ratio of the sum in rank order to the native one."""

import re
import sys

medians = {}
for line in sys.stdin:
    print(f"       {line}", end="")
    found = re.search(r"floats, (.+): median ([0-9.]+) ms", line)
    if found:
        medians[found[1]] = float(found[2])
ratio = medians["in rank order"] / max(medians["native"], 0.005)
word = "ok    " if ratio <= 1.05 else "note  "
print(f"{word} in rank order / native: ratio {ratio:.2f}, aim 1.05 (reported only)")

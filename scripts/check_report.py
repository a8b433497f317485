#!/usr/bin/env python3
"""Check that a run's report tells of a complete run with trained devices and equal parameters: check_report.py FILE"""

import json
import sys


def find_mistakes(report: dict) -> list:
    mistakes = []
    if report.get("outcome") != "Completed":
        mistakes.append(f"outcome is {report.get('outcome')!r}, not Completed: {report.get('message')}")
    devices = report.get("devices") or []
    if not devices:
        mistakes.append("no device is reported")
    for device in devices:
        if not device.get("trained", 0) > 0:
            mistakes.append(f"device {device.get('name')} trained {device.get('trained')} samples")
    # One hash per rank, and one rank per device.
    hashes = report.get("parameterHashes") or []
    if len(hashes) != len(devices) or len(set(hashes)) != 1:
        mistakes.append(f"the parameters of {len(devices)} ranks are not equal: {hashes}")
    return mistakes


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        document = json.load(file)
    found = find_mistakes(document)
    for mistake in found:
        print(f"check_report: {mistake}", file=sys.stderr)
    if found:
        sys.exit(1)
    trained = sum(device["trained"] for device in document["devices"])
    print(f"check_report: {len(document['devices'])} devices trained {trained} samples, parameters equal on all ranks")

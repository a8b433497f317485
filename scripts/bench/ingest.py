"""Records of a topic to normalised f32 arrays with confluent-kafka and numpy: what `make bench` compares the worker with.

    ingest.py consume|poll PARAMETERS

PARAMETERS is JSON, made by the example `ingest_bench`. Prints one line of JSON: samples, their CPU seconds (all threads
of this process, and the thread that calls numpy alone), a checksum. The clock starts after the first
batch, so that neither interpreter nor connection counts.
"""

import json
import sys
import time

import numpy
from confluent_kafka import Consumer, TopicPartition


def batches(consumer, way, size):
    """Lists of `size` messages without end."""
    while True:
        messages = []
        while len(messages) < size:
            if way == "consume":
                found = consumer.consume(size - len(messages), timeout=1.0)
            else:
                found = [consumer.poll(1.0)]
            messages += [message for message in found if message is not None and message.error() is None]
        yield messages


def main():
    way, asked = sys.argv[1], json.loads(sys.argv[2])
    consumer = Consumer({"bootstrap.servers": asked["servers"], **asked["properties"]})
    consumer.assign([TopicPartition(asked["topic"], partition, 0) for partition in range(asked["partitions"])])
    mean = numpy.array(asked["mean"], numpy.float32).reshape(1, 3, 1, 1)
    std = numpy.array(asked["std"], numpy.float32).reshape(1, 3, 1, 1)
    samples, checksum, began = 0, 0.0, None
    for messages in batches(consumer, way, asked["batch"]):
        records = numpy.stack([numpy.frombuffer(message.value(), numpy.uint8) for message in messages])
        labels = records[:, 0].astype(numpy.int64)
        pictures = records[:, 1:].astype(numpy.float32).reshape(-1, 3, 32, 32)
        pictures /= 255.0
        pictures -= mean
        pictures /= std
        checksum += float(pictures[:, 0, 0, 0].sum(dtype=numpy.float64))
        if began is None:
            began = time.process_time(), time.thread_time(), time.monotonic()
            continue
        samples += len(labels)
        if samples >= asked["samples"]:
            break
    cpu, thread, wall = time.process_time() - began[0], time.thread_time() - began[1], time.monotonic() - began[2]
    print(json.dumps({"samples": samples, "process": cpu, "thread": thread, "wall": wall, "checksum": checksum}))


main()

"""The write-ahead log: records of producers that cannot be asked again, durable on an object store before they are answered.

A log is one location and one topic. It is written by :class:`~beam_exactly_once.wal.writer.WalWriter` and read as Kafka is, by
exact ranges of offsets.
"""

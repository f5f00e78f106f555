"""Receipts of a sink's shards, in a topic of their own: one partition a shard, whose newest record is the receipt.

Only producers of one ``transactional.id`` write to a partition, in transactions. So once ``init_transactions`` of that id
has returned, no transaction is open there, the last stable offset is the end, and the newest committed record is what the
last transaction said. The topic is compacted and never cut: a receipt must be there after a stop of any length.
"""

from __future__ import annotations

from dataclasses import replace

from beam_exactly_once.errors import OutputNotWritable, SinkBehind, SinkUnavailable, UnknownTopic
from beam_exactly_once.kafka.log import ConfluentLog
from beam_exactly_once.kafka.settings import KafkaSettings
from beam_exactly_once.kafka.topic_admin import TopicAdmin, TopicFacts
from beam_exactly_once.logs import Log
from beam_exactly_once.offsets import LogBounds, TopicPartition

TAIL_OFFSETS = 64
"""Offsets of the first look at a partition's end. A batch takes two, its receipt and a control record, or as many aborted."""
_TAIL_GROWTH = 8
_UNCLEAN = "unclean.leader.election.enable"
_SEGMENT_BYTES = 16 * 1024 * 1024
"""The newest segment is not compacted: bounds what a partition takes on disk."""


class ReceiptsTopic:
    """The receipts topic of one sink of one stream. Connected at first use.

    Args:
        settings: of the cluster.
        name: of the topic.

    Raises:
        SinkUnavailable: no broker answers.
        OutputNotWritable: the topic cannot be created or grown, or does not keep its records for ever.
        SinkBehind: the topic or its receipts are gone.
    """

    def __init__(self, settings: KafkaSettings, name: str) -> None:
        self._committed = replace(settings, isolation_level="read_committed")
        self._written = replace(settings, isolation_level="read_uncommitted")
        self._name = name
        self._logs: tuple[Log, Log] | None = None

    @property
    def name(self) -> str:
        """Of the topic."""
        return self._name

    def create(self, admin: TopicAdmin, shards: int, like: TopicFacts) -> None:
        """Create it, as safe as the topic ``like``, unless it exists."""
        if admin.describe(self._name, doubt_s=0) is not None:
            return
        config = {"cleanup.policy": "compact", "segment.bytes": str(_SEGMENT_BYTES), _UNCLEAN: "false"}
        if "min.insync.replicas" in like.config:
            config["min.insync.replicas"] = like.config["min.insync.replicas"]
        try:
            admin.create(self._name, shards, like.replication_factor, config)
        except OutputNotWritable as error:
            settings = "".join(f" --config {key}={value}" for key, value in config.items())
            raise OutputNotWritable(
                f"{error} The receipts of this sink need the topic. Let this user create it, or create it: kafka-topics.sh "
                f"--create --topic {self._name} --partitions {shards} --replication-factor {like.replication_factor}{settings}"
            ) from None

    def check(self, admin: TopicAdmin, shards: int) -> None:
        """Refuse a topic that could lose receipts; let it have a partition for each shard."""
        facts = admin.describe(self._name)
        if facts is None:
            raise self._gone()
        missing = sorted({"READ", "WRITE", "DESCRIBE_CONFIGS"} - facts.operations)
        if missing:
            raise OutputNotWritable(
                f"Kafka does not let us {' or '.join(missing)} topic {self._name}, which holds this sink's receipts. Allow it: "
                f"kafka-acls.sh --add --allow-principal User:… --operation Read --operation Write --operation "
                f"DescribeConfigs --topic {self._name}"
            )
        if facts.cleanup_policy != {"compact"}:
            raise OutputNotWritable(
                f"topic {self._name} has cleanup.policy={facts.config.get('cleanup.policy')} and would lose the receipts of this "
                f"sink. Change it: kafka-configs.sh --alter --topic {self._name} --add-config cleanup.policy=compact"
            )
        if facts.config.get(_UNCLEAN) == "true":
            raise OutputNotWritable(
                f"topic {self._name} has {_UNCLEAN}=true: a broker that lags may lead it, and the receipts of this sink would be "
                f"lost. Change it: kafka-configs.sh --alter --topic {self._name} --add-config {_UNCLEAN}=false"
            )
        if facts.partitions < shards:
            self._grow(admin, shards)

    def newest(self, shard: int) -> bytes | None:
        """The receipt of a shard, as it was written; None if it never had one. To be asked after ``init_transactions``."""
        place = TopicPartition(self._name, shard)
        committed, written = self._open_logs()
        try:
            # In this order: what is written before the first answer is decided in the second, or a transaction is open.
            written_bounds, bounds = written.bounds([place])[place], committed.bounds([place])[place]
        except UnknownTopic:
            raise self._gone() from None
        if bounds.latest < written_bounds.latest:
            raise SinkUnavailable(
                f"partition {place} has an open transaction from offset {bounds.latest} on, which is not of this sink's "
                "producer or was left by a fault of the broker. It ends by its timeout; if not, find and end it with "
                "kafka-transactions.sh find-hanging and abort. Nothing was written."
            )
        found = self._last_value(committed, place, bounds)
        if found is None and bounds.earliest > 0:
            raise SinkBehind(
                f"the records of partition {place}, which holds the receipt of a shard, were deleted below offset "
                f"{bounds.earliest}: what the shard holds is not known any more. Nothing was written. Start a new "
                "checkpoint_location with continue_from=CheckpointAt(…) at the last batch that the output holds."
            )
        return found

    def close(self) -> None:
        """End the connections. Twice does no harm."""
        logs, self._logs = self._logs, None
        for log in logs or ():
            log.close()

    def _last_value(self, log: Log, place: TopicPartition, bounds: LogBounds) -> bytes | None:
        stop, tail = bounds.latest, TAIL_OFFSETS
        while stop > bounds.earliest:
            start = max(bounds.earliest, stop - tail)
            position, last = start, None
            while position < stop:
                chunk = log.next_chunk(place, position, stop)
                position = chunk.stop
                if len(chunk):
                    last = chunk.columns.values[-1] or b""
            if last is not None:
                return last
            stop, tail = start, tail * _TAIL_GROWTH
        return None

    def _open_logs(self) -> tuple[Log, Log]:
        if self._logs is None:
            # Not by open_kafka_log(): a source that a test replaced says nothing of where the sink writes.
            self._logs = ConfluentLog(self._committed), ConfluentLog(self._written)
        return self._logs

    def _grow(self, admin: TopicAdmin, shards: int) -> None:
        try:
            admin.grow(self._name, shards)
        except OutputNotWritable as error:
            raise OutputNotWritable(
                f"{error} Each shard of the sink needs one. Let this user alter the topic, or grow it: kafka-topics.sh --alter "
                f"--topic {self._name} --partitions {shards}"
            ) from None

    def _gone(self) -> SinkBehind:
        return SinkBehind(
            f"topic {self._name}, which holds the receipts of this sink, is gone or has lost partitions, although the checkpoint "
            "knows the sink: which batches the output holds is not known any more. Nothing was written. Restore the topic, or "
            "start a new checkpoint_location with continue_from=CheckpointAt(…) at the last batch that the output holds."
        )

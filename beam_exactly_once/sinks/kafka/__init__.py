"""Topics: a shard's records and its receipt in one Kafka transaction."""

"""Topics: a shard's records and its mark in one Kafka transaction."""

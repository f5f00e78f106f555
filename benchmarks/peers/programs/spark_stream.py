"""PySpark as a stream that goes on: Kafka to files or to a topic, records as they are, a new batch as soon as one has ended.

python spark_stream.py BOOTSTRAP_SERVERS TOPIC GROUP {files,kafka}
"""

from __future__ import annotations

import sys

import pyspark
from pyspark.sql import SparkSession

CONNECTOR = f"org.apache.spark:spark-sql-kafka-0-10_2.13:{pyspark.__version__}"

bootstrap_servers, topic, _, sink = sys.argv[1:5]
spark = SparkSession.builder.master("local[*]").config("spark.jars.packages", CONNECTOR).getOrCreate()
records = (
    spark.readStream.format("kafka")
    .option("kafka.bootstrap.servers", bootstrap_servers)
    .option("subscribe", topic)
    .option("startingOffsets", "earliest")
    .load()
    .select("key", "value")
)
if sink == "files":
    write = records.writeStream.format("parquet").option("path", "output")
else:
    write = records.writeStream.format("kafka").option("kafka.bootstrap.servers", bootstrap_servers)
    write = write.option("topic", f"{topic}-out")
write.option("checkpointLocation", "checkpoint").trigger(processingTime="0 seconds").start().awaitTermination()

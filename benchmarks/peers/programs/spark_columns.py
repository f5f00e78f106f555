"""PySpark, by the guide of Structured Streaming: Kafka, from_json, Parquet files, AvailableNow.

python spark_columns.py BOOTSTRAP_SERVERS TOPIC RECORDS GROUP
"""

from __future__ import annotations

import sys

import pyspark
from pyspark.sql import SparkSession
from pyspark.sql.functions import col, from_json

CONNECTOR = f"org.apache.spark:spark-sql-kafka-0-10_2.13:{pyspark.__version__}"

bootstrap_servers, topic = sys.argv[1:3]
spark = SparkSession.builder.master("local[*]").config("spark.jars.packages", CONNECTOR).getOrCreate()
records = (
    spark.readStream.format("kafka")
    .option("kafka.bootstrap.servers", bootstrap_servers)
    .option("subscribe", topic)
    .option("startingOffsets", "earliest")
    .load()
)
rows = records.select(
    from_json(col("value").cast("string"), "id long, customer int, paid boolean, note string").alias("row")
)
(
    rows.select("row.*")
    .writeStream.format("parquet")
    .option("path", "output")
    .option("checkpointLocation", "checkpoint")
    .trigger(availableNow=True)
    .start()
    .awaitTermination()
)
spark.stop()

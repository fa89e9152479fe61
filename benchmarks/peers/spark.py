"""Spark Structured Streaming, as its guides for Kafka and for pandas UDFs have it.

A UDF over an iterator of batches, so that a Python worker of Spark loads the model once.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import pandas
import pyspark
from pyspark.sql import SparkSession
from pyspark.sql.functions import col, from_json, pandas_udf, struct, to_json

from app.settings import load_settings
from benchmarks.peers.model import MOST_RECORDS

CONNECTOR = f"org.apache.spark:spark-sql-kafka-0-10_2.13:{pyspark.__version__}"

log = logging.getLogger(__name__)


def label(batches: Iterator[pandas.Series]) -> Iterator[pandas.Series]:
    """One label a text."""
    from benchmarks.peers.model import predict

    for texts in batches:
        yield pandas.Series([prediction["label"] for prediction in predict(list(texts))])


def main() -> None:
    settings = load_settings()
    servers = ",".join(settings.bootstrap_servers)
    os.environ["PYSPARK_PYTHON"] = sys.executable
    spark = (
        SparkSession.builder.master("local[*]")
        .appName(settings.app_id)
        .config("spark.jars.packages", CONNECTOR)
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", MOST_RECORDS)
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    # A UDF parses its type in a session.
    predicted: Any = pandas_udf(label, "string")
    requests = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("subscribe", settings.request_topic)
        .option("startingOffsets", "earliest")
        .load()
    )
    documents = requests.select(
        from_json(col("value").cast("string"), "id string, text string").alias("document")
    )
    responses = documents.select(
        col("document.id").alias("key"),
        to_json(struct("document.id", predicted("document.text").alias("label"))).alias("value"),
    )
    query = (
        responses.writeStream.format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("topic", settings.response_topic)
        .option("checkpointLocation", str(settings.data_dir / "spark"))
        .start()
    )
    log.info("ready")
    query.awaitTermination()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main()

"""Faults under load on a real Kafka, counted from outside by request id."""

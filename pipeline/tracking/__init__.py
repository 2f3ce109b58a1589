"""What MLflow is told: a local spool, and its replay."""

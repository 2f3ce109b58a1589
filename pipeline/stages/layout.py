"""Where everything lies, relative to the repository's root, which is the working directory of every stage."""

from pathlib import Path

PARAMS = Path("params.yaml")
RECIPES = Path("recipes")
DVC_LOCK = Path("dvc.lock")

DEMO = Path("data/raw/demo")
MANIFEST = Path("data/manifest.parquet")
SCAN = Path("data/scan.json")
SHARDS = Path("data/shards")
SHARDS_WORK = Path("data/.shards.work")
"""What a killed shard stage had finished; gone once the stage has ended well."""
INDEX = SHARDS / "index.json"
AUDIT = Path("data/audit.json")
AUDIT_PICTURES = SHARDS / "audit_pictures.json"
REJECTS = Path("data/rejects.jsonl")
CONTACT_SHEET = Path("data/contact_sheet.html")
MODEL = Path("data/model")
RUN = Path("data/run.json")
HISTORY = Path("data/history.csv")
REPORT = Path("data/report")
METRICS = REPORT / "metrics.json"
PREDICTIONS = REPORT / "predictions.parquet"
PAGE = REPORT / "report.html"
CONFUSION = REPORT / "confusion.csv"
WEIGHTS = Path("weights")
"""Weights to start from that were fetched, beside the runs."""
SWEEP = Path("data/sweep")
SWEEP_TRIALS = SWEEP / "trials.csv"
SWEEP_BEST = SWEEP / "best.yaml"
REGISTRATION = Path("data/registration.json")
DVC_COPIES = Path(".dvc/tmp/exps")
"""Where `dvc exp run --queue` and `--temp` (DVC 3) copy a repository to, inside of it."""

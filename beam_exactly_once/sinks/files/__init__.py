"""Files: rows as Parquet, CSV, JSON or text, in folders, and the manifests of what is published."""

"""From an export to a registered version: export, served, gate, lineage."""

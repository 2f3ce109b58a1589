"""One run: the Lightning module, the fit, its checkpoints and its ledger."""

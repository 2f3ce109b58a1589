"""From predictions to figures: predict, metrics, report."""

"""The five stages. Paths are known here and nowhere else."""

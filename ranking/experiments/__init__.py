"""The paper's experiments as commands: ``python -m ranking.experiments table2 --dataset beauty``."""

"""Print the machine that figures are measured on: ``python -m benchmarks.machine``."""

from ranking.experiments.machine import machine

__all__ = ["machine"]

if __name__ == "__main__":
    print(machine())

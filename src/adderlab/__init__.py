"""adderlab: train, measure and prove tiny transformers that add two 10-digit numbers."""

__version__ = "0.1.0"

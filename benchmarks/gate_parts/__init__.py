"""What `gate.py` compares, a file each."""

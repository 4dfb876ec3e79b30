"""What several tests share. Nothing imports from a test module."""

"""An implementation of the operations in README.md that shares nothing with the one that made the vectors."""

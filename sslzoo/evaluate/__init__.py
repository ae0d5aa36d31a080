"""Judging encoders by their vectors: every score carries its protocol."""

"""Pretraining of self-supervised image encoders: one loop (`engine`), one small file per method, recipes as data."""

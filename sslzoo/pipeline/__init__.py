"""Images in, vectors on disk: `writer` (the folder, part by part) and `update` (what is new in it), `job` (decode, forward,
collect), `run` (`sslzoo.embed()`: fresh, resumed, brought up to date, in shards), `plan` (`--dry-run`), `formats` (npy, csv).
"""

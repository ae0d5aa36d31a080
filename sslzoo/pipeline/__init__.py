"""Images in, vectors on disk: `writer` (the folder, part by part), `output` (where it is written, and put in its place) and
`update` (what is new in it), `job` (decode, forward, collect), `run` (`sslzoo.embed()`: fresh, resumed, brought up to date, in
shards), `plan` (`--dry-run`), `formats` (npy, csv).
"""

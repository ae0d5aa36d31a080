"""The demo: one's photos through self-supervised eyes, as a Gradio app over `index`, `search`, `dedup`, `cluster` and `embed`.

`server` starts it and guards what it may answer; `page` lays it out; `collection`, `sessions`, `shelf` and `chart` hold what
it shows; `assets` is its look. gradio is imported nowhere else in the package.
"""

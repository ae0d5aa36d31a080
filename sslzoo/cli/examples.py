"""What stands below each command's help: lines to copy, and for the program itself what all commands share."""

from __future__ import annotations

EXAMPLES = {
    "models": ["sslzoo models 'simsiam*'", "sslzoo models --license permissive --backbone r50"],
    "show": ["sslzoo show simsiam-r50", "sslzoo show ./mymodel --json"],
    "pull": ["sslzoo pull simsiam-r50 swav-r50"],
    "verify": ["sslzoo verify simsiam-r50 --data imagenet/val -o sslzoo/zoo"],
    "embed": [
        "sslzoo embed photos",
        "sslzoo embed photos -m simsiam-r50 -o photos.emb --resume",
        "sslzoo embed 'shards-{000..999}.tar' -o shards.emb --shard 0/8",
        "find . -name '*.jpg' | sslzoo embed - -o found.emb",
    ],
    "merge": ["sslzoo merge shards.emb"],
    "index": ["sslzoo index photos.emb", "sslzoo index photos.emb --kind ivfpq --recall 0.98 --memory 2GB"],
    "search": [
        "sslzoo search photos.emb query.jpg -k 5",
        "sslzoo search photos.emb holiday/beach.jpg --exclude-self --html sheet.html",
        "sslzoo search photos.emb query.jpg --threshold 0.9 --where label=cat",
    ],
    "dedup": ["sslzoo dedup photos.emb --threshold 0.97 --html duplicates.html"],
    "cluster": ["sslzoo cluster photos.emb -k 20 --html clusters.html"],
    "finetune": [
        "sslzoo finetune train test -m simsiam-r50 -o classifier",
        "sslzoo finetune train test --freeze",
        "sslzoo finetune train test --preset moco-linear",
    ],
    "predict": ["sslzoo predict classifier photos -k 3"],
    "demo": ["sslzoo demo photos", "sslzoo demo photos.emb --port 8000"],
    "convert": ["sslzoo convert checkpoint.pth.tar -o mymodel --license mit"],
    "export": [
        "sslzoo export simclr-r18 -o encoder-onnx",
        "sslzoo export simsiam-r50 --format safetensors -o simsiam-timm",
    ],
    "push": ["sslzoo push mymodel ORG/NAME --dry-run"],
    "export-vectors": ["sslzoo export-vectors photos.emb --to lancedb --at database"],
    "eval knn": ["sslzoo eval knn train test -m simsiam-r50", "sslzoo eval knn photos.emb"],
    "eval linear": [
        "sslzoo eval linear train test --shots 5 --share 0.1",
        "sslzoo eval linear imagenet/val -m simsiam-r50 --head authors",
    ],
    "eval health": ["sslzoo eval health photos.emb"],
    "eval report": ["sslzoo eval report cars pets -m simsiam-r50 -m swav-r50 -o report"],
}

PROGRAM = """\b
First steps:
  sslzoo embed photos
  sslzoo search photos.emb photos/one.jpg

Exit codes: 0 done, 1 failed, 2 usage, 3 done but some inputs failed, 130 interrupted.

Environment: SSLZOO_LICENSE (permissive, or a license id), SSLZOO_CACHE, HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN,
NO_COLOR, OMP_NUM_THREADS.
"""


def epilog(command: str) -> str:
    """The examples of a command, a line each."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in EXAMPLES[command])])

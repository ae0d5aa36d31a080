"""The README of an exported folder: what it is, its license, and code that runs it without sslzoo."""

from __future__ import annotations

from typing import Any

from sslzoo.spec import EncoderSpec

RUN = {
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("encoder.onnx", providers=["CPUExecutionProvider"])
features = session.run(["features"], {"images": images})[0]  # float32 [1, $dim], not normalised
""",
    "torch": """import torch

network = torch.export.load("encoder.pt2").module()
features = network(torch.from_numpy(images))  # float32 [1, $dim], not normalised
""",
    "openvino": """import openvino

network = openvino.compile_model("encoder.xml", "CPU")
features = network(images)[0]  # float32 [1, $dim], not normalised; bf16 inside where the processor has it
""",
}
OPEN = """image = ImageOps.exif_transpose(Image.open("photo.jpg"))
if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
image = image.convert("RGB")
"""
TIMM = """import timm
import torch
from PIL import Image, ImageOps

network = timm.create_model("local-dir:.", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
$openwith torch.inference_mode():
    features = network(transform(image)[None])  # float32 [1, $dim], not normalised
"""
PREPARE = """import numpy as np
from PIL import Image, ImageOps

$openscale = $resize / min(image.size)
image = image.resize([max($resize, int(side * scale)) for side in image.size], Image.Resampling.$filter)
left, top = (round((side - $size) / 2) for side in image.size)
pixels = np.asarray(image.crop((left, top, left + $size, top + $size)))  # uint8 [$size, $size, 3]
"""
NORMALIZE = """mean, std = np.array($mean, np.float32), np.array($std, np.float32)
images = ((pixels.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None]  # float32 [1, 3, $size, $size]
"""
PIXELS = "images = pixels[None]  # the network normalises\n"


def render(spec: EncoderSpec, format: str, record: dict[str, Any]) -> str:
    """The text of README.md."""
    p, parity = spec.preprocess, record["parity"]
    code = TIMM
    if format in RUN:
        code = PREPARE + (PIXELS if format == "openvino" else NORMALIZE) + RUN[format]
    for name, value in {
        "open": OPEN, "resize": p.resize, "size": p.size, "filter": p.interpolation.upper(), "mean": list(p.mean),
        "std": list(p.std), "dim": spec.dim,
    }.items():  # fmt: skip
        code = code.replace(f"${name}", str(value))
    method = f"{spec.method} {spec.paper}".strip()
    origin = "with seeded random weights" if spec.method == "random" else f"pretrained without labels by {method}"
    imports = sorted({line for line in code.splitlines() if line.startswith(("import ", "from "))})
    body = "\n".join(line for line in code.splitlines() if line not in imports).strip()
    return f"""# {spec.name} for {format}

A {spec.backbone} image encoder, {origin}: a photo becomes {spec.dim} numbers.
`export.json` describes input, output and preprocessing for programs. The code decodes as sslzoo does, but for pictures of more
than 8 bits a channel, which Pillow would cut off: scale them to 8 bits first.

```python
{chr(10).join(imports)}

{body}
```

The batch may have any size. Beside sslzoo's own vectors, on {parity["images"]} photos: largest difference \
{parity["max_difference"]:.1e}, mean {parity["mean_difference"]:.1e}, lowest cosine {parity["cosine"]:.7f}.

License of the weights: **{spec.license or "not stated"}**. {spec.license_note}
Data terms: {spec.data_terms or "not stated"}
"""

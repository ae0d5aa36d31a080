"""Projection and prediction heads: small multi-layer perceptrons on pooled features, spelled as the papers spell them."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def mlp(
    sizes: list[int], *, hidden_norm: bool = True, out_norm: bool | str = False, bias: bool = False
) -> nn.Sequential:
    """Linear layers through `sizes`, each but the last followed by (BN and) ReLU.

    `out_norm` puts a BN on the output: True, or "plain" for one without scale and shift. A layer followed by BN has no
    bias, whose effect BN would take away; `bias` gives the output layer one when no BN follows.
    """
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        norm = bool(out_norm) if last else hidden_norm
        layers.append(nn.Linear(inputs, outputs, bias=not norm and (bias or not last)))
        if norm:
            layers.append(nn.BatchNorm1d(outputs, affine=not (last and out_norm == "plain")))
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)

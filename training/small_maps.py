"""Convolutions on the very small maps that low training resolutions leave, as a few matrix products.

A ResNet's last stage works on 2 x 2 maps at 40 to 64 px. There a 3x3 kernel mostly multiplies padding. `python -m
benchmarks.train --layers` times both ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Window = tuple[int, int, slice, slice, slice, slice]


class SmallMapConv2d(nn.Conv2d):
    """A 3x3 convolution with padding 1 and no bias; maps of at most 2 x 2 outputs on a CPU take the other way.

    Parameters and their names are nn.Conv2d's.
    """

    def forward(self, x: Tensor) -> Tensor:
        stride = int(self.stride[0])
        if x.device.type != "cpu" or max(x.shape[2:]) > 2 * stride:
            return super().forward(x)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        y: Tensor = _Convolution.apply(x, self.weight, stride)
        return y


def use(module: nn.Module) -> None:
    """Makes the 3x3 convolutions inside `module` fast on small maps, in place."""
    for layer in module.modules():
        if type(layer) is nn.Conv2d and layer.kernel_size == (3, 3) and layer.padding == (1, 1) and layer.bias is None:
            layer.__class__ = SmallMapConv2d  # the same parameters, so that optimisers and targets keep theirs


class _Convolution(torch.autograd.Function):
    """One matrix product for each output position, over the inputs that its window sees."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        n, _, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1).contiguous()  # [n, h, w, in]
        kernel = weight.to(x.dtype).permute(0, 2, 3, 1).contiguous()  # [out, 3, 3, in]
        y = x.new_empty(n, (height - 1) // stride + 1, (width - 1) // stride + 1, len(kernel))
        for i, j, rows, columns, u, v in windows(height, width, stride):
            y[:, i, j] = F.linear(pixels[:, rows, columns].reshape(n, -1), kernel[:, u, v].reshape(len(kernel), -1))
        ctx.save_for_backward(pixels, kernel)
        ctx.stride, ctx.dtype = stride, weight.dtype
        return y.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        pixels, kernel = ctx.saved_tensors
        n, height, width, _ = pixels.shape
        gradient = gradient.permute(0, 2, 3, 1).contiguous()  # [n, h', w', out]
        to_pixels, to_kernel = torch.zeros_like(pixels), torch.zeros(kernel.shape, dtype=ctx.dtype)
        for i, j, rows, columns, u, v in windows(height, width, ctx.stride):
            g, part, seen = gradient[:, i, j], kernel[:, u, v], pixels[:, rows, columns]
            to_pixels[:, rows, columns] += (g @ part.reshape(len(kernel), -1)).view(seen.shape)
            to_kernel[:, u, v] += (g.T @ seen.reshape(n, -1)).view(part.shape)
        return to_pixels.permute(0, 3, 1, 2), to_kernel.permute(0, 3, 1, 2), None


def windows(height: int, width: int, stride: int) -> Iterator[Window]:
    """Each output position (i, j), the rows and columns of the input that it sees, and the part of the kernel on them."""
    for i in range((height - 1) // stride + 1):
        for j in range((width - 1) // stride + 1):
            top, left = i * stride - 1, j * stride - 1
            rows, columns = slice(max(0, top), min(height, top + 3)), slice(max(0, left), min(width, left + 3))
            u, v = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
            yield i, j, rows, columns, u, v

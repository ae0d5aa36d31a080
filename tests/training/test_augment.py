"""The batched augmentation against torchvision's transforms: golden values per operation, moments for the random parts."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from training import augment
from training.augment import View


@pytest.fixture
def photo():
    """A smooth coloured picture with an edge, uint8 [3, 60, 80]."""
    y, x = np.mgrid[0:60, 0:80]
    rgb = np.stack([x * 3, y * 4, 255 - (x + y) * 1.5], -1).clip(0, 255)
    rgb[20:40, 30:50] = (250, 40, 10)
    return torch.from_numpy(rgb.astype(np.uint8)).permute(2, 0, 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("box", [(0, 0, 60, 80), (5, 11, 40, 33), (30, 60, 9, 13)])
@pytest.mark.parametrize("size", [8, 24, 64])
@pytest.mark.parametrize("bicubic", [False, True])
def test_crop_resize_equals_pil(photo, box, size, bicubic):
    top, left, height, width = box
    rows = augment.resize_matrix(torch.tensor([float(top)]), torch.tensor([float(height)]), size, 60, bicubic=bicubic)
    columns = augment.resize_matrix(
        torch.tensor([float(left)]), torch.tensor([float(width)]), size, 80, bicubic=bicubic
    )
    ours = augment.crop_resize(photo[None], rows, columns)[0].clamp(0, 1) * 255
    pil = Image.fromarray(photo.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
    kernel = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    theirs = np.asarray(pil.resize((size, size), kernel)).transpose(2, 0, 1)
    error = np.abs(ours.numpy() - theirs)
    # PIL rounds to 8 bits after each of two passes; where the cubic overshoots it also clips between them
    assert error.max() <= (8 if bicubic else 1.01)
    assert error.mean() <= 0.6


def test_crop_boxes_have_torchvisions_moments():
    n, height, width, scale, ratio = 20_000, 48, 64, (0.2, 1.0), (3 / 4, 4 / 3)
    ours = torch.stack(augment.random_crop_boxes(n, height, width, scale, ratio, generator()), 1)
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(8, scale=scale, ratio=ratio)
    image = torch.zeros(3, height, width)
    theirs = torch.tensor([list(crop.make_params([image]).values()) for _ in range(n)], dtype=torch.float32)
    # five standard errors of the mean, and 3 % on the spread
    error = 5 * theirs.std(0) * (2 / n) ** 0.5
    assert ((ours.mean(0) - theirs.mean(0)).abs() < error).all()
    assert ((ours.std(0) / theirs.std(0) - 1).abs() < 0.03).all()


def test_crop_that_never_fits_falls_back_to_the_centre():
    # a quarter as high as wide, and the whole area wanted: no ratio up to 4/3 can fit
    top, left, height, width = augment.random_crop_boxes(5, 20, 80, (1.0, 1.0), (3 / 4, 4 / 3), generator())
    assert torch.stack([top, left, height, width], 1).tolist() == [[0, 26, 20, 27]] * 5


def test_colour_operations_equal_torchvision(photo):
    x = torch.stack([photo, photo.flip(1), 255 - photo]).float() / 255
    factor = torch.tensor([0.3, 1.0, 1.7])[:, None, None, None]
    for i, f in enumerate(factor.flatten().tolist()):
        contrast = augment._blend(x, augment.grey(x).mean((1, 2, 3), keepdim=True), factor).clamp(0, 1)
        saturation = augment._blend(x, augment.grey(x), factor).clamp(0, 1)
        torch.testing.assert_close(contrast[i], TF.adjust_contrast(x[i], f), atol=2e-6, rtol=0)
        torch.testing.assert_close(saturation[i], TF.adjust_saturation(x[i], f), atol=2e-6, rtol=0)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.07, 0.31])
def test_hue_equals_torchvision(turn):
    x = torch.rand(2, 3, 9, 9, generator=generator())
    x[0, :, 0] = 0.4  # grey pixels have no hue
    ours = augment.rotate_hue(x, torch.tensor([turn, turn])[:, None, None])
    torch.testing.assert_close(ours, TF.adjust_hue(x, turn), atol=2e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0.1, 0.9, 2.0])
def test_blur_equals_torchvision(photo, sigma):
    x = photo[None, :, :60, :60].float() / 255
    ours = augment.gaussian_blur(x, torch.tensor([sigma]), 0.1)
    torch.testing.assert_close(ours, TF.gaussian_blur(x, [7, 7], [sigma, sigma]), atol=1e-5, rtol=0)


def test_every_order_of_the_jitter_is_equally_likely():
    n = 48
    slots = [augment._slots(n, position) for position in range(4)]
    order_of_slot = torch.stack([sum(k * (torch.isin(torch.arange(n), s[k])) for k in range(4)) for s in slots], 1)
    orders, counts = order_of_slot.unique(dim=0, return_counts=True)
    assert len(orders) == 24 and (counts == 2).all()


def test_whole_view_has_torchvisions_statistics(photo):
    view = View(size=24, scale=(0.2, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), grey_p=0.2, blur_p=0.5, solarize_p=0.2)
    n = 3000
    ours = augment.make_view(photo[None].expand(n, -1, -1, -1), view, 24, generator())
    torch.manual_seed(0)
    reference = v2.Compose(
        [
            v2.RandomResizedCrop(24, scale=(0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(3, (0.1, 2.0))], 0.5),
            v2.RandomSolarize(0.5, 0.2),
        ]
    )
    image = photo.float() / 255
    theirs = torch.stack([reference(image) for _ in range(n)])

    def summaries(x):
        flat = x.flatten(2)
        channel = flat.mean(2)  # [n, 3]
        chroma = (x.amax(1) - x.amin(1)).mean((1, 2))
        rough = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3))
        left_right = x[..., :12].mean((1, 2, 3)) - x[..., 12:].mean((1, 2, 3))
        return torch.cat([channel, flat.std(2), torch.stack([chroma, rough, left_right], 1)], 1)  # [n, 9]

    a, b = summaries(ours), summaries(theirs)
    error = 5 * b.std(0) * (2 / n) ** 0.5
    assert ((a.mean(0) - b.mean(0)).abs() < error).all(), (a.mean(0), b.mean(0), error)
    assert ((a.std(0) / b.std(0) - 1).abs() < 0.1).all()


def test_views_differ_between_images_and_repeat_with_the_seed(photo):
    images = photo[None].expand(4, -1, -1, -1)
    first = augment.make_view(images, View(size=16), 16, generator(3))
    again = augment.make_view(images, View(size=16), 16, generator(3))
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
    assert first.min() >= 0 and first.max() <= 1

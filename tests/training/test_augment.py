"""The batched augmentation against torchvision's transforms: golden values per operation, moments for the random parts."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2 import functional as TF

from training import augment, engine, recipe
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
    ours = augment.gaussian_blur(x, torch.tensor([sigma]), augment.blur_radius(View(), 60))
    torch.testing.assert_close(ours, TF.gaussian_blur(x, [7, 7], [sigma, sigma]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "crop"), [("mocov2", 0), ("simsiam", 0), ("swav", 0), ("swav", 1)])
@pytest.mark.parametrize("sigma", [0.1, 1.0, 2.0])
def test_the_blur_of_moco_simsiam_and_swav_is_pils(name, crop, sigma):
    """A kernel of a tenth of the side would cut it off at two sigma in SwAV's small crops (5 grey levels off at 64 px)."""
    view = recipe.load(f"{name}-r50.in1k_800ep").views[crop]
    coarse = np.random.default_rng(0).integers(0, 256, (view.size // 4, view.size // 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((view.size, view.size), Image.Resampling.BICUBIC)
    x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
    ours = augment.gaussian_blur(x, torch.tensor([sigma]), augment.blur_radius(view, view.size))
    pil = np.asarray(image.filter(ImageFilter.GaussianBlur(sigma))).transpose(2, 0, 1)
    inside = np.abs(ours[0].numpy() - pil)[:, 8:-8, 8:-8]  # PIL repeats the border, torchvision mirrors it
    assert inside.mean() < 0.8 and inside.max() < 4  # three box blurs are a Gaussian to within this


def test_simclrs_and_byols_blur_at_224_px_has_a_kernel_of_23():
    for name in ("simclr", "byol"):
        assert {augment.blur_radius(v, v.size) for v in recipe.load(f"{name}-r50.in1k_1000ep").views} == {11}


def test_every_order_of_the_jitter_is_equally_likely():
    n = 48
    slots = [augment._slots(n, position, torch.device("cpu")) for position in range(4)]
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


N = 20_000
WHOLE = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "jitter_p": 0.0, "grey_p": 0.0}


def views(image, **changes):
    """N views of a small picture `[3, 8, 8]` in [0, 1], one transform alone at work."""
    settings = View(size=8, **(WHOLE | changes))
    return augment.make_view((image * 255).round().byte()[None].expand(N, -1, -1, -1), settings, 8, generator())


def share(condition):
    return condition.float().mean().item()


def near(value, chance):
    """Four standard errors of a share of N, about 0.014 at a half."""
    return abs(value - chance) < 4 * (chance * (1 - chance) / N) ** 0.5


@pytest.mark.parametrize(
    "change", [{"flip": 0.5}, {"flip": 0.3}, {"grey_p": 0.2}, {"solarize_p": 0.2}, {"blur_p": 0.5}, {"jitter_p": 0.8}]
)
def test_a_transform_happens_with_its_chance(change):
    image = torch.rand(3, 8, 8, generator=generator(1))
    strength = {"jitter": (0.4, 0.4, 0.4, 0.1), "blur_sigma": (1.0, 2.0)}  # both always show
    out = views(image, **change, **strength)
    untouched = views(image)[:1]
    (p,) = change.values()
    assert near(share(((out - untouched).abs() > 1e-4).flatten(1).any(1)), p)


def test_transforms_of_one_image_are_independent():
    out = views(torch.rand(3, 8, 8, generator=generator(1)), grey_p=0.5, solarize_p=0.5)
    grey = (out.amax(1) - out.amin(1)).flatten(1).amax(1) < 1e-4
    inverted = out.flatten(1).amax(1) < 0.502
    assert near(share(grey & inverted), 0.25)


def uniform_quantiles(values, low, high):
    """The largest distance of the distribution of `values` from the uniform one on [low, high] (Kolmogorov-Smirnov)."""
    sorted_values = (values.sort().values - low) / (high - low)
    return (sorted_values - (torch.arange(len(values)) + 0.5) / len(values)).abs().max().item()


def test_jitter_draws_each_factor_as_torchvision_does():
    """Each factor is read off a picture that shows it: torchvision draws it uniformly from [max(0, 1 - s), 1 + s]."""
    limit = 1.63 / N**0.5  # the 1 % point of Kolmogorov-Smirnov
    dark = torch.full((3, 8, 8), 51 / 255)
    brightness = views(dark, jitter=(0.8, 0, 0, 0), jitter_p=1.0).mean((1, 2, 3)) / (51 / 255)
    assert uniform_quantiles(brightness, 0.2, 1.8) < limit

    halves = torch.full((3, 8, 8), 102 / 255)
    halves[:, :, 4:] = 153 / 255
    contrast = views(halves, jitter=(0, 0.8, 0, 0), jitter_p=1.0)
    factor = (contrast[..., 7] - contrast[..., 0]).mean((1, 2)) / (51 / 255)
    assert uniform_quantiles(factor, 0.2, 1.8) < limit

    tint = torch.tensor([140, 120, 110]).view(3, 1, 1).expand(3, 8, 8) / 255
    saturation = views(tint, jitter=(0, 0, 0.8, 0), jitter_p=1.0)
    factor = (saturation[:, 0] - saturation[:, 2]).mean((1, 2)) / (30 / 255)
    assert uniform_quantiles(factor, 0.2, 1.8) < limit

    red = torch.tensor([200, 50, 50]).view(3, 1, 1).expand(3, 8, 8) / 255
    turned = views(red, jitter=(0, 0, 0, 0.15), jitter_p=1.0)[:, :, 0, 0]
    # between red and yellow green rises, between red and magenta blue does, a sixth of a circle from end to end
    turn = ((turned[:, 1] - turned[:, 2]) / (150 / 255)) / 6
    assert uniform_quantiles(turn, -0.15, 0.15) < limit


def test_the_order_of_the_jitter_is_drawn_for_every_image_anew():
    """A tint whose brightness and saturation both grow: the order shows in what clips, and must not depend on the row."""
    tint = torch.tensor([200, 125, 100]).view(3, 1, 1).expand(3, 8, 8) / 255
    rows = []
    for seed in range(400):
        drawn = generator(seed)
        x = augment.color_jitter(tint[None].expand(24, -1, -1, -1).clone(), (0.9, 0, 0.9, 0), 1.0, drawn)
        replay = generator(seed)
        torch.rand(24, generator=replay)  # who is jittered
        brightness, _, saturation = (torch.rand(24, generator=replay) * 1.8 + 0.1 for _ in range(3))
        b, s = brightness[0], saturation[0]
        first = TF.adjust_saturation(TF.adjust_brightness(tint, b.item()), s.item())
        second = TF.adjust_brightness(TF.adjust_saturation(tint, s.item()), b.item())
        if (first - second).abs().max() > 0.01:
            rows.append((x[0] - first).abs().max() < (x[0] - second).abs().max())
    assert len(rows) > 100
    brightness_first = torch.stack(rows).float().mean().item()
    assert abs(brightness_first - 0.5) < 4 * 0.5 / len(rows) ** 0.5


def test_blur_draws_sigma_uniformly():
    dot = torch.zeros(3, 8, 8)
    dot[:, 4, 4] = 1.0
    out = views(dot, blur_p=1.0, blur_sigma=(0.1, 2.0), blur_kernel=0.4)
    # a kernel of three: the neighbour has exp(-1 / 2 sigma^2) times the centre
    ratio = (out[:, 0, 4, 5] / out[:, 0, 4, 4]).clamp_min(1e-30)
    sigma = (-0.5 / ratio.log()).sqrt()
    seen = sigma[sigma > 0.3]  # below, the neighbour is lost in rounding
    assert near(len(seen) / N, 1.7 / 1.9)
    assert uniform_quantiles(seen, 0.3, 2.0) < 1.63 / len(seen) ** 0.5


def test_solarize_turns_round_what_is_at_least_half_bright():
    ramp = (torch.arange(64) * 4 / 255).view(1, 8, 8).expand(3, 8, 8)
    out = views(ramp, solarize_p=1.0)[0]
    whole = (ramp * 255).round()
    torch.testing.assert_close(out * 255, torch.where(whole >= 127.5, 255 - whole, whole), atol=1e-3, rtol=0)


def test_multi_crop_gives_the_full_views_first_and_small_ones_of_small_parts():
    """SwAV's 2 x 224 + 6 x 96, on a picture whose pixels say where they were: a small crop spans little of it."""
    settings = recipe.load("swav-r50.in1k_800ep")
    ramp = torch.arange(256, dtype=torch.uint8).expand(8, 3, 256, 256).contiguous()
    plain = [dataclasses.replace(v, jitter_p=0.0, grey_p=0.0, blur_p=0.0, ratio=(1.0, 1.0)) for v in settings.views]
    views = engine.make_views(ramp, dataclasses.replace(settings, views=tuple(plain)), 0.0, generator())
    assert [tuple(view.shape) for view in views] == [(8, 3, 224, 224)] * 2 + [(8, 3, 96, 96)] * 6
    spans = [((view[:, 0].amax((1, 2)) - view[:, 0].amin((1, 2))) * settings.std[0] * 255) for view in views]
    # the square root of the area's share of 256 px, less what resampling takes at the ends
    assert all(0.14**0.5 * 256 - 4 < span < 256 for view in spans[:2] for span in view.tolist())
    assert all(0.05**0.5 * 256 - 4 < span < 0.14**0.5 * 256 + 4 for view in spans[2:] for span in view.tolist())


def test_crops_of_whole_pictures_follow_torchvision_and_reach_their_ends():
    """Of a wide picture of which each column has its own grey, the ends lie outside of the centre square."""
    view = View(count=1, size=8, scale=(0.2, 1.0), jitter_p=0.0, grey_p=0.0, flip=0.0)
    wide = (torch.arange(120, dtype=torch.uint8) * 2).expand(3, 40, 120)
    tall = wide.permute(0, 2, 1)
    out = augment.make_view([wide, tall] * 1000, view, 8, generator()) * 255 / 2
    torch.manual_seed(0)
    boxes = torch.tensor([RandomResizedCrop.get_params(wide, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    centre = (boxes[:, 1] + (boxes[:, 3] - 1) / 2).float()
    for ours in (
        out[0::2, 0].mean(1),
        out[1::2, 0].mean(2),
    ):  # [1000, 8], along the long side; a tall picture's is alike
        assert abs(ours.mean().item() - centre.mean().item()) < 4 * (centre.std() / 1000**0.5).item()
        assert ours.mean(1).std().item() == pytest.approx(centre.std().item(), rel=0.1)
        assert ours.min() < 10 and ours.max() > 109


def test_pictures_of_one_size_are_cropped_as_a_batch():
    images = torch.randint(0, 256, (6, 3, 20, 28), dtype=torch.uint8, generator=generator(1))
    one = augment.make_view(images, View(size=16), 16, generator(2))
    assert torch.equal(augment.make_view(list(images), View(size=16), 16, generator(2)), one)


def test_views_are_normalised_by_the_recipes_mean_and_deviation():
    settings = recipe.load("byol-r18.cifar10")
    grey = torch.full((2, 3, 32, 32), 51, dtype=torch.uint8)
    off = {"jitter_p": 0.0, "grey_p": 0.0}
    plain = [dataclasses.replace(view, **off, solarize_p=float(i)) for i, view in enumerate(settings.views)]
    first, second = engine.make_views(grey, dataclasses.replace(settings, views=tuple(plain)), 0.0, generator())
    mean, std = (torch.tensor(v)[:, None, None].expand(2, 3, 32, 32) for v in (settings.mean, settings.std))
    torch.testing.assert_close(first, (0.2 - mean) / std, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(second, first)  # darker than half: solarising leaves it
    bright = engine.make_views(255 - grey, dataclasses.replace(settings, views=tuple(plain)), 0.0, generator())
    torch.testing.assert_close(bright[0], (0.8 - mean) / std, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(bright[1], first, atol=1e-5, rtol=1e-5)  # the second of BYOL's views is turned round

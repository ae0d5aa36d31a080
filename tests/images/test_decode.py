"""The decode policy, on files made here; pixels are checked, not only the absence of errors."""

import io
import struct
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from sslzoo.errors import ImageError
from sslzoo.images.decode import Policy, decode


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def quadrants(size=(40, 24)):
    """Red, green, blue and yellow quarters, so that every turn and flip can be told."""
    w, h = size
    image = Image.new("RGB", size)
    for box, colour in (
        ((0, 0), (255, 0, 0)),
        ((w // 2, 0), (0, 255, 0)),
        ((0, h // 2), (0, 0, 255)),
        ((w // 2, h // 2), (255, 255, 0)),
    ):
        image.paste(colour, (*box, box[0] + w // 2, box[1] + h // 2))
    return image


# what was done to the upright picture before it was stored with that tag (TIFF 6.0, tag 274)
STORED = {
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_orientation(orientation, format):
    upright = quadrants()
    stored = upright
    for operation in STORED[orientation]:
        stored = stored.transpose(operation)
    exif = Image.Exif()
    exif[274] = orientation
    result = decode(
        encoded(stored, format, exif=exif, **({"quality": 100} if format != "PNG" and format != "TIFF" else {}))
    )
    assert (result.width, result.height) == upright.size
    got = np.asarray(result.image).astype(int)
    for x, y in ((5, 5), (35, 5), (5, 19), (35, 19)):
        assert np.abs(got[y, x] - upright.getpixel((x, y))).max() < 30


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    result = decode(encoded(Image.fromarray(values)))
    assert np.asarray(result.image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_float_image_is_scaled():
    result = decode(encoded(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)), "TIFF"))
    assert np.asarray(result.image)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_the_background(mode):
    image = Image.new("RGBA", (4, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (200, 0, 0, 0))
    if mode == "P":
        data = encoded(image.convert("P"), transparency=image.convert("P").getpixel((1, 0)))
    else:
        data = encoded(image.convert(mode))
    white = np.asarray(decode(data).image)[0, 1]
    black = np.asarray(decode(data, policy=Policy(background=(0, 0, 0))).image)[0, 1]
    assert white.tolist() == [255, 255, 255]
    assert black.tolist() == [0, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb(mode):
    image = Image.new("L", (9, 7), 255).convert(mode) if mode != "I;16" else Image.new("I;16", (9, 7), 65535)
    options = {"compression": "jpeg"} if mode == "YCbCr" else {}  # Pillow 12 writes it raw but can't read that
    data = encoded(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG", **options)
    result = decode(data)
    assert result.image.mode == "RGB"
    assert np.asarray(result.image).min() >= 254


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_frame_counts_and_is_flagged(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    result = decode(encoded(frames[0], format, save_all=True, append_images=frames[1:]))
    assert result.flags == ("first-frame",)
    assert np.abs(np.asarray(result.image)[4, 4].astype(int) - (250, 0, 0)).max() <= 8


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_truncated_fails(format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, format)
    with pytest.raises(ImageError):
        decode(data[: len(data) // 2], name="cut")


def test_truncated_is_allowed_on_request_and_flagged():
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    assert decode(data[: len(data) // 2], policy=Policy(allow_truncated=True)).flags == ("truncated",)


@pytest.mark.parametrize("data", [b"", b"hello, I am text", b"\xff\xd8\xff\xe0 not a jpeg", b"\x89PNG\r\n\x1a\n"])
def test_no_image_names_the_file(data):
    with pytest.raises(ImageError, match=r"holiday\.jpg"):
        decode(data, name="holiday.jpg")


def test_too_many_pixels_are_refused_before_decoding():
    with pytest.raises(ImageError, match="100x90 is more than 8,000 pixels"):
        decode(encoded(Image.new("L", (100, 90))), policy=Policy(pixel_limit=8000))


def test_draft_keeps_twice_the_target_and_the_stated_size():
    smooth = Image.effect_noise((1600, 1200), 10).convert("RGB")
    data = encoded(smooth, "JPEG")
    result = decode(data, target=100)
    assert (result.width, result.height) == (1600, 1200)
    assert 200 <= min(result.image.size) < 1200
    assert decode(data, target=700).image.size == (1600, 1200)


def test_pillows_global_settings_stay_as_they_were():
    from PIL import ImageFile

    decode(encoded(Image.new("RGB", (4, 4)), "JPEG"), policy=Policy(allow_truncated=True))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert Image.MAX_IMAGE_PIXELS == 89478485


def test_threads_leave_the_warnings_of_the_process_as_they_were():
    class Held(io.BytesIO):
        def __init__(self, data):
            super().__init__(data)
            self.begun, self.go = threading.Event(), threading.Event()

        def read(self, *size):
            self.begun.set()
            self.go.wait(60)
            return super().read(*size)

    before = list(warnings.filters)
    with ThreadPoolExecutor(2) as pool:
        held = [Held(encoded(Image.new("RGB", (4, 4)))) for _ in range(2)]
        results = []
        for file in held:  # the second begins before the first ends
            results.append(pool.submit(decode, file))
            assert file.begun.wait(60)
        with pytest.raises(UserWarning, match="mine"):  # an error in all tests
            warnings.warn("mine", stacklevel=1)
        for file, result in zip(held, results, strict=True):
            file.go.set()
            result.result()
    assert warnings.filters == before


def test_heic_is_read_where_its_package_is_and_named_where_not(monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(quadrants((64, 48))).save(buffer, quality=95)
    result = decode(buffer.getvalue())
    assert (result.width, result.height) == (64, 48)
    assert np.abs(np.asarray(result.image)[8, 8].astype(int) - (255, 0, 0)).max() < 40
    with pytest.raises(ImageError, match="64x48 is more than 100 pixels"):
        decode(buffer.getvalue(), policy=Policy(pixel_limit=100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"pip install 'sslzoo\[heif\]'"):
        decode(buffer.getvalue())


def test_a_grey_value_may_be_transparent_at_16_bit():
    data = encoded(Image.fromarray(np.array([[0, 500, 65535]], np.uint16)), transparency=500)
    assert np.asarray(decode(data).image)[0, :, 0].tolist() == [0, 255, 255]
    assert np.asarray(decode(data, policy=Policy((0, 0, 0))).image)[0, :, 0].tolist() == [0, 0, 255]


def png(bits, kind, values, *chunks):
    """A PNG file by hand (its specification, section 11): one row of samples, packed, of a colour type."""
    row = "".join(format(value, f"0{bits}b") for value in values)
    data = int(row, 2).to_bytes(-(-len(row) // 8), "big")
    width = len(values) // {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    header = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" + data)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_grey_value_may_be_transparent_at_every_depth(bits):
    top = 2**bits - 1
    values = [top] * 8
    values[1] = top // 2
    for hidden in {0, top // 2, top}:
        got = np.asarray(decode(png(bits, 0, values, (b"tRNS", struct.pack(">H", hidden)))).image)[0, :, 0].tolist()
        assert got == [255 if v == hidden else round(v * 255 / top) for v in values], hidden


SIXTEEN = np.array([0, 128, 129, 255, 256, 1000, 2000, 32896, 65407, 65408, 65534, 65535])


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_png_is_rounded(kind, channels):
    colours = channels - (kind != 2)
    values = np.stack([np.roll(SIXTEEN, i) for i in range(colours)] + [np.full(12, 65535)] * (kind != 2), 1)
    got = np.asarray(decode(png(16, kind, values.ravel())).image)
    expected = np.round(values[:, :colours] / 257)
    np.testing.assert_array_equal(got[0], np.broadcast_to(expected, (12, 3)))


def test_a_colour_may_be_transparent_at_16_bit():
    data = png(16, 2, [1000, 2000, 3000, 1000, 2000, 3001], (b"tRNS", struct.pack(">HHH", 1000, 2000, 3000)))
    assert np.asarray(decode(data).image)[0].tolist() == [[255, 255, 255], [4, 8, 12]]


def tiff(array, photometric, compression=1):
    """A TIFF file by hand (TIFF 6.0): one strip, the bytes of an unsigned array `[h, w]` or `[h, w, c]`."""
    h, w, c = (*array.shape, 1)[:3]
    strip = array.astype(array.dtype.newbyteorder("<")).tobytes()
    strip = zlib.compress(strip) if compression == 8 else strip
    bits = 8 * array.itemsize
    deep = (258, 3, c, bits if c == 1 else 8 + len(strip))
    tags = [(256, 3, 1, w), (257, 3, 1, h), deep, (259, 3, 1, compression), (262, 3, 1, photometric), (273, 4, 1, 8)]
    tags += [(277, 3, 1, c), (278, 3, 1, h), (279, 4, 1, len(strip))] + (
        [(338, 3, 1, 2)] if c == 4 and photometric == 2 else []
    )
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return (
        struct.pack("<2sHI", b"II", 42, 8 + len(strip) + 2 * c) + strip + struct.pack(f"<{c}H", *[bits] * c) + directory
    )


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize(("photometric", "channels"), [(2, 3), (2, 4), (5, 4)])
def test_sixteen_bit_tiff_is_rounded(photometric, channels, compression):
    values = np.stack([np.roll(SIXTEEN, i) for i in range(channels)], 1)[None].astype(np.uint16)
    rounded = np.round(values / 257).astype(np.uint8)
    if channels == 4 and photometric == 2:
        values[..., 3], rounded[..., 3] = 65535, 255
    np.testing.assert_array_equal(
        np.asarray(decode(tiff(values, photometric, compression)).image),
        np.asarray(decode(tiff(rounded, photometric, compression)).image),
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [1, 8])
def test_white_is_zero_where_the_file_says_so(dtype, compression):
    top = np.iinfo(dtype).max
    values = np.array([[0, top // 4, top]], dtype)
    assert np.asarray(decode(tiff(values, 1, compression)).image)[0, :, 0].tolist() == [0, 64 if top > 255 else 63, 255]
    assert np.asarray(decode(tiff(values, 0, compression)).image)[0, :, 0].tolist() == [
        255,
        191 if top > 255 else 192,
        0,
    ]


def test_a_truncated_file_of_16_bits_is_read_as_far_as_it_goes():
    data = png(16, 2, [1000] * 3 * 5000)
    with pytest.raises(ImageError):
        decode(data[:-30])
    result = decode(data[:-30], policy=Policy(allow_truncated=True))
    assert result.flags == ("truncated",)
    assert result.image.getpixel((0, 0)) in ((4, 4, 4), (0, 0, 0))


def test_avif_of_a_general_brand_is_still_avif():
    data = encoded(quadrants((64, 48)), "AVIF", quality=95)
    general = data.replace(b"ftypavif", b"ftypmif1", 1)
    assert general != data
    np.testing.assert_array_equal(np.asarray(decode(general).image), np.asarray(decode(data).image))


def test_cmyk_keeps_its_colours():
    inks = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow make red
    for data in (encoded(inks, "TIFF"), encoded(inks, "JPEG", quality=100)):
        assert np.abs(np.asarray(decode(data).image)[8, 8].astype(int) - (255, 0, 0)).max() <= 8


def test_one_bit_keeps_its_pattern():
    pattern = np.array([[0, 255, 0, 255, 255]], np.uint8)
    data = encoded(Image.fromarray(pattern).convert("1"))
    assert np.asarray(decode(data).image)[0, :, 1].tolist() == pattern[0].tolist()


def test_progressive_equals_baseline():
    smooth = quadrants((64, 64))
    plain, progressive = (decode(encoded(smooth, "JPEG", quality=90, progressive=p)).image for p in (False, True))
    np.testing.assert_array_equal(np.asarray(plain), np.asarray(progressive))


def test_what_is_there_of_a_truncated_file_is_right():
    image = Image.fromarray(np.repeat(np.arange(0, 256, 4, np.uint8), 64).reshape(64, 64)).convert("RGB")
    noisy = Image.composite(image, Image.effect_noise((64, 64), 90).convert("RGB"), Image.new("L", (64, 64), 128))
    data = encoded(noisy, "JPEG", quality=95)
    whole = np.asarray(decode(data).image)
    part = np.asarray(decode(data[: 2 * len(data) // 3], policy=Policy(allow_truncated=True)).image)
    np.testing.assert_array_equal(part[:16], whole[:16])


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1), (1, 1)])
def test_extreme_shapes_become_squares(size):
    from sslzoo.images.preprocess import resize_crop
    from sslzoo.spec import Preprocess

    image = decode(encoded(Image.new("RGB", size, (9, 99, 200))), target=96).image
    pixels = resize_crop(image, Preprocess(96, 96))
    assert pixels.shape == (96, 96, 3)
    assert np.all(pixels == (9, 99, 200))


def test_a_bomb_is_refused_by_its_header_alone():
    import resource

    header = bytearray(encoded(Image.new("L", (8, 8))))
    header[16:24] = (60000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="60000x60000 is more than 178,956,970 pixels"):
        decode(bytes(header))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; the pixels would be 3.6 GB


def grey(values, dtype):
    return decode(encoded(Image.fromarray(np.array([values], dtype)), "TIFF")).image


def test_floats_and_integers_beyond_the_usual_are_scaled_by_their_range():
    for values, dtype, expected in (
        ([-1, 0, 1], np.float32, [0, 128, 255]),
        ([0, 50, 200, 1000], np.float32, [0, 13, 51, 255]),
        ([0, 100, 255], np.float32, [0, 100, 255]),
        ([np.nan, np.inf, -np.inf, 1], np.float32, [0, 0, 0, 255]),
        ([np.nan, np.nan], np.float32, [0, 0]),
        ([-3, -3], np.float32, [0, 0]),
        ([0, 250_000, 1_000_000], np.int32, [0, 64, 255]),
        ([-100, 0, 100], np.int32, [0, 128, 255]),
    ):
        assert np.asarray(grey(values, dtype))[0, :, 0].tolist() == expected, values


def test_twelve_bits_are_scaled_by_twelve():
    # TIFF 6.0 by hand: one strip of two 12-bit pixels, 0x800 and 0xFFF, packed into three bytes
    entries = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    ifd = (
        struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in entries) + bytes(4)
    )
    data = struct.pack("<2sHI", b"II", 42, 12) + b"\x80\x0f\xff" + b"\0" + ifd
    assert np.asarray(decode(data).image)[0, :, 0].tolist() == [128, 255]


def test_damaged_metadata_leaves_the_orientation_that_can_be_read():
    exif = Image.Exif()
    exif[274], exif[282] = 6, 72.0
    block = exif.tobytes()
    order = "<" if block[6:8] == b"II" else ">"
    broken = block.replace(struct.pack(f"{order}HH", 282, 5), struct.pack(f"{order}HH", 282, 99))  # no type 99 in TIFF
    assert broken != block
    stored = quadrants().transpose(Image.Transpose.ROTATE_90)
    result = decode(encoded(stored, "JPEG", quality=100, exif=broken))
    assert np.abs(np.asarray(result.image)[5, 5].astype(int) - (255, 0, 0)).max() < 30
    assert (result.width, result.height) == (40, 24)
    assert decode(encoded(quadrants(), "JPEG", exif=block[:20])).image.size == (40, 24)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_scaled_down_photo_keeps_its_stated_size(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    stored = (
        quadrants((2000, 1999)).transpose(Image.Transpose.ROTATE_90) if orientation == 6 else quadrants((2000, 1999))
    )
    result = decode(encoded(stored, "JPEG", exif=exif), target=100)
    assert result.image.size == (250, 250)
    assert (result.width, result.height) == (2000, 1999)


def test_the_limit_may_lie_above_pillows_own():
    data = encoded(Image.new("1", (20_000, 10_000)))
    with pytest.raises(ImageError, match="20000x10000 is more than 178,956,970 pixels"):
        decode(data)
    result = decode(data, policy=Policy(pixel_limit=200_000_000))
    assert (result.width, result.height) == (20_000, 10_000)


def test_drawing_programs_are_never_run():
    eps = encoded(quadrants(), "EPS")
    with pytest.raises(ImageError, match="EPS holds drawing commands, which are not run"):
        decode(eps)


def test_a_png_cut_after_its_pixels_is_truncated_all_the_same():
    data = encoded(quadrants())[:-12] + struct.pack(">I4s", 100, b"tEXt") + b"cut"
    with pytest.raises(ImageError, match="truncated: the picture is not whole"):
        decode(data)
    result = decode(data, policy=Policy(allow_truncated=True))
    assert result.flags == ("truncated",)
    np.testing.assert_array_equal(np.asarray(result.image), np.asarray(quadrants()))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty file (0 bytes)"),
        (b"\n<!DOCTYPE html><title>404", "not an image but HTML"),
        ("Nötizen, kein Foto\nmehr".encode() * 20 + b"\xc3", "not an image but text: 'Nötizen, kein Foto'"),
        ("Notes".encode("utf-16"), "not an image but text: 'Notes'"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG holds drawing commands"),
        (b"%PDF-1.7\n\xe2\xe3", "not an image but a PDF document"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00", "not an image but a video (MP4 or QuickTime)"),
        (b"\x1aE\xdf\xa3\x01\x00", "not an image but a video (Matroska"),
        (b"PK\x03\x04\x14\x00", "not an image but a zip archive"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL, which is not read here; save it as PNG or JPEG"),
        (b"v/1\x01\x02\x00\x00\x00", "OpenEXR, which is not read here"),
        (bytes(600), "it begins with 512 zero bytes"),
        (b"\x07\x9a\xff\x03junk", "begins with the bytes 07 9a ff 03 6a 75 6e 6b"),
        (encoded(quadrants())[:30], "begins as PNG does, but its header is damaged, cut off or of an unknown kind (30"),
        (encoded(quadrants(), "JPEG")[:40], "truncated: its header is not whole in the file's 40 bytes"),
        (encoded(quadrants((400, 300)), "JPEG")[:900], "truncated: the picture is not whole in the file's 900 bytes"),
        (encoded(quadrants((400, 300)), "PNG")[:200], "truncated: the picture is not whole in the file's 200 bytes"),
    ],
)
@pytest.mark.parametrize("kind", [bytes, io.BytesIO])
def test_the_reason_tells_what_the_file_is(data, reason, kind):
    with pytest.raises(ImageError) as failed:
        decode(kind(data))
    assert reason in failed.value.reason


def test_a_truncated_webp_says_how_long_it_should_be():
    data = encoded(quadrants((400, 300)), "WEBP")
    with pytest.raises(ImageError, match=rf"truncated: the file ends after 99 of {len(data)} bytes"):
        decode(data[:99])

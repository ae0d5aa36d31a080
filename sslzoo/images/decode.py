"""The one decode policy: from a file's bytes to an upright 8-bit RGB picture, or an ImageError with the reason.

- The orientation that the file states (EXIF) is applied.
- More than 8 bits a channel are scaled to 8, never clipped or cut: integers by the bits that the file states (16: by 1/257),
  what lies outside 0 to 65535, and floats outside 0 to 1 or 0 to 255, by their own range.
- Transparency is laid over a background, white unless asked otherwise; palette, CMYK and the rest are converted to RGB.
- Of an animation or a multi-page file the first frame counts (of HEIC the primary one), and the result says so.
- A truncated file fails, unless the policy says otherwise.
- A file that states more pixels than the limit is refused before its pixels are read.
- EPS and WMF, which are programs that draw, are never run: they fail on every machine alike.
No global setting of Pillow is changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from sslzoo.errors import ImageError
from sslzoo.images import unreadable

PIXEL_LIMIT = 178_956_970  # a quarter of a gigabyte as RGB, Pillow's own limit before it warns of a decompression bomb


@dataclass(frozen=True)
class Policy:
    """What may be chosen: the colour (0 to 255) under transparency, whether truncated files count, and the pixel limit."""

    background: tuple[int, int, int] = (255, 255, 255)
    allow_truncated: bool = False
    pixel_limit: int = PIXEL_LIMIT

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Policy:
        """The policy that an embeddings folder was made under."""
        values = manifest.get("decode", {})
        return cls(**{**values, "background": tuple(values["background"])} if values else {})

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "background": list(self.background)}

    def space(self, space: str) -> str:
        """The space of vectors made under this policy; the pixel limit changes no pixel and so has no part in it."""
        if replace(self, pixel_limit=PIXEL_LIMIT) == DEFAULT:
            return space
        return hashlib.sha256(f"{space} {self.background} {self.allow_truncated}".encode()).hexdigest()


DEFAULT = Policy()

#: what makes the picture of an orientation (TIFF 6.0, tag 274) upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


#: Of 16 bits a channel Pillow reads the upper 8. Read in the other order of bytes, its raw modes give the lower 8; of grey
#: with alpha, which has no other order, the bytes can be read as four channels. With each, where the lower bytes are then.
LOWER: dict[str, tuple[str, slice | list[int]]] = {"LA;16B": ("RGBA", [1, 1, 1, 3])}
for _mode in ("RGB", "RGBX", "RGBA", "CMYK"):
    _swapped = "B" if sys.byteorder == "little" else "L"
    for _order, _other in (("L", "B"), ("B", "L"), ("N", _swapped)):
        LOWER[f"{_mode};16{_order}"] = (f"{_mode};16{_other}", slice(None))

#: Grey of 2 and 4 bits is spread over 0 to 255 in these steps, by which Pillow leaves the grey that isn't to be seen as it is
STEPS = {"L;2": 85, "L;4": 17}


#: Pillow reads an image's pixels when they are first asked for, and one that is given several times is asked by several
#: threads. There are many locks, so that other images rarely wait; an address in memory is a multiple of 16
LOCKS = [threading.Lock() for _ in range(61)]

#: A filter of warnings: decoders warn of bombs and odd metadata; our limit and errors speak instead
QUIET = ("ignore", None, Warning, re.compile(r"(PIL|pillow_heif|sslzoo\.images)\b"), 0)


@dataclass(frozen=True)
class Seen:
    """What decoding found beside the pixels: the full size in px, and flags such as "first-frame"."""

    width: int
    height: int
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decoded:
    """An RGB image as the viewer sees it, its full size in px, and flags such as "first-frame"."""

    image: Image.Image
    width: int
    height: int
    flags: tuple[str, ...] = ()

    @property
    def seen(self) -> Seen:
        """All but the pixels."""
        return Seen(self.width, self.height, self.flags)


def decode(
    source: bytes | BinaryIO | Image.Image,
    *,
    name: str = "",
    target: int | None = None,
    policy: Policy = DEFAULT,
) -> Decoded:
    """Decodes one image by the policy above.

    With `target`, a JPEG may come scaled down by 2, 4 or 8 while its short side stays at least twice `target` px,
    which is several times faster for camera-sized photos. Raises ImageError, whose reason names the cause.
    """
    opened = False
    try:
        with _quiet():
            if isinstance(source, Image.Image):
                with LOCKS[id(source) // 16 % len(LOCKS)]:
                    return _to_rgb(source, source.size, policy)
            if is_heif(source):
                image, several = _open_heif(source, policy.pixel_limit)
                decoded = _to_rgb(image, image.size, policy)
                return replace(decoded, flags=("first-frame", *decoded.flags)) if several else decoded
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            with _open(file) as image:
                opened = True
                size = image.size
                _check_pixels(size, policy.pixel_limit)
                if image.format in ("EPS", "WMF"):
                    raise ImageError(f"{image.format} holds drawing commands, which are not run; save it as PNG")
                if target is not None and image.format == "JPEG":
                    shrink = 2 * target / min(size)
                    image.draft("RGB", (round(size[0] * shrink), round(size[1] * shrink)))
                again = _open(file) if _raw_modes(image) <= LOWER.keys() else None
                return _to_rgb(image, size, policy, again)
    except ImageError as error:
        raise ImageError(error.reason, name) from None
    except Image.DecompressionBombError as error:  # from inside a plugin: Pillow's own limit, and the size in its words
        raise ImageError(str(error).partition(",")[0], name) from None
    except UnidentifiedImageError:
        raise ImageError(unreadable.unknown(*_beginning(source)), name) from None
    except MemoryError:
        raise ImageError("not enough memory to decode it", name) from None
    except Exception as error:  # a damaged file can raise anything from inside a decoder, and must not stop a run
        reason = unreadable.truncated(*_beginning(source), error, opened=opened)
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ImageError(reason or said, name) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of `QUIET`.

    `warnings.catch_warnings` would put back the whole list of filters, which threads that overlap do in the wrong order.
    """
    filters: Any = warnings.filters  # a list, whatever typeshed says
    filters.insert(0, QUIET)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # somebody has reset all filters meanwhile
            filters.remove(QUIET)


def _beginning(source: bytes | BinaryIO | Image.Image) -> tuple[bytes, int]:
    """The first bytes of a file, and how many it has."""
    if isinstance(source, bytes):
        return source[: unreadable.HEAD], len(source)
    if isinstance(source, Image.Image):  # the caller's, whose file isn't ours to read
        return b"", 0
    size = source.seek(0, io.SEEK_END)
    source.seek(0)
    return source.read(unreadable.HEAD), size


def _open(file: BinaryIO) -> Image.Image:
    """As Pillow opens a file, but also one above Pillow's own limit of pixels: ours is the policy's, and names the size."""
    try:
        return Image.open(file)
    except Image.DecompressionBombError:
        file.seek(0)
        head = file.read(16)
        for name in Image.ID:
            factory, accept = Image.OPEN[name]
            if accept is not None and accept(head) is True:
                file.seek(0)
                with contextlib.suppress(SyntaxError):  # how a plugin says that the file isn't its own
                    return factory(file, "")
        raise


def is_heif(source: bytes | BinaryIO) -> bool:
    """Whether the file says it is HEIF or HEIC (ISO 23008-12: an `ftyp` box with such a brand), whatever its name."""
    if isinstance(source, bytes):
        head = source[:256]
    else:
        head = source.read(256)
        source.seek(0)
    if head[4:8] != b"ftyp":
        return False
    brand, others = head[8:12], head[16 : int.from_bytes(head[:4], "big")]
    if brand in (b"mif1", b"msf1"):  # any codec's, so that the compatible brands tell; AVIF is Pillow's
        return not {others[at : at + 4] for at in range(0, len(others), 4)} & {b"avif", b"avis"}
    return brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis")


def _open_heif(source: bytes | BinaryIO, limit: int) -> tuple[Image.Image, bool]:
    """The primary picture of a HEIF file, turned as the file says, and whether there are more."""
    try:
        import pillow_heif
    except ImportError:
        raise ImageError("HEIC needs another package: pip install 'sslzoo[heif]'") from None
    # opened by the package's own function: registering it with Pillow would change Pillow for everyone
    file = pillow_heif.open_heif(io.BytesIO(source) if isinstance(source, bytes) else source)
    _check_pixels(file.size, limit)
    return file.to_pillow(), len(file) > 1


def _check_pixels(size: tuple[int, int], limit: int) -> None:
    if size[0] * size[1] > limit:
        raise ImageError(f"{size[0]}x{size[1]} is more than {limit:,} pixels")


def _to_rgb(image: Image.Image, size: tuple[int, int], policy: Policy, again: Image.Image | None = None) -> Decoded:
    _check_pixels(image.size, policy.pixel_limit)
    flags = ["first-frame"] if getattr(image, "n_frames", 1) > 1 else []
    stated, raw = image.size, _raw_modes(image)  # the size is less than `size` for a JPEG that is decoded scaled down
    if _load(image, policy):
        flags.append("truncated")
    turn = orientation(image)
    width, height = size if stated != size else image.size  # Pillow has turned some TIFF files by now
    if turn >= 5:
        width, height = height, width
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _scale_depth(image)
    elif again is not None:
        image = _sixteen_bits(image, again, policy)
    elif (step := max(STEPS.get(mode, 1) for mode in raw)) > 1:
        image = _scale_hidden(image, step)
    if turn in TURNS:
        image = image.transpose(TURNS[turn])
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*policy.background, 255)), image)
    return Decoded(image.convert("RGB"), width, height, tuple(flags))


def _load(image: Image.Image, policy: Policy) -> bool:
    """Decodes the pixels; returns whether the file was truncated, where the policy allows that."""
    try:
        image.load()
    except OSError as error:
        cut = "truncated" in str(error).lower()
        if not (policy.allow_truncated and isinstance(image, ImageFile.ImageFile) and cut):
            raise
        image.tile = []  # what was decoded so far counts as the whole; Pillow's own switch for this is global
        return True
    return False


def _raw_modes(image: Image.Image) -> set[str]:
    """How the pixels lie in a file that was opened and not yet decoded, in Pillow's names; {""} where it doesn't tell."""
    arguments = [tile.args for tile in getattr(image, "tile", [])]
    return {str(args[0] if isinstance(args, tuple) and args else args) for args in arguments} or {""}


def orientation(image: Image.Image) -> int:
    """The EXIF (or XMP) orientation, 1 to 8; 1 where there is none that makes sense."""
    try:
        turn = image.getexif().get(0x0112, 1)  # TIFF 6.0, tag 274
    except Exception:  # damaged metadata; the pixels may be whole
        return 1
    return turn if turn in TURNS else 1


def _scale_depth(image: Image.Image) -> Image.Image:
    """8-bit grey from integers of more bits or from floats; what fits 8 bits or 0…1 as it is keeps its scale."""
    values = np.asarray(image).astype(np.float32)
    finite = np.where(np.isfinite(values), values, 0)
    low, high = min(float(finite.min()), 0.0), float(finite.max())
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        bits = tags.get(258, (16,))[0]  # TIFF: BitsPerSample; a 12-bit picture fills 12 of the 16
        top = 2.0 ** (bits if 8 < bits < 16 and high < 2**bits else 16) - 1
    elif image.mode == "I":
        top = 65535.0 if low == 0 and high <= 65535 else high
    elif low == 0 and high <= 255:
        top = 1.0 if high <= 1 else 255.0
    else:
        top = high
    scaled = ((finite - low) * (255 / ((top - low) or 1))).clip(0, 255).round().astype(np.uint8)
    white_is_zero = tags.get(262) == 0  # TIFF: PhotometricInterpretation, which Pillow heeds up to 8 bits only
    grey = Image.fromarray(255 - scaled if white_is_zero else scaled)
    if isinstance(hidden := image.info.get("transparency"), int):  # PNG may name one grey value that isn't to be seen
        grey.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey


def _sixteen_bits(image: Image.Image, again: Image.Image, policy: Policy) -> Image.Image:
    """8-bit colour from 16 bits a channel: `image` has the upper bytes, and `again`, the same file, will give the lower.

    v/257 for v = 256 upper + lower is upper + (lower - upper)/257, which rounds to upper and at most 1 more or less.
    """
    (raw,) = _raw_modes(again)
    other, channels = LOWER[raw]
    again.tile = [  # type: ignore[attr-defined]
        tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
        for tile in again.tile  # type: ignore[attr-defined]
    ]
    _load(again, policy)
    upper, lower = np.asarray(image), np.asarray(again)[..., channels]  # uint8, as all that follows: it may be large
    up, down = (lower > upper) & (lower - upper > 128), (upper > lower) & (upper - lower > 128)
    colour = Image.frombytes(image.mode, image.size, (upper + up - down).tobytes())
    if isinstance(hidden := image.info.get("transparency"), tuple):  # PNG may name one colour that isn't to be seen
        named = np.array(hidden)
        seen = ((upper != named >> 8) | (lower != named & 255)).any(axis=-1)
        colour.putalpha(Image.fromarray(np.where(seen, 255, 0).astype(np.uint8)))
    return colour


def _scale_hidden(image: Image.Image, step: int) -> Image.Image:
    """The picture with the one grey value that isn't to be seen (PNG) on the scale of its pixels."""
    hidden = image.info.get("transparency")
    if not isinstance(hidden, int) or hidden > 255 // step:
        return image
    image = image.copy()  # it may be the caller's
    image.info["transparency"] = hidden * step
    return image

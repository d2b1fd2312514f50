"""One way to read image files, for training and for devices, whatever is in them."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wenable.data.image_folder import ImageFiles
from wenable.data.transforms import ImageSettings, evaluation_transform
from wenable.images import UnreadableImageError, find_images, read_image
from wenable.runtime import prepare_image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 7), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
ALPHA = np.repeat(np.array([[0, 128, 255]], np.uint8), 9, 0).repeat([2, 3, 2], 1)
DEEP = GREY.astype(np.uint16) * 257  # the same greys in 16 bits


def in_colour(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, 2)


def on_white(pixels_hwc: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The textbook's formula: a share of the colour, and the rest white."""
    share = alpha[..., None] / 255
    return np.rint(pixels_hwc * share + 255 * (1 - share)).astype(np.uint8)


def png(pixels: np.ndarray, kind: int, depth: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand: Pillow writes no 16-bit colours."""
    rows = pixels.astype(">u2" if depth == 16 else "u1").reshape(len(pixels), -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def tiff(pixels: np.ndarray, bits: int, *, photometric: int = 1, sign: int = 1, order: str = "<"):
    """A grey TIFF written by hand, in either order of bytes, with any meaning of its values."""
    if bits == 12:  # packed, two pixels in three bytes, each row to a whole byte
        text = ["".join(f"{value:012b}" for value in row) for row in pixels]
        data = b"".join(int(t + "0" * (-len(t) % 8), 2).to_bytes(-(-len(t) // 8)) for t in text)
    else:
        kind = {1: "u", 2: "i", 3: "f"}[sign]
        data = pixels.astype(f"{order}{kind}{bits // 8}").tobytes()
    high, wide = pixels.shape
    tags = {256: wide, 257: high, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1,
            278: high, 279: len(data), 339: sign}  # fmt: skip
    entries = b"".join(
        struct.pack(f"{order}HHIHH", number, 3, 1, value, 0) for number, value in tags.items()
    )
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}I", 8 + len(data)) + data + directory


def saved(image: Image.Image, format: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def palette(transparency: int | bytes | None = None) -> tuple[bytes, np.ndarray]:
    """An image of four colours, of which some may be transparent; and its colours."""
    numbers = (GREY % 4).astype(np.uint8)
    colours = RNG.integers(0, 256, (4, 3), dtype=np.uint8)
    image = Image.fromarray(numbers, "L")
    image = Image.frombytes("P", image.size, numbers.tobytes())
    image.putpalette(colours.tobytes())
    settings = {} if transparency is None else {"transparency": transparency}
    shown = colours[numbers]
    if isinstance(transparency, int):
        shown = on_white(shown, np.where(numbers == transparency, 0, 255))
    elif transparency is not None:
        shown = on_white(shown, np.frombuffer(transparency, np.uint8)[numbers])
    return saved(image, "PNG", **settings), shown


def clear_grey(values: np.ndarray) -> np.ndarray:
    """Which pixels are of the first pixel's grey."""
    return np.where(values == values[0, 0], 0, 255)


RGBA, LA = np.dstack([COLOUR, ALPHA]), np.dstack([GREY, ALPHA])
CMYK = RNG.integers(0, 256, (9, 7, 4), dtype=np.uint8)
KINDS: dict[str, tuple[bytes, np.ndarray]] = {
    "RGB": (saved(Image.fromarray(COLOUR), "PNG"), COLOUR),
    "L": (saved(Image.fromarray(GREY), "PNG"), in_colour(GREY)),
    "1": (saved(Image.fromarray(GREY > 99), "PNG"), in_colour(255 * (GREY > 99).astype(np.uint8))),
    "RGBA": (saved(Image.fromarray(RGBA), "PNG"), on_white(COLOUR, ALPHA)),
    "RGBA TIFF": (saved(Image.fromarray(RGBA), "TIFF"), on_white(COLOUR, ALPHA)),
    "LA": (saved(Image.fromarray(LA), "PNG"), on_white(in_colour(GREY), ALPHA)),
    "P": palette(),
    "P, one clear": palette(2),
    "P, shares clear": palette(bytes([255, 0, 100, 255])),
    "L, one clear": (
        png(GREY, 0, 8, (b"tRNS", struct.pack(">H", GREY[0, 0]))),
        on_white(in_colour(GREY), clear_grey(GREY)),
    ),
    "RGB, one clear": (
        png(COLOUR, 2, 8, (b"tRNS", struct.pack(">HHH", *COLOUR[0, 0]))),
        on_white(COLOUR, np.where((COLOUR[0, 0] == COLOUR).all(2), 0, 255)),
    ),
    "GIF, one clear": (
        saved(Image.open(io.BytesIO(palette(1)[0])), "GIF", transparency=1), np.empty(0),
    ),
    "I;16 PNG": (png(DEEP, 0, 16), in_colour(GREY)),
    "I;16 PNG, one clear": (
        png(DEEP, 0, 16, (b"tRNS", struct.pack(">H", DEEP[0, 0]))),
        on_white(in_colour(GREY), clear_grey(GREY)),
    ),
    "LA of 16 bits": (
        png(np.dstack([DEEP, ALPHA.astype(int) * 257]), 4, 16), on_white(in_colour(GREY), ALPHA),
    ),
    "RGB of 16 bits": (png(COLOUR.astype(int) * 257, 2, 16), COLOUR),
    "RGBA of 16 bits": (png(RGBA.astype(int) * 257, 6, 16), on_white(COLOUR, ALPHA)),
    "I;16 TIFF": (tiff(DEEP, 16), in_colour(GREY)),
    "I;16B TIFF": (tiff(DEEP, 16, order=">"), in_colour(GREY)),
    "I;16 TIFF by Pillow": (saved(Image.fromarray(DEEP), "TIFF"), in_colour(GREY)),
    "I;16 TIFF, white is 0": (tiff(DEEP, 16, photometric=0), in_colour(255 - GREY)),
    "L TIFF, white is 0": (tiff(GREY, 8, photometric=0), in_colour(255 - GREY)),
    "TIFF of 12 bits": (tiff(GREY.astype(int) * 4095 // 255, 12), np.empty(0)),
    "PGM to 1023": (
        b"P5 7 9 1023\n" + (GREY.astype(int) * 1023 // 255).astype(">u2").tobytes(),
        in_colour(np.rint((GREY.astype(int) * 1023 // 255) * (255 / 1023)).astype(np.uint8)),
    ),
    "PGM to 65535": (b"P5 7 9 65535\n" + DEEP.astype(">u2").tobytes(), in_colour(GREY)),
    "JPEG 2000 of 16 bits": (
        saved(Image.fromarray(DEEP), "JPEG2000", irreversible=False), in_colour(GREY),
    ),
    "CMYK TIFF": (
        saved(Image.frombytes("CMYK", (7, 9), CMYK.tobytes()), "TIFF"),
        np.rint((255.0 - CMYK[..., :3]) * (255.0 - CMYK[..., 3:]) / 255).astype(np.uint8),
    ),
    "YCbCr TIFF": (
        saved(Image.fromarray(COLOUR).convert("YCbCr"), "TIFF"), np.empty(0),
    ),
    "LAB TIFF": (
        saved(Image.fromarray(COLOUR).convert("LAB"), "TIFF"), np.empty(0),
    ),
    "WEBP": (saved(Image.fromarray(RGBA), "WEBP", lossless=True), on_white(COLOUR, ALPHA)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_a_device_get_the_same_array_of_the_same_file(tmp_path: Path, kind: str):
    path = tmp_path / "image"
    path.write_bytes(KINDS[kind][0])
    settings = ImageSettings(8, crop_pct=0.9, interpolation="bicubic")
    trained = evaluation_transform(settings)(ImageFiles(((str(path), 0),), ("a",)).read(0))
    on_device = prepare_image(path, settings.preprocessing())
    np.testing.assert_allclose(on_device[0], trained.numpy(), rtol=0, atol=1e-6)
    with path.open("rb") as file:
        np.testing.assert_array_equal(prepare_image(file, settings.preprocessing()), on_device)


@pytest.mark.parametrize("kind", [kind for kind, (_, pixels) in KINDS.items() if pixels.size])
def test_an_image_shows_what_its_file_says(kind: str):
    data, expected = KINDS[kind]
    found = np.asarray(read_image(io.BytesIO(data))).astype(int)
    # One step for what is rounded twice: shares of a colour, inks, and deep colours.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1)
    if not any(word in kind for word in ("A", "shares", "CMYK", "WEBP")):
        np.testing.assert_array_equal(found, expected)


def test_kinds_that_say_their_colours_in_another_way():
    gif = np.asarray(read_image(io.BytesIO(KINDS["GIF, one clear"][0])))
    np.testing.assert_array_equal(gif[GREY % 4 == 1], 255)
    twelve = np.asarray(read_image(io.BytesIO(KINDS["TIFF of 12 bits"][0])))
    np.testing.assert_allclose(twelve.astype(int), in_colour(GREY), rtol=0, atol=1)
    for kind, most in (("YCbCr TIFF", 3), ("LAB TIFF", 24)):
        other = np.asarray(read_image(io.BytesIO(KINDS[kind][0])))
        np.testing.assert_allclose(other.astype(int), COLOUR, rtol=0, atol=most)


def test_deep_greys_are_rounded_and_not_cut_off():
    values = np.arange(0, 65536, 97, dtype=np.uint16)[None]
    found = np.asarray(read_image(io.BytesIO(saved(Image.fromarray(values), "PNG")), "L"))
    np.testing.assert_array_equal(found, np.rint(values / 65535 * 255))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_an_image_is_upright_as_its_exif_says(format: str, orientation: int):
    # Where the first row and the first column of the stored image lie, by the EXIF standard.
    upright = [
        lambda a: a, lambda a: a[:, ::-1], lambda a: a[::-1, ::-1], lambda a: a[::-1],
        lambda a: a.swapaxes(0, 1), lambda a: a.swapaxes(0, 1)[:, ::-1],
        lambda a: a[::-1, ::-1].swapaxes(0, 1), lambda a: a.swapaxes(0, 1)[::-1],
    ][orientation - 1]  # fmt: skip
    image = Image.fromarray(COLOUR.repeat(8, 0).repeat(8, 1))
    exif = Image.Exif()
    exif[274] = orientation
    stored = np.asarray(read_image(io.BytesIO(saved(image, format))))
    turned = saved(image, format, exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(io.BytesIO(turned))), upright(stored))


def test_a_deep_image_is_turned_too():
    exif = Image.Exif()
    exif[274] = 6
    data = saved(Image.fromarray(DEEP), "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(io.BytesIO(data), "L")), np.rot90(GREY, -1))


def test_damaged_exif_does_not_hide_the_picture():
    data = png(COLOUR, 2, 8, (b"eXIf", b"MM\0*\0\0\xff\xff\xff"))
    np.testing.assert_array_equal(np.asarray(read_image(io.BytesIO(data))), COLOUR)


REFUSED = {
    "floats": (tiff(GREY / 255, 32, sign=3), "its pixels are floats"),
    "floats by Pillow": (saved(Image.fromarray(GREY / np.float32(9)), "TIFF"), "are floats"),
    "PFM": (saved(Image.fromarray(GREY.astype(np.float32)), "PPM"), "its pixels are floats"),
    "32 bits": (tiff(GREY, 32), "are 32-bit integers"),
    "32 bits, with a sign": (tiff(GREY, 32, sign=2), "its pixels have a sign"),
    "16 bits, with a sign": (tiff(GREY, 16, sign=2), "its pixels have a sign"),
    "8 bits, with a sign": (tiff(GREY // 2, 8, sign=2), "its pixels have a sign"),
    "a deep clear colour": (
        png(COLOUR.astype(int) * 257, 2, 16, (b"tRNS", struct.pack(">HHH", 257, 514, 771))),
        "16-bit colours is transparent",
    ),
    "no image": (b"not an image", "it is no image that Pillow knows"),
    "empty": (b"", "it is no image that Pillow knows"),
    "cut off": (saved(Image.fromarray(COLOUR), "PNG")[:150], "truncated"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_tells_no_black_and_white_or_is_damaged_is_refused_by_name(tmp_path: Path, kind: str):
    data, reason = REFUSED[kind]
    path = tmp_path / "strange.img"
    path.write_bytes(data)
    settings = ImageSettings(8)
    for read in (
        lambda: ImageFiles(((str(path), 0),), ("a",)).read(0),
        lambda: prepare_image(path, settings.preprocessing()),
    ):
        with pytest.raises(UnreadableImageError, match=reason) as error:
            read()
        assert str(error.value).startswith(f"the image {path} cannot be read: ")
        assert "\n" not in str(error.value)


def test_a_missing_file_and_a_named_stream_are_named(tmp_path: Path):
    with pytest.raises(UnreadableImageError, match=r"no\.png cannot be read: No such file"):
        read_image(tmp_path / "no.png")
    with pytest.raises(UnreadableImageError, match="the image standard input cannot be read"):
        read_image(io.BytesIO(b"?"), name="standard input")


def test_images_are_found_through_links_and_the_rest_is_counted(tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    folder = tmp_path / "folder"
    for path in ("a.PNG", "deep/b.avif", ".ipynb_checkpoints/c.png", "__MACOSX/d.png"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    elsewhere.mkdir()
    for name in ("._e.png", "notes.txt", "README", "more.txt"):
        (folder / name).touch()
    (elsewhere / "z.jp2").touch()
    (folder / "linked").symlink_to(elsewhere)
    (folder / "one.gif").symlink_to(elsewhere / "z.jp2")
    (folder / "gone.png").symlink_to(tmp_path / "gone")
    (folder / "deep" / "up").symlink_to(folder)
    (elsewhere / "loop").symlink_to(elsewhere)
    found = find_images(folder)
    names = ["a.PNG", "deep/b.avif", "linked/z.jp2", "one.gif"]
    assert found.images == tuple(str(folder / name) for name in names)
    real = [folder / names[0], folder / names[1], elsewhere / "z.jp2", elsewhere / "z.jp2"]
    assert found.files == tuple((path.stat().st_dev, path.stat().st_ino) for path in real)
    assert found.left_out == {
        "hidden": 3,
        "not an image by its name (.txt)": 2,
        "not an image by its name (no suffix)": 1,
        "a link to nothing": 1,
        "a link back to a folder that it lies in": 2,
    }

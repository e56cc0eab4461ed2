from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnsplitter.data.photos import PhotoImages, decode, is_whole
from cnnsplitter.errors import DataError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def two_halves(width: int, height: int) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def noise(width: int = 60, height: int = 40) -> Image.Image:
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def colour(image: torch.Tensor, y: int, x: int) -> tuple[int, ...]:
    return tuple(image[:, y, x].tolist())


def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path: Path) -> None:
    noise(16, 16).save(tmp_path / "a.png")
    expected = torch.from_numpy(np.array(noise(16, 16))).permute(2, 0, 1)
    assert torch.equal(decode(tmp_path / "a.png", 16, 3), expected)


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 40), (9, 300), (3, 2), (1, 1)])
def test_any_size_becomes_a_square(tmp_path: Path, width: int, height: int) -> None:
    noise(width, height).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", 8, 3).shape == (3, 8, 8)
    assert decode(tmp_path / "a.png", 8, 1).shape == (1, 8, 8)


def test_the_centre_is_kept(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 20), RED)
    image.paste(BLUE, (20, 0, 40, 20))
    image.save(tmp_path / "a.png")
    assert colour(decode(tmp_path / "a.png", 20, 3), 10, 0) == BLUE
    assert colour(decode(tmp_path / "a.png", 20, 3), 10, 19) == BLUE


def test_the_camera_orientation_is_undone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    two_halves(16, 16).save(tmp_path / "a.png", exif=exif)
    image = decode(tmp_path / "a.png", 16, 3)
    assert colour(image, 8, 1) == BLUE
    assert colour(image, 8, 14) == RED


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_any_mode_becomes_rgb_or_grey(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(tmp_path / f"a.{suffix}")
    assert colour(decode(tmp_path / f"a.{suffix}", 8, 3), 4, 4) == (255, 255, 255)
    assert colour(decode(tmp_path / f"a.{suffix}", 8, 1), 4, 4) == (255,)


def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 32896, dtype=np.uint16)).save(tmp_path / "a.png")
    assert colour(decode(tmp_path / "a.png", 8, 3), 4, 4) == (128, 128, 128)


def test_a_palette_with_transparency_is_read(tmp_path: Path) -> None:
    image = two_halves(8, 8).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes([0] * 8))
    assert is_whole(tmp_path / "a.png")
    assert colour(decode(tmp_path / "a.png", 8, 3), 4, 1) == RED


def test_a_large_jpeg_looks_the_same_with_less_detail_decoded(tmp_path: Path) -> None:
    two_halves(800, 800).save(tmp_path / "a.jpg", quality=95)
    image = decode(tmp_path / "a.jpg", 16, 3).int()
    assert (image[:, 8, 2] - torch.tensor(RED)).abs().max() < 8
    assert (image[:, 8, 13] - torch.tensor(BLUE)).abs().max() < 8


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "tif"])
def test_truncated_files_are_found_whatever_their_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    noise().save(path)
    assert is_whole(path)
    path.write_bytes(path.read_bytes()[:-200])
    assert not is_whole(path)


def test_a_jpeg_with_rubbish_at_its_end_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    noise().save(path)
    path.write_bytes(path.read_bytes() + bytes(9000))
    assert is_whole(path)


def test_empty_and_foreign_files_and_bombs_are_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in (b"", b"<html>not found</html>"):
        (tmp_path / "a.jpg").write_bytes(content)
        assert not is_whole(tmp_path / "a.jpg")
    assert not is_whole(tmp_path / "nowhere.jpg")
    noise().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    assert is_whole(tmp_path / "a.png"), "2400 pixels: a warning only"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert not is_whole(tmp_path / "a.png")


def test_a_file_that_breaks_later_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise().save(path)
    store = PhotoImages("photos", (path, path), 8, 3, ())
    assert torch.equal(store.read(torch.tensor([1]))[0], decode(path, 8, 3))
    assert store.read(torch.zeros(0, dtype=torch.int64)).shape == (0, 3, 8, 8)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded"):
        store.read(torch.tensor([0]))

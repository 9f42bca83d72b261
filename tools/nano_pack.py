"""Pack the results of the nano trainings into the one file that ships: python tools/nano_pack.py [RUNS] [FILE].

RUNS is the folder that holds ram, dape, base, seesr_256 and decoder (output/nano). Run it with the interpreter of the
environment that `python run.py train` made.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(runs: Path, path: Path) -> None:
    """Pack, and print the size of the file."""
    from ..seesr_modules.dape.tags import read_vocabulary, tag_files
    from ..seesr_modules.nano.file import KNOWN_TOKENS, PREDICTION, write_nano
    from ..seesr_modules.weights import open_weights

    words = tag_files(runs / "dape")
    assert words is not None, f"no tag lists in {runs / 'dape'}"
    num_classes = len(words["tags"].read_text("utf-8").splitlines())
    schedule = json.loads((runs / "base" / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    last_step = (runs / "seesr_256" / "log.csv").read_text("utf-8").split()[-1].split(",")[0]
    write_nano(
        path,
        unet=open_weights(runs / "seesr_256" / "unet"),
        controlnet=open_weights(runs / "seesr_256" / "controlnet"),
        text_encoder=open_weights(runs / "seesr_256" / "text_encoder"),
        vae=open_weights(runs / "decoder" / "vae" / "autoencoder.safetensors"),
        taggers=(open_weights(runs / "ram" / "ram.safetensors"), open_weights(runs / "dape" / "DAPE.pth")),
        vocabulary=read_vocabulary(**words, num_classes=num_classes),
        metadata={
            PREDICTION: schedule["prediction_type"],
            KNOWN_TOKENS: (runs / "seesr_256" / "text_encoder" / "known_tokens.json").read_text("utf-8"),
            "trained_steps": last_step,
        },
    )
    sys.stdout.write(f"{path}: {path.stat().st_size / 1e6:.1f} MB after {last_step} steps\n")


if __name__ == "__main__":
    sys.path.append(str(ROOT))
    from run import pack_module  # type: ignore[import-not-found]

    given = [Path(argument) for argument in sys.argv[1:3]]
    runs, path = given + [ROOT / "output" / "nano", ROOT / "nano" / "nano.safetensors"][len(given) :]
    pack_module("tools.nano_pack").main(runs, path)

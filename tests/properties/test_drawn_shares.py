"""Every probability and range of the families of damage, counted over many pictures.

The steps are replaced by stand-ins that note what they were asked for, so that 20,000 pictures take a minute:
``-k drawn_shares --draws 20000 -s`` shows the table.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from seesr_pack.seesr_modules.method import bsrgan, degrade
from seesr_pack.seesr_modules.method.degrade import Degradation
from seesr_pack.seesr_modules.method.families import DASR, FAMILIES
from torch import Generator, Tensor

SIDE, SCALE = 64, 4
BOUND = 5
"""A count may be so many standard deviations of the binomial distribution from what its probability gives. Among 200
counts, one of a right program is outside in one of 9,000 seeds."""

Event = tuple[Any, ...]
"""Name of a step, then its parameters."""

FILTERS = dict.fromkeys(("area", "bilinear", "bicubic"), 1 / 3)
ALL_KERNELS = {
    ("gaussian", True): 0.45,
    ("gaussian", False): 0.25,
    ("generalized", True): 0.12,
    ("generalized", False): 0.03,
    ("plateau", True): 0.12,
    ("plateau", False): 0.03,
}
GAUSSIANS = {("gaussian", True): 0.65, ("gaussian", False): 0.35}


class Table:
    """Counts by name, each with its stated probability."""

    def __init__(self) -> None:
        self.counts: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0])

    def chance(self, name: str, happened: bool, probability: float) -> None:
        """Count whether something happened."""
        row = self.counts[name]
        row[0] += happened
        row[1] += 1
        row[2] = probability

    def choice(self, name: str, chosen: Any, probabilities: dict[Any, float]) -> None:
        """Count one of several; it has to be one of them."""
        assert chosen in probabilities, f"{name}: {chosen}"
        for other, probability in probabilities.items():
            self.chance(f"{name} {other}", chosen == other, probability)

    def whole(self, name: str, value: int, least: int, greatest: int, step: int = 1) -> None:
        """Count a whole number, both of whose ends may come, all equally often."""
        values = range(least, greatest + 1, step)
        assert value in values, f"{name}: {value}"
        self.chance(f"{name} = {least}", value == least, 1 / len(values))
        self.chance(f"{name} = {greatest}", value == greatest, 1 / len(values))
        half = values[len(values) // 2]
        self.chance(f"{name} < {half}", value < half, len(values) // 2 / len(values))

    def uniform(self, name: str, value: float, least: float, greatest: float) -> None:
        """Count in which quarter of a range a number is; it has to be in one."""
        place = (value - least) / (greatest - least)
        assert -1e-9 <= place <= 1 + 1e-9, f"{name}: {value}"
        for quarter in range(4):
            self.chance(f"{name} in quarter {quarter + 1}", min(3, int(4 * place)) == quarter, 0.25)

    def quality(self, name: str, value: int, least: int, greatest: int) -> None:
        """Count a rounded uniform number: both ends come half as often as the others."""
        assert least <= value <= greatest, f"{name}: {value}"
        for end in (least, greatest):
            self.chance(f"{name} = {end}", value == end, 0.5 / (greatest - least))
        half = (least + greatest + 1) // 2
        self.chance(f"{name} < {half}", value < half, (half - 0.5 - least) / (greatest - least))

    def require(self) -> None:
        """Print the table; every count has to be near its probability."""
        far = []
        for name, (hits, trials, stated) in self.counts.items():
            off = (hits - trials * stated) / math.sqrt(trials * stated * (1 - stated))
            print(f"{name:50s} {hits:6d} of {trials:6d} = {hits / trials:.4f}, stated {stated:.4f}, {off:+.1f} sigma")
            if abs(off) > BOUND:
                far.append(f"{name}: {hits} of {trials}, stated {stated}")
        assert far == []


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], Iterator[list[Event]]]:
    """Return a function from a family and a number of pictures to the steps of each picture."""
    events: list[Event] = []

    def note(name: str, *parts: int, give: Callable[..., Any]) -> Callable[..., Any]:
        """Return a stand-in that notes some of its arguments."""

        def noted(*args: Any, **named: Any) -> Any:
            events.append((name, *(args[part] for part in parts), *named.values()))
            return give(*args)

        return noted

    def picture(given: Tensor, *_rest: Any) -> Tensor:
        return given

    def resized(given: Tensor, size: tuple[int, int], *_rest: Any) -> Tensor:
        return given.new_zeros(3, *size)

    def kernel(px: int, *_rest: Any) -> Tensor:
        return torch.zeros(px, px)

    def wrap(owner: Any, name: str, label: str, part: int | None) -> None:
        """Note an argument, or the result, of a function that runs as it is."""
        real = getattr(owner, name)

        def noted(*args: Any, **named: Any) -> Any:
            at = len(events)
            found = real(*args, **named)
            events.insert(at, (label, found if part is None else args[part], *named.values()))
            return found

        monkeypatch.setattr(owner, name, noted)

    for module in (degrade, bsrgan):
        for name, stand_in in {
            "blur": note("blur", give=picture),
            "bell_kernel": lambda px, sigmas, angle=0.0, beta=1.0, plateau=False: (
                events.append(("bell", px, sigmas, angle, beta, plateau)) or torch.zeros(px, px)
            ),
            "sinc_kernel": note("sinc", 0, 1, give=kernel),
            "add_gaussian_noise": note("gaussian", 1, 2, give=picture),
            "add_poisson_noise": note("poisson", 1, 2, give=picture),
            "add_photon_noise": note("photons", 1, 2, give=picture),
            "compress": note("jpeg", 1, give=picture),
            "resize_as_opencv": note("filter", 2, give=resized),
            "halve_as_matlab": note("matlab", give=lambda given: given[:, ::2, ::2]),
            "shift_kernel": note("shifted", 1, give=picture),
            "draw_correlated": note("correlated", give=lambda _covariance, size, _generator: torch.zeros(3, *size)),
        }.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, stand_in)

    def interpolated(given: Tensor, size: tuple[int, int], mode: str) -> Tensor:
        events.append(("filter", mode))
        return given.new_zeros(1, 3, *size)

    monkeypatch.setattr(degrade, "interpolate", interpolated)
    wrap(degrade, "draw_resize", "factor", None)
    wrap(bsrgan.Steps, "rescale", "factor", 2)
    wrap(bsrgan, "draw_order", "order", None)
    wrap(bsrgan, "draw_order_plus", "order", None)
    wrap(bsrgan.Steps, "noise", "noise", 0)
    wrap(Degradation, "damage", "class", 0)

    def steps(family: str, pictures: int) -> Iterator[list[Event]]:
        generator, clean = Generator().manual_seed(1), torch.zeros(3, SIDE, SIDE)
        for _ in range(pictures):
            events.clear()
            degrade.degrade_one(clean, generator, FAMILIES[family], SCALE)
            yield list(events)

    return steps


@dataclass(frozen=True)
class Stated:
    """What is stated of one stage of Real-ESRGAN's or DASR's damage."""

    sigma: tuple[float, float]
    resizes: tuple[float, float, float]
    factors: tuple[float, float]
    gaussian: tuple[float, float]
    poisson: tuple[float, float]
    quality: tuple[int, int] = (30, 95)
    kernels: dict[tuple[str, bool], float] = field(default_factory=lambda: ALL_KERNELS)
    sinc: float = 0.1
    largest_px: int = 21


FIRST = Stated((0.2, 3), (0.2, 0.7, 0.1), (0.15, 1.5), (1, 30), (0.05, 3))
SECOND = Stated((0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1, 25), (0.05, 2.5), largest_px=11)
SEVERE = tuple(replace(stage, kernels=GAUSSIANS, sinc=0, largest_px=21) for stage in (FIRST, SECOND))
WEAK = Stated(
    (0.2, 0.8), (0.1, 0.2, 0.7), (0.85, 1.2), (1, 10), (0.05, 0.5), quality=(90, 95), kernels=GAUSSIANS, sinc=0
)
STANDARD = replace(
    WEAK,
    sigma=(0.2, 1.5),
    resizes=(0.3, 0.4, 0.3),
    factors=(0.5, 1.2),
    gaussian=(1, 20),
    poisson=(0.05, 1.5),
    quality=(50, 95),
)


def count_blur(table: Table, name: str, kind: str, parts: Event, stated: Stated) -> None:
    """Count what is drawn for a kernel."""
    table.whole(f"{name} kernel px", parts[0], 7, stated.largest_px, 2)
    if stated.sinc:
        table.chance(f"{name} kernel sinc", kind == "sinc", stated.sinc)
    assert stated.sinc or kind == "bell"
    if kind == "sinc":
        narrow = parts[0] < 13
        table.uniform(f"{name} cutoff, px < 13 {narrow}", parts[1], math.pi / (3 if narrow else 5), math.pi)
        return
    _, sigmas, angle, beta, is_plateau = parts
    isotropic = sigmas[0] == sigmas[1]
    profile = "plateau" if is_plateau else "gaussian" if beta == 1 else "generalized"
    table.choice(f"{name} kernel", (profile, isotropic), stated.kernels)
    for axis, sigma in zip("xy", sigmas[: 1 if isotropic else 2], strict=False):
        table.uniform(f"{name} sigma {axis}", sigma, *stated.sigma)
    if not isotropic:
        table.uniform(f"{name} angle", angle, -math.pi, math.pi)
    if profile != "gaussian":
        least, greatest = {"generalized": (0.5, 4.0), "plateau": (1.0, 2.0)}[profile]
        table.chance(f"{name} {profile} beta > 1", beta > 1, 0.5)
        if beta > 1:
            table.uniform(f"{name} {profile} beta > 1", beta, 1, greatest)
        elif least < 1:
            table.uniform(f"{name} {profile} beta < 1", beta, least, 1)


def count_stage(table: Table, name: str, events: list[Event], stated: Stated, blur_prob: float) -> None:
    """Take the steps of a stage, but for its JPEG, from the events, and count what was drawn."""
    has_blur = events[0][0] in ("bell", "sinc")
    assert has_blur or blur_prob < 1
    if blur_prob < 1:
        table.chance(f"{name} blur", has_blur, blur_prob)
    if has_blur:
        (kind, *parts), _ = events.pop(0), events.pop(0)
        count_blur(table, name, kind, parts, stated)
    _, factor = events.pop(0)
    table.choice(f"{name} resize", (factor > 1) - (factor < 1), dict(zip((1, -1, 0), stated.resizes, strict=True)))
    if factor != 1:
        table.uniform(f"{name} factor {'>' if factor > 1 else '<'} 1", factor, *sorted((1, stated.factors[factor > 1])))
    table.choice(f"{name} filter", events.pop(0)[1], FILTERS)
    kind, strength, gray = events.pop(0)
    table.choice(f"{name} noise", kind, {"gaussian": 0.5, "poisson": 0.5})
    table.uniform(f"{name} {kind} noise", strength, *(stated.gaussian if kind == "gaussian" else stated.poisson))
    table.chance(f"{name} gray noise", gray, 0.4)


def count_real_esrgan(table: Table, name: str, events: list[Event], first: Stated, second: Stated | None) -> None:
    """Count what was drawn for a picture by one or two stages."""
    count_stage(table, f"{name} 1", events, first, 1.0)
    table.quality(f"{name} 1 JPEG", events.pop(0)[1], *first.quality)
    if second is not None:
        count_stage(table, f"{name} 2", events, second, 0.8)
        jpeg_first = events[0][0] == "jpeg"
        table.chance(f"{name} 2 JPEG before the last resize", jpeg_first, 0.5)
        table.quality(f"{name} 2 JPEG", events.pop(0 if jpeg_first else -1)[1], *second.quality)
    table.choice(f"{name} last filter", events.pop(0)[1], FILTERS)
    if second is not None:
        table.chance(f"{name} last sinc", bool(events), 0.8)
        if events:
            (_, px, cutoff), _ = events.pop(0), events.pop(0)
            table.whole(f"{name} last sinc px", px, 7, 21, 2)
            table.uniform(f"{name} last cutoff", cutoff, math.pi / 3, math.pi)
    assert events == []


def count_bsrgan_steps(table: Table, events: list[Event], sf: int) -> None:
    """Count the blurs, noises and qualities of BSRGAN or its mix; ``sf`` is the factor that they depend on."""
    for number, (kind, *parts) in enumerate(events):
        after = events[number + 1][0] if number + 1 < len(events) else ""
        if kind == "bell" and after != "shifted":
            px, sigmas, angle, _, _ = parts
            table.whole("blur px", px, 7, 25, 2)
            isotropic = sigmas[0] == sigmas[1]
            table.chance("blur isotropic", isotropic, 0.5)
            if isotropic:
                table.uniform(f"isotropic sigma at {sf}", sigmas[0], 0, 2 + 0.2 * sf)
            else:
                table.uniform("angle", angle, 0, math.pi)
                for axis, sigma in zip("xy", sigmas, strict=True):
                    table.uniform(f"variance {axis} at {sf}", sigma**2, 0, 4 + sf)
        elif kind == "bell":
            assert parts[0] == 25 and events[number + 1] == ("shifted", (sf - 1) / 2)
            table.uniform(f"sigma before picking pixels at {sf}", parts[1][0], 0.1, 0.6 * sf)
        elif kind == "noise":
            speckle = len(parts) > 1
            table.chance(f"{'speckle' if speckle else 'noise'} correlated", after == "correlated", 0.2)
            assert after in ("gaussian", "correlated") or speckle
        elif kind == "gaussian":
            table.whole("noise level", parts[0], 2, 25)
            table.chance("noise gray, if not correlated", parts[1], 0.5)
        elif kind == "jpeg":
            table.whole("JPEG", parts[0], 30, 95)
        elif kind == "filter":
            table.choice("filter", parts[0], FILTERS)


def count_bsrgan(table: Table, events: list[Event]) -> None:
    """Count what was drawn for a picture of BSRGAN."""
    start = next(number for number, event in enumerate(events) if event[0] == "order")
    (_, order), halving, events = events[start], events[:start], events[start + 1 :]
    table.chance("halved first", bool(halving), 0.25)
    if halving:
        table.chance("halved as by MATLAB", halving == [("matlab",)], 0.5)
        assert halving == [("matlab",)] or (halving[0] == ("factor", 0.5) and halving[1][0] == "filter")
    sf = 2 if halving else 4
    shares = {"blur": 1 / 3, "shrink": 1 / 3, "fit": 0, "noise": 1 / 6, "jpeg": 1 / 6}
    table.choice("first step", order[0], {step: share for step, share in shares.items() if share})
    table.choice("last step", order[-1], {"blur": 1 / 3, "fit": 1 / 3, "noise": 1 / 6, "jpeg": 1 / 6})
    assert sorted(order) == ["blur", "blur", "fit", "jpeg", "noise", "shrink"]
    table.chance("JPEG before the last one", sum(event[0] == "jpeg" for event in events) == 2, 0.9)
    factors = [event[1] for event in events if event[0] == "factor"]
    table.chance("picks pixels", not factors, 0.25)
    for factor in factors:
        table.uniform(f"shrinks at {sf}", 1 / factor, 1, 2 * sf)
    count_bsrgan_steps(table, events, sf)


def count_bsrgan_plus(table: Table, events: list[Event]) -> None:
    """Count what was drawn for a picture of the mix. A random order looks kept once in 4,620 orders."""
    (_, order), *events = events
    noises = ["noise", "poisson", "speckle"]
    in_rounds = order[:2] == ["blur", "resize"] and order[5:8] == ["jpeg", "blur", "resize"]
    table.chance("random order", not in_rounds or {*order[2:5]} != {*noises}, 0.5)
    assert sorted(order) == sorted([*2 * ["blur", "resize", *noises], "jpeg"])
    for factor in (event[1] for event in events if event[0] == "factor"):
        table.choice("resize", (factor > 1) - (factor < 1), {1: 0.2, -1: 0.7, 0: 0.1})
        if factor != 1:
            table.uniform(f"factor {'>' if factor > 1 else '<'} 1", factor, *((1, 2) if factor > 1 else (0.125, 1)))
    photons = [event[1:] for event in events if event[0] == "photons"]
    speckles = sum(event[0] == "noise" and len(event) > 2 for event in events)
    for turn in range(2):
        table.chance("poisson", turn < len(photons), 0.1)
        table.chance("speckle", turn < speckles, 0.1)
    for count, gray in photons:
        table.uniform("power of ten of photons", math.log10(count), 2, 4)
        table.chance("poisson gray", gray, 0.5)
    count_bsrgan_steps(table, events, SCALE)


def count_dasr(table: Table, events: list[Event]) -> None:
    """Count what was drawn for a picture of DASR."""
    (_, drawn), *events = events
    kinds = {"weak": 0.3, "standard": 0.3, "severe": 0.4}
    kind = next(name for name, (_, part) in zip(kinds, DASR.parts, strict=True) if part == drawn)
    table.choice("class", kind, kinds)
    stages = {"weak": (WEAK, None), "standard": (STANDARD, None), "severe": SEVERE}[kind]
    count_real_esrgan(table, kind, events, *stages)


COUNTERS: dict[str, Callable[[Table, list[Event]], None]] = {
    "realesrgan": lambda table, events: count_real_esrgan(table, "stage", events[1:], FIRST, SECOND),
    "bsrgan": count_bsrgan,
    "bsrgan_plus": count_bsrgan_plus,
    "dasr": count_dasr,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_drawn_share_is_the_stated_one(family: str, draw: Any, pytestconfig: pytest.Config) -> None:
    table = Table()
    for events in draw(family, pytestconfig.getoption("draws")):
        COUNTERS[family](table, events)
    table.require()

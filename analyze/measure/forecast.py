"""What an analysis will cost, before it is begun: time by stages, and room."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A part of the work."""

    name: str
    times: int
    """How often all images pass through it."""
    seconds_each: float
    """Mean of an image, each time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Stages of one analysis, timed on this machine, and the room that it takes."""

    stages: tuple[Stage, ...]
    num_images: int
    scratch_bytes: int
    """The most that decoded maps take on the disk at a time."""
    free_bytes: int
    memory_bytes: int
    """The most that this process has held while the stages were timed, mapped files included."""
    gpu_bytes: int | None
    """The same of a GPU's memory; None on a CPU."""

    @property
    def seconds(self) -> float:
        """Expected duration of all stages."""
        return sum(each.times * each.seconds_each for each in self.stages) * self.num_images

    @property
    def fits(self) -> bool:
        """Whether there is room for the decoded maps."""
        return self.scratch_bytes <= self.free_bytes

    def table(self) -> str:
        """Return the forecast as text."""
        width = max([len("stage"), *(len(each.name) for each in self.stages)])
        lines = [f"{'stage':<{width}} {'images':>7} {'times':>5} {'ms each':>9} {'total':>8}"]
        for each in self.stages:
            total = each.times * each.seconds_each * self.num_images
            lines.append(
                f"{each.name:<{width}} {self.num_images:>7} {each.times:>5} "
                f"{each.seconds_each * 1e3:>9.2f} {_duration(total):>8}"
            )
        if not self.stages:
            lines = ["all that codecs and heads would compute was kept by an earlier analysis"]
        gpu = "" if self.gpu_bytes is None else f", {self.gpu_bytes / 1e9:.2f} GB of the GPU"
        verdict = "fits" if self.fits else "does not fit: make room, or name another --report"
        return "\n".join([
            *lines,
            f"about {_duration(self.seconds)}, and what anchors, mAP and the report take",
            f"scratch space: {self.scratch_bytes / 1e9:.3f} GB of {self.free_bytes / 1e9:.1f} GB "
            f"free: {verdict}",
            f"memory: {self.memory_bytes / 1e9:.2f} GB{gpu}, as measured",
        ])  # fmt: skip


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds:.1f} s"

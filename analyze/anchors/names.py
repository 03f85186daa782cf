"""What `--anchors` may say: names alone, so that a mistake is told before anything is loaded."""

from __future__ import annotations

from configs.errors import ConfigError, did_you_mean
from configs.own_code import is_own

IMAGE_ANCHORS = ("image-jpeg", "image-webp", "image-hevc", "image-av1")
"""Those that code the image instead of its features."""
ANCHOR_NAMES = (
    "uniform", "klt", "hevc-8", "hevc-10", "av1-8", "av1-10", "float16", *IMAGE_ANCHORS,
)  # fmt: skip
FAST_ANCHORS = ("uniform", "klt", "float16", "image-jpeg", "image-av1")
"""Without the video coders of features, which take minutes; of images, what everybody has and what
is hardest to beat."""

_GROUPS = {"fast": FAST_ANCHORS, "images": IMAGE_ANCHORS, "all": ANCHOR_NAMES}


def anchors_of(text: str) -> tuple[str, ...]:
    """Return the anchors of a list `NAME[,NAME...]` in its order, groups spelt out, each once.

    Raises ConfigError for a name that there is not; whether one's own exists is not looked at.
    """
    names = [name.strip() for name in text.split(",")]
    if names == ["none"]:
        return ()
    if "none" in names:
        raise ConfigError(f"--anchors {text}: none is for no anchors at all: write it alone")
    chosen = dict.fromkeys(each for name in names for each in _GROUPS.get(name, (name,)))
    for name in chosen:
        check_anchor(name)
    return tuple(chosen)


def check_anchor(name: str) -> None:
    """Raise ConfigError if a name is neither one of `ANCHOR_NAMES` nor `package.module:name`."""
    if name not in ANCHOR_NAMES and not is_own(name):
        hint = did_you_mean(name, (*ANCHOR_NAMES, *_GROUPS, "none"))
        raise ConfigError(
            f"--anchors {name}: there is none of this name{hint}: use "
            f"{', '.join(ANCHOR_NAMES)}, your own package.module:name, or one of "
            f"{', '.join(_GROUPS)}, none"
        )

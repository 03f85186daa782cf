"""What a detector's labels mean: how many it tells apart, and which categories they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.errors import ConfigError
from extract.detector.state_dicts import num_classes_of

_BACKGROUND = frozenset({"background", "bg"})
_BETWEEN_WORDS = re.compile(r"[\s_-]+")
_MOST_SHOWN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassHead:
    """What a detector's class head tells apart, as its weights show."""

    num_outputs: int
    has_background: bool
    """An R-CNN's first output is the background: no detection has the label 0. Those of RetinaNet
    and FCOS are all objects; torchvision's own training leaves the first one unused."""

    @property
    def num_labels(self) -> int:
        """How many classes there are by torchvision's way of counting, which begins at 1."""
        return self.num_outputs - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelMatch:
    """Which label is which of the data set's categories."""

    category_of: dict[int, int]
    """Label -> category id; labels that are none of them lack."""
    how: str
    """By what they were matched, and the pairs, in words."""
    is_guess: bool
    """Neither names nor numbers of classes agree: somebody should look."""


def match_labels(
    classes: Sequence[str] | None, head: ClassHead, categories: Mapping[int, str]
) -> LabelMatch:
    """Match the detector's labels with the data set's category ids.

    By name where the detector names its classes; else by order where the counts agree; else label
    and id are taken to be the same number (COCO's 91 with their holes). Raises ConfigError if none
    of these fits, or the names contradict the head.
    """
    ordered = sorted(categories)
    if classes is not None:
        names = label_names(classes, head)
        category_of = _by_name(names, categories)
        if not category_of:
            raise _no_match(list(names.values()), categories)
        return _match("by name", category_of, names, categories)
    first = 0 if not head.has_background and head.num_outputs == len(ordered) else 1
    if head.num_outputs - first == len(ordered):
        by_order = dict(enumerate(ordered, start=first))
        return _match("by their order, as the detector names none", by_order, {}, categories)
    if ordered and int(head.has_background) <= ordered[0] and ordered[-1] < head.num_outputs:
        same = {category: category for category in ordered}
        return _match("as the same numbers, a guess", same, {}, categories, is_guess=True)
    raise _no_match([f"{head.num_labels} classes without names"], categories)


def label_names(classes: Sequence[str], head: ClassHead) -> dict[int, str]:
    """Return label -> name, as the names' number and the head's outputs allow.

    A name for the background, first or last, is none of a label. Raises ConfigError if the numbers
    do not agree.
    """
    named = list(classes)
    told, num_labels = len(named), head.num_outputs
    if head.has_background or told != num_labels or _is_background(named[0]):
        num_labels -= 1
    if told == num_labels + 1 and _is_background(named[0]):
        del named[0]
    elif told == num_labels + 1 and _is_background(named[-1]):
        del named[-1]
    if len(named) != num_labels or any(map(_is_background, named)):
        shown = "the background and " * head.has_background
        raise ConfigError(
            f"`classes` names {told} ({_shown(classes)}), the weights tell {shown}"
            f"{head.num_outputs - head.has_background} classes apart: save one name for each label "
            "in the file, or none"
        )
    return dict(enumerate(named, start=head.num_outputs - num_labels))


def unknown_classes(
    category_of: Mapping[int, int], categories: Mapping[int, str], counted: Mapping[int, int]
) -> str:
    """Name the categories of which there are boxes, but no label; empty if there is none.

    Each counts as AP 0 in the mAP. `counted` is category id -> number of boxes that count.
    """
    known = set(category_of.values())
    return _shown([
        f"{name} ({counted[category]} boxes)"
        for category, name in categories.items()
        if category not in known and counted.get(category)
    ])  # fmt: skip


def head_of(model: Any) -> ClassHead:
    """Return a detector's class head. Raises ConfigError if it is none of torchvision's."""
    num_outputs = num_classes_of(model.state_dict())
    if num_outputs is None:
        raise ConfigError("the detector's head is unknown: its number of classes cannot be read")
    return ClassHead(num_outputs=num_outputs, has_background=hasattr(model, "roi_heads"))


def read_names(classes: object) -> tuple[str, ...] | None:
    """Return the names in a file's `classes`, a list or label -> name; None if there are none.

    Raises ConfigError for anything else.
    """
    if isinstance(classes, Mapping) and all(isinstance(key, int) for key in classes):
        classes = [classes[key] for key in sorted(classes)]
    elif hasattr(classes, "tolist"):
        classes = classes.tolist()
    if classes is None or isinstance(classes, int | float):  # their number, which the head shows
        return None
    if not isinstance(classes, list | tuple) or not all(isinstance(x, str | int) for x in classes):
        raise ConfigError(
            f"its `classes` are a {type(classes).__name__}, and no list of names: save a list, or "
            "leave them out"
        )
    return tuple(map(str, classes)) or None


def _by_name(names: Mapping[int, str], categories: Mapping[int, str]) -> dict[int, int]:
    """Match exactly the same names first, then those that differ in case, spaces or hyphens."""
    exact = {name: category for category, name in categories.items()}
    alike = Counter(_plain(name) for name in categories.values())
    plain = {
        _plain(name): category for category, name in categories.items() if alike[_plain(name)] == 1
    }
    category_of: dict[int, int] = {}
    for label, name in names.items():
        category = exact.get(name, plain.get(_plain(name)))
        if category is not None and category not in category_of.values():
            category_of[label] = category
    return category_of


def _plain(name: str) -> str:
    return _BETWEEN_WORDS.sub(" ", name).strip().casefold()


def _is_background(name: str) -> bool:
    return _plain(name) in _BACKGROUND


def _match(
    how: str,
    category_of: dict[int, int],
    names: Mapping[int, str],
    categories: Mapping[int, str],
    *,
    is_guess: bool = False,
) -> LabelMatch:
    pairs = [
        " ".join(filter(None, (f"{label}", names.get(label), "is", categories[category])))
        + f" ({category})"
        for label, category in category_of.items()
    ]
    return LabelMatch(
        category_of=category_of,
        how=f"labels were matched to categories {how}: {_shown(pairs)}",
        is_guess=is_guess,
    )


def _shown(names: Sequence[str]) -> str:
    more = len(names) - _MOST_SHOWN
    return ", ".join(names[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _no_match(labels: Sequence[str], categories: Mapping[int, str]) -> ConfigError:
    return ConfigError(
        f"the detector's classes ({_shown(labels)}) match none of the data set's {len(categories)} "
        f"categories ({_shown(list(categories.values()))}): use a checkpoint trained on them, or "
        "mend the names in either file"
    )

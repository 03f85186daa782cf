"""Annotations of the formats that data sets come in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tests.fuzzing.subject import Subject
from tests.support.datasets import load, save_image


def _read(images: Path, format: str, annotations: Path) -> Callable[[], object]:
    def read() -> object:
        found = load(format, images=images, annotations=annotations)
        for record in found.records:
            assert (record.boxes_xyxy >= 0).all()
            assert len(record.boxes_xyxy) == len(record.category_ids) == len(record.ignored)
            assert set(record.category_ids.tolist()) <= found.categories.keys()
        return found

    return read


def coco(folder: Path) -> Subject:
    """A COCO file of two images."""
    for name in ("a", "b"):
        save_image(folder / f"images/{name}.png", 8, 6)
    content = {
        "info": {"year": 2026},
        "images": [
            {"id": 3, "file_name": "a.png", "height": 6, "width": 8},
            {"id": 9, "file_name": "b.png", "height": 6, "width": 8},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 1, "bbox": [1, 1, 4.5, 3], "iscrowd": 0,
             "area": 12.5, "segmentation": [[1, 1, 2, 2, 3, 1]]},
            {"id": 2, "image_id": 9, "category_id": 5, "bbox": [0, 0, 8, 6], "iscrowd": 1},
        ],
    }  # fmt: skip
    path = folder / "annotations.json"
    return Subject(
        path=path,
        whole=[json.dumps(content).encode()],
        read=_read(folder / "images", "coco", path),
        contents=[content],
        rendered=lambda raw: json.dumps(raw).encode(),
        odd_values=("../a.png", "a.png/../b.png", 5, 3, 9),
    )


def kitti(folder: Path) -> Subject:
    """A label file of three objects."""
    save_image(folder / "images/a.png", 80, 60)
    (folder / "labels").mkdir()
    rest = ["1.5", "1.6", "3.9", "-2.1", "1.7", "30.2", "-1.6"]
    content = [
        ["Car", "0.00", "0", "-1.58", "10.1", "10.2", "40.5", "30.0", *rest],
        ["Pedestrian", "0.50", "1", "0.2", "1", "2", "9", "59", *rest],
        ["DontCare", "-1", "-1", "-10", "50", "5", "70", "20", *rest],
    ]
    path = folder / "labels/a.txt"

    def rendered(raw: Any) -> bytes:
        rows = [row if isinstance(row, list) else [row] for row in raw]
        text = "\n".join(" ".join(map(_shown, row)) for row in rows) + "\n"
        return text.encode(errors="surrogatepass")

    return Subject(
        path=path,
        whole=[rendered(content)],
        read=_read(folder / "images", "kitti", folder / "labels"),
        contents=[content],
        rendered=rendered,
        odd_values=("Van", "Cyclist", "car", "1e308", "-1e308", "infinity", "1,5", "\u2028"),
    )


def voc(folder: Path) -> Subject:
    """An XML file of two objects."""
    save_image(folder / "images/a.png", 80, 60)
    (folder / "labels").mkdir()
    box = [["xmin", "3"], ["ymin", "4"], ["xmax", "40"], ["ymax", "50"]]
    content = ["annotation", [
        ["filename", "a.png"],
        ["size", [["width", "80"], ["height", "60"], ["depth", "3"]]],
        ["object", [["name", "dog"], ["difficult", "0"], ["bndbox", box]]],
        ["object", [["name", "cat"], ["difficult", "1"], ["bndbox", box]]],
    ]]  # fmt: skip
    path = folder / "labels/a.xml"
    return Subject(
        path=path,
        whole=[b'<?xml version="1.0" encoding="utf-8"?>\n' + _xml(content).encode()],
        read=_read(folder / "images", "voc", folder / "labels"),
        contents=[content],
        rendered=lambda raw: _xml(raw).encode(errors="surrogatepass"),
        odd_values=("person", "1e308", "<x/>", "<!--", "]]>", "object", "bndbox", "size"),
    )


def _xml(node: Any) -> str:
    """Return the element of a name and its text, or its elements; of anything else, as text."""
    if not isinstance(node, list) or len(node) != 2 or not isinstance(node[0], str):
        return _shown(node)
    name, inside = node
    is_list = isinstance(inside, list)
    return f"<{name}>{''.join(map(_xml, inside)) if is_list else escape(_shown(inside))}</{name}>"


def _shown(value: Any) -> str:
    """Return a value as text; numbers of more digits than Python writes are hexadecimal."""
    return hex(value) if type(value) is int and abs(value) > 10**400 else str(value)

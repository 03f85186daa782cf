"""CutMix of feature maps: what comes from where, and the same in one process and in several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from configs.config_files import load_config
from configs.errors import ConfigError
from tests.support.tiny_study import TinyStudy
from tests.support.training_process import options_of, rows_without_times
from train.cli import train_level
from train.loop.cutmix import cutmix
from train.runs.run_folder import find_runs


def numbered_maps(num_maps: int, height: int, width: int) -> Tensor:
    """Maps [B, 2, H, W] whose values name their map."""
    return torch.arange(num_maps, dtype=torch.float32)[:, None, None, None].expand(
        num_maps, 2, height, width
    )


def mixed(x: Tensor, sizes: Tensor, probability: float, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return cutmix([x], sizes, probability, first_row=0, batch_rows=len(x))[0]


@given(data=st.data(), seed=st.integers(0, 2**31))
def test_a_part_at_one_side_of_one_seam_is_the_neighbours(data: st.DataObject, seed: int) -> None:
    height, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    size = st.tuples(st.integers(1, height), st.integers(1, width))
    sizes = torch.tensor(data.draw(st.lists(size, min_size=1, max_size=7)))
    x = numbered_maps(len(sizes), height, width)
    result = mixed(x, sizes, 1.0, seed)
    assert torch.equal(x, numbered_maps(len(sizes), height, width))
    for row, each in enumerate(result):
        neighbour = row ^ 1
        assert torch.equal(each[0], each[1]), "all channels are cut alike"
        taken = each[0] != row
        if neighbour >= len(sizes):
            assert not taken.any()
            continue
        assert bool((each[0][taken] == neighbour).all())
        high, wide = torch.minimum(sizes[row], sizes[neighbour]).tolist()
        assert not taken[high:].any() and not taken[:, wide:].any()
        inside = taken[:high, :wide]
        if not inside.any():
            assert min(high, wide) == 1, "nothing could be cut"
            continue
        assert not inside.all(), "a part stays its own"
        down, across = inside.all(1), inside.all(0)  # whole rows, or whole columns
        line = down if down.any() else across
        assert int(inside.sum()) == int(line.sum()) * (wide if down.any() else high)
        assert int((line[1:] != line[:-1]).sum()) == 1, "one seam"


def test_every_seam_and_side_comes_about_and_as_often_as_asked() -> None:
    x = numbered_maps(2000, 3, 3)
    sizes = torch.full((2000, 2), 3)
    result = mixed(x, sizes, 0.25)
    taken = [(each[0] != row).int() for row, each in enumerate(result)]
    patterns = {tuple(each.flatten().tolist()) for each in taken if each.any()}
    assert len(patterns) == 2 * 2 * 2  # directions, sides, places
    assert sum(bool(each.any()) for each in taken) / 2000 == pytest.approx(0.25, abs=0.04)
    assert torch.equal(mixed(x, sizes, 0.0), x)


@pytest.mark.parametrize("rows", [(2, 2), (4, 4), (2, 3)])
def test_ranks_mix_their_parts_of_a_batch_as_one_process_mixes_all(rows: tuple[int, int]) -> None:
    x = torch.randn(sum(rows), 3, 5, 6)
    sizes = torch.tensor([[5, 6]] * len(x))
    whole = mixed(x, sizes, 0.7)
    parts = []
    for first, part in ((0, x[: rows[0]]), (rows[0], x[rows[0] :])):
        torch.manual_seed(0)
        parts.extend(
            cutmix([part], sizes[: len(part)], 0.7, first_row=first, batch_rows=len(x))
        )  # fmt: skip
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(whole, x)


@given(data=st.data(), seed=st.integers(0, 2**31))
def test_a_context_has_the_same_parts_as_the_level(data: st.DataObject, seed: int) -> None:
    """Each position of the level and that of the context that it lies in are of one image."""
    side = st.integers(1, 21)
    sizes = torch.tensor(data.draw(st.lists(st.tuples(side, side), min_size=2, max_size=4)))
    strides = (1, 2, 8)
    shapes = [(-(-21 // stride), -(-21 // stride)) for stride in strides]
    maps = [numbered_maps(len(sizes), *shape) for shape in shapes]
    torch.manual_seed(seed)
    x, *beside = cutmix(
        maps, sizes, 1.0, first_row=0, batch_rows=len(sizes), strides=strides
    )  # fmt: skip
    for row, (height, width) in enumerate(sizes.tolist()):
        for each, stride in zip(beside, strides[1:], strict=True):
            rows, columns = torch.arange(height) // stride, torch.arange(width) // stride
            assert torch.equal(each[row, 0][rows][:, columns], x[row, 0, :height, :width])
        if row ^ 1 < len(sizes) and bool((sizes[row] == sizes[row ^ 1]).all()):
            is_cut = bool((x[row] != row).any())
            assert is_cut or min(height, width) <= 8


def test_runs_with_it_learn_from_other_maps_and_are_validated_on_whole_ones(
    study: TinyStudy, tmp_path: Path
) -> None:
    rows = {}
    for name, share in (("without", "0.0"), ("with", "1.0"), ("again", "1.0")):
        options = options_of(
            study, tmp_path / name, "--level", "2", "--epochs", "2",
            "--set", f"training.cutmix={share}", "--set", "training.learning_rate=1e-12",
        )  # fmt: skip
        result = CliRunner().invoke(train_level, options)
        assert result.exit_code == 0, result.output
        (run,) = find_runs(tmp_path / name)
        rows[name] = rows_without_times(run.folder)[0]
    assert rows["with"] == rows["again"]
    assert rows["with"]["train_mse"] != rows["without"]["train_mse"]
    assert float(rows["with"]["val_mse"]) == pytest.approx(float(rows["without"]["val_mse"]))


@pytest.mark.parametrize("share", ["-0.1", "1.5", "yes"])
def test_a_share_that_is_none_is_one_line(share: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.cutmix"):
        load_config(overrides=[f"training.cutmix={share}"])

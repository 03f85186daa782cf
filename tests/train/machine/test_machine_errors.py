"""What a machine lacks is told in one line; other errors keep their traceback."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from configs.errors import ConfigError, UserError
from tests.support.tiny_study import tiny_config
from train.machine.interruption import (
    batches_need_less,
    clear_compile_errors,
    clear_out_of_memory,
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_lack_of_memory_says_which_setting_to_lower(error: BaseException) -> None:
    with (
        pytest.raises(
            UserError,
            match=r"^out of memory: lower training.batch_size \(4\) or lower training.crop \(64\):",
        ),
        clear_out_of_memory(batches_need_less(tiny_config().training)),
    ):
        raise error


def test_real_lack_of_memory_is_recognised() -> None:
    with (
        pytest.raises(
            UserError, match=r"lower training.batch_size \(4\) or set training.crop \(64\)"
        ),
        clear_out_of_memory(batches_need_less(tiny_config(crop=None).training)),
    ):
        torch.empty(2**60)


def test_other_errors_of_torch_keep_their_traceback() -> None:
    with (
        pytest.raises(RuntimeError, match="must match"),
        clear_out_of_memory("do this"),
    ):
        torch.zeros(2) + torch.zeros(3)


def test_transforms_that_cannot_be_compiled_are_one_line_that_says_what_to_do() -> None:
    settings, off = (tiny_config(compile=setting).training for setting in (True, False))
    with (
        pytest.raises(ConfigError, match=r"compiled here \(.*No working C\+\+ compiler.*compile=f"),
        clear_compile_errors(settings),
    ):
        raise TorchDynamoException("No working C++ compiler found")
    with pytest.raises(TorchDynamoException), clear_compile_errors(off):
        raise TorchDynamoException("of no setting")

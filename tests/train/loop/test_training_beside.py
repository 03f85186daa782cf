"""A codec is trained beside the decoded coarser level as any other: to the bit, and found again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.errors import CacheError, ConfigError
from data.cache.cache_folder import CacheFolder
from data.reading.transfer import on_device
from data.reading.whole_maps import whole_map_batches
from tests.support.context_chain import Chain, other_weights, untrained_run
from tests.support.context_chain import chain as chain
from tests.support.training_process import Asked, differences, rows_without_times, training_state
from train.codecs.layers.context_path import Context
from train.codecs.level_codec import LevelCodec
from train.loop.job import make_codec, make_stream, open_caches, stream_settings
from train.loop.loss_watch import LossWatch
from train.loop.run import train_level
from train.loop.session import new_session
from train.loop.steps import Step
from train.machine.distributed import ALONE, World
from train.machine.interruption import TrainingInterruptedError
from train.objective.rate_distortion import square_error
from train.runs.checkpoint import BEST_NAME, LAST_NAME, load_codec
from train.runs.run_folder import difference_of_settings, load_run_config, same_run_before
from train.runs.run_record import RunRecord
from train.study.coarse_to_fine import lines_of_decoded
from train.study.lock_step import train_together


@pytest.fixture(scope="module")
def other_coarse(chain: Chain) -> Path:
    return untrained_run(chain.job(3, seed=1))


@pytest.fixture(scope="module")
def trained(chain: Chain, other_coarse: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Level 2 beside two runs of level 3."""
    out = tmp_path_factory.mktemp("trained")
    return train_level(chain.job(2, chain.coarse, other_coarse, out=out))


def test_a_run_beside_others_knows_them_and_its_best_model_codes_beside_them(
    chain: Chain, other_coarse: Path, trained: Path
) -> None:
    codec, info = load_codec(trained / BEST_NAME)
    hashes = tuple(load_codec(run / BEST_NAME)[1].model_sha256 for run in (chain.coarse,
                   other_coarse))  # fmt: skip
    assert info.context == hashes
    record = RunRecord.load(trained)
    assert tuple(each["model_sha256"] for each in record.context) == hashes
    assert info.config.model.context is not None
    assert dict(info.config.model.context) == {
        "num_channels": 256, "stride": 2, "trail_channels": 12, "trail_stride": 32,
    }  # fmt: skip
    rows = rows_without_times(trained)
    assert float(rows[-1]["val_loss"]) < float(rows[0]["train_loss"])
    assert list((trained / "level_analysis").rglob("*.png"))
    coarser = CacheFolder(chain.features / "train").manifest.level(3)
    with open_caches(chain.job(3)) as caches:
        statistics = caches.train[0].statistics
    assert caches.train[0].info == coarser
    torch.testing.assert_close(codec.beside.mean, torch.tensor(statistics.mean), check_dtype=False)
    x = torch.randn(1, 256, 12, 16)
    context = Context(torch.randn(1, 256, 6, 8), torch.randn(1, 12, 1, 1).round())
    sent = codec.compress(x, context)
    decoded = codec.decompress(sent["strings"], sent["shape"], sent["size"], context)
    assert torch.equal(decoded["x_hat"], codec(x, context=context)["x_hat"])


def test_interrupted_it_ends_with_the_weights_of_one_that_nobody_disturbed(
    chain: Chain, other_coarse: Path, trained: Path, tmp_path: Path
) -> None:
    job = chain.job(2, chain.coarse, other_coarse, out=tmp_path)
    with pytest.raises(TrainingInterruptedError):
        train_level(job, stop=Asked(3))  # type: ignore[arg-type]
    (folder,) = tmp_path.glob("*/run_*")
    assert (folder / LAST_NAME).exists()
    train_level(replace(job, resume=folder))
    states = [training_state(run / LAST_NAME) for run in (trained, folder)]
    assert not differences(*states)
    assert rows_without_times(trained) == rows_without_times(folder)


def test_asked_to_stop_while_the_coarser_level_is_decoded_it_leaves_no_run(
    chain: Chain, tmp_path: Path
) -> None:
    coarse = untrained_run(chain.job(3, seed=2, out=tmp_path / "coarse"))
    with pytest.raises(TrainingInterruptedError, match="while the coarser level was decoded"):
        train_level(chain.job(2, coarse, out=tmp_path), stop=Asked(0))  # type: ignore[arg-type]
    assert not list(tmp_path.glob("*_level_2/*"))


def test_a_run_is_named_once(chain: Chain) -> None:
    with pytest.raises(ConfigError, match="are one model: name each run once"):
        chain.job(2, chain.coarse, chain.coarse).settled()


def test_a_run_is_found_again_where_folders_moved_but_not_beside_other_weights(
    chain: Chain, other_coarse: Path, trained: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / chain.coarse.name
    shutil.copytree(chain.coarse, moved)
    job = chain.job(2, moved, other_coarse, out=trained.parents[1]).settled()
    known = same_run_before(job.parent, job.config, job.fingerprints())
    assert known is not None and known[0] == trained
    assert difference_of_settings(load_run_config(trained), job.config) is None
    other_weights(moved)
    assert same_run_before(job.parent, job.config, job.fingerprints()) is None
    with pytest.raises(CacheError, match="was trained on another context, by models of other wei"):
        train_level(replace(job, resume=trained))
    alone = chain.job(2, out=trained.parents[1]).settled()
    assert same_run_before(alone.parent, alone.config, alone.fingerprints()) is None


def test_runs_of_one_level_and_context_follow_one_stream(
    chain: Chain, other_coarse: Path, tmp_path: Path
) -> None:
    jobs = [
        chain.job(2, chain.coarse, out=tmp_path, lmbda=lmbda, epochs=1).settled()
        for lmbda in (0.01, 0.1)
    ]
    assert stream_settings(jobs[0]) == stream_settings(jobs[1])
    assert stream_settings(jobs[0]) != stream_settings(chain.job(2, other_coarse))
    ended = list(train_together(jobs, Asked(10**9)))  # type: ignore[arg-type]
    alone = train_level(replace(jobs[0], out=tmp_path / "alone"))
    (folder,) = (end for job, end in ended if job.config == jobs[0].config)
    assert isinstance(folder, Path)
    states = [training_state(run / LAST_NAME) for run in (folder, alone)]
    assert not differences(*states)


def test_a_rank_without_a_part_of_the_batch_steps_with_a_map_that_counts_nothing(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = chain.job(2, chain.coarse).settled()
    seen: list[Sequence[int]] = []
    forward = LevelCodec.forward

    def watched(codec: LevelCodec, x: Tensor, measure: Any, context: Context) -> Any:
        seen.append([len(each) for each in (x, context.maps, context.trail)])
        return forward(codec, x, measure, context)

    monkeypatch.setattr(LevelCodec, "forward", watched)
    monkeypatch.setattr(World, "add_up", lambda world, values: values)
    with open_caches(job) as caches:
        codec = make_codec(job, caches)
        stream = make_stream(job, caches, ALONE)
        session = new_session(codec, codec, stream, job.config, "cpu")
        session.codec.train()
        step = Step(
            session, job.config.training, [2], [square_error], LossWatch(caches.train, "cpu"),
            World(rank=1, size=2),
        )  # fmt: skip
        batch, x = next(iter(on_device(stream, "cpu")))
        of_none = replace(
            batch, indices=batch.indices[:0], beside=tuple(each[:0] for each in batch.beside)
        )
        step(replace(of_none, first_row=0, batch_rows=1), x[:0])
    assert seen == [[1, 1, 1]]
    assert float(session.sums[0]) == 0


@pytest.mark.parametrize(
    ("level", "told"),
    [
        (1, r"a run of level 3: beside level 1 goes one of level 2 alone"),
        (3, r"level 3 is the coarsest that is coded"),
        ("random", r"a codec for all levels sees none: name one --level"),
    ],
)
def test_contexts_that_do_not_fit_are_refused(chain: Chain, level: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        chain.job(level, chain.coarse).settled()


def test_runs_that_cannot_take_turns_and_folders_without_a_run_are_refused(
    chain: Chain, tmp_path: Path
) -> None:
    wide = chain.job(3, out=tmp_path)
    model = wide.config.model.model_copy(update={"n_channels": 16})
    wide_run = untrained_run(replace(wide, config=wide.config.model_copy(update={"model": model})))
    with pytest.raises(ConfigError, match=r"cannot take turns \(trail_channels 12 and 16\)"):
        chain.job(2, chain.coarse, wide_run).settled()
    with pytest.raises(ConfigError, match="no such checkpoint: run train-level first"):
        chain.job(2, tmp_path).settled()
    config = chain.job(2, chain.coarse).settled().config
    training = config.training.model_copy(update={"context": []})
    with pytest.raises(ConfigError, match=r"model.context: is measured by train-level: remove"):
        replace(wide, config=config.model_copy(update={"training": training})).settled()


def test_coarser_levels_are_decoded_on_the_fly_as_they_would_be_stored(
    chain: Chain, tmp_path: Path
) -> None:
    """Of whole maps to the rounding of float16, of crops as of maps of their own."""
    stored = chain.job(1, chain.fine, crop=None).settled()
    flying = chain.job(1, chain.fine, crop=None, context_on_the_fly=True).settled()
    contexts, shapes = [], []
    for job in (stored, flying):
        with open_caches(job) as caches:
            batches = whole_map_batches(caches.val[0], 2, range(2), caches.beside.val)
            contexts.append(caches.beside.in_context(next(iter(batches))).beside)
            batch = next(iter(make_stream(job, caches, ALONE)))
            shapes.append([each.shape for each in caches.beside.in_context(batch).beside])
            none = tuple(each[:0] for each in batch.beside)
            of_none = caches.beside.in_context(replace(batch, features=none[0], beside=none))
            assert [len(each) for each in of_none.beside] == [0, 0]
    for one, other in zip(*contexts, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=1e-2, atol=1e-2)
    assert shapes[0] == shapes[1]
    run = train_level(replace(flying, out=tmp_path))
    (context,) = load_codec(run / BEST_NAME)[1].context
    assert context == load_codec(chain.fine / BEST_NAME)[1].model_sha256
    assert stream_settings(stored) != stream_settings(flying)
    known = same_run_before(
        replace(flying, out=tmp_path).parent, stored.config, stored.fingerprints()
    )
    assert known is None, "decoded crops are not what is decoded of whole maps"


def test_several_runs_are_not_decoded_on_the_fly(chain: Chain, other_coarse: Path) -> None:
    job = chain.job(2, chain.coarse, other_coarse, context_on_the_fly=True).settled()
    with pytest.raises(ConfigError, match="name one, or leave --context-on-the-fly out"):
        train_level(job)


def test_decoding_on_the_fly_asks_for_something_to_decode(chain: Chain) -> None:
    job = chain.job(3)
    training = job.config.training.model_copy(update={"context_on_the_fly": True})
    alone = replace(job, config=job.config.model_copy(update={"training": training}))
    with pytest.raises(ConfigError, match="there is no context to decode: name runs of the coars"):
        alone.settled()
    assert replace(alone, chain=0).settled().config.training.context_on_the_fly


def test_a_dry_run_counts_what_all_runs_of_a_chain_decode_and_is_not_there_yet(
    chain: Chain, tmp_path: Path
) -> None:
    moved = [tmp_path / run.parent.name / run.name for run in (chain.coarse, chain.fine)]
    for run, place in zip((chain.coarse, chain.fine), moved, strict=True):
        shutil.copytree(run, place)
    other_weights(moved[1])
    *lines, total = lines_of_decoded([chain.job(1, moved[1])])
    assert [line.partition(": ")[0] for line in lines] == [
        f"decoded, {run}, {split}"
        for run in (moved[1], chain.coarse.resolve())
        for split in ("train", "val")
    ]
    assert not lines[0].endswith(": 0.00 MB"), "nobody has decoded with these weights"
    assert total.startswith("decoded, all: ") and total.endswith("are free")

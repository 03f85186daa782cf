"""What whole pyramids take, and models for all levels measured level by level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analyze.analysis import shared_runs
from analyze.choosing import measured_runs
from analyze.facts.kept_results import Kept
from analyze.facts.sent_parts import parts_of
from analyze.maps.map_source import as_batch
from analyze.measure.approach_cost import approach_cost
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.find_runs import trained_runs
from analyze.measure.level_results import shared_pyramids
from analyze.measure.model_cost import model_cost
from data.cache.cache_folder import CacheFolder
from tests.analyze.measure.test_context_chain import MODEL, opened
from tests.support.coded_study import make_chain, make_run
from tests.support.tiny_study import TinyStudy
from train.context.decoded_plan import decoded_bytes
from train.runs.checkpoint import BEST_NAME, load_codec
from train.runs.loaded_models import LoadedModels


def test_chain_takes_its_models_what_they_decode_and_the_encoders_decoding(
    study: TinyStudy, tmp_path: Path
) -> None:
    fine, coarse = make_chain(tmp_path, study, MODEL, (2, 3))
    models = LoadedModels()
    costs = {folder: model_cost(models.codec(folder)) for folder in (fine, coarse)}
    with opened(study) as split:
        found = trained_runs([fine, coarse], split.cache, models).special
        runs = {run.level: run for run in found}
        cost = approach_cost(runs, split.readers, split.cache, models)
        alone = approach_cost({3: runs[3]}, split.readers, split.cache, models)
    assert (cost.models, alone.models) == (2, 1)
    assert cost.parameters == sum(each.parameters for each in costs.values())
    assert cost.weight_bytes == sum(each.storage_bytes for each in costs.values())
    caches = [CacheFolder(path).manifest for path in (study.train_cache, study.val_cache)]
    model = models.info(coarse).config.model
    assert cost.decoded_bytes == sum(decoded_bytes(each, 3, model) for each in caches)
    assert alone.decoded_bytes == 0
    # The encoder makes what level 2 sees of level 3, without decoding a bit.
    seen = costs[coarse].seen_macs_per_position / costs[coarse].encoder_macs_per_position
    of_fine = cost.decoder_macs_per_image - alone.decoder_macs_per_image
    ratio = costs[fine].encoder_macs_per_position / costs[fine].decoder_macs_per_position
    assert seen > 1
    assert cost.encoder_macs_per_image == pytest.approx(
        alone.encoder_macs_per_image * seen + of_fine * ratio
    )
    assert cost.training_seconds is None  # these runs were never trained


def test_model_for_several_levels_codes_each_by_its_own_standardisation(
    study: TinyStudy, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "runs" / "random", study, 3, 4)
    models = LoadedModels()
    with opened(study) as split:
        found = trained_runs([folder], split.cache, models)
        assert (found.special, found.random) == ((), (folder,))
        shared = shared_runs(found, split)
        assert [(run.level, run.model_folder, run.num_levels) for run in shared] == [
            (3, folder, 2), (4, folder, 2),
        ]  # fmt: skip
        decoded = DecodedLevels(tmp_path, split.readers, split.num_images, models)
        measured = measured_runs(split, shared, decoded, models, Kept(None))
        for each in measured:
            level = each.run.level
            codec, _ = load_codec(folder / BEST_NAME, level=level)
            x = as_batch(split.readers[level].sample(0))
            expected = codec(x)["x_hat"][0].permute(1, 2, 0).detach().numpy().astype(np.float16)
            assert np.array_equal(decoded.of([each.run])[each.run.folder].read(0), expected)
        # Levels without it: no pyramid.
        assert shared_pyramids(split, shared, parts_of(measured), None) == []

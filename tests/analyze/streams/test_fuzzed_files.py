"""No altered image file crashes, hangs, exhausts memory or is decoded to something else."""

from __future__ import annotations

from pathlib import Path

from analyze.streams.ensemble import ensemble_of_runs, write_ensemble
from data.cache.manifest import Manifest
from tests.support.coded_study import make_run, must_compress
from tests.support.forked import result_of
from tests.support.fuzzed_decoding import decode_mutations
from tests.support.tiny_study import TinyStudy

NUM_MUTATIONS = 12_000


def test_twelve_thousand_altered_files_are_cache_errors_within_400_mb(
    study: TinyStudy, tmp_path: Path
) -> None:
    names = ["factorized_prior_specific_level", "scale_hyperprior"] * 2
    runs = [
        make_run(tmp_path / f"run_{level}", study, level, name=name)
        for level, name in enumerate(names)
    ]
    must_compress(study, tmp_path / "streams", runs)
    manifest = Manifest.load(study.val_cache)
    ensemble = tmp_path / "ensemble.yaml"
    write_ensemble(ensemble, ensemble_of_runs(runs, manifest.levels))
    file = tmp_path / "streams" / "images" / f"{manifest.samples[0].image_id}.fpn"
    counts = result_of(decode_mutations, ensemble, file, NUM_MUTATIONS)
    assert counts.total() == NUM_MUTATIONS
    whole = {name: number for name, number in counts.items() if not name.endswith(": error")}
    # Nothing passes but what was given the right checksum.
    assert all("mended" in name for name in whole), counts
    payloads = sum(number for name, number in counts.items() if name.startswith("payload"))
    assert payloads > 400
    # An entropy coder has no redundancy to know a forged payload by; most do not end as they must.
    assert counts["payload, mended: error"] > 0.85 * payloads, counts

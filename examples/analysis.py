"""An analysis from Python: what each level costs, and what that does to detection.

python examples/analysis.py [CONFIG] [FEATURES] [CHECKPOINTS]
"""

import sys
from pathlib import Path

from analyze import AnalysisRequest, Kept, Target, Wanted, analyze
from configs import load_config

config = load_config(sys.argv[1] if len(sys.argv) > 1 else None)
features = Path(sys.argv[2] if len(sys.argv) > 2 else "features/scenes")
checkpoints = Path(sys.argv[3] if len(sys.argv) > 3 else "checkpoints")

request = AnalysisRequest(
    cache=features / "val", split="val", checkpoints=checkpoints, run_dirs=(),
    config=config, device="cpu", limit=None, options="",
)  # fmt: skip
wanted = Wanted(target=Target(kind="map_drop", value=0.01), anchors=("uniform",))
findings = analyze(request, wanted, scratch=Path.cwd(), kept=Kept(Path("kept")))
for row in findings.result.rows:
    if row.measurement is not None:
        alone = "-" if row.alone is None else f"{row.alone.map:.3f}"
        print(f"level {row.facts.level}: {row.measurement.real_bpp:.3f} bpp, mAP {alone}")
for line in findings.result.missing:
    print(f"missing: {line}")

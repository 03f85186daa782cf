#!/usr/bin/env bash
# Extract the train and val caches if they are not there, then train the codec of one FPN level.
set -euo pipefail

usage() {
    cat <<'HELP'
Usage: run_train_factorized_prior_specific_level_fpn.sh --level <0|1|2|3|4> [options]

Works in the current directory: caches land in features/, runs in checkpoints/.

  --level <0|1|2|3|4>                 FPN level to train, 0 is the finest (required)
  --config CONFIG_FILE                YAML file, or the name of a packaged configuration
  --detection_checkpoint CHECKPOINT   detector weights, instead of the configuration's
  --help                              show this and exit

Several may run at once for different levels: they share one extraction.
HELP
}

fail() {
    echo "error: $1" >&2
    exit 2
}

level=""
config_options=()
checkpoint_options=()
while [[ $# -gt 0 ]]; do
    case "$1" in
        --help | -h)
            usage
            exit 0
            ;;
        --level | --config | --detection_checkpoint | --detection-checkpoint)
            [[ $# -ge 2 && $2 != --* ]] || fail "$1 needs a value"
            case "$1" in
                --level) level=$2 ;;
                --config) config_options=(--config "$2") ;;
                *) checkpoint_options=(--detection-checkpoint "$2") ;;
            esac
            shift 2
            ;;
        *) fail "unknown option '$1': see --help" ;;
    esac
done
[[ -n $level ]] || fail "--level is required: 0, 1, 2, 3 or 4"
[[ $level =~ ^[0-4]$ ]] || fail "--level $level: must be 0, 1, 2, 3 or 4"

# The commands of an activated environment come first, then those that `make` installed.
PATH=$PATH:$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/.venv/bin
for command in extract-features train-level; do
    command -v "$command" >/dev/null || fail "$command is not installed: run pip install -e ."
done

# ${list[@]+...}: bash before 4.4 (macOS) takes an empty list for an unset variable.
# Extraction takes a lock and skips what is already in the cache.
extract-features --split train --split val ${config_options[@]+"${config_options[@]}"} ${checkpoint_options[@]+"${checkpoint_options[@]}"}
exec train-level --level "$level" ${config_options[@]+"${config_options[@]}"} ${checkpoint_options[@]+"${checkpoint_options[@]}"}

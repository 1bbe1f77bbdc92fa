# shellcheck shell=bash disable=SC2034,SC2154  # variables are shared with the scripts that source this
# How the stages of one run are started, told and stopped. The run's supervisor (study_pipeline/pipeline_job.py) holds
# the lock of the results directory, and EARLY_PERSISTENCE_LOCK_DESCRIPTOR says where. Needs common.sh, `python` and
# `results_dir`.

stage_pid='' stages_told=0 stage_code=0

note_datasets() { # for whoever verifies the run later
  printf '%s\n' "$standard_data" "$blind_data" >"$results_dir/.stages/datasets"
}

open_branch() {
  [ -n "$publish_to" ] || return 0
  "$python" -m study_pipeline.result_branch open --results_dir "$results_dir" --branch "$publish_to"
}

stage_done() { # name, message of its commit or nothing: publishes what it wrote; ends the run where --until says
  [ -n "$dry_run" ] || [ -z "$publish_to" ] || [ -z "$2" ] ||
    "$python" -m study_pipeline.result_branch commit --results_dir "$results_dir" --message "$2"
  [ "$1" = "$until" ] || return 0
  say "Stopping after $1, as --until says"
  exit 0
}

run_stage() { # name, flags of stage_runner, --, command: ends the run where the stage fails
  try_stage "$@"
  [ "$stage_code" -eq 0 ] || exit "$stage_code"
}

try_stage() { # the same, but goes on where the stage fails; sets `stage_code`. A stage that was stopped ends the run
  local name=$1
  stage_code=0
  shift
  if [ -n "$dry_run" ]; then
    tell_stage "$name" "$@"
    return
  fi
  # in the background, because a shell that waits for a foreground command does not react to signals
  "$python" -m study_pipeline.stage_runner --stage "$name" --results_dir "$results_dir" \
    --lock_descriptor "$EARLY_PERSISTENCE_LOCK_DESCRIPTOR" "$@" &
  stage_pid=$!
  wait "$stage_pid" || stage_code=$?
  stage_pid=''
  case $stage_code in
    129 | 130 | 143) exit "$stage_code" ;;
  esac
}

tell_stage() { # name, flags of stage_runner, --, command
  stages_told=$((stages_told + 1))
  printf '%2d. %s\n   ' "$stages_told" "$1"
  while [ "$1" != -- ]; do shift; done
  shift
  printf ' %q' "$@"
  printf '\n'
}

stop_on_signals() {
  trap 'stop_stage 130' INT
  trap 'stop_stage 143' TERM
  trap 'stop_stage 129' HUP
}

stop_stage() { # exit code; the stage saves its work first
  trap '' INT TERM HUP
  if [ -n "$stage_pid" ]; then
    kill -TERM "$stage_pid" 2>/dev/null || true
    wait "$stage_pid" || true
  fi
  exit "$1"
}

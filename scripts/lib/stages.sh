# shellcheck shell=bash disable=SC2034,SC2154  # variables are shared with the scripts that source this
# How the stages of one run are started, stopped and kept apart from another run's. Needs common.sh, `python` and
# `results_dir`.

stage_pid='' lock_descriptor=9

lock_results() { # one pipeline per results directory; the lock lives on a descriptor until this shell ends
  mkdir -p "$results_dir/.stages" || fail "cannot write in $results_dir; give another --results_dir"
  if [ -n "${EARLY_PERSISTENCE_LOCK_DESCRIPTOR:-}" ]; then
    lock_descriptor=$EARLY_PERSISTENCE_LOCK_DESCRIPTOR # of the job's supervisor, which holds it already
  else
    exec 9>>"$results_dir/.stages/lock"
  fi
  "$python" -m study_pipeline.stage_runner --results_dir "$results_dir" --lock_descriptor "$lock_descriptor"
  printf '%s\n' "$standard_data" "$blind_data" >"$results_dir/.stages/datasets"
}

open_branch() {
  [ -n "$publish_to" ] || return 0
  "$python" -m study_pipeline.result_branch open --results_dir "$results_dir" --branch "$publish_to"
}

stage_done() { # name, message of its commit or nothing: publishes what it wrote; ends the run where --until says
  [ -z "$publish_to" ] || [ -z "$2" ] || "$python" -m study_pipeline.result_branch commit --results_dir "$results_dir" --message "$2"
  [ "$1" = "$until" ] || return 0
  say "Stopping after $1, as --until says"
  exit 0
}

run_stage() { # name, flags of stage_runner, --, command
  local name=$1 code=0
  shift
  # in the background, because a shell that waits for a foreground command does not react to signals
  "$python" -m study_pipeline.stage_runner --stage "$name" --results_dir "$results_dir" --lock_descriptor "$lock_descriptor" "$@" &
  stage_pid=$!
  wait "$stage_pid" || code=$?
  stage_pid=''
  [ "$code" -eq 0 ] || exit "$code"
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

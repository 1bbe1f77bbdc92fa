# shellcheck shell=bash disable=SC2034,SC2154  # variables are shared with the scripts that source this
# How the stages of one run are started, stopped and kept apart from another run's. Needs common.sh, `python` and
# `results_dir`.

stage_pid=''

lock_results() { # one pipeline per results directory; the lock lives on descriptor 9 until this shell ends
  mkdir -p "$results_dir/.stages" || fail "cannot write in $results_dir; give another --results_dir"
  exec 9>>"$results_dir/.stages/lock"
  "$python" -m stage_runner --results_dir "$results_dir" --lock_descriptor 9
}

run_stage() { # name, flags of stage_runner, --, command
  local name=$1 code=0
  shift
  # in the background, because a shell that waits for a foreground command does not react to signals
  "$python" -m stage_runner --stage "$name" --results_dir "$results_dir" --lock_descriptor 9 "$@" &
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

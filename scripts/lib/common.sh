# shellcheck shell=bash disable=SC2034,SC2154  # variables are shared with the scripts that source this
# What every script here shares: strict mode, messages, where the repository is. To be sourced first.
set -Eeuo pipefail
shopt -s inherit_errexit 2>/dev/null || true # bash 3.2 has none

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
packages=$root/experiments/trajectory_video_understanding
detection=$packages/early_persistence_detection

# threads that wait give their core away: with anything else running, spinning ones made training 5 times as slow
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

say() {
  printf '%s\n' "$*"
}

fail() { # one line: what, and the fix
  printf 'error: %s\n' "$*" >&2
  exit 2
}

print_help() { # the comment at the head of the script
  awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$1"
}

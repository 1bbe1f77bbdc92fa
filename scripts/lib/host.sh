#!/usr/bin/env bash
# Run on the host, by the client: what a verb of the pipeline does there. The job's directory is run/.
#
#   bash scripts/lib/host.sh launch|status|poll|logs|stop|refuse_second ...   see study_pipeline/pipeline_job.py
#   bash scripts/lib/host.sh verify                                           the checklists

# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=setup.sh
source "$root/scripts/lib/setup.sh"
# shellcheck source=local.sh
source "$root/scripts/lib/local.sh"

results_dir=$root/run

main() {
  local verb=$1
  shift
  cd "$root"
  case $verb in
    verify) verify_run ;;
    *) ask_job "$verb" "$@" ;;
  esac
}

main "$@"

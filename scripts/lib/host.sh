#!/usr/bin/env bash
# Run on the host, by the client: what a verb of the pipeline does there. The job's directory is run/.
#
#   bash scripts/lib/host.sh launch|status|poll|logs|stop|refuse_second ...   see study_pipeline/pipeline_job.py
#   bash scripts/lib/host.sh verify                                           the checklists

# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=setup.sh
source "$root/scripts/lib/setup.sh"

results_dir=$root/run

main() {
  local verb=$1
  shift
  any_python
  cd "$root"
  case $verb in
    verify) verify ;;
    *) exec "$python" -m study_pipeline.pipeline_job "$verb" --results_dir "$results_dir" "$@" ;;
  esac
}

verify() {
  local datasets=() folder
  [ -f "$results_dir/.stages/datasets" ] || fail 'there is nothing to verify yet: no run has started its stages here'
  while IFS= read -r folder; do
    datasets+=("$folder")
  done <"$results_dir/.stages/datasets"
  use_environment
  "$python" "$root/scripts/verify_results.py" --results_dir "$results_dir" --data_dir "${datasets[@]}"
}

main "$@"

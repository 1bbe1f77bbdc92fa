# shellcheck shell=bash disable=SC2034,SC2154  # variables are shared with the scripts that source this
# Settings of the remote mode: flags first, then PIPELINE_* of the environment, then pipeline.env, then the default.
# Runs on the laptop: bash 3.2. Needs common.sh.

setting_names='host key ssh_config remote_dir repository branch local_results sync_interval heartbeat
  epochs batch_size extractor preset real_data'
extractor_names='magvit i3d slowfast transformer'

load_settings() { # file, or nothing for pipeline.env beside the README when there is one
  local file=${1:-} name variable
  [ -z "$file" ] || [ -f "$file" ] || fail "$file does not exist; copy pipeline.env.example to it"
  file=${file:-$root/pipeline.env}
  [ ! -f "$file" ] || read_settings_file "$file"
  for name in $setting_names; do
    variable=$(variable_of "$name")
    [ -n "${!name:-}" ] || printf -v "$name" '%s' "${!variable:-}"
  done
  remote_dir=${remote_dir:-early-persistence}
  remote_dir=${remote_dir#\~/} # relative to the home there
  branch=${branch:-early-persistence/magvit}
  local_results=$(expand_home "${local_results:-$root/remote_results}")
  key=$(expand_home "$key") ssh_config=$(expand_home "$ssh_config")
  sync_interval=${sync_interval:-60} heartbeat=${heartbeat:-30}
  extractor=${extractor:-magvit} preset=${preset:-standard}
  check_settings
}

variable_of() { # a setting's name in the environment and in the file
  printf 'PIPELINE_%s\n' "$(printf '%s' "$1" | tr '[:lower:]' '[:upper:]')"
}

read_settings_file() { # file of NAME=VALUE lines: read, never run
  local file=$1 line name value number=0 known='' setting
  for setting in $setting_names; do known="$known $(variable_of "$setting") "; done
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    line=$(printf '%s' "$line" | sed 's/^[[:space:]]*//; s/[[:space:]]*$//')
    case $line in '' | '#'*) continue ;; esac
    name=${line%%=*} value=${line#*=}
    case $known in
      *" $name "*) ;;
      *) fail "$file line $number: $name is not a setting; pipeline.env.example lists them" ;;
    esac
    case $value in
      \"*\" | \'*\')
        value=${value#?}
        value=${value%?}
        ;;
    esac
    [ -n "${!name:-}" ] || printf -v "$name" '%s' "$value"
  done <"$file"
}

check_settings() {
  local name
  for name in epochs batch_size sync_interval heartbeat; do
    case ${!name:-1} in
      *[!0-9]* | 0*) fail "$(variable_of "$name") must be a whole number above 0, not '${!name}'" ;;
    esac
  done
  case " $extractor_names " in
    *" ${extractor//[[:space:]]/_} "*) ;; # a name with spaces in it is no two names
    *) fail "the extractor is one of ${extractor_names// /, }, not '$extractor'" ;;
  esac
  case $host in
    -* | *[[:space:]]*) fail "'$host' is no host; give user@address, or a name from your ssh configuration" ;;
  esac
  git check-ref-format "refs/heads/$branch" || fail "'$branch' is no name for a branch"
  [ -z "$key" ] || [ -f "$key" ] || fail "the key $key does not exist"
  [ -z "$ssh_config" ] || [ -f "$ssh_config" ] || fail "the ssh configuration $ssh_config does not exist"
}

expand_home() {
  # shellcheck disable=SC2088  # the text as it stands in a file, where no shell has expanded it
  case $1 in
    "~/"*) printf '%s\n' "$HOME/${1#"~/"}" ;;
    *) printf '%s\n' "$1" ;;
  esac
}

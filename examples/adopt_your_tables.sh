#!/usr/bin/env bash
# From a team's tables to features: adopt_your_tables.sh EVENTS ITEMS USERS NEW_FOLDER [--set KEY=VALUE ...]
set -euo pipefail
events=$1 items=$2 users=$3 project=$4; shift 4

reland init "$project" --interactions "$events" --items "$items" --users "$users"
reland check --project "$project" "$@"
reland generate --dry-run --project "$project" "$@"
reland run --project "$project" "$@"

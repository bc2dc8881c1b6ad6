#!/bin/bash
# without_agent LINES FOLDER NUMBER…: with the agent stopped, gives every driver each of the lines (with ; between) and
# waits until it has answered, then starts the agent again.
here=$(dirname "$0")
IFS=';' read -ra lines <<<"$1"
shift
rm -f "$here/agent-is-back"
systemctl stop gridcentric-agent
while [ $# -gt 0 ]; do
    number=$2
    for line in "${lines[@]}"; do
        "$here/say" "$1" "$number" 0 "$line"
        number=$((number + 1))
    done
    shift 2
done
touch "$here/agent-is-back"
systemctl start gridcentric-agent

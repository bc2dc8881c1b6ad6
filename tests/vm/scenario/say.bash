#!/bin/bash
# say FOLDER NUMBER [LINE]: gives a driver a line, and prints its answer of that number as soon as it is there. With SIGNAL
# set, it gets that signal until then.
folder=$1 number=$2
[ $# -lt 3 ] || printf '%s\n' "$3" 1<>"$folder/in"
exec 9<>"$folder/never" # a read from it waits, and starts no process
for ((tries = 0; tries < 6000; tries++)); do
    mapfile answers <"$folder/out"
    answer=${answers[number - 1]:-}
    if [[ $answer = *$'\n' ]]; then
        printf '%s' "$answer"
        exit
    fi
    [ -z "${SIGNAL:-}" ] || kill "-$SIGNAL" "$(<"$folder/pid")"
    read -r -t 0.05 -u 9 _
done
echo "no answer $number: $(cat "$folder/err")" >&2
exit 1

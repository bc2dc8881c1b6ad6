#!/bin/bash
# Does what each line of its input says with the command gc, as a script would, and answers with a line of JSON, as the
# drivers of the bindings do.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkfifo "$work/never"
exec 9<>"$work/never"

# The words of gc for a line, in `argv`.
translate() {
    local verb=$1
    shift
    case $verb in
        request_ticket) argv=(rt "$@") ;;
        list_tickets) argv=(lt) ;;
        list_ticket_domains) argv=(ltd "$@") ;;
        my_ip) argv=(my-ip) ;;
        list | stat) argv=("$verb" --json) ;;
        join_wait)
            rm -rf "$work/files"
            mkdir "$work/files"
            argv=(join "$@" --files "$work/files")
            ;;
        join)
            argv=(join "$1")
            [ $# -lt 2 ] || { printf %s "$2" >"$work/file" && argv+=(--file "$work/file"); }
            ;;
        join_noreport) argv=(join noreport) ;;
        kill_generation) argv=(kill-generation "$@") ;;
        *) argv=("$verb" "$@") ;;
    esac
}

# What gc printed, as a value.
value() {
    case $1 in
        request_ticket) printf '"%s"' "$(awk '{ print $2 }' <<<"$2")" ;;
        my_ip) printf '"%s"' "$2" ;;
        list_tickets) awk '
            $1 == "ticket" { printf "%s{\"id\":\"%s\"", n++ ? "," : "[", $2 }
            $1 == "status" { printf ",\"status\":\"%s\"", $2 }
            $1 ~ /^(cpus|vms|mincpuspervm)$/ { printf ",\"%s\":%d%s", $1, $2, $1 ~ /^min/ ? "}" : "" }
            END { printf n ? "]" : "[]" }' <<<"$2" ;;
        list_ticket_domains) awk '
            $1 == "vmid" { printf "%s{\"vmid\":%d", n++ ? "," : "[", $2 }
            $1 == "ip" { printf ",\"ip\":\"%s\"", $2 }
            $1 == "state" { printf ",\"state\":\"%s\"}", $2 }
            END { printf n ? "]" : "[]" }' <<<"$2" ;;
        join_wait)
            local vmid status comma=
            printf '['
            while read -r vmid status; do
                [ -n "$vmid" ] || continue
                printf '%s{"vmid":%d,"status":%d,"file":"%s"}' "$comma" "$vmid" "$status" "$(cat "$work/files/$vmid" 2>/dev/null)"
                comma=,
            done <<<"$2"
            printf ']'
            ;;
        sync | kill | kill_generation | killall) printf null ;;
        *) tr -d '\n' <<<"$2" ;;
    esac
}

quoted() {
    local text=${1//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

run() {
    local argv said status=0 complaint err=$work/err.$BASHPID # one may run in the background
    translate "$@"
    said=$(gc "${argv[@]}" 2>"$err") || status=$?
    complaint=$(<"$err")
    if [ "$1" = ismaster ] && [ "$status" -le 1 ] && [ -z "$said$complaint" ]; then
        [ "$status" = 0 ] && echo '{"value":true}' || echo '{"value":false}'
    elif [ "$status" = 0 ]; then
        printf '{"value":%s}\n' "$(value "$1" "$said")"
    elif [ -z "$said" ] && [[ $complaint = "gc: "* && $complaint != *$'\n'* ]]; then
        printf '{"errno":%d,"message":%s}\n' "$status" "$(quoted "$complaint")"
    else # not what the contract has: a word on standard output, or more than a line of complaint
        printf '{"value":%s}\n' "$(quoted "${said//$'\n'/ }; ${complaint//$'\n'/ }; status $status")"
    fi
}

beside() {
    local beats=0 answer
    rm -f "$work/beside"
    { run "$@" >"$work/beside.part"; mv "$work/beside.part" "$work/beside"; } &
    until [ -e "$work/beside" ]; do
        read -r -t 0.005 -u 9 _
        beats=$((beats + 1))
    done
    wait
    answer=$(<"$work/beside")
    printf '%s,"beats":%d}\n' "${answer%\}}" "$beats"
}

cancel() {
    local argv pid status=0
    translate "$@"
    gc "${argv[@]}" >/dev/null 2>&1 &
    pid=$!
    read -r -t 0.5 -u 9 _
    kill -TERM "$pid"
    wait "$pid" || status=$?
    [ "$status" = 143 ] && echo '{"value":"cancelled"}' || printf '{"value":%d}\n' "$status"
}

while read -ra words; do
    case ${words[0]} in
        beside | cancel) "${words[@]}" ;;
        *) run "${words[@]}" ;;
    esac
done

#!/bin/bash
# start FOLDER USER COMMAND…: starts a driver that reads FOLDER/in, writes FOLDER/out, and outlives who started it.
folder=$1 user=$2
shift 2
rm -rf "$folder"
mkdir -p "$folder"
mkfifo "$folder/in" "$folder/never"
[ "$user" = root ] || set -- setpriv "--reuid=$user" "--regid=nogroup" --clear-groups "$@"
# it holds both ends of what it reads: there is no end, in no clone
setsid "$@" <>"$folder/in" >"$folder/out" 2>"$folder/err" &
echo $! >"$folder/pid"

#!/bin/sh
# Counts in the background. A fork of the machine counts on from where it was, by itself.
count=0
while sleep 1; do
    count=$((count + 1))
    echo "$(hostname) $count"
done >>/root/counted 2>&1 </dev/null &

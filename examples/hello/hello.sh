#!/bin/sh
# Forks the machine that it runs in; each machine says who it is.
set -e
ticket=$(gc request-ticket 2 2 1 1000)
vmid=$(gc clone "${ticket#ticket }")
echo "hello from the shell, vmid $vmid"

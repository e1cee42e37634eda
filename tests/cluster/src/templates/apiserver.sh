#!/bin/bash
# Keeps an etcd and a kube-apiserver alive for as long as whoever started it lives.
# In: the working folder, with `etcd.args` and `kube-apiserver.args` in it; PROGRAM; standard input, which closes when the
# starter ends, even by SIGKILL. Out: the two processes; after that, nothing of them, and no folder.
mapfile -t etcd <etcd.args
mapfile -t apiserver <kube-apiserver.args
"$PROGRAM" etcd "${etcd[@]}" >etcd.log 2>&1 </dev/null &
first=$!
"$PROGRAM" kube-apiserver "${apiserver[@]}" >kube-apiserver.log 2>&1 </dev/null &
second=$!
read -r _
kill -9 "$first" "$second" 2>/dev/null
wait 2>/dev/null
rm -rf "$PWD"

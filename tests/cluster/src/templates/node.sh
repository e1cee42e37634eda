#!/bin/bash
# A node's first process: starts containerd, kubelet and kube-proxy and reaps what is left to it.
# In: STATE (the cluster's folder), PROGRAMS (folder of the built programs), NODE (n1 or n2), NODE_ADDRESS.
# Out: a node that registers itself. When this process is killed, everything of the node is gone: a power loss.
export PATH="$PROGRAMS:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
socket=$STATE/$NODE/containerd.sock
cd "$STATE/$NODE" || exit 1
# What the runtime and the kubelet write to fixed places goes with the node, and is not shared with the other one.
mkdir -p /var/lib/cni
for folder in /run /var/log /var/lib/cni; do mount -t tmpfs tmpfs "$folder"; done

containerd -c containerd.toml >>logs/containerd.log 2>&1 &
until ctr -a "$socket" version >/dev/null 2>&1; do sleep 0.1; done
for archive in "$STATE"/images/*.tar; do
  ctr -a "$socket" -n k8s.io images import "$archive" >>logs/images.log 2>&1
done
testkube kubelet --kubeconfig="$STATE/pki/$NODE.conf" --config=kubelet.yaml --root-dir="$STATE/$NODE/kubelet" \
  --hostname-override="$NODE" --node-ip="$NODE_ADDRESS" --node-labels="topology.kubernetes.io/zone=zone-$NODE" \
  >>logs/kubelet.log 2>&1 &
testkube kube-proxy --kubeconfig="$STATE/pki/proxy.conf" --hostname-override="$NODE" --cluster-cidr=10.244.0.0/16 \
  --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 \
  --oom-score-adj=0 >>logs/kube-proxy.log 2>&1 &
wait

#!/usr/bin/env bash
# Writes the chart's copy of the CRD: the generated one, with the annotations that Helm and the chart look at.
# In: crds/collabclusters.yaml. Out: files/crd.yaml.
set -euo pipefail
cd "$(dirname "$0")"
version=$(sed -n 's/^version: //p' Chart.yaml)
awk -v version="$version" '
  { print }
  /^metadata:$/ && !done {
    print "  annotations:"
    print "    collabcluster.io/version: " version
    print "    helm.sh/resource-policy: keep"
    done = 1
  }' ../../crds/collabclusters.yaml > files/crd.yaml

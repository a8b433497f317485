#!/usr/bin/env bash
# Write manifests/install.yaml: what `helm install` with the default values makes, for `kubectl apply`.
#
#   scripts/manifests.sh            writes the file
#   scripts/manifests.sh --print    writes to stdout, for the test that holds the file and the chart together
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

render() {
    cat <<'END'
# The operator and the definition of ScadlesJob, rendered from charts/scadles by `make manifests`; not edited by hand.
#
#   kubectl apply -f manifests/install.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: scadles-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
END
    # A key in a public file would be none, so the operator makes it in the cluster.
    helm template scadles charts/scadles --namespace scadles-system --kube-version 1.34.0 --skip-tests \
        --set operatorKey.create=false
}

if [ "${1:-}" = --print ]; then
    render
else
    render >manifests/install.yaml.new
    mv manifests/install.yaml.new manifests/install.yaml
fi

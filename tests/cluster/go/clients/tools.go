//go:build tools

package tools

import (
	_ "helm.sh/helm/v3/cmd/helm"
	_ "github.com/argoproj/argo-cd/gitops-engine/agent"
	_ "keyshred.dev/tests/clients/argocd"
	_ "keyshred.dev/tests/clients/flux"
)

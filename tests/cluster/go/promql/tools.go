//go:build tools

package tools

import (
	_ "keyshred.dev/tests/promql/promql"
)

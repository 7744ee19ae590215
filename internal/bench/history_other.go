//go:build !linux

package bench

import (
	"context"
	"io"
)

func runHistory(context.Context, *bencher) error { return errLinux }

// RunHistoryEngine is the child of the measurement «history».
func RunHistoryEngine(context.Context, io.Reader, io.Writer) error { return errLinux }

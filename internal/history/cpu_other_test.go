//go:build !linux

package history_test

import "time"

// cpu is measured on Linux alone.
func cpu() time.Duration { return 0 }

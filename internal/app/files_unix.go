//go:build unix

package app

import "syscall"

// openFiles is how many files this process may have open, 0 for no limit. The Go runtime
// has raised the soft limit to the hard one, or one less, when the process began.
func openFiles() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return fileLimit(uint64(limit.Cur)) //nolint:unconvert // signed on some systems
}

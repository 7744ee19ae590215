//go:build unix

package app

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"signalbox"
)

// lockDir takes the data directory for this process; the lock goes with the process,
// however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the data directory %s cannot be written", dir)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) //nolint:gosec // a descriptor is small
	if err == nil {
		return f, nil
	}
	err = errors.Join(err, f.Close())
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, signalbox.Errorf(signalbox.KindConflict, "data_locked", "another Signalbox uses the data directory %s", dir)
	}
	return nil, signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the data directory %s cannot be locked", dir)
}

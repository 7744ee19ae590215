//go:build !unix

package app

import (
	"os"
	"path/filepath"

	"signalbox"
)

// lockDir takes the data directory for this process as long as the file exists.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) { // an open file cannot be removed here
		return nil, signalbox.Errorf(signalbox.KindConflict, "data_locked", "another Signalbox uses the data directory %s", dir)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the data directory %s cannot be written", dir)
	}
	return f, nil
}

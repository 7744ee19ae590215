package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/history"
	"signalbox/internal/store"
)

// BackupReport says what is in a backup.
type BackupReport = store.BackupReport

// backup writes a backup of the open hub.
func (a *App) backup(ctx context.Context, w io.Writer, key bool) (int64, error) {
	o := store.BackupOptions{MadeBy: a.version}
	if key {
		var err error
		if o.Key, err = os.ReadFile(a.keyFile()); err != nil {
			return 0, signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the key file %s cannot be read (%s)", a.keyFile(), Cause(err))
		}
	}
	report, err := a.store.Backup(ctx, w, o)
	return report.Bytes, err
}

func (a *App) keyFile() string { return filepath.Join(a.cfg.Data, "secret.key") }

// VerifyBackup reads a backup to its end and says what is in it; see store.VerifyBackup.
func VerifyBackup(ctx context.Context, r io.Reader, progress func(done, total int64)) (BackupReport, error) {
	return store.VerifyBackup(ctx, r, progress)
}

// RestoreReport says what Restore did.
type RestoreReport struct {
	BackupReport
	// Store says where the contents are now.
	Store string `json:"store"`
	// KeyMissing says that the data directory has no key file, or another than the one that
	// the backup was made with: devices with chosen or imported secrets cannot log in until
	// it is put there.
	KeyMissing bool `json:"key_missing"`
}

// Restore fills the data directory, or the empty database of the configuration, with the
// backup in file, which is read twice. It refuses a directory that a hub uses (KindConflict,
// code data_locked), data that are there already (not_empty) and, with a backup that has the
// key file in it, another key file (key_differs). After an error or a kill the next Restore
// begins anew, and Open refuses what is left (restore_unfinished).
//
// progress hears how many of all rows were checked, then how many were restored.
func Restore(ctx context.Context, o Options, file io.ReadSeeker, progress func(restoring bool, done, total int64)) (report RestoreReport, err error) {
	a := &App{cfg: o.Config, logger: o.Logger, version: o.Version}
	if a.logger == nil {
		a.logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(a.cfg.Data, 0o700); err != nil {
		return report, signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the data directory %s cannot be made", a.cfg.Data)
	}
	if a.lock, err = lockDir(a.cfg.Data); err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, a.lock.Close()) }()
	if err := os.Chmod(a.cfg.Data, 0o700); err != nil { //nolint:gosec // a directory needs x
		a.logger.Warn("the data directory cannot be made private", "data", a.cfg.Data, "err", err)
	}
	where, err := a.storeConfig()
	if err != nil {
		return report, err
	}
	if err := a.refuseSpool(); err != nil {
		return report, err
	}
	report.BackupReport, err = store.Restore(ctx, where, file, store.RestoreOptions{
		Progress: progress, Key: a.putKey,
		Finish: func(ctx context.Context, st *store.Store) (err error) {
			report.Store = st.Where()
			if report.KeyMissing, err = a.keyIsMissing(ctx, st); err != nil {
				return err
			}
			return st.Update(ctx, func(tx *store.Tx) error { return tx.SuspectForwarders(ctx) })
		},
	})
	return report, err
}

// refuseSpool refuses a directory that holds telemetry of another history, which a hub would
// add to the restored one.
func (a *App) refuseSpool() error {
	path := filepath.Join(a.cfg.Data, history.SpoolName)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0:
		return nil
	case err != nil:
		return fmt.Errorf("look at %s: %w", path, err)
	default:
		return signalbox.Errorf(signalbox.KindConflict, "not_empty",
			"%s holds telemetry that its hub has not stored in its database yet; start that hub until it is empty, or restore into a fresh data directory", path)
	}
}

// putKey makes the key file of a backup that of the data directory.
func (a *App) putKey(key []byte) error {
	have, err := os.ReadFile(a.keyFile())
	switch {
	case err == nil && bytes.Equal(have, key):
		return nil
	case err == nil:
		return signalbox.Errorf(signalbox.KindConflict, "key_differs", "%s is another key file than the one in the backup; move it away first", a.keyFile())
	case !errors.Is(err, fs.ErrNotExist):
		return signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the key file %s cannot be read (%s)", a.keyFile(), Cause(err))
	}
	temporary := a.keyFile() + ".new"
	if err = writeDurable(temporary, key); err == nil {
		err = os.Rename(temporary, a.keyFile())
	}
	if err != nil {
		return signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the key file %s cannot be written (%s)", a.keyFile(), Cause(err))
	}
	return nil
}

// writeDurable writes a private file that is on disk when this returns.
func writeDurable(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// keyIsMissing says whether the key file is not the one that the contents were made with.
func (a *App) keyIsMissing(ctx context.Context, st *store.Store) (bool, error) {
	known, err := st.Meta(ctx, "key_id")
	if err != nil || known == "" {
		return false, err
	}
	if _, err := os.Stat(a.keyFile()); errors.Is(err, fs.ErrNotExist) {
		return true, nil // and none is made
	}
	keys, err := auth.OpenKeys(a.keyFile())
	if err != nil {
		return false, err
	}
	return keys.ID() != known, nil
}

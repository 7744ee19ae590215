package app

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"signalbox"
	"signalbox/internal/store"
)

// storeSettings say where the database is.
func storeSettings() []setting {
	parse := func(value any) (string, error) {
		s, err := scalar(value)
		if err == nil && s != "" {
			err = store.CheckURL(s)
		}
		return s, err
	}
	show := func(url string) string { return strconv.Quote(store.Redact(url)) }
	place := newSetting("store", "mysql://USER:PASSWORD@HOST:PORT/DATABASE, postgres://USER:PASSWORD@HOST:PORT/DATABASE, or empty for SQLite in the data directory",
		func(c *Config) *string { return &c.Store }, parse, show)
	place.spell = func(value any) string {
		s, err := scalar(value)
		if err != nil {
			return "(no text)"
		}
		return store.Redact(s)
	}
	return []setting{
		place.means("The database: SQLite, MariaDB 10.11 or later, or PostgreSQL 15 or later. One hub has a database for itself. A Unix socket is named by " +
			"?socket=FILE (MariaDB) or ?host=DIRECTORY (PostgreSQL) instead of HOST; tls=true&ca=FILE or sslmode=verify-full&sslrootcert=FILE ask for TLS. " +
			"Flags show in the list of processes: a password belongs in the file, the environment or store_password_file."),
		path("store_password_file", func(c *Config) *string { return &c.StorePasswordFile }).
			means("A file that holds the password of the database's user, for a store without one in its address."),
	}
}

// storeConfig is what the store is opened with.
func (a *App) storeConfig() (store.Config, error) {
	c := &a.cfg
	cfg := store.Config{Dir: c.Data, URL: c.Store, CacheBytes: c.History.Cache, Logger: a.logger}
	// A row of the log is closed when it has grown to its size, by a message of any size.
	cfg.MaxValue = max(15*mib, c.History.RowBytes+c.Devices.MaxFrame)
	if c.StorePasswordFile != "" {
		text, err := os.ReadFile(c.StorePasswordFile)
		if err != nil {
			return cfg, signalbox.Errorf(signalbox.KindInvalid, "config", "the file store_password_file = %s cannot be read: %s", c.StorePasswordFile, Cause(err))
		}
		cfg.Password = strings.TrimRight(string(text), "\r\n")
	}
	return cfg, nil
}

// storeNote is the file in the data directory that says which server has the hub's database.
const storeNote = "store.url"

// checkStore refuses to begin an embedded database where the hub's data are on a server: the
// address was given by a flag once, and is missing now.
func (a *App) checkStore() error {
	if a.cfg.Store != "" {
		return nil
	}
	note := filepath.Join(a.cfg.Data, storeNote)
	text, err := os.ReadFile(note)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the file %s cannot be read", note)
	}
	return signalbox.Errorf(signalbox.KindConflict, "store_elsewhere",
		"the hub of %s keeps its data on %s: say so with store in the configuration, or --store; to begin anew with SQLite remove %s", a.cfg.Data, strings.TrimSpace(string(text)), note)
}

// noteStore leaves word for checkStore, once the server's database is open.
func (a *App) noteStore() error {
	if a.cfg.Store == "" {
		return nil
	}
	if err := os.WriteFile(filepath.Join(a.cfg.Data, storeNote), []byte(store.Redact(a.cfg.Store)+"\n"), 0o600); err != nil {
		return signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the data directory %s cannot be written", a.cfg.Data)
	}
	return nil
}

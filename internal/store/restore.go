package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/pressly/goose/v3"

	"signalbox"
)

const (
	// restoringName is the row of table meta that is there while a restore is not complete.
	restoringName = "restoring"
	// insertRows is how many rows go into one statement, up to about insertBytes.
	insertRows  = 64
	insertBytes = 1 << 20
	// commitBytes is about how much goes into one transaction of a restore.
	commitBytes = 8 << 20
)

// RestoreOptions are what Restore may be told. All may be nil.
type RestoreOptions struct {
	// Progress hears how many of all rows were checked, then how many were restored.
	Progress func(restoring bool, done, total int64)
	// Key is called with the key file that is in the backup before anything is changed. An
	// error of it ends the restore.
	Key func(key []byte) error
	// Finish is called with the restored database before it counts as whole. An error of it
	// leaves it unfinished.
	Finish func(ctx context.Context, st *Store) error
}

// Restore fills an empty database with the backup in file, which is read twice: it is checked
// to its end before anything is changed. Tables of an older version are brought to this one
// afterwards. The caller has the data directory for itself; the database on a server must
// not be in use.
//
// Until all is there the database holds a mark, for which CheckRestored refuses it. A Restore
// that was cut off, at any moment, is begun anew by the next one.
//
// Errors. Those of VerifyBackup; a database with data in it gives KindConflict (code
// not_empty), one that is in use KindConflict (store_in_use).
func Restore(ctx context.Context, cfg Config, file io.ReadSeeker, o RestoreOptions) (BackupReport, error) {
	if o.Progress == nil {
		o.Progress = func(bool, int64, int64) {}
	}
	if o.Key == nil {
		o.Key = func([]byte) error { return nil }
	}
	check := &keyKeeper{}
	report, err := unpack(ctx, file, check, func(done, total int64) { o.Progress(false, done, total) })
	if err != nil {
		return report, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return report, fmt.Errorf("read the backup again: %w", err)
	}
	v, err := openVessel(ctx, cfg)
	if err != nil {
		return report, err
	}
	fill := func() error {
		if err := v.empty(ctx); err != nil {
			return err
		}
		if report.WithKey {
			if err := o.Key(check.text); err != nil {
				return err
			}
		}
		if err := v.prepare(ctx, report.Schema); err != nil {
			return err
		}
		_, err := unpack(ctx, file, v, func(done, total int64) { o.Progress(true, done, total) })
		if err == nil {
			err = v.count(ctx, report.Tables)
		}
		return err
	}
	if err := errors.Join(v.s.explain(fill()), v.close()); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return report, err
	}
	return report, finish(ctx, v.s.cfg, o)
}

// finish brings the tables to this version and takes the mark away.
func finish(ctx context.Context, cfg Config, o RestoreOptions) error {
	st, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	if o.Finish != nil {
		err = o.Finish(ctx, st)
	}
	if err == nil {
		err = st.Update(ctx, func(tx *Tx) error {
			_, err := tx.Exec(ctx, `DELETE FROM meta WHERE name = ?`, restoringName)
			return err
		})
	}
	return errors.Join(err, st.Close())
}

// CheckRestored refuses a database in which a restore was cut off, with KindConflict (code
// restore_unfinished).
func (s *Store) CheckRestored(ctx context.Context) error {
	since, err := s.Meta(ctx, restoringName)
	if err != nil || since == "" {
		return err
	}
	return signalbox.Errorf(signalbox.KindConflict, "restore_unfinished",
		"the database %s holds only a part of a backup: the restore that began at %s was cut off; run «signalbox restore» again, it begins anew", s.where, since)
}

// keyKeeper is the receiver of the first reading: it keeps the key file.
type keyKeeper struct {
	verifier
	text []byte
}

func (k *keyKeeper) key(text []byte) error {
	k.text = append([]byte{}, text...)
	return nil
}

// vessel is a database that is being filled. It is the receiver of the second reading.
type vessel struct {
	s    *Store
	db   *sql.DB   // for what is done to the tables
	conn *sql.Conn // for filling them; with a server it has the lock
	// dialect and words are those of the migrations.
	dialect goose.Dialect
	words   words
	// tables lists the tables that are there.
	tables string

	many, one *sql.Stmt // for the section that is being read
	bytes     int       // since the latest commit
}

// openVessel opens a database for this process alone, without changing anything.
func openVessel(ctx context.Context, cfg Config) (*vessel, error) {
	v := &vessel{s: newStore(cfg)}
	open := v.openServer
	if cfg.URL == "" {
		open = v.openLite
	}
	if err := open(ctx); err != nil {
		return nil, errors.Join(v.s.explain(err), v.close())
	}
	return v, nil
}

func (v *vessel) openLite(ctx context.Context) error {
	e := newLite(v.s)
	v.s.engine = e
	v.dialect, v.words = goose.DialectSQLite3, sqliteWords()
	v.tables = `SELECT name FROM sqlite_master WHERE type = 'table'`
	err := e.makeFile()
	if err != nil {
		return err
	}
	// Nothing counts before the mark is gone, and that is synchronous for all before it.
	v.db, err = sql.Open("sqlite", e.dsn(scanCache+readerCache, busyWait, "auto_vacuum(incremental)", "journal_mode(wal)", "synchronous(normal)", "wal_autocheckpoint(4000)"))
	if err != nil {
		return fmt.Errorf("open %s: %w", e.path, err)
	}
	v.db.SetMaxOpenConns(2)
	if err := v.db.PingContext(ctx); err != nil {
		return signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the database %s cannot be used (%s)", e.path, cause(err))
	}
	v.conn, err = v.db.Conn(ctx)
	return err
}

func (v *vessel) openServer(ctx context.Context) error {
	e, err := newServer(v.s)
	if err != nil {
		return err
	}
	v.s.engine = e
	session, err := e.d.connector(true)
	if err != nil {
		return err
	}
	e.db = sql.OpenDB(session)
	if _, _, err := e.check(ctx); err != nil {
		return err
	}
	if v.conn, err = e.session(ctx); err != nil {
		return err
	}
	c, err := e.d.connector(true)
	if err != nil {
		return err
	}
	c.asIs = true
	v.db = sql.OpenDB(c)
	v.tables = `SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()`
	if e.to.postgres() {
		v.tables = `SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()`
	}
	return nil
}

func (v *vessel) close() error {
	errs := []error{v.closeStatements()}
	if v.conn != nil {
		errs = append(errs, discard(v.conn))
		v.conn = nil
	}
	if v.db != nil {
		errs = append(errs, v.db.Close())
		v.db = nil
	}
	if v.s.engine != nil {
		errs = append(errs, v.s.engine.close())
	}
	return errors.Join(errs...)
}

// empty makes sure that there are no tables: those without data, and those that a restore
// left unfinished, are removed.
func (v *vessel) empty(ctx context.Context) error {
	have, err := v.existing(ctx)
	if err != nil {
		return err
	}
	var ours []string
	if have[PlainTable] {
		ours = append(ours, PlainTable)
	}
	for _, t := range contents() {
		if t.name != "meta" && have[t.name] {
			ours = append(ours, t.name)
		}
	}
	versions := goose.DefaultTablename
	if !have["meta"] && !have[versions] && len(ours) == 0 {
		return nil
	}
	unfinished := false
	if have["meta"] {
		var n int
		if err := v.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM meta WHERE name = ?`, restoringName).Scan(&n); err != nil {
			return err
		}
		unfinished = n > 0
	}
	if !unfinished {
		if err := v.refuse(ctx, ours, have[versions]); err != nil {
			return err
		}
	}
	if e, ok := v.s.engine.(*lite); ok {
		return v.beginFile(ctx, e)
	}
	if _, err := v.db.ExecContext(ctx, `DROP VIEW IF EXISTS `+PlainView); err != nil { // it stands on tables
		return err
	}
	// The mark goes late, and the versions last: without tables no hub starts from them.
	for _, name := range append(ours, "meta", versions) {
		if _, err := v.db.ExecContext(ctx, `DROP TABLE IF EXISTS `+name); err != nil {
			return err
		}
	}
	return nil
}

func (v *vessel) existing(ctx context.Context) (have map[string]bool, err error) {
	have = map[string]bool{}
	rows, err := v.db.QueryContext(ctx, v.tables)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		have[name] = true
	}
	return have, rows.Err()
}

// refuse refuses a database that is not empty.
func (v *vessel) refuse(ctx context.Context, tables []string, versions bool) error {
	if !versions {
		return signalbox.Errorf(signalbox.KindConflict, "not_empty",
			"%s has tables named %s, which are not of this program; a backup is restored into an empty database", v.s.name(), strings.Join(tables, ", "))
	}
	newest, err := newestVersion()
	if err != nil {
		return err
	}
	var is int64
	if err := v.db.QueryRowContext(ctx, `SELECT COALESCE(MAX(version_id), 0) FROM `+goose.DefaultTablename).Scan(&is); err != nil {
		return err
	}
	if is > newest {
		return signalbox.Errorf(signalbox.KindConflict, "database_newer",
			"%s is of version %d, made by a newer Signalbox; this one knows versions up to %d", v.s.name(), is, newest)
	}
	for _, name := range tables {
		var one int
		err := v.db.QueryRowContext(ctx, `SELECT 1 FROM `+name+` LIMIT 1`).Scan(&one)
		if err == nil {
			return signalbox.Errorf(signalbox.KindConflict, "not_empty",
				"%s holds data already (table %s); a backup is restored into a fresh data directory or an empty database", v.s.name(), name)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	return nil
}

// name is what this database is called in a sentence.
func (s *Store) name() string { return "the database (" + s.where + ")" }

// beginFile replaces SQLite's file by an empty one. There is one or the other at any moment:
// all is moved into the file before it goes.
func (v *vessel) beginFile(ctx context.Context, e *lite) error {
	var busy, log, moved int
	if err := v.db.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &log, &moved); err != nil {
		return err
	}
	if busy != 0 {
		return signalbox.Errorf(signalbox.KindConflict, "store_in_use", "another program has %s open", e.path)
	}
	if err := v.close(); err != nil {
		return err
	}
	if err := os.Remove(e.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the unfinished database %s cannot be removed (%s)", e.path, cause(err))
	}
	return v.openLite(ctx)
}

// prepare makes the tables as they were when the backup was made, and sets the mark.
func (v *vessel) prepare(ctx context.Context, version int64) error {
	if e, ok := v.s.engine.(*server); ok {
		var err error
		if v.dialect, v.words, err = e.d.migrations(ctx, v.db); err != nil {
			return err
		}
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("embedded migrations: %w", err)
	}
	p, err := goose.NewProvider(v.dialect, v.db, rendered{files, v.words}, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if _, err := p.UpTo(ctx, version); err != nil {
		return fmt.Errorf("make tables of version %d in %s: %w", version, v.s.name(), err)
	}
	_, err = v.db.ExecContext(ctx, `INSERT INTO meta (name, value) VALUES (?,?)`, restoringName, time.Now().UTC().Format(time.RFC3339))
	return err
}

// section implements receiver.
func (v *vessel) section(ctx context.Context, t *backupTable) (err error) {
	names := make([]string, len(t.Columns))
	for i := range t.Columns {
		names[i] = t.Columns[i].Name
	}
	row := "(" + strings.TrimSuffix(strings.Repeat("?,", len(names)), ",") + ")"
	insert := `INSERT INTO ` + t.Name + ` (` + strings.Join(names, ", ") + `) VALUES `
	if v.one, err = v.conn.PrepareContext(ctx, insert+row); err != nil {
		return fmt.Errorf("table %s: %w", t.Name, err)
	}
	if v.many, err = v.conn.PrepareContext(ctx, insert+strings.TrimSuffix(strings.Repeat(row+",", insertRows), ",")); err != nil {
		return fmt.Errorf("table %s: %w", t.Name, err)
	}
	_, err = v.conn.ExecContext(ctx, "BEGIN")
	return err
}

// rows implements receiver.
func (v *vessel) rows(ctx context.Context, t *backupTable, values []any) error {
	width := len(t.Columns)
	for len(values) > 0 {
		n, size := 0, 0
		for n < insertRows && n*width < len(values) && size < insertBytes {
			for _, value := range values[n*width : (n+1)*width] {
				size += sizeOf(value)
			}
			n++
		}
		v.bytes += size
		if n == insertRows {
			if _, err := v.many.ExecContext(ctx, values[:n*width]...); err != nil {
				return fmt.Errorf("table %s: %w", t.Name, err)
			}
			values = values[n*width:]
			continue
		}
		for range n {
			if _, err := v.one.ExecContext(ctx, values[:width]...); err != nil {
				return fmt.Errorf("table %s: %w", t.Name, err)
			}
			values = values[width:]
		}
	}
	if v.bytes < commitBytes {
		return nil
	}
	return v.commit(ctx, "BEGIN")
}

// sizeOf is about how many bytes a value takes.
func sizeOf(value any) int {
	switch x := value.(type) {
	case string:
		return len(x)
	case []byte:
		return len(x)
	default:
		return 8
	}
}

// commit ends a transaction and does what is to be done then.
func (v *vessel) commit(ctx context.Context, then ...string) error {
	for _, query := range append([]string{"COMMIT"}, then...) {
		if _, err := v.conn.ExecContext(ctx, query); err != nil {
			return err
		}
	}
	v.bytes = 0
	return nil
}

// end implements receiver.
func (v *vessel) end(ctx context.Context, t *backupTable) error {
	if err := v.closeStatements(); err != nil {
		return err
	}
	if err := v.commit(ctx); err != nil {
		return fmt.Errorf("table %s: %w", t.Name, err)
	}
	if t.Next <= 1 {
		return nil
	}
	if err := v.countFrom(ctx, t.Name, t.Next); err != nil {
		return fmt.Errorf("set the next number of table %s: %w", t.Name, err)
	}
	return nil
}

// closeStatements closes those of a section: a connection does not close them with itself.
func (v *vessel) closeStatements() error {
	var errs []error
	for _, stmt := range []**sql.Stmt{&v.one, &v.many} {
		if *stmt != nil {
			errs = append(errs, (*stmt).Close())
			*stmt = nil
		}
	}
	return errors.Join(errs...)
}

// countFrom makes next the number of the next row.
func (v *vessel) countFrom(ctx context.Context, table string, next int64) error {
	e, ok := v.s.engine.(*server)
	switch {
	case !ok:
		if _, err := v.conn.ExecContext(ctx, `DELETE FROM sqlite_sequence WHERE name = ?`, table); err != nil {
			return err
		}
		_, err := v.conn.ExecContext(ctx, `INSERT INTO sqlite_sequence (name, seq) VALUES (?,?)`, table, next-1)
		return err
	case e.to.postgres():
		var is int64
		return v.conn.QueryRowContext(ctx, `SELECT setval(pg_get_serial_sequence(?, 'id')::regclass, ?)`, table, next-1).Scan(&is)
	default:
		_, err := v.conn.ExecContext(ctx, fmt.Sprintf(`ALTER TABLE %s AUTO_INCREMENT = %d`, table, next))
		return err
	}
}

// key implements receiver: it was given away before.
func (v *vessel) key([]byte) error { return nil }

// count makes sure that all rows are there.
func (v *vessel) count(ctx context.Context, tables []BackupTable) error {
	where := map[string]string{}
	for _, t := range contents() {
		where[t.name] = t.where()
	}
	for _, t := range tables {
		var is int64
		if err := v.conn.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+t.Name+where[t.Name]).Scan(&is); err != nil {
			return err
		}
		if is != t.Rows {
			return fmt.Errorf("table %s has %d rows after the restore, and %d in the backup", t.Name, is, t.Rows)
		}
	}
	return nil
}

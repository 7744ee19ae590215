package store

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"path"
	"text/template"

	"github.com/pressly/goose/v3"

	"signalbox"
)

//go:embed migrations/*.sql
var migrations embed.FS

// words is what the databases call the same thing. The migrations are templates over it, so
// that there is one text of each.
//
// On MariaDB a change of tables is no transaction. A migration that was cut off is run again
// from its beginning, so each of its statements must do no harm the second time: IF NOT EXISTS.
type words struct {
	// ID is the type of a primary key that the database counts up and never uses twice.
	ID string
	// Int is a signed integer of 64 bits.
	Int string
	// Name is text of up to 255 characters that may be part of a key, and Text longer text.
	// Both compare byte by byte, case and trailing spaces included.
	Name, Text string
	// Hash is up to 64 bytes that may be part of a key, Blob are bytes up to many MiB.
	Hash, Blob string
	// Table ends a CREATE TABLE, KeyTable one whose key is its order on disk where that is to
	// be asked for.
	Table, KeyTable string
	// IfExists makes the dropping of a column harmless the second time.
	IfExists string
	// IfNotExists does the same for the adding of one.
	IfNotExists string
	// Partial says that an index may be limited by WHERE.
	Partial bool
	// External says that large blobs are compressed unless that is turned off.
	External bool
}

func sqliteWords() words {
	return words{
		ID: "INTEGER PRIMARY KEY AUTOINCREMENT", Int: "INTEGER", Name: "TEXT", Text: "TEXT", Hash: "BLOB", Blob: "BLOB",
		KeyTable: "WITHOUT ROWID", Partial: true,
	}
}

// migrate brings the tables of db to this version. where names the database in errors.
func migrate(ctx context.Context, db *sql.DB, dialect goose.Dialect, w words, where string) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("embedded migrations: %w", err)
	}
	p, err := goose.NewProvider(dialect, db, rendered{files, w}, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	have, err := p.GetDBVersion(ctx)
	if err != nil {
		if signalbox.KindOf(err) != signalbox.KindInternal {
			return err
		}
		return signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the database %s cannot be read (%s)", where, cause(err))
	}
	sources := p.ListSources()
	if newest := sources[len(sources)-1].Version; have > newest {
		return signalbox.Errorf(signalbox.KindConflict, "database_newer",
			"the database %s is of version %d, made by a newer Signalbox; this one knows versions up to %d", where, have, newest)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("bring %s to the newest version: %w", where, err)
	}
	return nil
}

// makeVersions makes goose's table of versions as goose would, with these columns, so that it
// can be done again from wherever it was cut off.
func makeVersions(ctx context.Context, db *sql.DB, columns string) error {
	for _, query := range []string{
		`CREATE TABLE IF NOT EXISTS ` + goose.DefaultTablename + ` (` + columns + `)`,
		`INSERT INTO ` + goose.DefaultTablename + ` (version_id, is_applied) SELECT 0, TRUE WHERE NOT EXISTS (SELECT 1 FROM ` + goose.DefaultTablename + `)`,
	} {
		if _, err := db.ExecContext(ctx, query); err != nil {
			return err
		}
	}
	return nil
}

// rendered is a folder of templates, each read as what it becomes with the words.
type rendered struct {
	fs.FS
	words words
}

// Open implements fs.FS.
func (r rendered) Open(name string) (fs.File, error) {
	f, err := r.FS.Open(name)
	if err != nil || path.Ext(name) != ".sql" {
		return f, err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	t, err := template.New(name).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, r.words); err != nil {
		return nil, err
	}
	return &renderedFile{f, out.Bytes()}, nil
}

// renderedFile is read once, from its beginning.
type renderedFile struct {
	fs.File
	rest []byte
}

// Read implements fs.File.
func (f *renderedFile) Read(p []byte) (int, error) {
	if len(f.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

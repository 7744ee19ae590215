package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"signalbox"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// schema gives all definitions of an SQLite database, without comments and white space.
func schema(t *testing.T, dir string) string {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "signalbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), `SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := ""
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		text = regexp.MustCompile(`--[^\n]*|/\*.*?\*/`).ReplaceAllString(text, " ")
		all += strings.Join(strings.Fields(text), "") + "\n"
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestReleasedSchema: the migration that was released as plain SQL made the same tables as
// the template does, and a database from then opens as it is.
func TestReleasedSchema(t *testing.T) {
	old := t.TempDir()
	text, err := os.ReadFile("testdata/released_00001_ground.sql")
	if err != nil {
		t.Fatal(err)
	}
	up, _, _ := strings.Cut(string(text), "-- +goose Down")
	db, err := sql.Open("sqlite", filepath.Join(old, "signalbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	exec(t, db, up)
	exec(t, db, `CREATE TABLE goose_db_version (id INTEGER PRIMARY KEY AUTOINCREMENT, version_id INTEGER NOT NULL, is_applied INTEGER NOT NULL, tstamp TIMESTAMP DEFAULT (datetime('now')))`)
	exec(t, db, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, 1), (1, 1)`)
	exec(t, db, `INSERT INTO device VALUES (7, 'esp01', 'box', 1, x'`+strings.Repeat("ab", 32)+`', 0, 1000)`)
	exec(t, db, `INSERT INTO meta VALUES ('colour', 'red')`)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	rendered, err := store.Migration(open(t, store.Config{}))
	if err != nil {
		t.Fatal(err)
	}
	plain := func(text string) string {
		text = regexp.MustCompile(`--[^\n]*|\s+|;|IF NOT EXISTS`).ReplaceAllString(text, "")
		return text
	}
	if got, want := plain(strings.Join(rendered, "")), plain(up); got != want {
		t.Errorf("the first migration is now\n%s\nreleased was\n%s", got, want)
	}
	s := open(t, store.Config{Dir: old})
	wantMeta(t, s, "colour", "red")
	update(t, s, func(ctx context.Context, tx *store.Tx) error {
		id, err := tx.InsertDevice(ctx, store.Device{Name: "esp02", Type: "box"})
		if id != 8 {
			t.Errorf("the next device has the ID %d", id)
		}
		return err
	})
	fresh := t.TempDir()
	open(t, store.Config{Dir: fresh})
	if made, opened := schema(t, fresh), schema(t, old); made != opened {
		t.Errorf("a new database has\n%s\na released one\n%s", made, opened)
	}
}

// TestMigrationCutOff stops in the middle of the first migration of SQLite, at each statement.
func TestMigrationCutOff(t *testing.T) {
	first := open(t, store.Config{})
	statements, err := store.Migration(first)
	if err != nil {
		t.Fatal(err)
	}
	if len(statements) < 12 {
		t.Fatalf("the migration has %d statements: %q", len(statements), statements)
	}
	for k := range len(statements) + 1 {
		db := storetest.New(t, storetest.SQLite)
		tx, err := db.SQL(t).BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, statement := range statements[:k] {
			if _, err := tx.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Rollback(); err != nil { // as SQLite does when it finds what a crash left
			t.Fatal(err)
		}
		works(t, db)
	}
}

// works opens a database and uses it.
func works(t *testing.T, db *storetest.Database) {
	t.Helper()
	st := db.Open(t)
	addPerson(t, st.Store, "ann")
	if err := insert(t, st.Store, 1); err != nil {
		t.Error(err)
	}
	if err := insert(t, st.Store, 1); signalbox.CodeOf(err) != "duplicate" {
		t.Errorf("a second row under one key gives %v", err)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
}

// TestMigrationKilled breaks the connection before each statement of a first start, and
// after those about the version, and starts again.
func TestMigrationKilled(t *testing.T) { eachServer(t, testMigrationKilled) }

func testMigrationKilled(t *testing.T, kind storetest.Kind) {
	t.Helper()
	for _, cut := range []storetest.Cut{{Text: "CREATE "}, {Text: "ALTER TABLE"}, {Text: "goose_db_version"}, {Text: "goose_db_version", After: true}} {
		t.Run(fmt.Sprintf("%s, after it %v", cut.Text, cut.After), func(t *testing.T) {
			t.Parallel()
			cut.Refuse = true
			for cutAt(t, kind, cut) {
				cut.Skip++
			}
			if cut.Skip < 2 {
				t.Errorf("it came %d times", cut.Skip)
			}
		})
	}
}

// cutAt says whether the cut came to pass.
func cutAt(t *testing.T, kind storetest.Kind, cut storetest.Cut) bool {
	t.Helper()
	db := storetest.New(t, kind)
	p := storetest.NewProxy(t, db)
	cfg := db.Config()
	cfg.URL = db.URLAt(p)
	p.Order(cut)
	st, err := store.Open(t.Context(), cfg)
	if p.Cuts() == 0 {
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
		return false
	}
	if err == nil {
		t.Fatal("opened although the connection broke", st.Close())
	}
	if signalbox.KindOf(err) != signalbox.KindUnavailable {
		t.Errorf("cut %+v gives %v", cut, err)
	}
	works(t, db)
	return true
}

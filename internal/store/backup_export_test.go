package store

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"slices"

	"github.com/pressly/goose/v3"
)

// unpacked is the receiver that keeps all.
type unpacked struct {
	verifier
	tables  []backupTable
	content map[string][]any
	keys    [][]byte
}

func (u *unpacked) section(_ context.Context, t *backupTable) error {
	u.tables = append(u.tables, *t)
	return nil
}

func (u *unpacked) rows(_ context.Context, t *backupTable, values []any) error {
	for _, v := range values {
		if b, ok := v.([]byte); ok {
			v = append([]byte{}, b...)
		}
		u.content[t.Name] = append(u.content[t.Name], v)
	}
	return nil
}

func (u *unpacked) key(text []byte) error {
	u.keys = append(u.keys, bytes.Clone(text))
	return nil
}

// SameBackup says where two backups differ in their contents, "" for nowhere.
func SameBackup(ctx context.Context, a, b io.Reader) (string, error) {
	var both [2]unpacked
	for i, r := range []io.Reader{a, b} {
		both[i].content = map[string][]any{}
		if _, err := unpack(ctx, r, &both[i], nil); err != nil {
			return "", err
		}
	}
	for i, t := range both[0].tables {
		other := both[1].tables[i]
		if t.Name != other.Name || t.Rows != other.Rows || t.Next != other.Next || !slices.Equal(t.Columns, other.Columns) {
			return fmt.Sprintf("table %+v and %+v", t, other), nil
		}
		one, two := both[0].content[t.Name], both[1].content[t.Name]
		for k := range max(len(one), len(two)) {
			var x, y any
			if k < len(one) {
				x = one[k]
			}
			if k < len(two) {
				y = two[k]
			}
			xb, isBytes := x.([]byte)
			yb, both := y.([]byte)
			if isBytes != both || isBytes && !bytes.Equal(xb, yb) || !isBytes && x != y {
				return fmt.Sprintf("table %s, row %d, column %s: %.60v and %.60v", t.Name, k/len(t.Columns), t.Columns[k%len(t.Columns)].Name, x, y), nil
			}
		}
	}
	return "", nil
}

// BackupKeys gives the key files in a backup.
func BackupKeys(ctx context.Context, r io.Reader) ([][]byte, error) {
	u := unpacked{content: map[string][]any{}}
	_, err := unpack(ctx, r, &u, nil)
	return u.keys, err
}

// Contents gives the tables and columns of the list, as name.column and its kind.
func Contents() map[string]string {
	all := map[string]string{}
	for _, t := range contents() {
		for i, c := range t.columns {
			kind := string(c.Kind)
			if i == 0 {
				kind += " key"
			}
			if i == 0 && t.counted {
				kind += " counted"
			}
			all[t.name+"."+c.Name] = kind
		}
	}
	return all
}

// VersionsTable is goose's own.
const VersionsTable = goose.DefaultTablename

// RestoringName is the name of the mark in meta.
const RestoringName = restoringName

// OldBackup writes a backup of an SQLite database of the first version.
func OldBackup(ctx context.Context, db *sql.DB, w io.Writer) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	n := &snapshot{conn: conn, kind: "SQLite", nextKey: `SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = ?), 0) + 1`}
	var list []table
	for _, t := range contents() {
		switch t.name {
		case "shape", "chunk", "broker_session", "broker_queue", "broker_retained", "forwarder", "forwarder_place", "forwarder_dead":
			continue
		case "device":
			t.columns = slices.DeleteFunc(slices.Clone(t.columns), func(c column) bool { return c.Name == "pending" })
		case "intake":
			t.columns = append(slices.Clone(t.columns), column{"time_min_us", intColumn}, column{"devices", bytesColumn})
		}
		list = append(list, t)
	}
	_, err = n.write(ctx, w, list, 1, BackupOptions{MadeBy: "old"})
	return err
}

// NewerBackup writes a backup whose tables are of the next version.
func NewerBackup(ctx context.Context, s *Store, w io.Writer) error {
	n, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	defer n.close()
	newest, err := newestVersion()
	if err != nil {
		return err
	}
	_, err = n.write(ctx, w, contents(), newest+1, BackupOptions{MadeBy: "v99"})
	return err
}

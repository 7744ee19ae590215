package plain

import (
	"context"

	"signalbox/internal/store"
)

// lite is the table in SQLite: one tree, and no parts.
type lite struct{ t *Table }

func (l *lite) tables() string {
	return `SELECT COUNT(*) FROM sqlite_master WHERE type IN ('table', 'view') AND name = ?`
}

func (l *lite) create(ctx context.Context, _ day) error {
	return l.t.side.Define(ctx, `CREATE TABLE `+store.PlainTable+` (
  device  INTEGER NOT NULL, -- device.id
  ts      TEXT NOT NULL,    -- UTC, as SQLite's date functions read it
  seq     INTEGER NOT NULL, -- position in the log
  payload TEXT NOT NULL,    -- what the device sent
  PRIMARY KEY (device, ts, seq)
) WITHOUT ROWID`)
}

func (l *lite) load(context.Context) error                { return nil }
func (l *lite) ready(context.Context, map[day]bool) error { return nil }
func (l *lite) drop(context.Context, day) (int, error)    { return 0, nil }
func (l *lite) split() bool                               { return false }
func (l *lite) time(ts string) string                     { return ts }

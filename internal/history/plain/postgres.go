package plain

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"signalbox/internal/store"
)

// postgres is the table in PostgreSQL: any day may have its partition. A new one is made by
// itself and then attached, which waits for no query; only the dropping of one does.
type postgres struct {
	t    *Table
	have map[day]bool
	old  bool // whether there is postgresOld
}

const (
	postgresOld = store.PlainTable + "_old"
	// postgresDay is how a border is spelled.
	postgresDay = "'2006-01-02 00:00:00+00'"
)

func (p *postgres) split() bool           { return true }
func (p *postgres) time(ts string) string { return ts + "+00" }
func (p *postgres) name(d day) string     { return store.PlainTable + "_" + d.format(packed) }

func (p *postgres) tables() string {
	return `SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = ?`
}

func (p *postgres) create(ctx context.Context, _ day) error {
	err := p.t.side.Define(ctx, `CREATE TABLE `+store.PlainTable+` (
  device  BIGINT NOT NULL,      -- device.id
  ts      TIMESTAMPTZ NOT NULL,
  seq     BIGINT NOT NULL,      -- position in the log
  payload JSON NOT NULL,        -- what the device sent; JSONB would change it
  PRIMARY KEY (device, ts, seq)
) PARTITION BY RANGE (ts)`)
	if err != nil {
		return err
	}
	return p.makeOld(ctx)
}

func (p *postgres) makeOld(ctx context.Context) error {
	err := p.t.side.Define(ctx, `CREATE TABLE `+postgresOld+` PARTITION OF `+store.PlainTable+` FOR VALUES FROM (MINVALUE) TO (`+p.t.floor.format(postgresDay)+`)`)
	if err != nil {
		return fmt.Errorf("make the partition %s: %w", postgresOld, err)
	}
	p.old = true
	return nil
}

func (p *postgres) load(ctx context.Context) error {
	rows, err := p.t.st.Reader().QueryContext(ctx, `SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass('`+store.PlainTable+`')`)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	p.have, p.old = map[day]bool{}, false
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		p.old = p.old || name == postgresOld
		if at, err := time.Parse(packed, strings.TrimPrefix(name, store.PlainTable+"_")); err == nil {
			p.have[dayAt(at)] = true
		}
	}
	return rows.Err()
}

func (p *postgres) ready(ctx context.Context, days map[day]bool) error {
	for _, d := range slices.Sorted(maps.Keys(days)) {
		if d < p.t.floor && !p.old { // somebody dropped it
			if err := p.makeOld(ctx); err != nil {
				return err
			}
		}
		if d < p.t.floor || p.have[d] {
			continue
		}
		// The table may be left of an attempt that was cut off.
		for _, query := range []string{
			`CREATE TABLE IF NOT EXISTS ` + p.name(d) + ` (LIKE ` + store.PlainTable + ` INCLUDING ALL)`,
			`ALTER TABLE ` + store.PlainTable + ` ATTACH PARTITION ` + p.name(d) + ` FOR VALUES FROM (` + d.format(postgresDay) + `) TO (` + (d + 1).format(postgresDay) + `)`,
		} {
			if err := p.t.side.Define(ctx, query); err != nil {
				return fmt.Errorf("make the partition %s: %w", p.name(d), err)
			}
		}
		p.have[d] = true
	}
	return nil
}

func (p *postgres) drop(ctx context.Context, before day) (dropped int, err error) {
	if before >= p.t.floor && p.old {
		if some, err := p.t.some(ctx, postgresOld); err != nil {
			return 0, err
		} else if some {
			if err := p.t.side.Define(ctx, `TRUNCATE `+postgresOld); err != nil {
				return 0, err
			}
			dropped++
		}
	}
	days := slices.DeleteFunc(slices.Sorted(maps.Keys(p.have)), func(d day) bool { return d >= before })
	for some := range slices.Chunk(days, onceDays) {
		names := make([]string, len(some))
		for i, d := range some {
			names[i] = p.name(d)
		}
		if err := p.t.side.Define(ctx, `DROP TABLE IF EXISTS `+strings.Join(names, ", ")); err != nil {
			return dropped, err
		}
		for _, d := range some {
			delete(p.have, d)
		}
		dropped += len(some)
	}
	return dropped, nil
}

package bench

import (
	"context"
	"errors"
	"fmt"

	"signalbox/internal/store"
)

// benchMark in table meta says that a database is for measuring.
const benchMark = "bench"

// empty prepares a database on a server: what an earlier measurement left is removed. One that anything else is in is
// refused.
func (e *engine) empty(ctx context.Context) (err error) {
	if e.Store == "" {
		return nil
	}
	st, err := store.Open(ctx, store.Config{URL: e.Store})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	mark, err := st.Meta(ctx, benchMark)
	if err != nil {
		return err
	}
	if mark == "" {
		for _, table := range []string{"device", "person", "intake", "chunk"} {
			n := 0
			if err := st.Reader().QueryRowContext(ctx, `SELECT COUNT(*) FROM `+table).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				return fmt.Errorf("the database %s is in use (%d rows in table %s); measuring needs an empty one of its own", st.Where(), n, table)
			}
		}
	}
	// Each in a transaction of its own: some servers end one at a change of tables.
	for _, text := range []string{`DROP TABLE IF EXISTS bench_row`, `TRUNCATE TABLE chunk`, `TRUNCATE TABLE intake`, `TRUNCATE TABLE shape`, `DELETE FROM meta WHERE name LIKE 'history%'`} {
		if err := st.Update(ctx, func(tx *store.Tx) error { _, err := tx.Exec(ctx, text); return err }); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
	}
	return st.Update(ctx, func(tx *store.Tx) error { return tx.SetMeta(ctx, benchMark, "1") })
}

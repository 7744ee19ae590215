package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// InsertLogin stores a browser login of a person.
func (tx *Tx) InsertLogin(ctx context.Context, hash [32]byte, person int64, created, expires time.Time) error {
	_, err := tx.Exec(ctx, `INSERT INTO login (hash, person, created_ms, expires_ms) VALUES (?,?,?,?)`,
		hash[:], person, ms(created), ms(expires))
	return wrap("insert login", err)
}

// DeleteLogins removes browser logins.
func (tx *Tx) DeleteLogins(ctx context.Context, hashes [][32]byte) error {
	for i := range hashes {
		if _, err := tx.Exec(ctx, `DELETE FROM login WHERE hash = ?`, hashes[i][:]); err != nil {
			return fmt.Errorf("delete login: %w", err)
		}
	}
	return nil
}

// Logins calls yield for each browser login, oldest first.
func (s *Store) Logins(ctx context.Context, yield func(hash [32]byte, person int64, created, expires time.Time) error) error {
	return s.each(ctx, "logins", `SELECT hash, person, created_ms, expires_ms FROM login ORDER BY created_ms, hash`, func(rows *sql.Rows) error {
		var (
			sum                      []byte
			person, created, expires int64
		)
		if err := rows.Scan(&sum, &person, &created, &expires); err != nil {
			return err
		}
		hash, err := hashOf("login", sum)
		if err != nil {
			return err
		}
		return yield(hash, person, fromMs(created), fromMs(expires))
	})
}

// AddLogin stores a browser login and removes others, in one transaction; stored as for
// Tx.Then.
func (s *Store) AddLogin(ctx context.Context, hash [32]byte, person int64, created, expires time.Time, remove [][32]byte, stored func()) error {
	return s.Update(ctx, func(tx *Tx) error {
		tx.Then(stored)
		if err := tx.DeleteLogins(ctx, remove); err != nil {
			return err
		}
		return tx.InsertLogin(ctx, hash, person, created, expires)
	})
}

// RemoveLogins is DeleteLogins in a transaction of its own; stored as for Tx.Then.
func (s *Store) RemoveLogins(ctx context.Context, hashes [][32]byte, stored func()) error {
	return s.Update(ctx, func(tx *Tx) error {
		tx.Then(stored)
		return tx.DeleteLogins(ctx, hashes)
	})
}

// Touch stores when tokens (by ID) were last used and until when logins now hold, in one
// transaction. Those that no longer exist are passed over.
func (s *Store) Touch(ctx context.Context, used map[int64]time.Time, expires map[[32]byte]time.Time) error {
	return s.Update(ctx, func(tx *Tx) error {
		for id, at := range used {
			if _, err := tx.Exec(ctx, `UPDATE token SET used_ms = ? WHERE id = ?`, ms(at), id); err != nil {
				return fmt.Errorf("touch token: %w", err)
			}
		}
		for hash, at := range expires {
			if _, err := tx.Exec(ctx, `UPDATE login SET expires_ms = ? WHERE hash = ?`, ms(at), hash[:]); err != nil {
				return fmt.Errorf("touch login: %w", err)
			}
		}
		return nil
	})
}

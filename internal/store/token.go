package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"signalbox"
)

// InsertToken stores t with the hash of its secret under a new ID and returns it; t.ID is
// not looked at. A taken name gives KindConflict.
func (tx *Tx) InsertToken(ctx context.Context, t signalbox.Token, hash [32]byte) (int64, error) {
	res, err := tx.Exec(ctx, `INSERT INTO token (name, hash, scope, created_by, created_ms, expires_ms, used_ms) VALUES (?,?,?,?,?,?,?) ON CONFLICT (name) DO NOTHING`,
		t.Name, hash[:], string(t.Scope), t.CreatedBy, ms(t.CreatedAt), ms(t.ExpiresAt), ms(t.LastUsed))
	if err != nil {
		return 0, fmt.Errorf("insert token: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return 0, errors.Join(signalbox.Errorf(signalbox.KindConflict, "name_taken", "a token named %q exists already", t.Name), err)
	}
	id, err := res.LastInsertId()
	return id, wrap("insert token", err)
}

// DeleteToken removes a token.
func (tx *Tx) DeleteToken(ctx context.Context, id int64) error {
	_, err := tx.Exec(ctx, `DELETE FROM token WHERE id = ?`, id)
	return wrap("delete token", err)
}

// Tokens calls yield for each token with the hash of its secret, by ID.
func (s *Store) Tokens(ctx context.Context, yield func(t signalbox.Token, hash [32]byte) error) error {
	return s.each(ctx, "tokens", `SELECT id, name, hash, scope, created_by, created_ms, expires_ms, used_ms FROM token ORDER BY id`, func(rows *sql.Rows) error {
		var (
			t                      signalbox.Token
			sum                    []byte
			created, expires, used int64
		)
		if err := rows.Scan(&t.ID, &t.Name, &sum, &t.Scope, &t.CreatedBy, &created, &expires, &used); err != nil {
			return err
		}
		t.CreatedAt, t.ExpiresAt, t.LastUsed = fromMs(created), fromMs(expires), fromMs(used)
		hash, err := hashOf("token", sum)
		if err != nil {
			return err
		}
		return yield(t, hash)
	})
}

// hashOf takes a stored SHA-256.
func hashOf(what string, stored []byte) (hash [32]byte, err error) {
	if copy(hash[:], stored) != len(hash) || len(stored) != len(hash) {
		return hash, fmt.Errorf("a stored %s has a hash of %d bytes instead of %d", what, len(stored), len(hash))
	}
	return hash, nil
}

// AddToken is InsertToken in a transaction of its own.
func (s *Store) AddToken(ctx context.Context, t signalbox.Token, hash [32]byte) (id int64, err error) {
	err = s.Update(ctx, func(tx *Tx) error {
		id, err = tx.InsertToken(ctx, t, hash)
		return err
	})
	return id, err
}

// RemoveToken is DeleteToken in a transaction of its own.
func (s *Store) RemoveToken(ctx context.Context, id int64) error {
	return s.Update(ctx, func(tx *Tx) error { return tx.DeleteToken(ctx, id) })
}

package store

import (
	"context"
	"database/sql"
	"fmt"

	"signalbox"
)

// InsertToken stores t with the hash of its secret under a new ID and returns it; t.ID is
// not looked at. A taken name gives KindConflict.
func (tx *Tx) InsertToken(ctx context.Context, t signalbox.Token, hash [32]byte) (int64, error) {
	var id int64
	err := tx.QueryRow(ctx, `INSERT INTO token (name, hash, scope, created_by, created_ms, expires_ms, used_ms)
		SELECT ?,?,?,?,?,?,? WHERE NOT EXISTS (SELECT 1 FROM token WHERE name = ?) RETURNING id`,
		[]any{t.Name, hash[:], string(t.Scope), t.CreatedBy, ms(t.CreatedAt), ms(t.ExpiresAt), ms(t.LastUsed), t.Name}, &id)
	if err != nil {
		return 0, inserted("token", t.Name, err)
	}
	return id, nil
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

// AddToken is InsertToken in a transaction of its own; stored as for Tx.Then.
func (s *Store) AddToken(ctx context.Context, t signalbox.Token, hash [32]byte, stored func(id int64)) error {
	return s.Update(ctx, func(tx *Tx) error {
		id, err := tx.InsertToken(ctx, t, hash)
		tx.Then(func() { stored(id) })
		return err
	})
}

// RemoveToken is DeleteToken in a transaction of its own; stored as for Tx.Then.
func (s *Store) RemoveToken(ctx context.Context, id int64, stored func()) error {
	return s.Update(ctx, func(tx *Tx) error {
		tx.Then(stored)
		return tx.DeleteToken(ctx, id)
	})
}

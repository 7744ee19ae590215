package store

import (
	"context"
	"database/sql"

	"signalbox"
)

// InsertPerson stores u with a bcrypt hash under a new ID and returns it; u.ID is not
// looked at. A taken name gives KindConflict.
func (tx *Tx) InsertPerson(ctx context.Context, u signalbox.User, hash string) (int64, error) {
	var id int64
	err := tx.QueryRow(ctx, `INSERT INTO person (name, password_hash, created_ms) SELECT ?,?,? WHERE NOT EXISTS (SELECT 1 FROM person WHERE name = ?) RETURNING id`,
		[]any{u.Name, hash, ms(u.CreatedAt), u.Name}, &id)
	if err != nil {
		return 0, inserted("user", u.Name, err)
	}
	return id, nil
}

// UpdatePersonHash replaces a person's password hash and ends their logins.
func (tx *Tx) UpdatePersonHash(ctx context.Context, id int64, hash string) error {
	_, err := tx.Exec(ctx, `UPDATE person SET password_hash = ? WHERE id = ?`, hash, id)
	if err == nil {
		_, err = tx.Exec(ctx, `DELETE FROM login WHERE person = ?`, id)
	}
	return wrap("update person", err)
}

// DeletePerson removes a person and their logins.
func (tx *Tx) DeletePerson(ctx context.Context, id int64) error {
	_, err := tx.Exec(ctx, `DELETE FROM login WHERE person = ?`, id)
	if err == nil {
		_, err = tx.Exec(ctx, `DELETE FROM person WHERE id = ?`, id)
	}
	return wrap("delete person", err)
}

// People calls yield for each person with their bcrypt hash, by ID.
func (s *Store) People(ctx context.Context, yield func(u signalbox.User, hash string) error) error {
	return s.each(ctx, "people", `SELECT id, name, password_hash, created_ms FROM person ORDER BY id`, func(rows *sql.Rows) error {
		var (
			u       signalbox.User
			hash    string
			created int64
		)
		if err := rows.Scan(&u.ID, &u.Name, &hash, &created); err != nil {
			return err
		}
		u.CreatedAt = fromMs(created)
		return yield(u, hash)
	})
}

// AddPerson is InsertPerson in a transaction of its own; stored as for Tx.Then.
func (s *Store) AddPerson(ctx context.Context, u signalbox.User, hash string, stored func(id int64)) error {
	return s.Update(ctx, func(tx *Tx) error {
		id, err := tx.InsertPerson(ctx, u, hash)
		tx.Then(func() { stored(id) })
		return err
	})
}

// SetPersonHash is UpdatePersonHash in a transaction of its own; stored as for Tx.Then.
func (s *Store) SetPersonHash(ctx context.Context, id int64, hash string, stored func()) error {
	return s.Update(ctx, func(tx *Tx) error {
		tx.Then(stored)
		return tx.UpdatePersonHash(ctx, id, hash)
	})
}

// RemovePerson is DeletePerson in a transaction of its own; stored as for Tx.Then.
func (s *Store) RemovePerson(ctx context.Context, id int64, stored func()) error {
	return s.Update(ctx, func(tx *Tx) error {
		tx.Then(stored)
		return tx.DeletePerson(ctx, id)
	})
}

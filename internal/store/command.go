package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"signalbox"
)

// PutCommand stores c as it is now. active says whether anything can still happen to it;
// active commands are loaded at start and never pruned.
func (tx *Tx) PutCommand(ctx context.Context, c *signalbox.Command, active bool) error {
	body, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode command: %w", err)
	}
	var key any
	if c.IdempotencyKey != "" {
		key = c.IdempotencyKey
	}
	// A change may still be on its way when its device is deleted: it must not come back.
	_, err = tx.Exec(ctx, `INSERT INTO command (id, device, active, idempotency_key, created_ms, body)
		SELECT ?, id, ?, ?, ?, ? FROM device WHERE id = ?
		ON CONFLICT (id) DO UPDATE SET active = excluded.active, body = excluded.body`,
		c.ID, active, key, ms(c.CreatedAt), body, c.To)
	return wrap("store command", err)
}

// PruneCommands deletes up to limit ended commands whose ID sorts before the given one,
// and says how many.
func (tx *Tx) PruneCommands(ctx context.Context, before string, limit int) (int64, error) {
	res, err := tx.Exec(ctx, `DELETE FROM command WHERE id IN (SELECT id FROM (SELECT id FROM command WHERE active = 0 AND id < ? ORDER BY id LIMIT ?) AS old)`,
		before, limit)
	if err != nil {
		return 0, fmt.Errorf("prune commands: %w", err)
	}
	return res.RowsAffected()
}

// ActiveCommands calls yield for each active command, oldest first.
func (s *Store) ActiveCommands(ctx context.Context, yield func(*signalbox.Command) error) error {
	return s.commands(ctx, yield, `SELECT device, body FROM command WHERE active = 1 ORDER BY id`)
}

// Command reads one command; KindNotFound without it.
func (s *Store) Command(ctx context.Context, id string) (*signalbox.Command, error) {
	return s.oneCommand(ctx, fmt.Sprintf("there is no command %q", id), `SELECT device, body FROM command WHERE id = ?`, id)
}

// CommandByKey finds the command that a device got under an idempotency key; KindNotFound
// without one.
func (s *Store) CommandByKey(ctx context.Context, device signalbox.DeviceID, key string) (*signalbox.Command, error) {
	return s.oneCommand(ctx, "there is no command under that idempotency key", `SELECT device, body FROM command WHERE device = ? AND idempotency_key = ?`, device, key)
}

// Commands calls yield for up to limit commands, newest first: of one device, or of all
// when device is 0; only those older than the command before, unless that is "".
func (s *Store) Commands(ctx context.Context, device signalbox.DeviceID, before string, limit int, yield func(*signalbox.Command) error) error {
	if before == "" {
		before = "~" // beyond every ID
	}
	if device == 0 {
		return s.commands(ctx, yield, `SELECT device, body FROM command WHERE id < ? ORDER BY id DESC LIMIT ?`, before, limit)
	}
	return s.commands(ctx, yield, `SELECT device, body FROM command WHERE device = ? AND id < ? ORDER BY id DESC LIMIT ?`, device, before, limit)
}

func (s *Store) oneCommand(ctx context.Context, missing, query string, args ...any) (*signalbox.Command, error) {
	var found *signalbox.Command
	err := s.commands(ctx, func(c *signalbox.Command) error { found = c; return nil }, query, args...)
	if err == nil && found == nil {
		err = signalbox.Errorf(signalbox.KindNotFound, "command_not_found", "%s", missing)
	}
	return found, err
}

func (s *Store) commands(ctx context.Context, yield func(*signalbox.Command) error, query string, args ...any) error {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("read commands: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	for rows.Next() {
		var (
			to   signalbox.DeviceID
			body sql.RawBytes
			c    signalbox.Command
		)
		if err := rows.Scan(&to, &body); err != nil {
			return fmt.Errorf("read commands: %w", err)
		}
		if err := json.Unmarshal(body, &c); err != nil {
			return errors.Join(fmt.Errorf("a stored command of device %d cannot be read", to), err)
		}
		c.To = to
		if err := yield(&c); err != nil {
			return err
		}
	}
	return wrap("read commands", rows.Err())
}

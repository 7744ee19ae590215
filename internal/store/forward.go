package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"signalbox"
)

// Forwarder is one that was set through the API, as stored; what Spec and Secrets hold is the
// forwarders' business.
type Forwarder struct {
	ID            int64 // never used twice
	Name          string
	Spec, Secrets []byte
	Paused        bool
	CreatedBy     string
	CreatedAt     time.Time // kept to the millisecond
}

// ForwarderPlace is how far a forwarder is, one of the configuration or of the API.
type ForwarderPlace struct {
	Name string
	// Settled is the position up to which the receiver has everything, Sent the one up to which
	// something may have been sent.
	Settled, Sent signalbox.Position
	Flowing       bool
	Counters      []byte
}

// DeadLetter is a message that a forwarder's receiver did not take.
type DeadLetter struct {
	ID             int64  // grows; never used twice
	Forwarder      string // its name
	Position       signalbox.Position
	Kind           signalbox.EntryKind
	Device         signalbox.DeviceID
	DeviceName     string // at that time
	ReceivedMicros int64
	TimeMicros     int64
	AtMicros       int64 // when it was given up
	Attempts       int
	Status         int    // what the receiver answered; 0: no number
	Reason         string // in words; what is no text of it is replaced
	Body           []byte // as it was sent
}

// InsertForwarder stores f under a new ID and returns it; f.ID is not looked at. A taken name
// gives KindConflict.
func (tx *Tx) InsertForwarder(ctx context.Context, f *Forwarder) (int64, error) {
	var id int64
	err := tx.QueryRow(ctx, `INSERT INTO forwarder (name, spec, secrets, paused, created_by, created_ms)
		SELECT ?,?,?,?,?,? WHERE NOT EXISTS (SELECT 1 FROM forwarder WHERE name = ?) RETURNING id`,
		[]any{f.Name, some(f.Spec), some(f.Secrets), f.Paused, f.CreatedBy, ms(f.CreatedAt), f.Name}, &id)
	if err != nil {
		return 0, inserted("forwarder", f.Name, err)
	}
	return id, nil
}

// UpdateForwarder overwrites spec, secrets and the mark paused of the forwarder f.Name, if it is
// there.
func (tx *Tx) UpdateForwarder(ctx context.Context, f *Forwarder) error {
	_, err := tx.Exec(ctx, `UPDATE forwarder SET spec = ?, secrets = ?, paused = ? WHERE name = ?`, some(f.Spec), some(f.Secrets), f.Paused, f.Name)
	return wrap("update forwarder", err)
}

// DeleteForwarder removes whatever is stored of a forwarder: itself, its place and its dead
// letters. It need not be there, as one of the configuration is not.
func (tx *Tx) DeleteForwarder(ctx context.Context, name string) error {
	for _, query := range []string{
		`DELETE FROM forwarder WHERE name = ?`, `DELETE FROM forwarder_place WHERE name = ?`, `DELETE FROM forwarder_dead WHERE name = ?`,
	} {
		if _, err := tx.Exec(ctx, query, name); err != nil {
			return fmt.Errorf("delete forwarder: %w", err)
		}
	}
	return nil
}

// DropForwarder removes a forwarder alone: its place and its dead letters stay, for another of that
// name has them.
func (tx *Tx) DropForwarder(ctx context.Context, name string) error {
	_, err := tx.Exec(ctx, `DELETE FROM forwarder WHERE name = ?`, name)
	return wrap("delete forwarder", err)
}

// Forwarders calls yield for each forwarder, by ID. What it gets may be kept.
func (s *Store) Forwarders(ctx context.Context, yield func(f Forwarder) error) error {
	return s.each(ctx, "forwarders", `SELECT id, name, spec, secrets, paused, created_by, created_ms FROM forwarder ORDER BY id`, func(rows *sql.Rows) error {
		var (
			f       Forwarder
			created int64
		)
		if err := rows.Scan(&f.ID, &f.Name, &f.Spec, &f.Secrets, &f.Paused, &f.CreatedBy, &created); err != nil {
			return err
		}
		f.CreatedAt = fromMs(created)
		return yield(f)
	})
}

// PutForwarderPlaces stores places, new ones and those that are there.
func (tx *Tx) PutForwarderPlaces(ctx context.Context, places []ForwarderPlace) error {
	for i := range places {
		p := &places[i]
		_, err := tx.Exec(ctx, `INSERT INTO forwarder_place (name, settled, sent, flowing, counters) VALUES (?,?,?,?,?)
			ON CONFLICT (name) DO UPDATE SET settled = excluded.settled, sent = excluded.sent, flowing = excluded.flowing, counters = excluded.counters`,
			p.Name, int64(p.Settled), int64(p.Sent), p.Flowing, some(p.Counters))
		if err != nil {
			return fmt.Errorf("store the place of a forwarder: %w", err)
		}
	}
	return nil
}

// SuspectForwarders says of all forwarders that what the log has may have been sent: in a restored
// backup what was sent after it was made is not known.
func (tx *Tx) SuspectForwarders(ctx context.Context) error {
	_, err := tx.Exec(ctx, `UPDATE forwarder_place SET flowing = 1`)
	return wrap("store the place of a forwarder", err)
}

// ForwarderPlaces calls yield for the place of each forwarder, by name. What it gets may be kept.
func (s *Store) ForwarderPlaces(ctx context.Context, yield func(p ForwarderPlace) error) error {
	return s.each(ctx, "the places of forwarders", `SELECT name, settled, sent, flowing, counters FROM forwarder_place ORDER BY name`, func(rows *sql.Rows) error {
		var (
			p             ForwarderPlace
			settled, sent int64
		)
		if err := rows.Scan(&p.Name, &settled, &sent, &p.Flowing, &p.Counters); err != nil {
			return err
		}
		p.Settled, p.Sent = signalbox.Position(settled), signalbox.Position(sent)
		return yield(p)
	})
}

// InsertDeadLetter stores d under a new ID and returns it; d.ID is not looked at.
func (tx *Tx) InsertDeadLetter(ctx context.Context, d *DeadLetter) (int64, error) {
	var id int64
	reason := strings.ReplaceAll(strings.ToValidUTF8(d.Reason, "\uFFFD"), "\x00", "\uFFFD") // it comes from the receiver
	err := tx.QueryRow(ctx, `INSERT INTO forwarder_dead (name, position, kind, device, device_name, received_us, time_us, at_us, attempts, status, reason, body)
		VALUES (?,?,?,?,?,?,?,?,?,?,?,?) RETURNING id`,
		[]any{
			d.Forwarder, int64(d.Position), int64(d.Kind), int64(d.Device), d.DeviceName, d.ReceivedMicros, d.TimeMicros, d.AtMicros,
			d.Attempts, d.Status, reason, some(d.Body),
		}, &id)
	return id, wrap("store dead letter", err)
}

// DeleteDeadLetters removes these dead letters of a forwarder, and says how many were there.
func (tx *Tx) DeleteDeadLetters(ctx context.Context, forwarder string, ids []int64) (n int64, err error) {
	for _, id := range ids {
		res, err := tx.Exec(ctx, `DELETE FROM forwarder_dead WHERE id = ? AND name = ?`, id, forwarder)
		if err != nil {
			return 0, fmt.Errorf("delete dead letter: %w", err)
		}
		one, err := res.RowsAffected()
		if err != nil {
			return 0, fmt.Errorf("delete dead letter: %w", err)
		}
		n += one
	}
	return n, nil
}

// TrimDeadLetters removes all but the newest keep dead letters of a forwarder, and says how
// many.
func (tx *Tx) TrimDeadLetters(ctx context.Context, forwarder string, keep int) (int64, error) {
	res, err := tx.Exec(ctx, `DELETE FROM forwarder_dead WHERE name = ? AND id <= (SELECT id FROM
		(SELECT id FROM forwarder_dead WHERE name = ? ORDER BY id DESC LIMIT 1 OFFSET ?) AS oldest)`, forwarder, forwarder, max(keep, 0))
	if err != nil {
		return 0, fmt.Errorf("drop dead letters: %w", err)
	}
	return res.RowsAffected()
}

const deadLetterColumns = `SELECT id, name, position, kind, device, device_name, received_us, time_us, at_us, attempts, status, reason, body FROM forwarder_dead `

// DeadLetters gives up to limit dead letters of a forwarder, the newest first; only those with an
// ID below before, unless that is 0.
func (s *Store) DeadLetters(ctx context.Context, forwarder string, before int64, limit int) ([]DeadLetter, error) {
	if before == 0 {
		return s.deadLetters(ctx, deadLetterColumns+`WHERE name = ? ORDER BY id DESC LIMIT ?`, forwarder, limit)
	}
	return s.deadLetters(ctx, deadLetterColumns+`WHERE name = ? AND id < ? ORDER BY id DESC LIMIT ?`, forwarder, before, limit)
}

// DeadLettersAfter gives up to limit dead letters of a forwarder with an ID above after, the
// oldest first, which is the order in which they are sent again.
func (s *Store) DeadLettersAfter(ctx context.Context, forwarder string, after int64, limit int) ([]DeadLetter, error) {
	return s.deadLetters(ctx, deadLetterColumns+`WHERE name = ? AND id > ? ORDER BY id LIMIT ?`, forwarder, after, limit)
}

// DeadLetter reads one dead letter of a forwarder; KindNotFound without it.
func (s *Store) DeadLetter(ctx context.Context, forwarder string, id int64) (DeadLetter, error) {
	found, err := s.deadLetters(ctx, deadLetterColumns+`WHERE name = ? AND id = ?`, forwarder, id)
	switch {
	case err != nil:
		return DeadLetter{}, err
	case len(found) == 0:
		return DeadLetter{}, signalbox.Errorf(signalbox.KindNotFound, "dead_letter_not_found", "the forwarder %q has no dead letter %d", forwarder, id)
	}
	return found[0], nil
}

func (s *Store) deadLetters(ctx context.Context, query string, args ...any) (found []DeadLetter, err error) {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var (
			d        DeadLetter
			position int64
		)
		if err := rows.Scan(&d.ID, &d.Forwarder, &position, &d.Kind, &d.Device, &d.DeviceName, &d.ReceivedMicros, &d.TimeMicros, &d.AtMicros,
			&d.Attempts, &d.Status, &d.Reason, &d.Body); err != nil {
			return nil, fmt.Errorf("read dead letters: %w", err)
		}
		d.Position = signalbox.Position(position)
		found = append(found, d)
	}
	return found, wrap("read dead letters", rows.Err())
}

// CountDeadLetters says how many dead letters each forwarder has; those with none are left out.
func (s *Store) CountDeadLetters(ctx context.Context) (map[string]int64, error) {
	counts := map[string]int64{}
	err := s.each(ctx, "dead letters", `SELECT name, COUNT(*) FROM forwarder_dead GROUP BY name`, func(rows *sql.Rows) error {
		var (
			name string
			n    int64
		)
		if err := rows.Scan(&name, &n); err != nil {
			return err
		}
		counts[name] = n
		return nil
	})
	return counts, err
}
